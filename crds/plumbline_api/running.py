"""How a job is trained, saved, scheduled and restarted: the blocks that both kinds of job share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from plumbline_api.base import ApiModel
from plumbline_api.locations import SUBDOMAIN_NAME
from plumbline_api.rules import Rule, field, has
from plumbline_api.sources import OutputVolume


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=r"^([0-9]+(\.[0-9]+)?)(m|[kMGTPE]i?|[eE][+-]?[0-9]+)?$",
        json_schema_extra={"x-kubernetes-int-or-string": True},
    ),
    BeforeValidator(_as_text),
]
"""A Kubernetes quantity such as 500m, 2 or 8Gi; an integer may stand without quotes."""

LabelText = Annotated[str, Field(max_length=317)]


class Training(ApiModel):
    """Length and size of the run."""

    rules: ClassVar = (
        Rule(
            has("steps").differs(has("epochs")),
            "exactly one of steps and epochs must be set",
            path="steps",
        ),
        Rule(
            (field("microBatchSize") <= field("batchSize")).unless(~has("microBatchSize")),
            "microBatchSize must not be above batchSize",
            path="microBatchSize",
        ),
    )

    steps: int | None = Field(None, ge=1, le=100_000_000, description="Number of optimizer steps.")
    epochs: int | None = Field(None, ge=1, le=10_000, description="Number of passes over the training rows.")
    batch_size: int = Field(
        32,
        ge=1,
        le=1_048_576,
        description="Rows in one optimizer step, over all pods; in RLVR the number of completions. Never changes the result's meaning: how a batch is split does not enter the loss.",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Most rows in one forward pass of one pod; default: chosen from the token count.",
    )
    max_prompt_tokens: int = Field(512, ge=1, le=1_048_576, description="Longest prompt.")
    max_completion_tokens: int = Field(
        512, ge=1, le=1_048_576, description="Longest completion; in RLVR also the most tokens to generate."
    )
    seed: int = Field(
        0, ge=0, le=4_294_967_295, description="Seed of everything random: data order, sampling, initial adapters."
    )
    gradient_clip: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="Largest gradient norm; larger gradients are scaled down. 0 leaves them as they are.",
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass to save memory."
    )
    compile: bool = Field(
        False,
        description="Compile the layers' feed-forward parts and norms with torch.compile, which needs a C++ compiler in the image and time at the start; measure before you rely on it (docs/benchmarks.md).",
    )


class Evaluation(ApiModel):
    """When and how held-out rows are scored."""

    every_steps: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Evaluate every so many steps; default: only before the first and after the last.",
    )
    at_start: bool = Field(True, description="Evaluate before the first step, so that the gain is known.")
    max_rows: int | None = Field(None, ge=1, le=10_000_000, description="Use only the first so many held-out rows.")
    batch_size: int = Field(64, ge=1, le=65_536, description="Rows in one forward pass.")


class BestCheckpoint(ApiModel):
    """Keep the checkpoint with the best held-out value, whatever its age."""

    metric: str = Field(
        "rewards/accuracy",
        min_length=1,
        max_length=128,
        description="Metric of the evaluation that is compared, as in status.metrics without `evaluation/`. The model before the first step does not take part.",
    )
    mode: Literal["max", "min"] = Field("max", description="Whether the largest or the smallest value is the best.")
    export: bool = Field(
        False, description="Write the model of this checkpoint to the output, and not that of the last step."
    )


class Checkpoint(ApiModel):
    """When the complete state of the run is saved, and where."""

    every_steps: int | None = Field(None, ge=1, le=100_000_000, description="Save every so many steps.")
    every_seconds: int = Field(
        600,
        ge=0,
        le=864_000,
        description="Save when the last checkpoint is older than this; 0 switches this off. A checkpoint is also written on SIGTERM and at the end.",
    )
    keep: int = Field(2, ge=1, le=1000, description="Number of newest verified checkpoints that are kept.")
    best: BestCheckpoint | None = Field(
        None,
        description="Also keep the checkpoint with the best held-out value; it is saved right after its evaluation.",
    )
    volume: OutputVolume | None = Field(
        None, description="Volume and folder for checkpoints; default: `checkpoints` below the output folder."
    )


class Backoff(ApiModel):
    """Waiting time before a failed attempt is repeated."""

    rules: ClassVar = (
        Rule(
            field("initialSeconds") <= field("maxSeconds"),
            "initialSeconds must not be above maxSeconds",
            path="initialSeconds",
        ),
    )

    initial_seconds: int = Field(
        10, ge=0, le=3600, description="Before the first retry; doubles with every further one."
    )
    max_seconds: int = Field(360, ge=0, le=86_400, description="Longest wait.")


class RunPolicy(ApiModel):
    """The life of the run: suspension, deadlines, retries, clean-up. May be changed while the job runs, except the grace period."""

    @classmethod
    def fixed_fields(cls) -> tuple[str, ...]:
        return ("terminationGracePeriodSeconds",)

    suspend: bool = Field(False, description="Stop the pods after saving a checkpoint; false again resumes from it.")
    active_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=315_360_000,
        description="The job fails when its pods have run longer than this in total; suspended time does not count.",
    )
    ttl_seconds_after_finished: int | None = Field(
        None,
        ge=0,
        le=315_360_000,
        description="The job is deleted so many seconds after it finished; its output stays.",
    )
    backoff_limit: int = Field(
        3,
        ge=0,
        le=1000,
        description="Failed attempts that are repeated before the job fails. Stops on request, evictions and preemptions do not count.",
    )
    backoff: Backoff = Field(default_factory=Backoff, description="Waiting time before a failed attempt is repeated.")
    termination_grace_period_seconds: int = Field(
        120,
        ge=5,
        le=86_400,
        description="Time between SIGTERM and SIGKILL; must suffice to finish a micro-batch and save a checkpoint.",
    )


class Toleration(ApiModel):
    """A toleration of the pods, as in core Kubernetes."""

    rules: ClassVar = (
        Rule(
            (~has("value")).unless(field("operator").equals("Equal")),
            "value must not be set with operator Exists, which tolerates every value",
            path="value",
        ),
        Rule(
            field("operator").equals("Exists").unless(has("key")),
            "key must be set unless operator is Exists, which then tolerates every taint",
            path="key",
        ),
        Rule(
            (has("effect") & field("effect").equals("NoExecute")).when(has("tolerationSeconds")),
            "tolerationSeconds needs effect NoExecute: other effects never remove a pod",
            path="tolerationSeconds",
        ),
    )

    key: str | None = Field(None, max_length=317, description="Taint key; empty with operator Exists tolerates all.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="How key and value are compared.")
    value: str | None = Field(None, max_length=63, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect; default: all."
    )
    toleration_seconds: int | None = Field(
        None, ge=0, le=315_360_000, description="How long a NoExecute taint is tolerated."
    )


class Scheduling(ApiModel):
    """Where the pods may run and how important they are."""

    priority_class_name: str | None = Field(
        None, min_length=1, max_length=253, pattern=SUBDOMAIN_NAME, description="PriorityClass of the pods."
    )
    node_selector: dict[LabelText, Annotated[str, Field(max_length=63)]] | None = Field(
        None, max_length=32, description="Labels that a node must have; added to the runtime's."
    )
    tolerations: list[Toleration] | None = Field(
        None, max_length=32, description="Tolerations; added to the runtime's."
    )


class Resources(ApiModel):
    """What each pod of the job gets; what is left out comes from the runtime."""

    replicas: int = Field(1, ge=1, le=1024, description="Number of pods; each is one data-parallel rank.")
    gpus: int | None = Field(None, ge=0, le=16, description="GPUs of each pod.")
    cpu: Quantity | None = Field(None, description="CPU of each pod, as a Kubernetes quantity.")
    memory: Quantity | None = Field(None, description="Memory of each pod, as a Kubernetes quantity.")
    shared_memory: Quantity | None = Field(None, description="Size of /dev/shm, taken from the pod's memory.")


class RuntimeRef(ApiModel):
    """The runtime that provides image and defaults."""

    kind: Literal["ClusterTrainerRuntime", "TrainerRuntime"] = Field(
        "ClusterTrainerRuntime", description="ClusterTrainerRuntime, or TrainerRuntime for one in the job's namespace."
    )
    name: str = Field(min_length=1, max_length=253, pattern=SUBDOMAIN_NAME, description="Name of the runtime.")
