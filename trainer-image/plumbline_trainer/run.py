"""One run from its configuration to its exit code and last words."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from plumbline_api.conditions import Reason
from plumbline_api.contract import ATTEMPT_VARIABLE, EXIT_REASONS, ExitCode, TrainerConfig
from plumbline_api.guardrails import effective_guardrails
from plumbline_api.status import Inputs, OutputStatus
from plumbline_trainer.checkpoint.rollbacks import Rollback, RollbackJournal, RolledBack, order_seed
from plumbline_trainer.checkpoint.store import CheckpointStore
from plumbline_trainer.configuration import identity_of, load_config
from plumbline_trainer.distributed import Ranks, join
from plumbline_trainer.export import export
from plumbline_trainer.failures import GpuOutOfMemory, TrainerFailure, first_line, known_failure
from plumbline_trainer.host_allocator import keep_freed_memory
from plumbline_trainer.inputs import digest_inputs
from plumbline_trainer.loop import TrainingLoop
from plumbline_trainer.optimization.update import ParameterUpdate
from plumbline_trainer.plan import Plan
from plumbline_trainer.preflight import preflight
from plumbline_trainer.reporting import termination
from plumbline_trainer.reporting.console import Console, SilentConsole, open_console
from plumbline_trainer.reporting.prometheus import job_labels
from plumbline_trainer.reporting.server import StatusServer
from plumbline_trainer.reporting.status import StatusBoard
from plumbline_trainer.reporting.tensorboard import EventFiles
from plumbline_trainer.stalling import StallWatchdog
from plumbline_trainer.stopping import StopRequest, StopRequested
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.task import Task

Builder = Callable[[TrainerConfig, Ranks, StopRequest], Task]
"""Configuration -> task; `tasks.build.build_task` for every job."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    config: Path
    preflight: bool
    port: int
    termination_log: Path


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    exit_code: ExitCode
    reason: Reason
    message: str
    output: OutputStatus | None = None
    unexpected: str = ""
    """Traceback of an error that the trainer does not know."""


@dataclass
class Run:
    """What is alive during a run, so that every ending finds it."""

    options: Options
    stop: StopRequest
    build: Builder
    board: StatusBoard = field(default_factory=StatusBoard)
    console: Console = field(default_factory=SilentConsole)
    ranks: Ranks | None = None
    server: StatusServer | None = None
    watchdog: StallWatchdog | None = None
    task: Task | None = None
    loop: TrainingLoop | None = None

    def warn(self, text: str) -> None:
        """Shows a warning in the log and in the status report."""
        self.board.warn(text)
        self.console.event("warning", text)

    def tell_damage(self, text: str) -> None:
        """Shows in the log, the status report and the last words which checkpoint was passed over, and why."""
        self.board.found_damage(text)
        self.console.event("warning", text)


def run(options: Options, stop: StopRequest, build: Builder = build_task) -> int:
    """Runs the job, or its pre-flight, and returns the exit code; the last words are written by then."""
    disable_progress_bar()  # the standard output and error belong to the run's own lines
    state = Run(options, stop, build)
    ending = _attempt(state)
    if ending.exit_code == ExitCode.DONE:
        state.board.enter("done")
    _write_last_words(state, ending)
    _say(state.console, ending)
    _release(state)
    return int(ending.exit_code)


def _attempt(state: Run) -> Ending:
    try:
        return _preflight(state) if state.options.preflight else _train(state)
    except StopRequested:
        return _stop(state)
    except TrainerFailure as failure:
        return Ending(failure.exit_code, failure.reason, str(failure))
    except torch.OutOfMemoryError as error:
        exhausted = GpuOutOfMemory(
            f"GPU memory is exhausted: {first_line(error)} "
            "Lower training.microBatchSize or the token limits, or set training.activationCheckpointing"
        )
        return Ending(exhausted.exit_code, exhausted.reason, str(exhausted))
    except Exception as error:
        known = known_failure(error)
        if known is not None:
            return Ending(known.exit_code, known.reason, str(known), unexpected=traceback.format_exc())
        code = ExitCode.TRAINER_BUG
        text = f"unexpected {type(error).__name__}: {first_line(error)}"
        return Ending(code, EXIT_REASONS[code], text, unexpected=traceback.format_exc())


def _preflight(state: Run) -> Ending:
    state.console = open_console()
    config = load_config(state.options.config)
    report = preflight(config)
    for warning in report.warnings:
        state.warn(warning)
    text = f"pre-flight passed: {report.training_rows} training rows, {report.evaluation_rows} held-out rows"
    return Ending(ExitCode.DONE, Reason.COMPLETED, text)


