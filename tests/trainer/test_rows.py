"""Row shapes: what each objective's rows look like, and what a malformed row gets."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_api.sources import Dataset, DatasetColumns
from plumbline_trainer.data.files import FileRow
from plumbline_trainer.data.rows import CompletionRow, PairRow, PromptRow, UnpairedRow, load_rows, shape_rows
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
