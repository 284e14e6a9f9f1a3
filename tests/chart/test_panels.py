"""Every query of every panel, against a real Prometheus that has watched real runs."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from charts.dashboards.__main__ import rendered
from charts.dashboards.queries import DASHBOARDS, ONLY_WITH_A_GPU, Answers, PanelQuery, dashboards, panels, queries
from cluster.prometheus import programs
from plumbline_operator.job_metrics import JOB_LABELS
from scripts.metrics_document import DOCUMENT
from tests.chart.watched_run import WatchedRun, watched_run
from tests.trainer.conftest import chat_tokenizer, llama_directory

__all__ = ["chat_tokenizer", "llama_directory"]

ONLY_WITH_AN_API_SERVER = "plumbline_operator_api_request"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, llama_directory: Path) -> Iterator[tuple[WatchedRun, Answers]]:
    with watched_run(tmp_path_factory.mktemp("watched"), llama_directory) as found:
        yield found


def test_the_checked_in_dashboards_are_those_of_the_code() -> None:
    assert {path.name: path.read_text() for path in DASHBOARDS.iterdir()} == rendered(), (
        "run python -m charts.dashboards"
    )


def test_dashboards_have_their_own_ids_and_sensible_panels() -> None:
    boards = dashboards()
    assert {board["uid"] for board in boards.values()} == {f"plumbline-{name}" for name in boards}
    for board in boards.values():
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles)
        for panel in panels(board):
            assert panel["targets"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            position = panel["gridPos"]
            assert position["x"] + position["w"] <= 24


@pytest.mark.slow
@pytest.mark.parametrize("query", queries(), ids=str)
def test_every_query_returns_data(seen: tuple[WatchedRun, Answers], query: PanelQuery) -> None:
    if query.expression.startswith(ONLY_WITH_A_GPU) or ONLY_WITH_AN_API_SERVER in query.expression:
        seen[1].of(query)  # well-formed; the rest needs what this run does not have
        return
    series = seen[1].of(query)
    assert series
    labels = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert all(labels <= set(one["metric"]) for one in series), "the legend names labels that the result does not have"


@pytest.mark.slow
def test_a_scrape_shows_what_the_documentation_lists(seen: tuple[WatchedRun, Answers]) -> None:
    """Names, types and labels; the control-plane tests do the same with an operator that has an API server."""
    text = DOCUMENT.read_text()
    run_table = text[text.index("## Trainer") : text.index("## Training and evaluation")]
    training_table = text[text.index("## Training and evaluation") :]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", run_table, re.MULTILINE)
    of_run = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    of_training = {
        name: ("gauge", set(re.findall(r"`(\w+)`", labels)))
        for name, labels in re.findall(r"^\| `(\w+)` \|([^|]*)\|", training_table, re.MULTILINE)
    }
    for kind, scraped in seen[0].texts.items():
        shown = {}
        for family in text_string_to_metric_families(scraped):
            if family.name.startswith("plumbline_"):
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = {label for sample in family.samples for label in sample.labels}
                assert labels == set() or set(JOB_LABELS) <= labels
                shown[name] = (family.type, labels - set(JOB_LABELS))
        assert of_run.keys() <= shown.keys(), kind
        assert shown.keys() <= of_run.keys() | of_training.keys(), kind
        assert "plumbline_trainer_metric" not in shown
        for name, (type_, labels) in shown.items():
            documented = (of_run | of_training)[name]
            assert (type_, labels) in (documented, (documented[0], set())), name


@pytest.mark.slow
def test_promtool_finds_nothing_to_improve_in_the_names(seen: tuple[WatchedRun, Answers]) -> None:
    run, _ = seen
    texts = {**run.texts, "operator": _text(run.port)}
    assert set(texts) == {"PreferenceJob", "RLVRJob", "operator"}
    for text in texts.values():
        checked = subprocess.run(
            [programs()["promtool"], "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)


def _text(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
