"""How a job is trained, evaluated and saved, and what its pods get: blocks that both kinds of job share."""

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


class SampledEvaluation(Evaluation):
    """When and how completions of held-out prompts are scored."""

    samples: int = Field(
        0,
        ge=0,
        le=1024,
        description="Completions that are sampled of each held-out prompt besides the greedy one, as rollouts sample: pass_at/k is the chance that one of k is right, for k = 1, 2, 4 and so on up to this number; reranked_accuracy is how often the one is right that values rank highest, where an objective learns them; 0 samples none.",
    )


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
    keep_within_seconds: int = Field(
        0,
        ge=0,
        le=315_360_000,
        description="Older ones are kept as well until they are this old; 0 keeps only the newest ones. A folder cannot be emptied by its age: the newest `keep` always stay.",
    )
    best: BestCheckpoint | None = Field(
        None,
        description="Also keep the checkpoint with the best held-out value; it is saved right after its evaluation.",
    )
    volume: OutputVolume | None = Field(
        None, description="Volume and folder for checkpoints; default: `checkpoints` below the output folder."
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
