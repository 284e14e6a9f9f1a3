"""Writes docs/metrics.md from the families that operator and trainer declare: `python scripts/metrics_document.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from plumbline_api.contract import PORT
from plumbline_operator.job_metrics import JOB_FAMILIES, JOB_LABELS
from plumbline_operator.metrics import MOST_JOBS, OPERATOR_FAMILIES
from plumbline_trainer.reporting.families import RUN_FAMILIES, TRAINING_FAMILIES, UNNAMED

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

Row = tuple[str, str, Sequence[str], str]
"""Name, type, labels, meaning."""

HEAD = f"""# Metrics

<!-- Written by scripts/metrics_document.py from the code; a test compares the two, and both with a scrape. -->

Operator and trainer answer on `/metrics` in Prometheus' text format. [observability.md](observability.md) says how they
are scraped, which alerts and dashboards there are, and how to read them. Names end in their unit (`_seconds`, `_bytes`,
`_ratio`: 0 to 1, `_nats`, `_tokens`), those of counters in `_total`. A family has no sample while its value is unknown.

The labels `{"`, `".join(JOB_LABELS)}` name the job in full. They are part of what is exposed, in every series
of a job on both sides, and so the same whatever a scraper calls its targets.

Both sides also have the process' own metrics (`process_resident_memory_bytes`, `process_cpu_seconds_total`, ...).
"""

OPERATOR = """## Operator

Port 8080. The jobs are read off their stored status at each scrape.
"""

JOBS = f"""## Jobs, as the operator sees them

On the operator's port as well. Computed from `status`, so they survive a restart of the operator, stay when the pods
are gone and vanish with the job. At most {MOST_JOBS} jobs (`--metrics-jobs`) have series, those that have not ended
first; `plumbline_operator_jobs_without_series` counts the others. All have the labels `{"`, `".join(JOB_LABELS)}`.
"""

TRAINER = f"""## Trainer

Port {PORT} of every pod of a job; besides, `/v1/status` is the same as JSON (the contract's `StatusReport`) and
`/healthz` is for probes. In a job of several pods the numbers are the same on all of them, except memory. All have the
labels `{"`, `".join(JOB_LABELS)}`.
"""

TRAINING = """## Training and evaluation

What the method of the job measures: means over the whole optimizer step, whatever its micro-batches and ranks. `split`
is `training`, `evaluation` for held-out rows, or `first_evaluation` for what the first evaluation found. The last
column has the names that the same numbers have in `status.metrics`, in the console's lines and in TensorBoard, where
held-out ones start with `evaluation/`. A job shows those of its method: at most 64 values.
"""

END = """## Bounds

A trainer shows at most 64 metrics of training, so a pod has some 150 series. The operator shows some 30 series for each
job that has any, and about 200 of its own. Reasons, phases, conditions and states come from closed lists. No label
holds anything that users write but names of jobs, objects, reward components and categories of their rows.
"""


def table(rows: Iterable[Row]) -> str:
    """A table of families."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, meaning in rows:
        lines.append(f"| `{name}` | {kind} | {_code(labels)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def training_table() -> str:
    """A table of the training families with the metrics that they show."""
    lines = ["| metric | labels | meaning | shows |", "|---|---|---|---|"]
    for row in TRAINING_FAMILIES:
        family = row.family
        shown = ", ".join(f"`{_placeholders(pattern)}`" for pattern in row.patterns)
        lines.append(f"| `{family.shown_name}` | {_code(family.labels)} | {_cell(family.documentation)} | {shown} |")
    lines.append(f"| `{UNNAMED.shown_name}` | {_code(UNNAMED.labels)} | {_cell(UNNAMED.documentation)} | |")
    return "\n".join(lines) + "\n"


def document() -> str:
    """The text of docs/metrics.md."""
    jobs = [(family.shown_name, family.kind, family.labels[3:], family.documentation) for family in JOB_FAMILIES]
    own = [(family.shown_name, family.kind, family.labels, family.documentation) for family in OPERATOR_FAMILIES]
    run = [(family.shown_name, family.kind, family.labels, family.documentation) for family in RUN_FAMILIES]
    parts = [HEAD, JOBS, table(jobs), OPERATOR, table(own), TRAINER, table(run), TRAINING, training_table(), END]
    return "\n".join(parts)


def _code(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _placeholders(pattern: str) -> str:
    """A pattern as people read it: `{label:a|b}` becomes `a, b`, `{label}` becomes `<label>`."""
    if pattern.startswith("{") and ":" in pattern:
        return "`, `".join(pattern.strip("{}").partition(":")[2].split("|"))
    return pattern.replace("{", "<").replace("}", ">")


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(DOCUMENT)
