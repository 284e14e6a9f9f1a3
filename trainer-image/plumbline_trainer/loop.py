"""The only loop: prepare, micro-batches, sum over ranks, clip, update, evaluate, checkpoint, report.

A loss is a share of a global sum, so shares of micro-batches and ranks are added and never rescaled. Everything that
happens between two checkpoints follows from the state that the first one holds; what wall-clock time decides (when a
checkpoint is written) changes no number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from plumbline_api.status import BestCheckpointStatus, CheckpointStatus, MetricValue
from plumbline_trainer.best import Best, better, restored
from plumbline_trainer.checkpoint.rollbacks import (
    RollbackJournal,
    RolledBack,
    learning_rate_factor,
    protected,
)
from plumbline_trainer.checkpoint.store import CheckpointStore, Snapshot
from plumbline_trainer.data.order import derive_seed
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import (
    CheckpointUnreadable,
    Diverged,
    GuardrailFailed,
    SuspendedByGuardrail,
)
from plumbline_trainer.optimization.update import ParameterUpdate
from plumbline_trainer.plan import History, Plan, refuse_other_run
from plumbline_trainer.reporting.console import Console
from plumbline_trainer.reporting.health import HealthMonitor, Verdict
from plumbline_trainer.reporting.metrics import Metric, merge
from plumbline_trainer.reporting.status import EVALUATION_PREFIX, StatusBoard, held_out_values
from plumbline_trainer.tasks.task import Batch, Task


@dataclass(frozen=True)
class _Share:
    """One rank's share of a step."""

    loss: float
    micro_batches: int
    tokens: int
    trained_tokens: int
    padded_tokens: int
    metrics: dict[str, Metric]
    checkpoint_due: bool


