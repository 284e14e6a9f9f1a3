"""`python -m plumbline_trainer`: one process, one exit code, one sentence that says what happened."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_trainer import run as module
from plumbline_trainer.__main__ import main
from plumbline_trainer.run import Options, run
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from tests.trainer.objective_rows import OBJECTIVES, rows_for
from tests.trainer.toy_program import Child, make_config

ROOT = Path(__file__).parents[2]

PAIRS = [{"prompt": f"{a}+{b}=?", "chosen": str(a + b), "rejected": str(a + b + 1)} for a in range(4) for b in range(3)]


def manifest(folder: Path, directory: Path, rows: list[dict[str, Any]] | None = None, /, **spec: Any) -> Path:
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in (PAIRS if rows is None else rows)))
    source = {"source": {"path": {"path": str(train)}}}
    document = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "PreferenceJob",
        "metadata": {"name": "sums"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(directory)}}},
            "data": {"train": source, "evaluation": source},
            "objective": {"dpo": {}},
            "training": {"steps": 4, "batchSize": 6, "maxPromptTokens": 32, "maxCompletionTokens": 8},
            "optimizer": {"adamw": {"learningRate": 0.01}},
            "output": {"path": str(folder / "model")},
            **spec,
        },
    }
    path = folder / "job.json"
    path.write_text(json.dumps(document))
    return path


def environment() -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / name) for name in ("crds", "trainer-image"))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def trainer(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    log = config.parent / "termination-log"
    return subprocess.run(
        [sys.executable, "-m", "plumbline_trainer", "--config", config, "--termination-log", log, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
    )


def last_words(config: Path) -> dict[str, Any]:
    return json.loads((config.parent / "termination-log").read_bytes())


def test_a_job_runs_by_itself_from_manifest_to_model(tmp_path: Path, llama_directory: Path) -> None:
    config = manifest(tmp_path, llama_directory)
    done = trainer(config, "--port", "0")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4]
    assert done.stderr == ""
    score = last_words(config)["score"]
    assert score["name"] == "evaluation/rewards/accuracy"
    assert score["value"] > score["first"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tmp_path / "model")
    kept = sorted(path.name for path in (tmp_path / "model-checkpoints").iterdir())
    assert kept == ["reference-logprobs", "step-00000004"]


@pytest.fixture
def program() -> Iterator[Callable[..., int]]:
    """`program(config, *arguments) -> exit code`: the command line in this process, whose signal handlers come back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(config: Path, *arguments: str) -> int:
        log = config.parent / "termination-log"
        return main(["--config", str(config), "--termination-log", str(log), *arguments])

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_preflight_trains_nothing(tmp_path: Path, llama_directory: Path, program: Callable[..., int]) -> None:
    config = manifest(tmp_path, llama_directory)
    assert program(config, "--preflight") == 0
    assert "12 training rows, 12 held-out rows" in last_words(config)["message"]
    assert list((tmp_path / "model").iterdir()) == []


