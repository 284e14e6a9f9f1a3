"""What a step is: the protocol between the training loop and the two kinds of job.

Each kind of job has a module for training (`tasks.preference`, `tasks.rlvr`) with `build`, and one for its inputs
(`tasks.preference_data`, `tasks.rlvr_data`) with `check_inputs`; `tasks.build` calls both:

    build(config: TrainerConfig, ranks: Ranks, stop: StopRequest) -> Task
        Loads model, tokenizer and rows onto `ranks.device`. Parameters are the same on every rank.

    check_inputs(config: TrainerConfig) -> InputReport
        Refuses in seconds, without a GPU, what `build` or the first steps would refuse: unreadable or empty files,
        malformed rows (file and line), a tokenizer that does not load, first rows that do not render or fit the
        limits, reward code that does not import or score. Raises the `TrainerFailure` that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from plumbline_api.status import DataStatus
from plumbline_trainer.reporting.metrics import Metrics


@dataclass(frozen=True)
class Batch:
    """One optimizer step's work of this rank, already split into micro-batches."""

    micro_batches: Sequence[Any]
    """What `Task.loss` takes, in order. Empty where this rank has nothing to learn from; a step that is empty on all
    ranks leaves the parameters as they are."""

    tokens: int
    """Tokens processed by this rank in this step, for the throughput."""

    trained_tokens: int | None = None
    """Tokens of the forward and backward passes alone, for their throughput; None where these are all tokens."""

    padded_tokens: int = 0
    """Positions computed by this rank in this step for those tokens, padding included; 0 where nobody counted them."""

    metrics: Metrics = field(default_factory=dict)
    """This rank's share of the metrics that are known before the update, such as rewards; the loop sums over ranks."""

    phase_seconds: dict[str, float] = field(default_factory=dict)
    """Duration of the phases before the update, such as generate and verify."""


class Task(Protocol):
    """A kind of job: where batches come from, what their loss is, how the model is evaluated.

    A task draws everything random from (seed, step, row), so `prepare(step)` gives the same batch whether or not the
    run was interrupted before. State that does not follow from the step alone goes through `state_dict`.

    A task may call the collectives of `Ranks` in `prepare`, `step_done` and `evaluate`, in the same order on every
    rank, never in `loss`. It polls `stop.raise_if_requested()` wherever a phase lasts; `StopRequested`, raised by that
    call or by a collective, must pass through it (no `except Exception` around a collective).
    """

    model: torch.nn.Module
    """What is trained and exported: a `transformers.PreTrainedModel`, or a `peft.PeftModel` around one. Parameters
    with `requires_grad` are updated and saved; all others come from the model's directory again."""

    tokenizer: Any
    """The tokenizer with the chat template in use, exported beside the model."""

    max_steps: int
    """Optimizer steps in all."""

    score_name: str
    """Name of the metric of `evaluate` that stands for the run in one number."""

    warnings: list[str]
    """What the user should know about the inputs, such as dropped rows."""

    data_status: DataStatus | None
    """What became of the training rows, for the job's status; None for a task without data."""

    def prepare(self, step: int) -> Batch:
        """The batch of optimizer step `step` (from 0), for this rank. May raise `StopRequested`."""

    def loss(self, micro_batch: Any) -> tuple[torch.Tensor, Metrics]:
        """The micro-batch's share of the step's loss: shares of all micro-batches and ranks add up to the loss.

        The loop seeds torch's global generator by (seed, step, rank, micro-batch) before each call, which is what
        dropout draws from.
        """

    def evaluate(self) -> dict[str, float]:
        """Metrics of the held-out rows, the same on every rank; empty without held-out rows. Leaves the model in
        training mode. May raise `StopRequested`."""

    def step_done(self, step: int) -> None:
        """The parameters were updated in optimizer step `step` (from 0). Called on every rank, before `state_dict`.

        Here belongs what follows the parameters, such as a moving reference. Update and call are one for whoever asks
        for a stop: requests wait until it returns, so what takes long belongs into the next `prepare`.
        """

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state besides parameters. Called after every completed step (so it must be cheap), before the
        next `prepare`; the result must not change when the task goes on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`, before the first `prepare`."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """State in tensors, by name, which a checkpoint keeps beside the parameters; the same on every rank.

        Called on rank 0 when a checkpoint is written, without a copy being made: only `step_done` may change these
        tensors, since the last completed step may be saved while the next one is under way.
        """

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restores `tensors` (given on the CPU), after `load_state_dict` and before the first `prepare`. Raises
        `KeyError` or `ValueError` where they are not this task's."""

    def close(self) -> None:
        """Ends what the task started, such as processes of verifiers; called once, also after a failure."""


@dataclass(frozen=True)
class InputReport:
    """What pre-flight learnt about the inputs."""

    training_rows: int
    evaluation_rows: int = 0
    warnings: list[str] = field(default_factory=list)
    """What the user should know and can live with, such as dropped rows."""