class TrainingLoop:
    """Trains a task from its newest verified checkpoint, or from the start, to its last step.

    `step` is the number of completed optimizer steps. `resume` and `train` may raise `StopRequested` at any time
    between updates; `save` then still saves the last completed step.
    """

    def __init__(
        self,
        task: Task,
        update: ParameterUpdate,
        ranks: Ranks,
        store: CheckpointStore,
        plan: Plan,
        board: StatusBoard,
        console: Console,
    ) -> None:
        self.task = task
        self._update = update
        self._ranks = ranks
        self._store = store
        self._plan = plan
        self._board = board
        self._console = console
        self.step = 0
        self._task_state = task.state_dict()
        self._monitor = HealthMonitor(plan.guardrails, task.score_name, plan.rollouts)
        self._history = History()
        self.best: Best | None = None
        """The best evaluation so far, where the plan asks for one; its checkpoint is kept."""

        self._saved_step = 0
        self._saved_at = time.monotonic()
        self._save_due = False

    def resume(self) -> None:
        """Restores the newest verified checkpoint, if there is one.

        Raises `CheckpointUnreadable` where none of the existing ones verifies, `ConfigError` where it belongs to a
        different run.
        """
        found = self._ranks.on_main(self._store.newest_verified)
        if found is not None:
            self._restore(found)
        else:
            self._board.restored(0.0)
        self._update.scale_learning_rate(learning_rate_factor(self._plan.rollbacks))
        self._show_health()
        self._board.begin(self.step, self.task.max_steps, self.task.score_name)

    def train(self) -> None:
        """Runs to the last step, its evaluation and its checkpoint."""
        while True:
            if self._evaluation_due():
                self._evaluate()
            if self._save_due or self.step == self.task.max_steps:
                self.save()
            if self.step == self.task.max_steps:
                return
            self._board.enter("training")
            self._one_step()

    def save(self) -> None:
        """Saves the last completed step unless it is saved already; rank 0 decides and writes, the others wait for it.

        Raises the failure of rank 0 on every rank.
        """
        self._save_due = False
        self._ranks.on_main(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        if self.step <= self._saved_step:
            return
        self._board.enter("checkpointing")
        started = time.monotonic()
        snapshot = self._snapshot()
        best = self.best.step if self.best else None
        checkpoint = self._store.save(self.step, snapshot, best=best, also=self._needed_for_rollback(snapshot))
        checkpoint = checkpoint.model_copy(
            update={"healthy": self._monitor.healthy, "save_seconds": round(time.monotonic() - started, 3)}
        )
        self._saved_step, self._saved_at = self.step, time.monotonic()
        seconds = self._saved_at - started
        self._board.checkpointed(checkpoint, seconds)
        self._console.event("checkpoint", f"saved step {self.step}", uri=checkpoint.uri, seconds=round(seconds, 3))

    def load_best(self) -> None:
        """Replaces the parameters of this rank by those of the best checkpoint. Training does not go on after that.

        Raises `CheckpointUnreadable` where that checkpoint is damaged.
        """
        if self.best is None:
            raise ValueError("there is no best checkpoint")
        self._update.load_parameters(self._store.load_parameters(self.best.step))

    def best_metrics(self) -> list[MetricValue]:
        """The held-out metrics of the best evaluation; empty where there is none."""
        return [] if self.best is None else held_out_values(self.best.metrics, self._history.first)

    def drop_unfinished_step(self) -> None:
        """Forgets the gradients of a step that will not be completed."""
        self._update.drop_gradients()

    def _one_step(self) -> None:
        started = time.monotonic()
        self._ranks.stop.raise_if_requested()
        batch = self.task.prepare(self.step)
        prepared = time.monotonic()
        share = self._accumulate(batch)
        accumulated = time.monotonic()
        shares = self._ranks.gather(share)
        try:
            metrics, tokens = self._apply(shares)
        except Diverged as failure:
            self._not_finite(failure)
        updated = time.monotonic()
        metrics["tokens_per_second/update"] = sum(one.trained_tokens for one in shares) / (updated - prepared)
        verdicts = self._monitor.step_done(self.step, metrics)
        ended = time.monotonic()
        named = sum(batch.phase_seconds.values())
        phases = {
            **batch.phase_seconds,
            "prepare": batch.phase_seconds.get("prepare", 0.0) + max(0.0, prepared - started - named),
            "forward_backward": accumulated - prepared,
            "update": ended - accumulated,
        }
        self._board.step_done(self.step, ended - started, tokens, metrics, phases)
        if self._ranks.is_main:
            seconds = ended - started
            shown = {
                **metrics,
                "seconds": round(seconds, 4),
                "tokens": float(tokens),
                "tokens_per_second": round(tokens / seconds, 1),
            }
            self._console.step(self.step, self.task.max_steps, shown)
        self._show_health()
        self._act_on(verdicts)

    def _accumulate(self, batch: Batch) -> _Share:
        """Runs the micro-batches of this rank; gradients add up in the parameters."""
        loss = torch.zeros((), dtype=torch.float64)
        parts = [batch.metrics]
        for index, micro_batch in enumerate(batch.micro_batches):
            self._ranks.stop.raise_if_requested()
            torch.manual_seed(derive_seed(self._plan.seed, "dropout", self.step, self._ranks.rank, index))
            share, metrics = self.task.loss(micro_batch)
            share.backward()
            loss = loss.to(share.device) + share.detach().double()
            parts.append(metrics)
        summed = {name: Metric(float(metric.total), float(metric.count)) for name, metric in merge(parts).items()}
        return _Share(
            float(loss),
            len(batch.micro_batches),
            batch.tokens,
            batch.tokens if batch.trained_tokens is None else batch.trained_tokens,
            batch.padded_tokens,
            summed,
            self._checkpoint_due(),
        )

    def _apply(self, shares: list[_Share]) -> tuple[dict[str, float], int]:
        """Completes the step from all ranks' shares: the step's metrics and its tokens."""
        loss = sum(share.loss for share in shares)
        if not math.isfinite(loss):
            raise Diverged(f"step {self.step + 1}: the loss is {loss}; nothing was updated")
        gradient_norm = 0.0
        if any(share.micro_batches for share in shares):
            self._ranks.sum_gradients(self._update.masters)
            gradient_norm = self._update.gradient_norm()
            self._update.apply(self.step, gradient_norm)
        metrics = {
            "loss": loss,
            **{name: metric.value for name, metric in merge(share.metrics for share in shares).items()},
            "gradient_norm": gradient_norm,
            "learning_rate": self._update.learning_rate(self.step),
        }
        tokens = sum(share.tokens for share in shares)
        if padded := sum(share.padded_tokens for share in shares):
            metrics["padding_share"] = 1 - tokens / padded
        with self._ranks.stop.deferred():
            self.task.step_done(self.step)
        self.step += 1
        self._task_state = self.task.state_dict()
        self._save_due = shares[0].checkpoint_due
        return metrics, tokens

    def _evaluation_due(self) -> bool:
        if self._history.evaluated_step == self.step:
            return False
        evaluation = self._plan.evaluation
        if self.step == 0:
            return evaluation.at_start
        if self.step == self.task.max_steps:
            return True
        return evaluation.every_steps is not None and self.step % evaluation.every_steps == 0

    def _evaluate(self) -> None:
        self._board.enter("evaluating")
        started = time.monotonic()
        self._ranks.stop.raise_if_requested()
        metrics = self.task.evaluate()
        first = self._history.first or metrics
        self._history = History(self.step, first, metrics)
        if not metrics:
            return
        self._board.evaluated(metrics, first)
        self._compare_with_best(metrics)
        verdicts = self._monitor.evaluated(self.step, metrics)
        self._show_health()
        if self._ranks.is_main:
            self._console.event(
                "evaluation",
                f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
                step=self.step,
                seconds=round(time.monotonic() - started, 3),
                **{EVALUATION_PREFIX + name: value for name, value in metrics.items()},
            )
        self._act_on(verdicts)

    def _not_finite(self, failure: Diverged) -> NoReturn:
        """A step that cannot be applied: what its guardrail says, which by default is to fail as before."""
        verdict = self._monitor.not_finite(self.step, str(failure))
        self._show_health()
        self._update.drop_gradients()
        if verdict.guardrail.action != "Fail":
            self._act_on([verdict])
        raise failure

    def _act_on(self, verdicts: Sequence[Verdict]) -> None:
        """Does what guardrails that were broken by this step ask for; every rank comes to the same."""
        for verdict in verdicts:
            self._console.event("unhealthy", verdict.message, signal=verdict.guardrail.signal)
            match verdict.guardrail.action:
                case "Fail":
                    raise GuardrailFailed(verdict.message)
                case "Rollback":
                    self._roll_back(verdict)
                case "Suspend":
                    self._monitor.forgive(verdict.guardrail)
                    self.save()
                    raise SuspendedByGuardrail(f"{verdict.message}; {self.step} steps are saved")

    def _roll_back(self, verdict: Verdict) -> NoReturn:
        guardrail, known = verdict.guardrail, self._plan.rollbacks
        assert guardrail.rollback is not None
        used = sum(rollback.signal == guardrail.signal for rollback in known)
        if used >= guardrail.rollback.limit:
            raise GuardrailFailed(f"{verdict.message}; the run was rolled back {used} times for this already")
        journal = RollbackJournal(self._store)
        rollback = self._ranks.on_main(lambda: journal.add(guardrail, self.step, verdict.sound_until))
        raise RolledBack(rollback, verdict.message)

    def _needed_for_rollback(self, snapshot: Snapshot) -> Sequence[int]:
        """The steps of the checkpoints that a rollback may need, the one of `snapshot` being written."""
        window = self._monitor.rollback_window
        if window is None:
            return ()
        return sorted(protected(self._store.states() | {self.step: snapshot.state}, self.step, window))

    def _show_health(self) -> None:
        self._board.measured(self._monitor.report([rollback.status for rollback in self._plan.rollbacks]))

    def _compare_with_best(self, metrics: Mapping[str, float]) -> None:
        """Has the present step saved where it is the best one. Metrics are the same on every rank, and so is this."""
        rule = self._plan.checkpoint.best
        if rule is None:
            return
        best = better(self.best, rule, self.step, metrics)
        if best is not self.best:
            self.best = best
            self._save_due = True
            self._show_best()

    def _show_best(self) -> None:
        if (best := self.best) is not None:
            uri = self._store.uri_of(best.step)
            self._board.found_best(BestCheckpointStatus(step=best.step, uri=uri, metric=best.metric, value=best.value))

    def _checkpoint_due(self) -> bool:
        """Whether a checkpoint follows the present step. Rank 0's answer counts: clocks differ."""
        policy = self._plan.checkpoint
        by_steps = policy.every_steps is not None and (self.step + 1) % policy.every_steps == 0
        elapsed = time.monotonic() - self._saved_at
        return by_steps or (policy.every_seconds > 0 and elapsed >= policy.every_seconds)

    def _snapshot(self) -> Snapshot:
        state = {
            "step": self.step,
            "identity": dict(self._plan.identity),
            "task": self._task_state,
            "evaluation": {
                "step": self._history.evaluated_step,
                "first": self._history.first,
                "last": self._history.last,
            },
            "best": None if self.best is None else self.best.to_document(),
            "health": self._monitor.state_dict(),
            "work": {"uid": self._plan.uid, "seconds": self._board.useful_seconds},
        }
        return Snapshot(
            self._update.parameter_tensors(),
            self._update.optimizer_tensors(),
            self._update.optimizer_values(),
            state,
            self.task.tensors(),
        )

    def _restore(self, checkpoint: CheckpointStatus) -> None:
        snapshot = self._store.load(checkpoint.step)
        refuse_other_run(checkpoint.uri, snapshot.state.get("identity", {}), self._plan.identity)
        try:
            self._update.load(snapshot.parameters, snapshot.optimizer_tensors, snapshot.optimizer_values)
            evaluation = snapshot.state["evaluation"]
            self._history = History(evaluation["step"], evaluation["first"], evaluation["last"])
            self.best = restored(snapshot.state["best"], self._plan.checkpoint.best)
            self._task_state = snapshot.state["task"]
            health, work = snapshot.state.get("health"), snapshot.state.get("work", {})
            if health is not None:
                self._monitor.load_state_dict(health)
            self.step = self._saved_step = snapshot.state["step"]
        except (KeyError, ValueError) as error:
            raise CheckpointUnreadable(f"checkpoint {checkpoint.uri} does not fit this model: {error}") from error
        self.task.load_state_dict(self._task_state)
        try:
            self.task.load_tensors(snapshot.task_tensors)
        except (KeyError, ValueError) as error:
            raise CheckpointUnreadable(f"checkpoint {checkpoint.uri} does not fit this job: {error}") from error
        self._board.restored(work["seconds"] if work.get("uid") == self._plan.uid else 0.0)
        self._board.checkpointed(checkpoint.model_copy(update={"healthy": health and health["healthy"]}))
        if self._history.last:
            self._board.evaluated(self._history.last, self._history.first)
        self._show_best()
        if self._ranks.is_main:
            self._console.event("resume", f"continuing after step {self.step}", uri=checkpoint.uri)
