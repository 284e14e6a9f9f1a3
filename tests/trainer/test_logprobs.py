"""Completion log-probabilities equal the naive full-logits computation, in value and gradient, however they are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
)

from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling import linear_head
from plumbline_trainer.modeling.logprobs import check_head, completion_logprobs
from plumbline_trainer.modeling.shared_prefix import IMPLEMENTATION, can_share_prompts

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
        attention = None if "gemma2" in name else IMPLEMENTATION
        model: nn.Module = AutoModelForCausalLM.from_config(CONFIGURATIONS[name], attn_implementation=attention)
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


def test_chunks_of_a_head_that_is_not_one_matrix_change_neither_values_nor_gradients() -> None:
    model = model_of("gemma2 (logits are capped)")
    sequences = [TokenSequence([1 + i], [(i * t) % VOCABULARY for t in range(20)]) for i in range(4)]
    whole = completion_logprobs(model, batch_of(sequences)).values
    chunked = completion_logprobs(model, batch_of(sequences), logit_elements=16 * VOCABULARY).values
    torch.testing.assert_close(whole, chunked, rtol=1e-6, atol=1e-6)
    for mine, other in zip(gradient(model, whole.sum()), gradient(model, chunked.sum()), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_head_sees_completion_positions_only_and_a_block_of_the_vocabulary_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    made: list[torch.Size] = []
    make = linear_head._logits

    def recorded(*arguments: Any) -> torch.Tensor:
        logits = make(*arguments)
        made.append(logits.shape)
        return logits

    monkeypatch.setattr(linear_head, "BLOCK", 16)
    monkeypatch.setattr(linear_head, "_logits", recorded)
    prompt_heavy = [TokenSequence(list(range(40)), [t % VOCABULARY for t in range(10)])]
    completion_logprobs(model, batch_of(prompt_heavy))
    assert made == [(10, 16), (10, 16), (10, 16), (10, 13)]


@pytest.mark.parametrize("kept", [0, 10**6])
def test_blocks_of_the_vocabulary_change_neither_values_nor_gradients(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Whether the softmax numerators are kept for the backward pass or made again."""
    model = model_of("gpt2 (absolute positions)")
    whole = completion_logprobs(model, batch_of(SEQUENCES)).values
    expected = gradient(model, whole.square().sum())
    monkeypatch.setattr(linear_head, "BLOCK", 7)
    blocked = completion_logprobs(model, batch_of(SEQUENCES), logit_elements=kept).values
    torch.testing.assert_close(whole, blocked, rtol=1e-6, atol=1e-6)
    for mine, other in zip(gradient(model, blocked.square().sum()), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_linear_head_with_a_bias_equal_those_of_log_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 8, generator=generator) for n in (5, 11))
    bias, targets = torch.randn(11, generator=generator), torch.tensor([0, 3, 10, 3, 7])
    leaves = [tensor.requires_grad_() for tensor in (states, weight, bias)]
    ours = linear_head.LinearHeadLogprobs.apply(*leaves, targets, 0.5, 0)
    logits = (states @ weight.T + bias) * 0.5
    theirs = logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(ours, theirs)
    outer = torch.linspace(-1, 2, 5)
    for mine, other in zip(
        torch.autograd.grad(ours, leaves, outer), torch.autograd.grad(theirs, leaves, outer), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_logits_far_apart_stay_finite() -> None:
    """A target that is 10^4 below the largest logit, in a block after or before it."""
    weight = torch.zeros(2 * linear_head.BLOCK, 1)
    weight[5], weight[-1] = 1e4, -1e4
    states = torch.ones(2, 1, requires_grad=True)
    logprobs = linear_head.LinearHeadLogprobs.apply(states, weight, None, torch.tensor([5, len(weight) - 1]), 1.0, 0)
    assert logprobs.tolist() == [0, -2e4]
    (gradient_of_states,) = torch.autograd.grad(logprobs.sum(), states)
    assert gradient_of_states.tolist() == [[0], [-2e4]]


# --- shared prompts ---------------------------------------------------------------------------------------------------

SIBLINGS = [
    TokenSequence([3, 4, 5], [6, 7]),
    TokenSequence([3, 4, 5], [8, 9, 10, 11]),
    TokenSequence([12], [13]),
    TokenSequence([3, 4, 5], [6]),
    TokenSequence([14, 15, 16, 17, 18], [19, 20, 21]),
]
SHARING = [name for name in CONFIGURATIONS if "gemma2" not in name]


@pytest.mark.parametrize("one_row", [True, False], ids=["one row", "a row for each prompt"])
@pytest.mark.parametrize("name", SHARING)
def test_sharing_a_prompt_changes_neither_values_nor_gradients(name: str, one_row: bool) -> None:
    model = model_of(name)
    apart = completion_logprobs(model, batch_of(SIBLINGS))
    together = completion_logprobs(model, share_prompts(SIBLINGS, 0, one_row=one_row))
    assert torch.equal(apart.mask, together.mask)
    torch.testing.assert_close(together.values, apart.values, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, apart.mask.shape[1])
    ours, theirs = (gradient(model, (values * weights).sum()) for values in (together.values, apart.values))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_shared_prompts_survive_activation_checkpointing() -> None:
    model = model_of()
    plain = gradient(model, completion_logprobs(model, share_prompts(SIBLINGS, 0, one_row=True)).values.sum())
    model.train()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    again = gradient(model, completion_logprobs(model, share_prompts(SIBLINGS, 0, one_row=True)).values.sum())
    for mine, other in zip(again, plain, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_completion_does_not_see_its_siblings() -> None:
    model = model_of()
    short, sibling, other = (TokenSequence([3, 4, 5], ids) for ids in ([6, 7], [8, 9, 10], [20, 21, 22]))
    values = [
        completion_logprobs(model, share_prompts([short, neighbour], 0, one_row=True)).values[0, :2]
        for neighbour in (sibling, other)
    ]
    assert torch.equal(*values)


@pytest.mark.parametrize("name", SHARING)
def test_known_architectures_share_prompts(name: str) -> None:
    assert can_share_prompts(model_of(name).get_decoder(), longest=64)


def test_an_architecture_without_a_choice_of_attention_does_not_share_prompts() -> None:
    assert not can_share_prompts(model_of("gemma2 (logits are capped)").get_decoder(), longest=64)


def test_a_sliding_window_that_sequences_outgrow_forbids_sharing() -> None:
    """The window is measured along the row, where other completions stand between a completion and its prompt."""
    configuration = MistralConfig(**SMALL, sliding_window=8)
    model = AutoModelForCausalLM.from_config(configuration, attn_implementation=IMPLEMENTATION).eval()
    assert can_share_prompts(model.get_decoder(), longest=8)
    assert not can_share_prompts(model.get_decoder(), longest=9)


# --- batches ----------------------------------------------------------------------------------------------------------


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
        ends=torch.tensor([4, 3]),
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
