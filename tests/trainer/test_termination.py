"""The last words fit into the kubelet's 4096 bytes whatever there is to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline_api.contract import EXIT_REASONS, PRECISE_REASONS, ExitCode, TerminationMessage
from plumbline_api.status import MetricValue
from plumbline_trainer import failures
from plumbline_trainer.reporting import termination

METRICS = [
    MetricValue(name=f"rewards/a-rather-long-name-of-a-component-{n}", value=1 / (n + 1), first=None) for n in range(64)
]


def test_a_short_message_is_kept_whole() -> None:
    message = termination.compose("DataError", "train.jsonl:7: no `chosen`", step=3, metrics=METRICS[:2])
    assert TerminationMessage.model_validate_json(termination.encode(message)) == message


def test_metrics_are_given_up_before_the_text() -> None:
    message = termination.compose("TrainerBug", "x" * 2048, metrics=METRICS)
    body = termination.encode(message)
    assert len(body) <= 4096
    decoded = TerminationMessage.model_validate_json(body)
    assert decoded.message == "x" * 2048
    assert 0 < len(decoded.metrics) < 64
    assert decoded.metrics == METRICS[: len(decoded.metrics)]


def test_bytes_count_and_not_characters() -> None:
    message = termination.compose("DataError", "字" * 2048, metrics=METRICS)
    body = termination.encode(message)
    assert len(body) <= 4096
    assert json.loads(body)["message"].startswith("字字字")


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = "first words " + "x" * 5000 + " last words"
    message = termination.compose("TrainerBug", text).message
    assert len(message) <= 2048
    assert message.startswith("first words")
    assert message.endswith("last words")


def test_it_is_written_where_the_kubelet_reads_it(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    termination.write(termination.compose("Completed", "done"), log)
    assert json.loads(log.read_bytes())["reason"] == "Completed"


def test_a_log_that_cannot_be_written_is_only_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    termination.write(termination.compose("Completed", "done"), tmp_path / "missing" / "log")
    assert "cannot be written" in capsys.readouterr().err


def test_nothing_is_created_in_dev() -> None:
    path = Path("/dev/plumbline-termination-log-of-a-test")
    termination.write(termination.compose("Completed", "done"), path)
    assert not path.exists()


def test_every_failure_has_a_code_and_the_reason_of_that_code() -> None:
    kinds = [
        value
        for value in vars(failures).values()
        if isinstance(value, type) and issubclass(value, failures.TrainerFailure)
    ]
    assert len(kinds) > 8
    for kind in kinds:
        known = PRECISE_REASONS.get(kind.exit_code, frozenset()) | {EXIT_REASONS[kind.exit_code]}
        assert kind("text").reason in known
    assert {kind.exit_code for kind in kinds} == set(ExitCode) - {ExitCode.DONE, ExitCode.STOPPED_NOT_SAVED}


def test_a_signal_is_heard_before_torch_is_imported() -> None:
    """The handler must be there from the start: in a container without one, process 1 ignores SIGTERM."""
    code = (
        "import signal, sys\n"
        "import plumbline_trainer.__main__ as program\n"
        "assert 'torch' not in sys.modules\n"
        "from plumbline_trainer.stopping import StopRequest\n"
        "stop = StopRequest(); stop.listen(); signal.raise_signal(signal.SIGTERM)\n"
        "assert stop.pending and stop.signal_name == 'SIGTERM'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
