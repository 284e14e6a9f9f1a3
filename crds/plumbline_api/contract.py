"""The contract between operator and trainer image, version 1: configuration, paths, exit codes, reports.

The operator writes `TrainerConfig` into the snapshot, mounted at `CONFIG_PATH`; the trainer answers with its exit
code, a `TerminationMessage` in the container's termination log, and a `StatusReport` at `STATUS_PATH` of its one port.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.conditions import Reason
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_api.status import (
    BestCheckpointStatus,
    CheckpointStatus,
    DataStatus,
    Health,
    Inputs,
    MetricValue,
    OutputStatus,
    RunTime,
)

CONTRACT_VERSION = "v1"

CONFIG_PATH = "/etc/plumbline/config.json"
MODEL_PATH = "/plumbline/model"
REFERENCE_PATH = "/plumbline/reference"
CRITIC_PATH = "/plumbline/critic"
TRAIN_DATA_PATH = "/plumbline/data/train"
EVALUATION_DATA_PATH = "/plumbline/data/evaluation"
REWARDS_PATH = "/plumbline/rewards"
REWARD_MODELS_PATH = "/plumbline/reward-models"
CHECKPOINTS_PATH = "/plumbline/checkpoints"
OUTPUT_PATH = "/plumbline/output"
TERMINATION_LOG_PATH = "/dev/termination-log"

PORT = 9470
STATUS_PATH = "/v1/status"
METRICS_PATH = "/metrics"
HEALTH_PATH = "/healthz"

RENDEZVOUS_PORT = 29400
ATTEMPT_VARIABLE = "PLUMBLINE_ATTEMPT"
"""Environment: the attempt's number. Ranks come in torchrun's own variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT."""


MOST_STEPS = 10**12
"""Bound of the steps in reports: two such numbers fit into the printer column."""


class ExitCode(IntEnum):
    """Exit codes of the trainer."""

    DONE = 0
    CONFIG = 64
    DATA = 65
    MODEL = 66
    TRAINER_BUG = 70
    GPU_OUT_OF_MEMORY = 71
    DIVERGED = 72
    REWARD_FUNCTION = 73
    CHECKPOINT_UNREADABLE = 74
    INFRASTRUCTURE = 75
    STOPPED_SAVED = 85
    STOPPED_NOT_SAVED = 86


EXIT_REASONS: dict[ExitCode, Reason] = {
    ExitCode.DONE: Reason.COMPLETED,
    ExitCode.CONFIG: Reason.CONFIG_ERROR,
    ExitCode.DATA: Reason.DATA_ERROR,
    ExitCode.MODEL: Reason.MODEL_ERROR,
    ExitCode.TRAINER_BUG: Reason.TRAINER_BUG,
    ExitCode.GPU_OUT_OF_MEMORY: Reason.GPU_OUT_OF_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
    ExitCode.REWARD_FUNCTION: Reason.REWARD_FUNCTION_ERROR,
    ExitCode.CHECKPOINT_UNREADABLE: Reason.CHECKPOINT_UNREADABLE,
    ExitCode.INFRASTRUCTURE: Reason.INFRASTRUCTURE_ERROR,
    ExitCode.STOPPED_SAVED: Reason.STOPPED_SAVED,
    ExitCode.STOPPED_NOT_SAVED: Reason.STOPPED_NOT_SAVED,
}

PRECISE_REASONS: dict[ExitCode, frozenset[Reason]] = {
    ExitCode.DIVERGED: frozenset({Reason.GUARDRAIL_FAILED}),
    ExitCode.STOPPED_SAVED: frozenset({Reason.SUSPENDED_BY_GUARDRAIL}),
    ExitCode.REWARD_FUNCTION: frozenset({Reason.REWARD_FUNCTION_TIMEOUT}),
    ExitCode.INFRASTRUCTURE: frozenset(
        {
            Reason.HOST_OUT_OF_MEMORY,
            Reason.GPU_ERROR,
            Reason.DISK_FULL,
            Reason.COLLECTIVE_TIMEOUT,
            Reason.LOST_PEER,
        }
    ),
}
"""What the last words may say more precisely than the exit code; any other reason in them counts for nothing."""

RETRYABLE_EXIT_CODES = frozenset({ExitCode.TRAINER_BUG, ExitCode.INFRASTRUCTURE})
"""Exit codes after which the same job may succeed when tried again; the others repeat with certainty."""


class TrainerPaths(ApiModel):
    """Where the trainer finds its inputs and writes its results."""

    model: str = Field(description="Directory of the model.")
    reference: str | None = Field(None, description="Directory of the reference model; default: the model.")
    critic: str | None = Field(None, description="Directory of a critic with a model of its own; default: the model.")
    train: str | None = Field(None, description="File with the training rows, where data.train has a source.")
    mixture: dict[str, str] = Field(
        default_factory=dict, description="File of each source of the training rows, by name, for data.mixture."
    )
    evaluation: str | None = Field(None, description="File with the held-out rows, where data.evaluation has a source.")
    rewards: dict[str, str] = Field(
        default_factory=dict, description="File with the code of each reward component that has code, by name."
    )
    reward_models: dict[str, str] = Field(
        default_factory=dict, description="Directory of the model of each reward component that has one, by name."
    )
    checkpoints: str = Field(description="Directory of the checkpoints.")
    output: str = Field(description="Directory of the trained model.")
    output_uri: str = Field(
        "", description="How the output is called in status and model card; default: the output path."
    )
    checkpoints_uri: str = Field("", description="How the checkpoints are called in status; default: their path.")


class TrainerConfig(ApiModel):
    """The canonical configuration of one run: the resolved spec and the paths. Stored in the snapshot."""

    contract_version: Literal["v1"] = Field("v1", description="Version of this contract.")
    kind: Literal["PreferenceJob", "RLVRJob"] = Field(description="Kind of the job.")
    name: str = Field(description="Name of the job.")
    namespace: str = Field("", description="Namespace of the job; empty when the trainer runs by itself.")
    uid: str = Field("", description="Unique id of the job.")
    preference: PreferenceJobSpec | None = Field(None, description="Spec of a PreferenceJob.")
    rlvr: RLVRJobSpec | None = Field(None, description="Spec of an RLVRJob.")
    paths: TrainerPaths = Field(description="Where inputs and results are.")
    order_seed: int | None = Field(
        None,
        ge=0,
        le=4_294_967_295,
        description="Seed of the order of rows and of sampling, in place of training.seed; the trainer sets it after a rollback.",
    )

    @property
    def spec(self) -> PreferenceJobSpec | RLVRJobSpec:
        """The spec of the job's kind."""
        spec = self.preference if self.kind == "PreferenceJob" else self.rlvr
        if spec is None:
            raise ValueError(f"a configuration of kind {self.kind} needs its spec")
        return spec


