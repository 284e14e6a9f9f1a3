"""Completion log-probabilities equal the naive full-logits computation, in value and gradient, however they are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig

from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, pad_sequences
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.logprobs import check_head, completion_logprobs

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEQUENCES = [
    TokenSequence([3, 4, 5], [6, 7]),
    TokenSequence([8], [9, 10, 11, 12, 13, 14]),
    TokenSequence([15, 16, 17, 18, 19, 20, 21], [22]),
    TokenSequence([23, 24], [0, 0, 2]),
]
CONFIGURATIONS = {
    "llama": LlamaConfig(**SMALL),
    "tied embeddings": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gemma2 (logits are capped)": Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0),
    "cohere (logits are scaled)": CohereConfig(**SMALL, logit_scale=0.25),
    "granite (logits are divided)": GraniteConfig(**SMALL, logits_scaling=4.0),
    "gpt2 (absolute positions)": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=1, eos_token_id=2
    ),
}


def model_of(name: str = "llama") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = AutoModelForCausalLM.from_config(CONFIGURATIONS[name])
    return model.eval()


def batch_of(sequences: list[TokenSequence]) -> SequenceBatch:
    return pad_sequences(sequences, pad_id=0)


def naive(model: nn.Module, sequence: TokenSequence, temperature: float = 1.0) -> torch.Tensor:
    """One sequence at a time, no padding, log-softmax of all logits: the definition."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
    logprobs = (model(input_ids=ids).logits[0].float() / temperature).log_softmax(-1)
    first = len(sequence.prompt_ids)
    return torch.stack([logprobs[first - 1 + t, token] for t, token in enumerate(sequence.completion_ids)])


def gradient(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [g.clone() for g in torch.autograd.grad(loss, parameters)]


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_equal_the_naive_computation(name: str, temperature: float) -> None:
    model = model_of(name)
    values, mask = completion_logprobs(model, batch_of(SEQUENCES), temperature=temperature)
    expected = [naive(model, sequence, temperature) for sequence in SEQUENCES]
    for row, (sequence, logprobs) in enumerate(zip(SEQUENCES, expected, strict=True)):
        count = len(sequence.completion_ids)
        torch.testing.assert_close(values[row, :count], logprobs, rtol=1e-5, atol=1e-5)
        assert not values[row, count:].any()
        assert mask[row].tolist() == [t < count for t in range(mask.shape[1])]
    weights = torch.linspace(-1, 1, mask.shape[1])
    ours = gradient(model, (values * weights).sum())
    theirs = gradient(model, sum((e * weights[: len(e)]).sum() for e in expected))  # type: ignore[arg-type]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_chunks_of_the_head_change_neither_values_nor_gradients() -> None:
    model = model_of()
    sequences = [TokenSequence([1 + i], [(i * t) % VOCABULARY for t in range(20)]) for i in range(4)]
    whole = completion_logprobs(model, batch_of(sequences)).values
    chunked = completion_logprobs(model, batch_of(sequences), logit_elements=16 * VOCABULARY).values
    torch.testing.assert_close(whole, chunked, rtol=1e-6, atol=1e-6)
    for mine, other in zip(gradient(model, whole.sum()), gradient(model, chunked.sum()), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_head_never_sees_more_than_a_chunk_of_completion_positions() -> None:
    model = model_of()
    seen: list[torch.Size] = []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))  # type: ignore[operator]
    prompt_heavy = [TokenSequence(list(range(40)), [t % VOCABULARY for t in range(40)])]
    completion_logprobs(model, batch_of(prompt_heavy), logit_elements=16 * VOCABULARY)
    assert [shape[0] for shape in seen] == [16, 16, 8]


def test_recomputed_chunks_keep_no_logits_for_the_backward_pass() -> None:
    model = model_of()
    batch = batch_of([TokenSequence([1], [t % VOCABULARY for t in range(64)])])

    def saved_elements(logit_elements: int) -> int:
        kept: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.shape[-1:] == (VOCABULARY,) and tensor.dim() == 2 and tensor.shape[0] <= 64:
                kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            completion_logprobs(model, batch, logit_elements=logit_elements)
        return sum(kept)

    assert saved_elements(64 * VOCABULARY) >= 64 * VOCABULARY
    assert saved_elements(16 * VOCABULARY) == 0


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_neither_padding_nor_the_split_changes_a_sequence(order: list[int]) -> None:
    model = model_of()
    sequences = [SEQUENCES[index] for index in order]
    together = completion_logprobs(model, batch_of(sequences)).values
    for start, end in pairwise([0, 1, 3, 4]):
        part = completion_logprobs(model, batch_of(sequences[start:end])).values
        torch.testing.assert_close(together[start:end, : part.shape[1]], part, rtol=1e-5, atol=1e-5)


def test_sums_and_counts_are_per_sequence() -> None:
    logprobs = completion_logprobs(model_of(), batch_of(SEQUENCES))
    assert logprobs.counts.tolist() == [2, 6, 1, 3]
    torch.testing.assert_close(logprobs.sums, logprobs.values.sum(1))


def test_the_same_batch_gives_the_same_bits() -> None:
    model = model_of()
    first, second = (completion_logprobs(model, batch_of(SEQUENCES)).values for _ in range(2))
    assert torch.equal(first, second)


def test_sequences_may_share_a_row() -> None:
    """`source` alone ties sequences to rows: two completions of which one is the other's beginning share a row."""
    model = model_of()
    long = TokenSequence([3, 4], [5, 6, 7])
    apart = completion_logprobs(model, batch_of([long, TokenSequence([3, 4], [5, 6])])).values
    shared = SequenceBatch(
        input_ids=torch.tensor([[3, 4, 5, 6, 7]]),
        lengths=torch.tensor([5]),
        source=torch.tensor([1, 2, 3, 1, 2]),
        targets=torch.tensor([[5, 6, 7], [5, 6, 0]]),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
    )
    torch.testing.assert_close(completion_logprobs(model, shared).values, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_known_architectures_pass_the_check_of_their_head(name: str) -> None:
    check_head(model_of(name))


def test_a_model_that_makes_its_logits_otherwise_is_refused() -> None:
    model = model_of()
    original = model.forward
    model.forward = lambda **inputs: _doubled(original(**inputs))  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="LlamaForCausalLM makes its logits in a way that is not supported"):
        check_head(model)


def _doubled(output: Any) -> Any:
    output.logits = output.logits * 2
    return output
