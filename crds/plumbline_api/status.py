"""Status of both kinds of job. Only the operator writes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from plumbline_api.base import ApiModel


class Condition(ApiModel):
    """A condition in the form of metav1.Condition."""

    type: str = Field(min_length=1, max_length=63, description="Kind of condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(
        min_length=1, max_length=63, description="Why, as one word of the closed list in the API reference."
    )
    message: str = Field("", max_length=4096, description="Why, for people.")
    last_transition_time: datetime = Field(description="When `status` last changed.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this was seen on.")


class Progress(ApiModel):
    """How far the run is."""

    step: int = Field(ge=0, description="Optimizer steps done.")
    max_steps: int = Field(ge=0, description="Optimizer steps in all.")
    percent: int = Field(ge=0, le=100, description="Share of the steps done.")
    eta_seconds: int | None = Field(None, ge=0, description="Expected time to the end at the present pace.")
    tokens_per_second: float | None = Field(None, ge=0, description="Tokens processed a second, all pods together.")
    step_seconds: float | None = Field(None, ge=0, description="Duration of a step (median of the last ones).")
    text: str = Field("", max_length=32, description="Step and total for the printer column, such as 40/200.")


class MetricValue(ApiModel):
    """One metric of the last step or evaluation."""

    name: str = Field(min_length=1, max_length=128, description="Name of the metric.")
    value: float = Field(description="Its last value.")
    first: float | None = Field(None, description="Its value in the first evaluation, for metrics of held-out rows.")


class CheckpointStatus(ApiModel):
    """The newest verified checkpoint."""

    step: int = Field(ge=0, description="Step after which it was taken.")
    time: datetime = Field(description="When it was taken.")
    uri: str = Field(min_length=1, max_length=4096, description="Where it is.")
    digest: str = Field(min_length=1, max_length=128, description="Digest of its manifest.")
    verified: bool = Field(description="Whether every file's digest matched.")
    healthy: bool | None = Field(None, description="Whether no guardrail was broken when it was taken.")
    size_bytes: int | None = Field(None, ge=0, le=10**15, description="Size of its files.")
    save_seconds: float | None = Field(
        None, ge=0, le=1e6, description="How long writing it took; absent when another attempt wrote it."
    )


class BestCheckpointStatus(ApiModel):
    """The checkpoint with the best held-out value."""

    step: int = Field(ge=0, description="Step after which it was taken.")
    uri: str = Field(min_length=1, max_length=4096, description="Where it is.")
    metric: str = Field(min_length=1, max_length=128, description="Metric that was compared.")
    value: float = Field(description="Its value in the evaluation after that step.")


class RunTime(ApiModel):
    """Where the time of an attempt went, in seconds, as rank 0 measures it from the start of its process."""

    started: datetime = Field(description="When measuring began.")
    state: Literal["starting", "evaluating", "training", "checkpointing", "exporting", "stopping", "done"] = Field(
        "starting", description="What the trainer has been doing since the last of it."
    )
    starting: float = Field(0, ge=0, description="Reading inputs, loading and restoring.")
    working: float = Field(0, ge=0, description="Steps, evaluations and the export of the model.")
    checkpointing: float = Field(0, ge=0, description="Writing checkpoints.")
    stopping: float = Field(0, ge=0, description="Ending.")
    useful: float | None = Field(
        None,
        ge=0,
        description="Working time behind the present state of the run, over all attempts of the job; absent until it is restored.",
    )
    saved: float | None = Field(None, ge=0, description="The part of it that the newest checkpoint holds.")


class Attempt(ApiModel):
    """One start of the job's pods."""

    number: int = Field(ge=1, description="Counts from 1.")
    start_time: datetime | None = Field(None, description="When its pods were created.")
    scheduled_time: datetime | None = Field(None, description="When all its pods had a node.")
    running_time: datetime | None = Field(None, description="When all its pods ran.")
    end_time: datetime | None = Field(None, description="When it ended.")
    reason: str = Field("", max_length=63, description="Why it ended.")
    node: str = Field("", max_length=253, description="Node of the pod that ended it.")
    exit_code: int | None = Field(None, description="Exit code of the pod that ended it.")
    from_step: int | None = Field(None, ge=0, description="Step that it continued from.")
    to_step: int | None = Field(None, ge=0, description="Last step that it reported.")
    time: RunTime | None = Field(None, description="Where its time went, as its trainer measured it.")
    counts_towards_limit: bool = Field(False, description="Whether it counts towards backoffLimit.")