def _train(state: Run) -> Ending:
    config = load_config(state.options.config)
    state.board = StatusBoard(config.uid, _attempt_number())
    if int(os.environ.get("RANK", "0")) == 0:
        state.console = EventFiles(open_console(), Path(config.paths.output))
    _serve(state, config)
    _watch(state, config)
    ranks = state.ranks = join(state.stop)
    if ranks.device.type == "cpu":
        _make_deterministic()
        keep_freed_memory()
    state.console.event(
        "start",
        f"{config.kind} {config.name}: {config.spec.objective.key}",
        ranks=ranks.world_size,
        device=str(ranks.device),
        threads=torch.get_num_threads(),
    )
    inputs = ranks.on_main(lambda: digest_inputs(config.paths))
    state.board.read_inputs(inputs)
    store = CheckpointStore(
        Path(config.paths.checkpoints),
        config.spec.checkpoint.keep,
        config.paths.checkpoints_uri,
        state.tell_damage,
        config.spec.checkpoint.keep_within_seconds,
    )
    while True:
        try:
            loop = _train_from_checkpoint(state, config, inputs, ranks, store)
            break
        except RolledBack as turning:
            _turn_back(state, ranks, turning)
    task = loop.task
    state.board.enter("exporting")
    step = _exported_step(state, config, loop)
    output = _export(state, config, inputs, ranks, loop, step)
    which = "the model" if step == loop.step else f"the model after step {step}, the best one,"
    text = f"{task.max_steps} steps done; {which} is in {output.uri}"
    return Ending(ExitCode.DONE, Reason.COMPLETED, text, output)


def _train_from_checkpoint(
    state: Run, config: TrainerConfig, inputs: Inputs, ranks: Ranks, store: CheckpointStore
) -> TrainingLoop:
    """Builds the run anew and trains it from its newest checkpoint to its end; raises `RolledBack` on the way."""
    rollbacks = ranks.on_main(RollbackJournal(store).settle)
    config = config.model_copy(update={"order_seed": order_seed(config.spec.training.seed, rollbacks)})
    task = state.task = state.build(config, ranks, state.stop)
    state.board.read_rows(task.data_status)
    for warning in task.warnings:
        state.warn(warning)
    loop = state.loop = _build_loop(state, config, inputs, ranks, task, store, rollbacks)
    loop.resume()
    loop.train()
    return loop


def _turn_back(state: Run, ranks: Ranks, turning: RolledBack) -> None:
    """Lets go of the task, so that its memory is free for the one that starts from an older checkpoint."""
    rollback = turning.rollback
    place = f"step {rollback.to_step}" if rollback.to_step else "the start"
    changes = ["in another order"] if rollback.new_order else []
    if rollback.learning_rate_factor < 1:
        changes.append(f"with the learning rate times {rollback.learning_rate_factor:g}")
    state.warn(
        f"{turning}; rollback {rollback.number}: the run goes on from {place} {' and '.join(changes)}, "
        f"{rollback.from_step - rollback.to_step} steps are done again"
    )
    state.board.enter("starting")
    state.board.turn_back()
    if state.task is not None:
        state.task.close()
    state.task = state.loop = None
    turning.__traceback__ = None  # its frames hold the model
    gc.collect()
    if ranks.device.type == "cuda":
        torch.cuda.empty_cache()


def _build_loop(
    state: Run,
    config: TrainerConfig,
    inputs: Inputs,
    ranks: Ranks,
    task: Task,
    store: CheckpointStore,
    rollbacks: Sequence[Rollback],
) -> TrainingLoop:
    spec = config.spec
    ranks.copy_from_main(parameter for parameter in task.model.parameters() if parameter.requires_grad)
    update = ParameterUpdate(
        task.model, spec.optimizer.value, spec.schedule.value, task.max_steps, spec.training.gradient_clip
    )
    # the task itself refuses changed rows; reward code may be mended between two attempts
    identity = identity_of(config, {"model": inputs.model})
    plan = Plan(
        spec.training.seed if config.order_seed is None else config.order_seed,
        spec.evaluation,
        spec.checkpoint,
        identity,
        uid=config.uid,
        guardrails=effective_guardrails(config.kind, spec.guardrails),
        rollouts=config.kind == "RLVRJob",
        rollbacks=rollbacks,
    )
    return TrainingLoop(task, update, ranks, store, plan, state.board, state.console)


