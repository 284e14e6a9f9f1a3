"""Padding and micro-batches: every row once, little padding, targets where the model predicts them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.data.batches import (
    Layout,
    RowSize,
    TokenSequence,
    default_token_budget,
    micro_batches,
    pad_sequences,
    share_prompts,
)


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


row_sizes = st.lists(st.builds(RowSize, st.integers(1, 4), st.integers(1, 100)), max_size=60)


@given(sizes=row_sizes, budget=st.integers(1, 400), most=st.none() | st.integers(1, 8), padded=st.booleans())
def test_micro_batches_hold_every_row_once_within_the_budget(
    sizes: list[RowSize], budget: int, most: int | None, padded: bool
) -> None:
    groups = micro_batches(sizes, token_budget=budget, max_items=most, padded=padded)
    assert sorted(item for group in groups for item in group) == list(range(len(sizes)))
    for group in groups:
        some = [sizes[item] for item in group]
        widest = max(size.width for size in some)
        tokens = sum(size.rows for size in some) * widest if padded else sum(size.tokens for size in some)
        assert tokens <= budget or len(group) == 1
        assert most is None or len(group) <= most
    assert groups == micro_batches(sizes, token_budget=budget, max_items=most, padded=padded)


def test_rows_of_similar_length_share_a_micro_batch_and_the_longest_come_first() -> None:
    groups = micro_batches([RowSize(1, width) for width in (10, 90, 11, 91)], token_budget=200)
    assert groups == [[3, 1], [2, 0]]


def test_a_gpu_gets_larger_passes_than_a_cpu() -> None:
    assert default_token_budget(torch.device("cuda")) > default_token_budget(torch.device("cpu"))


# --- shared prompts ---------------------------------------------------------------------------------------------------

SIBLINGS = [TokenSequence([5, 6], [7, 8]), TokenSequence([9], [1]), TokenSequence([5, 6], [3])]


def test_a_prompt_stands_once_before_its_completions() -> None:
    batch = share_prompts(SIBLINGS, 0, one_row=True)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 3, 9, 1]]
    assert batch.positions is not None
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]], "each completion goes on from the prompt's end"
    assert batch.targets.tolist() == [[7, 8], [1, 0], [3, 0]], "in the order of the sequences"
    assert batch.source.tolist() == [1, 2, 5, 1], "the prompt's last token predicts every first target"
    assert batch.ends.tolist() == [3, 6, 4]
    assert (batch.tokens, batch.padded_tokens) == (7, 7)


def test_prompts_can_have_a_row_each() -> None:
    batch = share_prompts(SIBLINGS, 0, one_row=False)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 3], [9, 1, 0, 0, 0]]
    assert batch.source.tolist() == [1, 2, 5, 1]
    assert (batch.tokens, batch.padded_tokens) == (7, 10)


def test_only_sequences_of_one_sharer_share() -> None:
    batch = share_prompts(SIBLINGS, 0, one_row=False, sharers=[0, 0, 1])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 1, 0, 0], [5, 6, 3, 0]]


def test_a_shared_prompt_needs_completions() -> None:
    with pytest.raises(ValueError, match="at least one completion token"):
        share_prompts([TokenSequence([1], [])], 0, one_row=True)


rows_of_sequences = st.lists(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6)).map(
            lambda sizes: TokenSequence(list(range(sizes[0])), [7] * sizes[1])
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=12,
)


@given(rows=rows_of_sequences, shares=st.booleans(), one_row=st.booleans(), budget=st.integers(1, 80))
def test_passes_hold_every_row_once_and_compute_no_more_than_the_budget(
    rows: list[list[TokenSequence]], shares: bool, one_row: bool, budget: int
) -> None:
    layout = Layout(0, shares, one_row, budget)
    passes = layout.passes([layout.size(row) for row in rows])
    assert sorted(row for group in passes for row in group) == list(range(len(rows)))
    for group in passes:
        batch = layout.batch([rows[row] for row in group])
        assert batch.padded_tokens <= budget or len(group) == 1
