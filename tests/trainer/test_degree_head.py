"""The degree head of a small Llama: part of the model while it trains, gone from the result, and able to learn."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerFast

from plumbline_api.methods.auxiliary import PreferenceDegree
from plumbline_api.methods.optimization import AdamW, Constant, Lora
from plumbline_trainer.data.batches import TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.data.degraded_copies import DegradedCopies, degraded_copies
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.rows import PairRow
from plumbline_trainer.modeling.adapters import add_lora, merged
from plumbline_trainer.modeling.degree_head import (
    DEGREE_HEAD,
    attach_degree_head,
    degree_logits,
    detach_degree_head,
)
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import completion_logprobs
from plumbline_trainer.objectives.preference.preference_degree import preference_degree
from plumbline_trainer.optimization.update import ParameterUpdate

LEVELS = 4
SEQUENCES = [
    TokenSequence([1, 3, 9, 10], [11, 12, 2]),
    TokenSequence([1, 3, 9, 10], [13, 2]),
    TokenSequence([1, 3, 20], [21, 22, 23, 24, 2]),
]


def policy(directory: Path) -> nn.Module:
    return load_policy(str(directory), dtype="float32", device=torch.device("cpu"))


def head_of(model: nn.Module) -> torch.Tensor:
    (weight,) = [value for name, value in model.named_parameters() if name.endswith(f"{DEGREE_HEAD}.weight")]
    return weight.detach()


def without_digits(text: str, level: int, levels: int, seed: int) -> str:
    """A rule for these tests: the digits are the content, and level / (levels - 1) of them become dashes."""
    digits = [place for place, character in enumerate(text) if character.isdigit()]
    gone = random.Random(seed).sample(digits, len(digits) * level // (levels - 1))
    return "".join("-" if place in gone else character for place, character in enumerate(text))


def rows_of(count: int, seed: int) -> list[PairRow]:
    draws = random.Random(seed)

    def text() -> str:
        characters = draws.choices("0123456789", k=6) + draws.choices("abcdefgh", k=4)
        draws.shuffle(characters)
        return "".join(characters)

    return [PairRow(f"rows:{number}", "say it", text(), text()) for number in range(count)]


def copies_of(rows: list[PairRow], renderer: Renderer, turn: int | str = 0) -> DegradedCopies:
    numbers = range(len(rows))
    return degraded_copies(
        rows, numbers, ("chosen", "rejected"), renderer, without_digits, levels=LEVELS, seed=3, turn=turn
    )


# --- the head ---------------------------------------------------------------------------------------------------------


def test_the_head_reads_the_hidden_state_of_the_last_token(llama_directory: Path) -> None:
    model = policy(llama_directory)
    attach_degree_head(model, LEVELS, seed=0)
    logits = degree_logits(model, pad_sequences(SEQUENCES, 0))
    head = getattr(model, DEGREE_HEAD)
    for row, sequence in enumerate(SEQUENCES):
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[operator,union-attr]
        torch.testing.assert_close(logits[row], head(states[0, -1]))


@pytest.mark.parametrize("one_row", [True, False])
def test_sequences_may_share_their_prompt(llama_directory: Path, one_row: bool) -> None:
    model = policy(llama_directory)
    attach_degree_head(model, LEVELS, seed=0)
    shared = degree_logits(model, share_prompts(SEQUENCES, 0, one_row=one_row))
    torch.testing.assert_close(shared, degree_logits(model, pad_sequences(SEQUENCES, 0)), rtol=1e-4, atol=1e-5)


def test_its_start_depends_on_the_seed_alone(llama_directory: Path) -> None:
    def start(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever was drawn from the global generator before
        model = policy(llama_directory)
        attach_degree_head(model, LEVELS, seed=seed)
        return head_of(model)

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


def test_the_language_model_does_not_change(llama_directory: Path) -> None:
    model, batch = policy(llama_directory), pad_sequences(SEQUENCES, 0)
    before = completion_logprobs(model, batch).values
    attach_degree_head(model, LEVELS, seed=0)
    assert torch.equal(completion_logprobs(model, batch).values, before)
    with pytest.raises(ValueError, match="has a degree head already"):
        attach_degree_head(model, LEVELS, seed=0)
    detach_degree_head(model)
    detach_degree_head(model)
    with pytest.raises(ValueError, match="has no degree head"):
        degree_logits(model, batch)


def test_gradients_reach_the_head_and_the_model(llama_directory: Path) -> None:
    model = policy(llama_directory)
    attach_degree_head(model, LEVELS, seed=0)
    degree_logits(model, pad_sequences(SEQUENCES, 0)).square().sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without <= {"lm_head.weight"}


def test_with_an_adapter_the_head_is_trained_beside_it(llama_directory: Path) -> None:
    model = add_lora(policy(llama_directory), Lora(rank=2), seed=0)  # type: ignore[arg-type]
    attach_degree_head(model, LEVELS, seed=0)
    degree_logits(model, pad_sequences(SEQUENCES, 0)).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any(DEGREE_HEAD in name for name in trained)
    assert all("lora_" in name or DEGREE_HEAD in name for name in trained)


# --- checkpoints and results ------------------------------------------------------------------------------------------


def test_optimizer_and_checkpoints_find_its_parameters(llama_directory: Path) -> None:
    def trained(steps: int) -> tuple[nn.Module, ParameterUpdate]:
        model = policy(llama_directory)
        attach_degree_head(model, LEVELS, seed=0)
        update = ParameterUpdate(model, AdamW(learning_rate=1e-3), Constant(), 10, 1.0)
        for step in range(steps):
            degree_logits(model, pad_sequences(SEQUENCES, 0)).square().sum().backward()
            update.apply(step, update.gradient_norm())
        return model, update

    model, update = trained(2)
    assert any(name.startswith(f"{DEGREE_HEAD}.weight/") for name in update.optimizer_tensors())
    other, empty = trained(0)
    assert not torch.equal(head_of(other), head_of(model))
    empty.load(update.parameter_tensors(), update.optimizer_tensors(), update.optimizer_values())
    assert torch.equal(head_of(other), head_of(model))


@pytest.mark.parametrize("adapter", [None, "merged", "alone"])
def test_the_result_has_no_head(llama_directory: Path, tmp_path: Path, adapter: str | None) -> None:
    def saved(*, head: bool) -> dict[str, torch.Tensor]:
        model: nn.Module = policy(llama_directory)
        if adapter is not None:
            model = add_lora(model, Lora(rank=2), seed=0)  # type: ignore[arg-type]
        if head:
            attach_degree_head(model, LEVELS, seed=0)
            detach_degree_head(model)
        directory = tmp_path / f"head-{head}"
        result = merged(model) if adapter == "merged" else model
        result.save_pretrained(directory)
        (file,) = directory.glob("*.safetensors")
        return load_file(file)

    expected, found = saved(head=False), saved(head=True)
    assert not any(DEGREE_HEAD in name for name in found)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- copies, and what can be learned from them ------------------------------------------------------------------------


def test_copies_follow_from_seed_turn_and_row(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    renderer, rows = Renderer(chat_tokenizer), rows_of(40, seed=0)
    every = copies_of(rows, renderer)
    some = degraded_copies(
        rows[5:7], [5, 6], ("chosen", "rejected"), renderer, without_digits, levels=LEVELS, seed=3, turn=0
    )
    assert some.sequences == every.sequences[5:7], "whatever rows share the call"
    assert some.degrees == every.degrees[5:7]
    assert copies_of(rows, renderer, turn=1).degrees != every.degrees
    counts = torch.bincount(torch.tensor(every.degrees).flatten(), minlength=LEVELS)
    assert counts.min() > 8 and counts.numel() == LEVELS


def test_degree_0_is_the_completion_itself(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    renderer, rows = Renderer(chat_tokenizer), rows_of(30, seed=1)
    copies = copies_of(rows, renderer)
    prompts = renderer.prompt_ids([row.prompt for row in rows])
    whole = renderer.completion_ids([row.prompt for row in rows], [row.chosen for row in rows])
    untouched = 0
    for row, (sequences, degrees) in enumerate(zip(copies.sequences, copies.degrees, strict=True)):
        assert sequences[0].prompt_ids == prompts[row]
        assert (sequences[0].completion_ids == whole[row]) == (degrees[0] == 0)
        untouched += degrees[0] == 0
    assert 0 < untouched < 30


def test_copies_of_a_step_stay_within_the_answer_that_it_continues(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    step = PairRow("rows:0", "add", "so 4", "so 5", prefix="2+2 ", final=False)
    copies = copies_of([step], Renderer(chat_tokenizer))
    for sequence in copies.sequences[0]:
        assert chat_tokenizer.decode(sequence.prompt_ids).replace(" ", "") == "<bos><user>add\n<assistant>2+2"
        assert chat_tokenizer.decode(sequence.completion_ids).replace(" ", "") in {"so4", "so5", "so-"}


def test_the_head_learns_to_tell_the_degrees_of_texts_it_has_not_seen(
    llama_directory: Path, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    renderer, model = Renderer(chat_tokenizer), policy(llama_directory)
    attach_degree_head(model, LEVELS, seed=0)
    parameters = PreferenceDegree(weight=1, levels=LEVELS)

    def losses_of(rows: list[PairRow], turn: int | str):  # type: ignore[no-untyped-def]
        copies = copies_of(rows, renderer, turn)
        flat = [sequence for row in copies.sequences for sequence in row]
        logits = degree_logits(model, pad_sequences(flat, 0)).view(len(rows), 2, LEVELS)
        return preference_degree(parameters, logits, torch.tensor(copies.degrees))

    held_out, seen = rows_of(64, seed=9), rows_of(16, seed=2)
    with torch.no_grad():
        before = losses_of(held_out, "evaluation")[1]["degree/accuracy"].value
    update = ParameterUpdate(model, AdamW(learning_rate=1e-2), Constant(), 40, 1.0)
    for step in range(40):
        losses_of(seen, step)[0].mean().backward()
        update.apply(step, update.gradient_norm())
    with torch.no_grad():
        after = losses_of(held_out, "evaluation")[1]["degree/accuracy"].value
    assert before < 0.4
    assert after > 0.8, "chance is 0.25"