class StallReport(ApiModel):
    """A run that has done no step for its deadline."""

    since: datetime = Field(description="When the last step ended, or the last sign of life where no step is due.")
    deadline_seconds: float = Field(ge=0, description="The deadline that has passed.")
    state: str = Field(max_length=63, description="What the trainer was doing.")
    location: str = Field(
        "", max_length=1024, description="Where the main thread is: function, file and line, innermost first."
    )
    stacks: str = Field("", max_length=8192, description="Stacks of all threads, cut in the middle.")


class StatusReport(ApiModel):
    """The body of `/v1/status`: what rank 0 of the trainer says about the run."""

    contract_version: Literal["v1"] = Field("v1", description="Version of this contract.")
    uid: str = Field("", description="Unique id of the job.")
    attempt: int = Field(1, ge=0, description="Number of the attempt.")
    state: Literal["starting", "evaluating", "training", "checkpointing", "exporting", "stopping", "done"] = Field(
        description="What the trainer is doing."
    )
    step: int = Field(0, ge=0, le=MOST_STEPS, description="Optimizer steps done.")
    max_steps: int = Field(0, ge=0, le=MOST_STEPS, description="Optimizer steps in all.")
    from_step: int = Field(0, ge=0, le=MOST_STEPS, description="Step that this attempt continued from.")
    eta_seconds: float | None = Field(None, ge=0, le=1e12, description="Expected time to the end.")
    tokens_per_second: float | None = Field(None, ge=0, description="Tokens processed a second, all ranks together.")
    step_seconds: float | None = Field(None, ge=0, description="Median duration of the last steps.")
    last_step_time: datetime | None = Field(None, description="When the last step ended.")
    last_progress_time: datetime | None = Field(
        None, description="When the clock of the stall deadline last started anew."
    )
    stall_deadline_seconds: float | None = Field(
        None, ge=0, description="How long after that the run counts as stalled, in what it is doing now."
    )
    stall: StallReport | None = Field(None, description="Present while the run is stalled.")
    phase_seconds: dict[str, float] = Field(
        default_factory=dict, description="Duration of each phase of the last step."
    )
    metrics: list[MetricValue] = Field(default_factory=list, max_length=64, description="Last values of the metrics.")
    score: MetricValue | None = Field(None, description="The metric that stands for the run in one number.")
    checkpoint: CheckpointStatus | None = Field(None, description="The newest verified checkpoint.")
    best_checkpoint: BestCheckpointStatus | None = Field(
        None, description="The checkpoint with the best held-out value."
    )
    inputs: Inputs | None = Field(None, description="Digests of what went into the run.")
    data: DataStatus | None = Field(None, description="What became of the training rows between file and model.")
    health: Health | None = Field(None, description="What the guardrails measure.")
    time: RunTime | None = Field(None, description="Where the time of this attempt went.")
    warnings: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="What the user should know.",
    )
    damaged_checkpoints: list[str] = Field(
        default_factory=list,
        max_length=8,
        description="Checkpoints that do not match their manifest and were passed over: which, and what is wrong.",
    )


class TerminationMessage(ApiModel):
    """The trainer's last words: one JSON object of at most 4096 bytes in the termination log."""

    contract_version: Literal["v1"] = Field("v1", description="Version of this contract.")
    reason: str = Field(max_length=63, description="One word of the closed list in the API reference.")
    message: str = Field(
        "", max_length=2048, description="What happened, with field, file and line where there is one."
    )
    step: int = Field(0, ge=0, le=MOST_STEPS, description="Optimizer steps done.")
    max_steps: int = Field(0, ge=0, le=MOST_STEPS, description="Optimizer steps in all.")
    score: MetricValue | None = Field(None, description="The metric that stands for the run in one number.")
    metrics: list[MetricValue] = Field(default_factory=list, max_length=64, description="Last values of the metrics.")
    checkpoint: CheckpointStatus | None = Field(None, description="The newest verified checkpoint.")
    best_checkpoint: BestCheckpointStatus | None = Field(
        None, description="The checkpoint with the best held-out value."
    )
    inputs: Inputs | None = Field(None, description="Digests of what went into the run.")
    data: DataStatus | None = Field(None, description="What became of the training rows between file and model.")
    health: Health | None = Field(None, description="The guardrails that were broken, and the rollbacks.")
    time: RunTime | None = Field(None, description="Where the time of this attempt went.")
    damaged_checkpoints: list[str] = Field(
        default_factory=list,
        max_length=2,
        description="Checkpoints that do not match their manifest and were passed over, the last two.",
    )
    output: OutputStatus | None = Field(None, description="The trained model.")