class Failure(ApiModel):
    """The last failure, kept after its pod is gone."""

    reason: str = Field(min_length=1, max_length=63, description="One word of the closed list in the API reference.")
    message: str = Field(max_length=4096, description="What happened, for people.")
    role: str = Field("", max_length=63, description="Role of the pod.")
    pod: str = Field("", max_length=253, description="Name of the pod.")
    node: str = Field("", max_length=253, description="Name of the node.")
    attempt: int = Field(ge=0, description="Attempt that failed; 0 if none was started.")
    exit_code: int | None = Field(None, description="Exit code of the container.")
    log_tail: str = Field("", max_length=8192, description="Last lines of the container's log.")
    time: datetime = Field(description="When it failed.")


class ExcludedNode(ApiModel):
    """A node that the next attempts avoid."""

    name: str = Field(min_length=1, max_length=253, description="Name of the node.")
    reason: str = Field(min_length=1, max_length=63, description="Why the last attempt there ended.")
    attempt: int = Field(ge=1, description="The last attempt that was lost there.")
    until: datetime = Field(description="When it is no longer avoided.")


class SignalHealth(ApiModel):
    """A guardrail and what it measures now."""

    signal: str = Field(min_length=1, max_length=63, description="What is watched.")
    action: str = Field(min_length=1, max_length=63, description="What is done when it is beyond its bound.")
    value: float | None = Field(None, description="What is measured; absent until the window is full.")
    bound: float | None = Field(None, description="What it is compared with; absent for notFinite.")
    window_steps: int | None = Field(None, ge=1, description="Steps over which it is taken; absent for notFinite.")
    broken_since: int | None = Field(
        None, ge=0, description="Step at which it went beyond its bound; absent otherwise."
    )


class RollbackStatus(ApiModel):
    """A return to a healthy checkpoint."""

    number: int = Field(ge=1, description="Counts the rollbacks of the run from 1.")
    signal: str = Field(min_length=1, max_length=63, description="The signal that was beyond its bound.")
    from_step: int = Field(ge=0, description="Step at which the run turned back.")
    to_step: int = Field(ge=0, description="Step from which it went on; 0 is the start.")
    time: datetime = Field(description="When it turned back.")


class Health(ApiModel):
    """Whether training goes well, as the trainer measures it at every step."""

    signals: list[SignalHealth] = Field(
        default_factory=list,
        max_length=48,
        description="The guardrails of the job, those by default included.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["signal", "action"]},
    )
    rollbacks: int = Field(0, ge=0, description="Rollbacks so far.")
    last_rollback: RollbackStatus | None = Field(None, description="The last of them.")


class StateTime(ApiModel):
    """Time that the job spent in one state."""

    state: Literal[
        "queued",
        "suspended",
        "backingOff",
        "starting",
        "productive",
        "checkpointing",
        "stalled",
        "redone",
        "stopping",
        "unattended",
    ] = Field(description="The state; docs/health.md says what each means.")
    seconds: float = Field(ge=0, description="Seconds on the clock.")
    gpu_seconds: float = Field(ge=0, description="The same times the GPUs of all pods.")


class SettledTime(ApiModel):
    """The ledger up to the present attempt, in seconds, from which the rest is computed."""

    until: datetime = Field(description="The time up to which it goes.")
    queued: float = Field(0, ge=0, description="Waiting for acceptance, quota or nodes.")
    suspended: float = Field(0, ge=0, description="Suspended.")
    backing_off: float = Field(0, ge=0, description="Between attempts.")
    starting: float = Field(0, ge=0, description="From a node for every pod to the first step.")
    working: float = Field(0, ge=0, description="Productive and redone.")
    checkpointing: float = Field(0, ge=0, description="Writing checkpoints.")
    stalled: float = Field(0, ge=0, description="Without progress for longer than the deadline.")
    stopping: float = Field(0, ge=0, description="Ending.")
    unattended: float = Field(0, ge=0, description="Pods had ended and the operator had not gone on.")
    useful: float = Field(0, ge=0, description="The part of `working` that the newest checkpoint holds.")


class Usage(ApiModel):
    """What the job cost so far, and where its time went."""

    active_seconds: float = Field(
        0, ge=0, description="Running time of the attempts that have ended; activeDeadlineSeconds counts it."
    )
    pod_seconds: float = Field(0, ge=0, description="Time for which the pods held their nodes, times their number.")
    gpu_seconds: float = Field(0, ge=0, description="Time for which the pods held their nodes, times the GPUs of all.")
    cost: float | None = Field(
        None, ge=0, description="Pod and GPU time at the runtime's prices; absent without prices."
    )
    currency: str = Field("", max_length=16, description="Currency of the cost, as the runtime names it.")
    goodput: float | None = Field(
        None, ge=0, le=1, description="Productive share of the time for which the pods held their nodes."
    )
    states: list[StateTime] = Field(
        default_factory=list,
        max_length=16,
        description="All time since the job was created, by state; it adds up to the clock.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["state"]},
    )
    settled: SettledTime | None = Field(None, description="What is settled of it; read by the operator.")


