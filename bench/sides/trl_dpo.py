"""TRL's side: `python -m bench.sides.trl_dpo ASSIGNMENT.json` runs `trl.DPOTrainer` on the same rows, and measures it.

Settings that would make TRL slower than it must be on a machine without a GPU are switched off: computation in
bfloat16, recomputed activations, checkpoints, evaluation, reports to services and progress bars. Everything else is
TRL's default.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import datasets  # type: ignore[import-untyped]
import torch
import transformers
import trl
from transformers import AutoTokenizer, TrainerCallback
from transformers.models.qwen2 import modeling_qwen2  # noqa: F401  (imported now, so that it is part of the base)
from trl import DPOConfig, DPOTrainer

from bench.measurement import Assignment, Recorder, digest_tokens
from bench.sides.loading import record_loading
from bench.sides.trl_settings import shared_settings
from bench.workload import read_pairs


class RecordedTrainer(DPOTrainer):
    """A DPOTrainer that remembers the loss and the tokens of the step in progress."""

    loss = 0.0
    tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        """Forward and backward pass of a batch; a step has one."""
        self.tokens = int(inputs["attention_mask"].sum())
        loss: torch.Tensor = super().training_step(model, inputs, *arguments, **options)
        self.loss = float(loss)
        return loss


class StepClock(TrainerCallback):
    """Tells the recorder when steps begin and end."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.trainer: RecordedTrainer | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Before the forward pass."""
        self._recorder.step_begins()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer's update."""
        assert self.trainer is not None
        self._recorder.step_ended(self.trainer.loss, self.trainer.tokens)


def settings(assignment: Assignment) -> DPOConfig:
    """The arguments of the trainer."""
    return DPOConfig(
        num_train_epochs=assignment.epochs,
        per_device_train_batch_size=assignment.pairs_per_step,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        beta=assignment.beta,
        precompute_ref_log_probs=assignment.precompute_reference,
        **shared_settings(
            work=assignment.work,
            learning_rate=assignment.learning_rate,
            gradient_clip=assignment.gradient_clip,
            seed=assignment.seed,
        ),
    )


def main(path: Path) -> int:
    """Trains as the assignment says and writes the report."""
    assignment = Assignment.read(path)
    rows = [asdict(pair) for pair in read_pairs(Path(assignment.rows))]
    recorder = Recorder()
    record_loading(recorder)
    clock = StepClock(recorder)
    trainer = RecordedTrainer(
        model=assignment.model,
        args=settings(assignment),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(assignment.model),
        callbacks=[clock],
    )
    clock.trainer = trainer
    trainer.train()
    versions = {
        "trl": trl.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }
    trained = trainer.train_dataset
    ids = list(zip(trained["prompt_ids"], trained["chosen_ids"], trained["rejected_ids"], strict=True))
    recorder.report(versions, digest_tokens(ids)).write(Path(assignment.report))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