def _exported_step(state: Run, config: TrainerConfig, loop: TrainingLoop) -> int:
    """The step whose model is the result: the last one, or the best one where the job asks for that."""
    rule = config.spec.checkpoint.best
    if rule is None or not rule.export:
        return loop.step
    if loop.best is None:
        state.warn(
            f"no evaluation had a finite {rule.metric}: the model of the last step is exported, not the best one"
        )
        return loop.step
    return loop.best.step


def _export(
    state: Run, config: TrainerConfig, inputs: Inputs, ranks: Ranks, loop: TrainingLoop, step: int
) -> OutputStatus:
    def work() -> OutputStatus:
        metrics = state.board.report().metrics
        if step != loop.step:
            loop.load_best()
            metrics = loop.best_metrics()
        return export(loop.task, config, step, inputs, metrics, state.stop)

    return ranks.on_main(work)


def _stop(state: Run) -> Ending:
    """Ends on request: nothing is lost but the step in flight."""
    state.board.enter("stopping")
    signal_name = state.stop.signal_name or "a stop request"
    try:
        if state.ranks is not None:
            state.ranks.announce_stop()
        if state.loop is None or state.loop.step == 0:
            text = f"stopped by {signal_name} before the first step was done; nothing is lost"
            return _ended_by_stop(ExitCode.STOPPED_SAVED, text)
        state.loop.drop_unfinished_step()
        # All ranks take part, whether or not this one knows of anything unsaved: rank 0 decides.
        state.loop.save()
    except Exception as error:
        text = f"stopped by {signal_name}; the checkpoint could not be saved: {error}"
        known = isinstance(error, TrainerFailure)
        return _ended_by_stop(ExitCode.STOPPED_NOT_SAVED, text, "" if known else traceback.format_exc())
    return _ended_by_stop(ExitCode.STOPPED_SAVED, f"stopped by {signal_name}; step {state.loop.step} is saved")


def _ended_by_stop(code: ExitCode, text: str, unexpected: str = "") -> Ending:
    return Ending(code, EXIT_REASONS[code], text, unexpected=unexpected)


def _serve(state: Run, config: TrainerConfig) -> None:
    """Opens the port, once on each machine. A run without a cluster goes on where it is taken."""
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        return
    try:
        state.server = StatusServer(state.board, state.options.port, job_labels(config))
    except OSError as error:
        state.warn(f"port {state.options.port} cannot be opened ({error.strerror}): no status and metrics over HTTP")
        return
    state.console.event("listening", f"status and metrics on port {state.server.port}", port=state.server.port)


def _watch(state: Run, config: TrainerConfig) -> None:
    """Has stalls noticed. Every rank watches itself: the one that hangs is seldom the one that reports."""
    given = config.spec.run_policy.progress_deadline_seconds

    def abandon(stalled: str) -> None:
        """The main thread does not hear the request to stop, and whoever waits for it pays for the GPUs meanwhile."""
        ending = _ended_by_stop(ExitCode.STOPPED_NOT_SAVED, f"stopped while it was stalled: {stalled}")
        _write_last_words(state, ending)
        _say(state.console, ending)
        os._exit(int(ending.exit_code))

    state.watchdog = StallWatchdog(state.board, state.stop, state.console, given, abandon)
    state.watchdog.start()


def _make_deterministic() -> None:
    """On the CPU every kernel is deterministic at a given number of threads. GPU kernels are left fast."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _attempt_number() -> int:
    text = os.environ.get(ATTEMPT_VARIABLE, "1")
    return int(text) if text.isdigit() else 1


def _write_last_words(state: Run, ending: Ending) -> None:
    message = termination.compose(
        ending.reason.value, ending.message, output=ending.output, **state.board.termination_fields()
    )
    termination.write(message, state.options.termination_log)


def _say(console: Console, ending: Ending) -> None:
    """Says the same on the streams, whose readers may have left: that cannot change how the run ended."""
    with suppress(OSError):
        if ending.unexpected:
            print(ending.unexpected, file=sys.stderr)
        if ending.exit_code != ExitCode.DONE:
            print(f"plumbline-trainer: {ending.reason.value}: {ending.message}", file=sys.stderr, flush=True)
    with suppress(OSError):
        console.event("end", ending.message, reason=ending.reason.value, exitCode=int(ending.exit_code))
        console.close()


def _release(state: Run) -> None:
    """Ends processes, port and group. What goes wrong here cannot change how the run ended."""
    for holder in (state.watchdog, state.task, state.server, state.ranks):
        closing: Any = holder
        if closing is not None:
            try:
                closing.close()
            except Exception:
                traceback.print_exc()
