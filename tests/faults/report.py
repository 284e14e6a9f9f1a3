"""The table of measured faults in the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def write_table(document: dict[str, Any], page: Path) -> None:
    """Replaces what stands between the marks of the page."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(document)}{END}{after}")


def table(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    faults = document["faults"]
    right = sum(fault["right"] for fault in faults)
    lines = [
        f"{right} of {len(faults)} faults got the right reason, in {document['seconds']} s altogether. Machine:"
        f" {document['machine']}; load before {document['loadBefore']}; commit `{document['commit'][:10]}`.",
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