class SnapshotStatus(ApiModel):
    """The stored resolution of spec and runtime that the run uses."""

    name: str = Field(max_length=253, description="ConfigMap that holds it.")
    hash: str = Field(max_length=128, description="Digest of its content.")


class Inputs(ApiModel):
    """Digests of what went into the run, as the trainer read it."""

    model: str | None = Field(None, max_length=128, description="Digest of the model's files.")
    data: str | None = Field(None, max_length=128, description="Digest of the training rows.")
    evaluation: str | None = Field(None, max_length=128, description="Digest of the held-out rows.")
    rewards: str | None = Field(None, max_length=128, description="Digest of the reward code.")


class RowCount(ApiModel):
    """Rows that share a fate, and why."""

    reason: str = Field(
        min_length=1, max_length=63, description="One word, such as Duplicate; docs/data.md has the list."
    )
    rows: int = Field(ge=0, description="Number of rows.")


class DataStatus(ApiModel):
    """What became of the training rows between file and model."""

    rows_read: int = Field(ge=0, description="Rows of the files.")
    rows_used: int = Field(
        ge=0, description="Rows that the job learns from; more than were read where one gives several pairs."
    )
    dropped: list[RowCount] = Field(
        default_factory=list,
        max_length=16,
        description="Rows that were left out.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
    )
    changed: list[RowCount] = Field(
        default_factory=list,
        max_length=16,
        description="Rows that are used in another form than they were read.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["reason"]},
    )


class OutputStatus(ApiModel):
    """The trained model."""

    uri: str = Field(min_length=1, max_length=4096, description="Where it is.")
    digest: str = Field(min_length=1, max_length=128, description="Digest of its files.")


class JobStatus(ApiModel):
    """What the operator saw last."""

    phase: str = Field("", max_length=63, description="One word for people; programs read the conditions.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that the status is about.")
    start_time: datetime | None = Field(None, description="When the first pods were created.")
    completion_time: datetime | None = Field(None, description="When the job became Complete or Failed.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Conditions; at most one of each type.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    objective: str = Field("", max_length=63, description="Method in use, for the printer column.")
    score: str = Field(
        "",
        max_length=32,
        description="The job's main held-out metric, or its main training metric, for the printer column.",
    )
    reason: str = Field(
        "", max_length=63, description="Reason of the condition that matters most now, for the printer column."
    )
    gpus: int = Field(0, ge=0, description="GPUs of all pods.")
    restarts: int = Field(0, ge=0, description="Attempts beyond the first.")
    failures: int = Field(0, ge=0, description="Attempts that count towards backoffLimit.")
    attempt: int = Field(0, ge=0, description="Number of the present attempt; 0 before the first.")
    next_attempt_time: datetime | None = Field(None, description="When the next attempt starts, during backoff.")
    progress: Progress | None = Field(None, description="How far the run is.")
    metrics: list[MetricValue] = Field(
        default_factory=list,
        max_length=64,
        description="Last values of the run's metrics.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    checkpoint: CheckpointStatus | None = Field(None, description="The newest verified checkpoint.")
    best_checkpoint: BestCheckpointStatus | None = Field(
        None, description="The checkpoint with the best held-out value, where checkpoint.best asks for it."
    )
    attempts: list[Attempt] = Field(
        default_factory=list,
        max_length=5,
        description="The last five attempts.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
    )
    excluded_nodes: list[ExcludedNode] = Field(
        default_factory=list,
        max_length=16,
        description="Nodes that the next attempts avoid.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    save_seconds: float | None = Field(
        None, ge=0, description="The longest that saving a checkpoint took so far, from which the grace period follows."
    )
    last_failure: Failure | None = Field(None, description="The last failure, kept after its pod is gone.")
    usage: Usage | None = Field(None, description="What the job cost so far, and where its time went.")
    health: Health | None = Field(None, description="Whether training goes well; see the condition Healthy.")
    snapshot: SnapshotStatus | None = Field(None, description="The stored resolution of spec and runtime.")
    inputs: Inputs | None = Field(None, description="Digests of what went into the run.")
    data: DataStatus | None = Field(None, description="What became of the training rows between file and model.")
    output: OutputStatus | None = Field(None, description="The trained model.")
    warnings: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list,
        max_length=16,
        description="What the trainer warned of; the last sixteen.",
    )
    damaged_checkpoints: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list,
        max_length=8,
        description="Checkpoints that did not match their manifest and were passed over, and how; the last eight.",
    )