def test_a_wrong_field_ends_with_64_and_one_sentence(
    tmp_path: Path, llama_directory: Path, program: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    config = manifest(tmp_path, llama_directory, training={"steps": 4, "batchsize": 6})
    assert program(config) == 64
    expected = f"{config}: spec.training.batchsize: unknown field; did you mean batchSize?"
    assert capfd.readouterr().err == f"plumbline-trainer: ConfigError: {expected}\n"
    assert last_words(config)["reason"] == "ConfigError"
    assert last_words(config)["message"] == expected


def test_a_wrong_command_line_ends_with_64(
    tmp_path: Path, program: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program(tmp_path / "job.json", "--unknown")
    assert ended.value.code == 64
    assert "unrecognized arguments: --unknown" in capfd.readouterr().err


def test_a_start_imports_what_every_job_needs_and_no_more() -> None:
    """Each pod starts the trainer twice; these libraries would double the time before its first line."""
    heavy = ("transformers.modeling_utils", "torch._dynamo", "peft", "pyarrow", "rich", "sympy")
    modules = ("run", "tasks.preference_data", "tasks.rlvr_data", "preflight")
    code = f"import sys, {', '.join(f'plumbline_trainer.{name}' for name in modules)}\n"
    code += f"sys.exit(', '.join(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_last_words_are_said_where_the_output_cannot_be_written(
    tmp_path: Path, llama_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert in_process(manifest(tmp_path, llama_directory)) == 75
        with pytest.raises(OSError, match="No space left"):
            full.close()
    assert last_words(tmp_path / "job.json")["reason"] == "DiskFull"


def in_process(config: Path, preflight: bool = False, port: int = 0, build: Any = build_task) -> int:
    return run(Options(config, preflight, port, config.parent / "termination-log"), StopRequest(), build)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: next(iter(objective)))
def test_every_preference_objective_trains_and_exports(
    objective: dict[str, Any], tmp_path: Path, llama_directory: Path
) -> None:
    (key,) = objective
    method = next(member for member in PreferenceObjective.members() if member.member_key == key)
    spec = {"objective": objective, "peft": {"lora": {"rank": 2}}}
    if method.data_shape == "completions":
        del spec["peft"]
    config = manifest(tmp_path, llama_directory, rows_for(key), **spec)
    assert in_process(config, preflight=True) == 0
    assert in_process(config) == 0
    words = last_words(config)
    assert words["step"] == 4
    assert words["score"]["first"] is not None
    family = AutoModelForSequenceClassification if method.trains_scalar_head else AutoModelForCausalLM
    family.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("preflight", [True, False], ids=["preflight", "training"])
@pytest.mark.parametrize(
    ("rows", "spec", "code", "message"),
    [
        ([{"prompt": "1", "rejected": "2"}], {}, 65, "train.jsonl:1"),
        ([], {}, 65, "train.jsonl is empty"),
        (None, {"model": {"source": {"path": {"path": "/missing"}}}}, 66, "model directory /missing does not exist"),
    ],
    ids=["row-without-chosen", "empty-file", "no-model"],
)
def test_known_failures_say_what_where_and_no_traceback(
    preflight: bool,
    rows: Any,
    spec: dict[str, Any],
    code: int,
    message: str,
    tmp_path: Path,
    llama_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = manifest(tmp_path, llama_directory, rows, **spec)
    assert in_process(config, preflight) == code
    assert message in last_words(config)["message"]
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_taken_port_is_a_warning(tmp_path: Path, llama_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("", 0)) as taken:
        assert in_process(manifest(tmp_path, llama_directory), port=taken.getsockname()[1]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if '"event": "warning"' in line]
    assert "no status and metrics over HTTP" in warnings[0]


def test_exhausted_gpu_memory_ends_with_71_and_says_what_helps(tmp_path: Path, llama_directory: Path) -> None:
    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")

    config = manifest(tmp_path, llama_directory)
    assert in_process(config, build=exhausted) == 71
    assert last_words(config)["reason"] == "GpuOutOfMemory"
    assert "Tried to allocate 20.00 GiB. Lower training.microBatchSize" in last_words(config)["message"]


def test_a_bug_in_pre_flight_is_a_trainer_bug(
    tmp_path: Path, llama_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Any) -> Any:
        raise KeyError("internal")

    monkeypatch.setattr(module, "preflight", broken)
    config = manifest(tmp_path, llama_directory)
    assert in_process(config, preflight=True) == 70
    assert "Traceback" in capsys.readouterr().err
    assert last_words(config)["message"] == "unexpected KeyError: 'internal'"


def test_a_full_disk_ends_with_75_and_keeps_the_last_checkpoint(
    small_volume: Path, tmp_path: Path, llama_directory: Path
) -> None:
    folder = tmp_path / "job"
    config = make_config(
        folder,
        llama_directory,
        data={"train": {"source": {"path": {"path": "unused"}}}},
        training={"steps": 40, "batchSize": 6, "maxPromptTokens": 32, "maxCompletionTokens": 8},
        objective={"dpo": {}},
        checkpoint={"everySteps": 1, "keep": 9},
    )
    document = json.loads(config.read_text())
    rows = folder / "train.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    document["paths"].update(train=str(rows), evaluation=None, checkpoints=str(small_volume / "checkpoints"))
    config.write_text(json.dumps({**document, "paths": {k: v for k, v in document["paths"].items() if v}}))

    child = Child(config, build=build_task)
    assert child.wait() == 75, child.log.read_text()
    words = child.last_words()
    assert words["reason"] == "DiskFull"
    assert "the volume is full" in words["message"]
    assert words["checkpoint"]["step"] >= 1
    assert words["checkpoint"]["step"] == words["step"] - 1

    # more room, and the run goes on where it was
    subprocess.run(["mount", "-o", "remount,size=64m", small_volume], check=True)
    again = Child(config, build=build_task)
    again.wait_for("resume")
    again.wait_for("step", words["step"])
    assert min(again.losses()) == words["checkpoint"]["step"] + 1
    again.wait()
