"""docs/metrics.md is what the code says, and names what dashboards and rules ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from charts.dashboards.queries import queries
from plumbline_operator.job_metrics import JOB_FAMILIES, JOB_LABELS
from plumbline_operator.metrics import OPERATOR_FAMILIES
from plumbline_trainer.reporting import families
from scripts.metrics_document import DOCUMENT, document

RULES = Path(__file__).resolve().parents[2] / "charts" / "plumbline" / "files" / "rules.yaml"
TRAINER_FAMILIES = (*families.RUN_FAMILIES, *(row.family for row in families.TRAINING_FAMILIES), families.UNNAMED)


def known_labels() -> dict[str, set[str]]:
    """Labels of every family, by the name of its samples."""
    of_operator = {family.shown_name: set(family.labels) for family in (*JOB_FAMILIES, *OPERATOR_FAMILIES)}
    buckets = {
        f"{family.name}_bucket": {*family.labels, "le"} for family in OPERATOR_FAMILIES if family.kind == "histogram"
    }
    of_trainer = {family.shown_name: {*family.labels, *families.JOB_LABELS} for family in TRAINER_FAMILIES}
    return of_operator | buckets | of_trainer


def test_the_document_is_that_of_the_code() -> None:
    assert DOCUMENT.read_text() == document(), "run python scripts/metrics_document.py"


def test_both_sides_name_jobs_by_the_same_labels() -> None:
    assert families.JOB_LABELS == JOB_LABELS


def test_no_label_is_one_that_scrapers_rename() -> None:
    for name, labels in known_labels().items():
        assert not labels & {"job", "instance", "namespace", "pod"}, name


@pytest.mark.parametrize("text", [str(query) for query in queries()] + [RULES.read_text()], ids=lambda text: text[:60])
def test_queries_and_rules_ask_for_families_and_labels_that_exist(text: str) -> None:
    labels_of = known_labels()
    for name, selector in re.findall(r"\b(plumbline_\w+)(\{[^}]*\})?", text):
        assert name in labels_of
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        assert asked <= labels_of[name], f"{name} has no label {asked - labels_of[name]}"
