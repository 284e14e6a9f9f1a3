"""Filters: what counts as a duplicate, which lengths are left out, and for which reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from plumbline_api.preference_data import Filters
from plumbline_api.sources import DatasetColumns
from plumbline_trainer.data import filters
from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.files import FileRow
from plumbline_trainer.data.filters import by_length, without_duplicates
from plumbline_trainer.data.rows import CompletionRow, ListRow, PairRow, UnpairedRow, shape_rows

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()


def test_every_reason_is_documented() -> None:
    words = [*filters.REASONS, filters.TRUNCATED, filters.LENGTH_INSTRUCTION, filters.TURNED_ROUND]
    assert [word for word in words if f"`{word}`" not in DOCUMENT] == []


def test_the_documented_rows_have_the_shapes_that_they_are_said_to_have() -> None:
    examples = re.findall(r"^\| (\w+) \| [^|]+ \| `(\{.+\})` \|$", DOCUMENT, re.MULTILINE)
    assert [shape for shape, _ in examples] == ["pairs", "unpaired", "completions", "lists"]
    for shape, example in examples:
        assert len(shape_rows([FileRow("data.md", json.loads(example))], DatasetColumns(), shape)[0]) == 1


def test_duplicates_have_the_same_prompt_and_completions_wherever_they_stand() -> None:
    rows = [
        PairRow("f:1", "p", "a", "b", chosen_score=1.0, rejected_score=0.0),
        PairRow("f:2", "p", "b", "a"),
        PairRow("f:3", "p", "a", "b"),
        PairRow("f:4", "q", "a", "b"),
        PairRow("f:5", "p", "a", "b", prefix="x"),
    ]
    kept, dropped = without_duplicates(rows)
    assert [row.place for row in kept] == ["f:1", "f:2", "f:4", "f:5"], "turned round is no duplicate"
    assert dropped == 1


def test_labels_belong_to_a_row_and_messages_are_compared_by_content() -> None:
    messages = [{"role": "user", "content": "p"}]
    same = [{"content": "p", "role": "user"}]
    rows = [CompletionRow("f:1", messages, "a"), CompletionRow("f:2", same, "a"), CompletionRow("f:3", "p", "a")]
    assert [row.place for row in without_duplicates(rows)[0]] == ["f:1", "f:3"]
    labelled = [UnpairedRow("f:1", "p", "a", True), UnpairedRow("f:2", "p", "a", False)]
    assert without_duplicates(labelled) == (labelled, 0)
    lists = [ListRow("f:1", "p", ["a", "b"], [0.0, 1.0]), ListRow("f:2", "p", ["a", "b"], [1.0, 0.0])]
    assert without_duplicates(lists)[1] == 1


@pytest.mark.parametrize(
    ("chosen", "places", "reasons"),
    [
        (Filters(), ["1", "2", "3"], {}),
        (Filters(min_prompt_tokens=3), ["2", "3"], {"ShortPrompt": 1}),
        (Filters(min_completion_tokens=4), ["2"], {"ShortCompletion": 2}),
        (Filters(max_length_ratio=2.0), ["1", "2"], {"LengthRatio": 1}),
        (Filters(min_prompt_tokens=3, max_length_ratio=1.0), [], {"ShortPrompt": 1, "LengthRatio": 2}),
    ],
)
def test_lengths(chosen: Filters, places: list[str], reasons: dict[str, int]) -> None:
    lengths = {"1": (2, 3, 6), "2": (3, 4, 5), "3": (9, 3, 7)}
    rows = [CompletionRow(place, "p", "c") for place in lengths]
    sequences = [
        [TokenSequence(range(prompt), range(first)), TokenSequence(range(prompt), range(second))]
        for prompt, first, second in lengths.values()
    ]
    kept = by_length(rows, sequences, chosen)
    assert [row.place for row in kept.rows] == places
    assert dict(kept.dropped) == reasons
    assert len(kept.sequences) == len(places)
