"""Status, metrics endpoint and console."""

from __future__ import annotations

import io
import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plumbline_api.contract import HEALTH_PATH, METRICS_PATH, STATUS_PATH, StatusReport
from plumbline_api.status import BestCheckpointStatus, CheckpointStatus, DataStatus, RowCount
from plumbline_trainer.reporting.console import JsonConsole, ProgressConsole, open_console
from plumbline_trainer.reporting.server import StatusServer
from plumbline_trainer.reporting.status import StatusBoard

CHECKPOINT = CheckpointStatus.model_validate(
    {
        "step": 2,
        "time": "2030-01-01T00:00:00Z",
        "uri": "/checkpoints/step-00000002",
        "digest": "sha256:0",
        "verified": True,
    }
)

BEST = BestCheckpointStatus(step=1, uri="/checkpoints/step-00000001", metric="accuracy", value=0.875)


@pytest.fixture
def board() -> StatusBoard:
    board = StatusBoard(uid="uid-1", attempt=3)
    board.begin(2, 10, "accuracy")
    board.enter("training")
    for step, seconds in ((3, 1.0), (4, 9.0), (5, 2.0)):
        board.step_done(step, seconds, 600, {"loss": 0.5, "margin": math.nan}, {"generate": 0.75, "update": 0.25})
    board.evaluated({"accuracy": 0.75}, {"accuracy": 0.25})
    board.checkpointed(CHECKPOINT, 0.5)
    board.found_best(BEST)
    return board


@pytest.fixture
def server(board: StatusBoard) -> Iterator[StatusServer]:
    server = StatusServer(board, 0, ("RLVRJob", "team", "sums"))
    yield server
    server.close()


