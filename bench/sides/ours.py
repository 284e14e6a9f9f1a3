"""Plumbline's side: `python -m bench.sides.ours ASSIGNMENT.json` runs the trainer as a pod does, and measures it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from transformers.models.qwen2 import modeling_qwen2  # noqa: F401  (imported now, so that it is part of the base)

import plumbline_trainer.tasks.preference  # noqa: F401  (as above)
from bench.measurement import Assignment, ProfiledOperation, Recorder, digest_tokens
from bench.sides.loading import record_loading
from bench.workload import lengths_of, read_pairs
from plumbline_api.contract import TrainerConfig
from plumbline_trainer.configuration import load_config
from plumbline_trainer.modeling.linear_head import LinearHeadLogprobs
from plumbline_trainer.run import Options, run
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.data_sets import open_renderer
from plumbline_trainer.tasks.task import Task


def manifest(assignment: Assignment, pairs: int) -> dict[str, Any]:
    """The job: every setting that decides about numbers is said, whatever its default."""
    training: dict[str, Any] = {
        "epochs": assignment.epochs,
        "batchSize": assignment.pairs_per_step,
        "maxPromptTokens": 512,
        "maxCompletionTokens": 512,
        "seed": assignment.seed,
        "gradientClip": assignment.gradient_clip,
        "activationCheckpointing": False,
    }
    if assignment.compile:
        training["compile"] = True
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "PreferenceJob",
        "metadata": {"name": "benchmark"},
        "spec": {
            "runtimeRef": {"name": "none"},
            "model": {"source": {"path": {"path": assignment.model}}, "dtype": "float32"},
            "data": {
                "train": {"source": {"path": {"path": assignment.rows}}, "maxRows": pairs},
                "shuffle": False,
            },
            "objective": {"dpo": {"beta": assignment.beta}},
            "optimizer": {"adamw": {"learningRate": assignment.learning_rate, "weightDecay": 0.0}},
            "schedule": {"constant": {}},
            "training": training,
            "checkpoint": {"everySeconds": 0},
            "output": {"path": str(Path(assignment.work) / "output")},
        },
    }


class RecordedTask:
    """A task that tells a recorder when the loop asks for a batch, and when a step is complete."""

    def __init__(self, task: Task, recorder: Recorder, tokens: list[int], profile_step: int | None) -> None:
        self._task = task
        self._recorder = recorder
        self._tokens = tokens
        self._profile_step = profile_step
        self._loss = 0.0
        self._in_step = False
        self.profiler: profile | None = None
        self.phases: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def prepare(self, step: int) -> Any:
        """The beginning of a step."""
        self._recorder.step_begins()
        self._loss, self._in_step = 0.0, True
        if step == self._profile_step:
            self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profiler.start()
        batch = self._task.prepare(step)
        for name, seconds in batch.phase_seconds.items():
            self.phases[name] = self.phases.get(name, 0.0) + seconds
        return batch

    def loss(self, micro_batch: Any) -> Any:
        """Shares of micro-batches add up to the loss."""
        share, metrics = self._task.loss(micro_batch)
        self._loss += float(share.detach())
        return share, metrics

    def state_dict(self) -> dict[str, Any]:
        """The loop asks for it once before the first step, and after each completed step."""
        state = self._task.state_dict()
        if self._in_step:
            self._in_step = False
            done = len(self._recorder.steps)
            if self.profiler is not None and done == self._profile_step:
                self.profiler.stop()
            self._recorder.step_ended(self._loss, self._tokens[done])
        return state


def main(path: Path) -> int:
    """Trains as the assignment says and writes the report."""
    assignment = Assignment.read(path)
    pairs = read_pairs(Path(assignment.rows))
    useful = [lengths_of(pair).useful_tokens for pair in pairs]
    size = assignment.pairs_per_step
    tokens = [sum(useful[start : start + size]) for start in range(0, len(useful), size)] * assignment.epochs
    job = Path(assignment.work) / "job.json"
    job.write_text(json.dumps(manifest(assignment, len(pairs)), indent=2))

    recorder = Recorder()
    record_loading(recorder)
    built: list[RecordedTask] = []

    def build(*arguments: Any) -> Any:
        built.append(RecordedTask(build_task(*arguments), recorder, tokens, assignment.profile_step))
        return built[0]

    options = Options(job, preflight=False, port=0, termination_log=Path(assignment.work) / "termination-log")
    code = run(options, StopRequest(), build)
    if code:
        return code
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    report = recorder.report(versions, _token_digest(load_config(job), pairs))
    report.phases = built[0].phases
    report.profile = _operations(built[0].profiler)
    report.write(Path(assignment.report))
    return 0


def _token_digest(config: TrainerConfig, pairs: list[Any]) -> str:
    """Digest of the ids that the trainer makes of the rows."""
    renderer = open_renderer(config)
    prompts = [pair.prompt for pair in pairs]
    return digest_tokens(
        list(
            zip(
                renderer.prompt_ids(prompts),
                renderer.completion_ids(prompts, [pair.chosen for pair in pairs]),
                renderer.completion_ids(prompts, [pair.rejected for pair in pairs]),
                strict=True,
            )
        )
    )


def _operations(profiler: profile | None) -> list[ProfiledOperation]:
    """The profiled operators, by name, shapes and whether the head called them."""
    if profiler is None:
        return []
    found: dict[tuple[str, str, bool], ProfiledOperation] = {}
    for event in profiler.events():
        in_head = _in_head(event)
        key = (event.name, str(event.input_shapes), in_head)
        operation = found.setdefault(key, ProfiledOperation(event.name, event.input_shapes, 0, 0.0, in_head))
        operation.calls += 1
        operation.cpu_seconds += event.self_cpu_time_total * 1e-6
    return list(found.values())


def _in_head(event: Any) -> bool:
    """Whether the event or one that it is part of is the head's function; autograd calls the reverse of F FBackward."""
    while event is not None:
        if event.name.removesuffix("Backward") == LinearHeadLogprobs.__name__:
            return True
        event = event.cpu_parent
    return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
