"""Plumbline's side: `python -m bench.sides.ours_rlvr ASSIGNMENT.json` trains as a pod does, and measures it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.qwen2 import modeling_qwen2  # noqa: F401  (imported now, so that it is part of the base)

import plumbline_trainer.tasks.rlvr  # noqa: F401  (as above)
from bench.iterations import Helpers, Rollout, RolloutAssignment, RolloutReport, iterations_of
from bench.measurement import Recorder, digest_tokens
from bench.rollout_workload import read_prompts
from bench.sides import word_reward
from bench.sides.ours import RecordedTask
from plumbline_trainer.configuration import load_config
from plumbline_trainer.run import Options, run
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.data_sets import open_renderer
from plumbline_trainer.tasks.task import Task


def manifest(assignment: RolloutAssignment) -> dict[str, Any]:
    """The job: every setting that decides about numbers is said, whatever its default."""
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "RLVRJob",
        "metadata": {"name": "benchmark"},
        "spec": {
            "runtimeRef": {"name": "none"},
            "model": {"source": {"path": {"path": assignment.model}}, "dtype": "float32"},
            "data": {"train": {"source": {"path": {"path": assignment.rows}}}, "shuffle": False},
            "objective": {"grpo": {"clipLow": 0.2, "clipHigh": 0.2}},
            "advantage": {"groupRelative": {"normalize": "std", "epsilon": 1e-4}},
            "rollout": {
                "groupSize": assignment.group_size,
                "sampling": {"temperature": 1.0, "topP": 1.0},
                "updatesPerRollout": 1,
            },
            "rewards": [{"name": "words", "verifier": {"python": {"path": word_reward.__file__}}}],
            "optimizer": {"adamw": {"learningRate": assignment.learning_rate, "weightDecay": 0.0}},
            "schedule": {"constant": {}},
            "training": {
                "steps": assignment.iterations,
                "batchSize": assignment.prompts_per_iteration * assignment.group_size,
                "maxPromptTokens": 512,
                "maxCompletionTokens": assignment.max_tokens,
                "seed": assignment.seed,
                "gradientClip": assignment.gradient_clip,
                "activationCheckpointing": False,
            },
            "checkpoint": {"everySeconds": 0},
            "output": {"path": str(Path(assignment.work) / "output")},
        },
    }


class RecordedRollouts(RecordedTask):
    """A task that also remembers what it says about each rollout, and the processes that score."""

    def __init__(self, task: Task, recorder: Recorder, helpers: Helpers) -> None:
        super().__init__(task, recorder, [], None)
        self._helpers = helpers
        self.rollouts: list[Rollout] = []

    def prepare(self, step: int) -> Any:
        """The rollout and the beginning of its update."""
        batch = super().prepare(step)
        tokens = int(batch.metrics["completions/length"].total)
        self._tokens.append(tokens)
        self.rollouts.append(
            Rollout(
                tokens,
                batch.metrics["reward/mean"].value,
                batch.phase_seconds["generate"],
                batch.phase_seconds["verify"],
            )
        )
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Asked for after each step."""
        done = len(self._recorder.steps)
        state = super().state_dict()
        if len(self._recorder.steps) > done:
            self._helpers.iteration_ended()
        return state


def main(path: Path) -> int:
    """Trains as the assignment says and writes the report."""
    assignment = RolloutAssignment.read(path)
    job = Path(assignment.work) / "job.json"
    job.write_text(json.dumps(manifest(assignment), indent=2))

    recorder = Recorder()
    helpers = Helpers()
    built: list[RecordedRollouts] = []

    def build(*arguments: Any) -> Any:
        built.append(RecordedRollouts(build_task(*arguments), recorder, helpers))
        return built[0]

    options = Options(job, preflight=False, port=0, termination_log=Path(assignment.work) / "termination-log")
    code = run(options, StopRequest(), build)
    if code:
        return code
    prompts = open_renderer(load_config(job)).prompt_ids(read_prompts(Path(assignment.rows)))
    RolloutReport(
        {"torch": torch.__version__, "transformers": transformers.__version__},
        recorder.base_bytes,
        recorder.peak_bytes,
        helpers.bytes,
        recorder.before_steps,
        iterations_of(recorder, built[0].rollouts, helpers),
        digest_tokens([(ids, (), ()) for ids in prompts]),
    ).write(Path(assignment.report))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
