"""The reference stays what it was while the policy moves, whichever way it is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.batches import Layout, SequenceBatch, TokenSequence, pad_sequences
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import ModelError
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import completion_logprobs
from plumbline_trainer.modeling.reference import open_reference
from plumbline_trainer.modeling.scoring import score_rows
from plumbline_trainer.stopping import StopRequested

BATCH = pad_sequences([TokenSequence([1, 3, 6], [7, 8, 2]), TokenSequence([1, 9], [10, 2])], 0)
ROWS = [{"prompt": "a", "chosen": "b", "rejected": "c"}]


def moved(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2)
    return model


@pytest.fixture
def other_directory(llama_directory: Path, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(llama_directory, tmp_path / "other"))
    moved(AutoModelForCausalLM.from_pretrained(directory)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("adapter", [False, True])
def test_the_reference_is_the_model_the_run_started_from(
    adapter: bool, llama_directory: Path, preference_config: Any, write_rows: Any
) -> None:
    policy: Any = load_policy(str(llama_directory), device=torch.device("cpu"))
    start = completion_logprobs(policy, BATCH).values.detach()
    if adapter:
        policy = add_lora(policy, Lora(rank=4), seed=0)
    reference = open_reference(preference_config({"dpo": {}}, write_rows(ROWS)), policy)
    assert (reference.model is policy) == adapter, "an adapter's base is the reference; no second model is loaded"
    moved(policy)
    logprobs = reference.completion_logprobs(BATCH).values
    assert torch.equal(logprobs, start)
    assert not logprobs.requires_grad
    hot = reference.completion_logprobs(BATCH, temperature=2.0).values
    assert not torch.allclose(hot, start, atol=1e-2)


@pytest.mark.parametrize("adapter", [False, True])
def test_another_model_can_be_the_reference(
    adapter: bool, llama_directory: Path, other_directory: Path, preference_config: Any, write_rows: Any
) -> None:
    policy: Any = load_policy(str(llama_directory), device=torch.device("cpu"))
    if adapter:
        policy = add_lora(policy, Lora(rank=4), seed=0)
    config = preference_config({"dpo": {}}, write_rows(ROWS), reference=str(other_directory))
    reference = open_reference(config, policy)
    expected = completion_logprobs(AutoModelForCausalLM.from_pretrained(other_directory), BATCH).values
    torch.testing.assert_close(reference.completion_logprobs(BATCH).values, expected.detach())
    assert not any(parameter.requires_grad for parameter in reference.model.parameters())


def test_a_reference_with_another_vocabulary_is_refused(
    llama_directory: Path, tmp_path: Path, preference_config: Any, write_rows: Any
) -> None:
    small = LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    config = preference_config({"dpo": {}}, write_rows(ROWS), reference=str(tmp_path / "small"))
    with pytest.raises(ModelError, match="has 20 token embeddings, the trained model has 48"):
        open_reference(config, load_policy(str(llama_directory), device=torch.device("cpu")))


@pytest.mark.parametrize("shares", [False, True], ids=["padded", "shared prompts"])
def test_scores_of_a_data_set_are_in_its_order_and_repeat_to_the_bit(
    llama_directory: Path, alone: Ranks, shares: bool
) -> None:
    model = load_policy(str(llama_directory), device=torch.device("cpu"))
    rows = [
        [TokenSequence([1] * (1 + i % 5), [3 + (i + j) % 7] * (1 + (i + j) % 4)) for j in range(1 + i % 3)]
        for i in range(23)
    ]

    def scores(budget: int, most: int | None = None, *, by_token: bool = False) -> torch.Tensor:
        def score(batch: SequenceBatch) -> torch.Tensor:
            logprobs = completion_logprobs(model, batch)
            return logprobs.values[logprobs.mask] if by_token else logprobs.sums

        return score_rows(score, rows, Layout(0, shares, True, budget, most), alone, by_token=by_token)

    one_by_one, together = scores(1), scores(10_000)
    torch.testing.assert_close(one_by_one, together, rtol=1e-5, atol=1e-5)
    assert torch.equal(together, scores(10_000))
    assert torch.equal(one_by_one, scores(10_000, 1))
    assert not together.requires_grad
    lengths = [len(sequence.completion_ids) for row in rows for sequence in row]
    by_token = scores(10_000, by_token=True).split(lengths)
    torch.testing.assert_close(torch.stack([tokens.sum() for tokens in by_token]), together, rtol=1e-5, atol=1e-5)


def test_scoring_stops_between_passes_when_asked(alone: Ranks) -> None:
    alone.stop.request("SIGTERM")
    with pytest.raises(StopRequested):
        score_rows(lambda batch: batch.lengths, [[TokenSequence([1], [2])]], Layout(0, False, True, 9), alone)