def get(server: StatusServer, path: str) -> tuple[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_the_report_says_where_the_run_is_and_when_it_ends(board: StatusBoard) -> None:
    report = board.report()
    assert (report.uid, report.attempt, report.state) == ("uid-1", 3, "training")
    assert (report.step, report.max_steps, report.from_step) == (5, 10, 2)
    assert report.step_seconds == 2.0, "the median, which one slow step does not move"
    assert report.eta_seconds == 10.0
    assert report.tokens_per_second == 150.0
    assert report.phase_seconds == {"generate": 0.75, "update": 0.25, "checkpoint": 0.5}
    assert report.checkpoint == CHECKPOINT
    assert report.best_checkpoint == BEST
    assert board.termination_fields()["best_checkpoint"] == BEST
    assert report.last_step_time is not None


def test_the_counts_of_the_rows_are_in_the_report_and_in_the_last_words(board: StatusBoard) -> None:
    data = DataStatus(rows_read=3, rows_used=2, dropped=[RowCount(reason="Overlong", rows=1)])
    board.read_rows(data)
    assert board.report().data == data
    assert board.termination_fields()["data"] == data


def test_held_out_metrics_carry_their_first_value_and_lead_to_the_score(board: StatusBoard) -> None:
    report = board.report()
    assert [(metric.name, metric.value, metric.first) for metric in report.metrics] == [
        ("evaluation/accuracy", 0.75, 0.25),
        ("loss", 0.5, None),
    ]
    assert report.score == report.metrics[0]


def test_without_held_out_rows_the_training_metric_or_the_loss_is_the_score() -> None:
    board = StatusBoard()
    board.begin(0, 10, "accuracy")
    assert board.report().score is None
    board.step_done(1, 1.0, 1, {"loss": 0.5}, {})
    assert board.report().score.name == "loss"  # type: ignore[union-attr]
    board.step_done(2, 1.0, 1, {"loss": 0.5, "accuracy": 0.25}, {})
    assert board.report().score.value == 0.25  # type: ignore[union-attr]


def test_the_report_stays_within_its_bounds() -> None:
    board = StatusBoard()
    board.step_done(1, 0.0, 0, {f"metric-{number}": 1.0 for number in range(100)}, {})
    for number in range(100):
        board.warn(f"warning {number}")
        board.warn("warning 0")
    report = StatusReport.model_validate_json(board.report().model_dump_json(by_alias=True))
    assert len(report.metrics) == 64
    assert report.warnings == [f"warning {number}" for number in range(16)]
    assert report.tokens_per_second is None


def test_status_is_the_contract_s_json(server: StatusServer, board: StatusBoard) -> None:
    content_type, body = get(server, STATUS_PATH)
    assert content_type == "application/json"
    assert StatusReport.model_validate_json(body) == board.report()
    assert json.loads(body)["maxSteps"] == 10


def test_health_is_ok_and_other_paths_are_not_found(server: StatusServer) -> None:
    assert get(server, HEALTH_PATH)[1] == "ok\n"
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(server, "/other")
    assert refused.value.code == 404


def test_metrics_are_prometheus_text(server: StatusServer) -> None:
    families = {family.name: family for family in text_string_to_metric_families(get(server, METRICS_PATH)[1])}
    sample = {
        (sample.name, *[value for label, value in sample.labels.items() if not label.startswith("job_")]): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert sample["plumbline_trainer_step",] == 5
    assert sample["plumbline_trainer_tokens_total",] == 1800
    assert sample["plumbline_trainer_tokens_per_second",] == 150
    assert sample["plumbline_trainer_steps_total",] == 3
    assert sample["plumbline_trainer_phase_seconds_total", "generate"] == 2.25
    assert sample["plumbline_trainer_loss", "training"] == 0.5
    assert sample["plumbline_trainer_accuracy_ratio", "evaluation"] == 0.75
    assert sample["plumbline_trainer_accuracy_ratio", "first_evaluation"] == 0.25
    assert sample["plumbline_trainer_checkpoint_step",] == 2
    assert sample["plumbline_trainer_checkpoint_write_duration_seconds",] == 0.5
    assert sample["plumbline_trainer_best_checkpoint_step",] == 1
    assert sample["plumbline_trainer_best_checkpoint_value",] == 0.875
    assert sample["plumbline_trainer_state", "training"] == 1
    assert sample["plumbline_trainer_state", "exporting"] == 0
    assert "process_resident_memory_bytes" in families


def test_a_taken_port_is_an_error_that_names_itself(server: StatusServer, board: StatusBoard) -> None:
    with pytest.raises(OSError, match="in use"):
        StatusServer(board, server.port)


def test_answers_come_while_the_board_is_written(server: StatusServer, board: StatusBoard) -> None:
    done = threading.Event()
    board.begin(5, 10**9, "accuracy")

    def train() -> None:
        step = 5
        while not done.is_set():
            step += 1
            board.step_done(step, 0.001, 1, {"loss": 1.0 / step}, {"update": 0.001})

    thread = threading.Thread(target=train)
    thread.start()
    try:
        steps = [json.loads(get(server, STATUS_PATH)[1])["step"] for _ in range(20)]
    finally:
        done.set()
        thread.join()
    assert steps == sorted(steps)


def test_without_a_terminal_there_is_one_json_line_a_step_and_an_event() -> None:
    stream = io.StringIO()
    console = open_console(stream)
    assert isinstance(console, JsonConsole)
    console.step(1, 10, {"loss": 0.5, "margin": math.nan})
    console.event("checkpoint", "saved step 1", uri="/checkpoints/step-00000001")
    console.close()
    step, event = (json.loads(line) for line in stream.getvalue().splitlines())
    assert {key: step[key] for key in ("event", "step", "maxSteps", "loss", "margin")} == {
        "event": "step",
        "step": 1,
        "maxSteps": 10,
        "loss": 0.5,
        "margin": None,
    }
    assert event["event"] == "checkpoint"
    assert event["message"] == "saved step 1"


def test_on_a_terminal_there_is_a_progress_bar_and_events_stand_above_it() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    console = open_console(stream)
    assert isinstance(console, ProgressConsole)
    console.event("start", "PreferenceJob [toy]")
    console.step(1, 2, {"loss": 0.5})
    console.step(2, 2, {"loss": 0.25})
    console.close()
    shown = stream.getvalue()
    assert "start: PreferenceJob [toy]" in shown
    assert "2/2" in shown
    assert "loss 0.25" in shown
