"""Padding and micro-batches: every row once, little padding, targets where the model predicts them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.data.batches import TokenSequence, default_token_budget, micro_batches, pad_sequences


def test_padding_is_on_the_right_and_every_target_has_its_source() -> None:
    batch = pad_sequences([TokenSequence([5, 6, 7], [8, 9]), TokenSequence([5], [6])], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [5, 6, 0, 0, 0]]
    assert batch.lengths.tolist() == [5, 2]
    assert batch.targets.tolist() == [[8, 9], [6, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.source.tolist() == [2, 3, 5], "the token before a target predicts it"
    assert (batch.size, batch.tokens) == (2, 7)


def test_the_pad_token_may_occur_in_a_sequence() -> None:
    batch = pad_sequences([TokenSequence([0, 0], [0]), TokenSequence([1], [2])], pad_id=0)
    assert batch.mask.tolist() == [[True], [True]]
    assert batch.tokens == 5


def test_a_prompt_needs_a_token() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        pad_sequences([TokenSequence([], [1])], pad_id=0)


def test_an_empty_completion_has_no_target() -> None:
    batch = pad_sequences([TokenSequence([1, 2], [])], pad_id=0)
    assert batch.mask.tolist() == [[False]]
    assert batch.source.tolist() == []


lengths_of_rows = st.lists(st.integers(1, 100), max_size=60)


@given(lengths=lengths_of_rows, budget=st.integers(1, 400), most=st.none() | st.integers(1, 8), each=st.integers(1, 2))
def test_micro_batches_hold_every_row_once_within_the_budget(
    lengths: list[int], budget: int, most: int | None, each: int
) -> None:
    groups = micro_batches(lengths, token_budget=budget, max_items=most, sequences_per_item=each)
    assert sorted(item for group in groups for item in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * each * max(lengths[item] for item in group)
        assert padded <= budget or len(group) == 1
        assert most is None or len(group) <= most
    assert groups == micro_batches(lengths, token_budget=budget, max_items=most, sequences_per_item=each)


def test_rows_of_similar_length_share_a_micro_batch_and_the_longest_come_first() -> None:
    groups = micro_batches([10, 90, 11, 91], token_budget=200)
    assert groups == [[3, 1], [2, 0]]


def test_a_gpu_gets_larger_passes_than_a_cpu() -> None:
    assert default_token_budget(torch.device("cuda")) > default_token_budget(torch.device("cpu"))
