"""Files: rows come with their place, and every way a file can be wrong has a message that says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from plumbline_trainer.data.files import digest, read_rows
from plumbline_trainer.failures import DataError

ROWS: list[dict[str, Any]] = [{"prompt": "1+1=", "n": 2}, {"prompt": "é", "n": 3}, {"prompt": "x", "n": 4}]


def jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_jsonl_rows_carry_their_line_and_empty_lines_are_counted_but_skipped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": 1}\n\n   \n{"a": 2}\n')
    assert [(row.place, row.values) for row in read_rows(str(path))] == [
        ("train.jsonl:1", {"a": 1}),
        ("train.jsonl:4", {"a": 2}),
    ]


def test_parquet_rows_carry_their_row_number_and_equal_the_same_rows_in_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)
    rows = read_rows(str(path))
    assert [row.place for row in rows] == ["train.parquet:row 1", "train.parquet:row 2", "train.parquet:row 3"]
    assert [row.values for row in rows] == ROWS
    assert digest(rows) == digest(read_rows(jsonl(tmp_path / "same.jsonl")))


def test_auto_goes_by_the_ending_and_without_one_by_the_first_bytes(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "columns")
    assert len(read_rows(str(tmp_path / "columns"))) == 3
    assert len(read_rows(jsonl(tmp_path / "lines"))) == 3
    misnamed = jsonl(tmp_path / "lines.parquet")
    assert len(read_rows(misnamed, file_format="jsonl")) == 3
    with pytest.raises(DataError, match=r"lines\.parquet: not a valid Parquet file"):
        read_rows(misnamed)


def test_a_character_of_two_escapes_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": "\\ud83d\\ude00"}\n')
    assert read_rows(str(path))[0].values == {"a": "😀"}


def test_max_rows_keeps_the_first_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\nnot json\n')
    assert [row.values["a"] for row in read_rows(str(path), max_rows=2)] == [1, 2]


def test_a_uri_is_read_through_fsspec(tmp_path: Path) -> None:
    with fsspec.open("memory://bucket/train.jsonl", "wb") as file:
        file.write(b'{"a": 1}\n')
    (row,) = read_rows("memory://bucket/train.jsonl")
    assert row.place == "train.jsonl:1"


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read_rows(str(path))[0].values == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"train\.jsonl is empty"),
        (b"\n \n", r"train\.jsonl is empty"),
        (b'{"a": 1}\n{"a": \n', r"train\.jsonl:2: not valid JSON: .*\(column \d+\)"),
        (b'{"a": 1}\n[1]\n', r"train\.jsonl:2: expected a JSON object, found a list"),
        (b'{"a": 1}\n{"a": ["\\ud83d\\u00e9"]}\n', r"train\.jsonl:2: an escape .* is one half of a character"),
        (b'{"a": 1}\n{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", r"train\.jsonl:2: nested too deeply"),
        (b'{"a": 1}\n{"a": "\xff"}\n', r"train\.jsonl:2: not UTF-8 text \(byte 7 of the line\)"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(str(tmp_path / "train.jsonl"))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("{}/absent.jsonl", "absent.jsonl does not exist"),
        ("{}", "is a directory; name one JSONL or Parquet file"),
        ("nosuchscheme://x/y.jsonl", "cannot be opened: Protocol not known"),
    ],
)
def test_a_location_without_a_file_is_refused(tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_rows(location.format(tmp_path))


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet is empty: it holds no rows"):
        read_rows(str(tmp_path / "e.parquet"))


def test_the_digest_depends_on_content_and_order_but_not_on_key_order(tmp_path: Path) -> None:
    rows = read_rows(jsonl(tmp_path / "a.jsonl"))
    other_keys = read_rows(jsonl(tmp_path / "b.jsonl", [dict(reversed(row.items())) for row in ROWS]))
    assert digest(rows) == digest(other_keys)
    assert digest(rows) != digest(rows[::-1])
    assert digest(rows) != digest(rows[:2])
