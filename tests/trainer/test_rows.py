"""Row shapes: what each objective's rows look like, and what a malformed row gets."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_api.sources import Dataset, DatasetColumns
from plumbline_trainer.data.files import FileRow
from plumbline_trainer.data.rows import (
    CompletionRow,
    ListRow,
    PairRow,
    PromptRow,
    UnpairedRow,
    load_rows,
    shape_rows,
)
from plumbline_trainer.failures import DataError

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def shaped(shape: Any, *rows: dict[str, Any], columns: DatasetColumns | None = None) -> list[Any]:
    found = [FileRow(f"train.jsonl:{number}", row) for number, row in enumerate(rows, start=17)]
    rows, _ = shape_rows(found, columns or DatasetColumns(), shape)
    return rows


def test_the_four_shapes() -> None:
    place = "train.jsonl:17"
    assert shaped("pairs", PAIR) == [PairRow(place, "p", "good", "bad")]
    assert shaped("unpaired", {"prompt": "p", "completion": "c", "label": False}) == [
        UnpairedRow(place, "p", "c", False)
    ]
    assert shaped("completions", {"prompt": "p", "completion": "c"}) == [CompletionRow(place, "p", "c")]
    row = {"prompt": "p", "answer": 42, "level": "easy"}
    assert shaped("prompts", row) == [PromptRow(place, "p", "42", row)]


def test_prompts_and_completions_may_be_chat_messages() -> None:
    answer = [{"role": "assistant", "content": "good"}]
    (row,) = shaped("pairs", PAIR | {"prompt": MESSAGES, "chosen": answer})
    assert row.prompt == MESSAGES
    assert row.chosen == "good"


def test_columns_can_have_other_names_and_messages_use_them() -> None:
    columns = DatasetColumns(prompt="question", chosen="better", rejected="worse")
    row = {"question": "q", "better": "a", "worse": "b"}
    assert shaped("pairs", row, columns=columns) == [PairRow("train.jsonl:17", "q", "a", "b")]
    with pytest.raises(DataError, match=r"train\.jsonl:17: better is missing"):
        shaped("pairs", PAIR | {"question": "q"}, columns=columns)


@pytest.mark.parametrize("answer", [None, "", "x"])
def test_an_answer_may_be_missing_because_not_every_verifier_needs_one(answer: str | None) -> None:
    (row,) = shaped("prompts", {"prompt": "p", "answer": answer})
    assert row.answer == answer


@pytest.mark.parametrize(
    ("shape", "row", "message"),
    [
        ("pairs", {"prompt": "p", "rejected": "b"}, "chosen is missing"),
        ("pairs", PAIR | {"chosen": None}, "chosen is missing"),
        ("pairs", PAIR | {"rejected": "good"}, "chosen and rejected are equal: the pair states no preference"),
        ("pairs", PAIR | {"chosen": 3}, "chosen must be text, found a number"),
        ("pairs", PAIR | {"chosen": ""}, "chosen is empty"),
        (
            "pairs",
            PAIR | {"chosen": MESSAGES},
            "chosen must be text, a list of one assistant message, or the prompt's messages and one assistant message; "
            "found 2 messages",
        ),
        ("pairs", PAIR | {"prompt": {"a": 1}}, "prompt must be text or a list of chat messages, found an object"),
        ("pairs", PAIR | {"prompt": "  "}, "prompt is empty"),
        ("pairs", PAIR | {"prompt": []}, "prompt is an empty list"),
        ("pairs", PAIR | {"prompt": ["hi"]}, r"prompt\[0\] must be a message with role and content, found text"),
        ("pairs", PAIR | {"prompt": [{"role": "user"}]}, r"prompt\[0\].content must be text, found null"),
        ("pairs", PAIR | {"prompt": [{"role": "assistant", "content": "x"}]}, "prompt must not end with an assistant"),
        ("unpaired", {"prompt": "p", "completion": "c"}, "label is missing"),
        ("unpaired", {"prompt": "p", "completion": "c", "label": 1}, "label must be true or false, found a number"),
        ("completions", {"prompt": "p"}, "completion is missing"),
        ("prompts", {"answer": "1"}, "prompt is missing"),
        ("prompts", {"prompt": "p", "answer": [1]}, "answer must be text or a number, found a list"),
    ],
)
def test_a_malformed_row_is_refused_by_file_and_line(shape: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^train\.jsonl:17: " + message):
        shaped(shape, row)


def test_several_bad_rows_are_named_and_the_rest_counted() -> None:
    with pytest.raises(DataError) as caught:
        shaped("pairs", PAIR, *[{"prompt": "p", "rejected": "b"}] * 7)
    lines = str(caught.value).splitlines()
    assert lines[0] == "train.jsonl:18: chosen is missing"
    assert len(lines) == 6
    assert lines[-1] == "and 2 more bad rows"


def test_a_data_set_is_read_with_its_own_options(write_rows: Any) -> None:
    path = write_rows([PAIR | {"chosen": f"good{i}"} for i in range(5)])
    dataset = Dataset.model_validate({"source": {"path": {"path": path}}, "maxRows": 3})
    assert len(load_rows(path, dataset, "pairs").rows) == 3
    assert len(load_rows(path, dataset, "pairs", max_rows=2).rows) == 2
    assert load_rows(path, dataset, "pairs").digest.startswith("sha256:")


QUESTION = [{"role": "user", "content": "hi"}]
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))


def test_the_prompt_may_be_implicit_in_conversations() -> None:
    (pair,) = shaped("pairs", {"chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]})
    assert (pair.prompt, pair.chosen, pair.rejected) == (QUESTION, "good", "bad")
    (row,) = shaped("completions", {"completion": [*MESSAGES, GOOD]})
    assert (row.prompt, row.completion) == (MESSAGES, "good")


def test_a_conversation_may_repeat_the_explicit_prompt() -> None:
    (pair,) = shaped("pairs", {"prompt": "hi", "chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, BAD]})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("hi", "good", "bad")


def test_transcripts_are_conversations() -> None:
    first = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c: d\n\ne\n\nAssistant:"
    (pair,) = shaped("pairs", {"chosen": f"{first} good", "rejected": f"{first} bad"})
    assert pair.prompt == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c: d\n\ne"},
    ]
    assert (pair.chosen, pair.rejected) == ("good", "bad")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "2 it is", "rejected": "2 it was"}, "prompt is missing; it may be left out only where chosen is a"),
        (
            {"chosen": [*QUESTION, GOOD], "rejected": [*MESSAGES, BAD]},
            "prompt is missing, and chosen and rejected differ",
        ),
        ({"chosen": [GOOD], "rejected": [BAD]}, "prompt is missing, and chosen is not a prompt followed by"),
        (
            {"chosen": [*QUESTION, GOOD, BAD], "rejected": [*QUESTION, GOOD, GOOD]},
            "prompt is missing, and chosen is not",
        ),
        ({"chosen": QUESTION * 2, "rejected": QUESTION * 2}, "prompt is missing, and chosen is not a prompt followed"),
        ({"chosen": [*QUESTION, GOOD], "rejected": [*QUESTION, GOOD]}, "chosen and rejected are equal"),
    ],
)
def test_a_prompt_that_is_not_well_defined_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^train\.jsonl:17: " + message):
        shaped("pairs", row)


def test_scores_and_prefixes_of_pairs() -> None:
    (row,) = shaped("pairs", PAIR | {"score_chosen": 2, "score_rejected": 0.5, "prefix": "so "})
    assert row == PairRow("train.jsonl:17", "p", "good", "bad", "so ", False, 2.0, 0.5)
    assert shaped("pairs", PAIR | {"prefix": "", "final": True})[0].final
    assert not shaped("pairs", PAIR | {"prefix": ""})[0].final, "a first step does not end the answer either"
    assert shaped("pairs", PAIR | {"score_chosen": 2})[0].chosen_score is None, "one score alone says nothing"


def test_lists() -> None:
    (row,) = shaped("lists", {"prompt": "p", "completions": ["a", [GOOD]], "scores": [1, 0.5], "safe": [True, False]})
    assert row == ListRow("train.jsonl:17", "p", ["a", "good"], [1.0, 0.5], [True, False])


@pytest.mark.parametrize(
    ("shape", "row", "message"),
    [
        ("lists", {"completions": ["a"]}, "completions must have at least two completions, found 1"),
        ("lists", {"completions": "a"}, "completions must be a list, found text"),
        ("lists", {"completions": ["a", ""]}, r"completions\[1\] is empty"),
        ("lists", {"completions": ["a", "b"], "scores": [1]}, "scores has 1 entries for 2 completions"),
        ("lists", {"completions": ["a", "b"], "scores": [1, None]}, r"scores\[1\] is missing"),
        ("lists", {"completions": ["a", "b"], "scores": [1, "2"]}, r"scores\[1\] must be a number, found text"),
        ("lists", {"completions": ["a", "b"], "scores": [1, float("nan")]}, r"scores\[1\] must be a number of at most"),
        ("lists", {"completions": ["a", "b"], "scores": [1, 10**400]}, r"scores\[1\] must be a number of at most"),
        ("lists", {"completions": ["a", "b"], "safe": [1, 0]}, r"safe\[0\] must be true or false, found a number"),
        ("pairs", PAIR | {"score_chosen": True}, "score_chosen must be a number, found a boolean"),
        ("pairs", PAIR | {"prefix": 3}, "prefix must be text, found a number"),
        ("pairs", PAIR | {"final": "yes"}, "final must be true or false, found text"),
    ],
)
def test_malformed_scores_and_lists_are_refused(shape: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^train\.jsonl:17: " + message):
        shaped(shape, {"prompt": "p"} | row)


def test_equal_texts_can_be_dropped_and_counted() -> None:
    found = [FileRow("f:1", PAIR), FileRow("f:2", PAIR | {"rejected": "good"})]
    rows, equal = shape_rows(found, DatasetColumns(), "pairs", drop_equal_texts=True)
    assert [row.place for row in rows] == ["f:1"]
    assert equal == 1
