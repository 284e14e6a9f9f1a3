"""What was measured and printed, in the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def replace_part(page: Path, name: str, content: str) -> None:
    """Replaces what stands between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text().partition(begin)
    if not found:
        raise ValueError(f"{page} has no mark {begin}")
    page.write_text(f"{before}{begin}\n{content}{end}{rest.partition(end)[2]}")


def with_rows(document: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The results with these rows in place of earlier ones of their names."""
    new = {row["name"]: row for row in rows}
    return document | {"faults": [new.get(row["name"], row) for row in document["faults"]]}


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    faults = document["faults"]
    right = sum(fault["right"] for fault in faults)
    lines = [
        f"{right} of {len(faults)} faults got the right reason, in {document['seconds']} s altogether. Machine:"
        f" {document['machine']}; load before {document['loadBefore']}. Every row's commit stands in"
        " [bench/results/faults.json](../bench/results/faults.json).",
        "",
        "| what was done | reason | right | seconds after the pod's end |",
        "|---|---|---|---|",
    ]
    for fault in faults:
        seconds = fault["seconds_after_end"]
        shown = "-" if seconds is None else f"{seconds:.1f}"
        answer = "yes" if fault["right"] else f"no: `{fault['expected']}` expected"
        lines.append(f"| {fault['what']} | `{fault['reason']}` | {answer} | {shown} |")
    return "\n".join(lines) + "\n"
