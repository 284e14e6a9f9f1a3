"""Reads rows from JSONL and Parquet files, local or at an fsspec URI, and remembers where each row came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import fsspec

from plumbline_trainer.failures import DataError, InfrastructureError

FileFormat = Literal["auto", "jsonl", "parquet"]

_ENDINGS: dict[str, Literal["jsonl", "parquet"]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_PARQUET_MAGIC = b"PAR1"
_PARQUET_BATCH_ROWS = 4096


@dataclass(frozen=True)
class FileRow:
    """One row as it stands in its file."""

    place: str
    """File and line, as editors understand it (`train.jsonl:17`), or file and row (`train.parquet:row 17`)."""

    values: dict[str, Any]


def read_rows(
    location: str, *, file_format: FileFormat = "auto", max_rows: int | None = None, source: str = ""
) -> list[FileRow]:
    """All rows, or the first `max_rows`, of the file at `location` (path or URI). Empty lines of JSONL are skipped.

    `source` stands before the file's name in the places of its rows, where there are several files.

    Raises `DataError` naming file and line for a file that is missing, empty or malformed, `InfrastructureError` for
    one that exists and cannot be read.
    """
    name = str(PurePosixPath(source, PurePosixPath(location).name))
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
        if filesystem.isdir(path):
            raise DataError(f"{location} is a directory; name one JSONL or Parquet file")
        with filesystem.open(path, "rb") as stream:
            reader = _parquet_rows if _format_of(name, file_format, stream) == "parquet" else _json_rows
            rows = []
            for row in reader(stream, name):
                rows.append(row)
                if max_rows is not None and len(rows) >= max_rows:
                    break
    except FileNotFoundError as error:
        raise DataError(f"{location} does not exist") from error
    except (ValueError, ImportError) as error:
        raise DataError(f"{location} cannot be opened: {error}") from error
    except PermissionError as error:
        raise DataError(f"{location} may not be read: permission denied") from error
    except OSError as error:
        raise InfrastructureError(f"{location} could not be read: {error}") from error
    if not rows:
        raise DataError(f"{location} is empty: it holds no rows")
    return rows


def _format_of(name: str, file_format: FileFormat, stream: IO[bytes]) -> Literal["jsonl", "parquet"]:
    """The format by name, by the file's ending, or, where the ending says nothing, by its first bytes."""
    if file_format != "auto":
        return file_format
    known = _ENDINGS.get(PurePosixPath(name).suffix.lower())
    if known is not None:
        return known
    magic = stream.read(len(_PARQUET_MAGIC))
    stream.seek(0)
    return "parquet" if magic == _PARQUET_MAGIC else "jsonl"


def _json_rows(stream: IO[bytes], name: str) -> Iterator[FileRow]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            values = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 text (byte {error.start} of the line)") from error
        except RecursionError:
            raise DataError(f"{place}: nested too deeply") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not valid JSON: {error.msg} (column {error.colno})") from error
        if not isinstance(values, dict):
            raise DataError(f"{place}: expected a JSON object, found {json_type(values)}")
        if b"\\u" in line and not _is_text(values):
            raise DataError(f"{place}: an escape \\ud800 to \\udfff is one half of a character without the other")
        yield FileRow(place, values)


def _is_text(values: dict[str, Any]) -> bool:
    """JSON can escape half of a surrogate pair, which neither UTF-8 nor a tokenizer can express."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet_rows(stream: IO[bytes], name: str) -> Iterator[FileRow]:
    import pyarrow.parquet  # half a second that only these files cost

    try:
        table = pyarrow.parquet.ParquetFile(stream)
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield FileRow(f"{name}:row {number}", values)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{name}: not a valid Parquet file: {error}") from error


def json_type(value: Any) -> str:
    """The type of a JSON value, in the words of a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def digest(rows: Iterable[FileRow]) -> str:
    """`sha256:...` over the content of the rows, in order: the same for JSONL and Parquet files with equal rows."""
    state = hashlib.sha256()
    for row in rows:
        state.update(json.dumps(row.values, sort_keys=True, ensure_ascii=False, default=str).encode())
        state.update(b"\n")
    return f"sha256:{state.hexdigest()}"
