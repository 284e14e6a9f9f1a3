"""The part of the spec that both kinds of job share."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from plumbline_api.base import ApiModel
from plumbline_api.guardrails import Guardrail
from plumbline_api.methods.optimization import OptimizerChoice, PeftChoice, ScheduleChoice
from plumbline_api.rules import Rule, field, has
from plumbline_api.run_policy import RunPolicy
from plumbline_api.running import Checkpoint, Evaluation, Resources, RuntimeRef, Training
from plumbline_api.scheduling import Scheduling
from plumbline_api.sources import Data, Model, Output, Reference

MAX_JOB_NAME = 40
"""Children are named `<job>-<role>-<attempt>-<index>`; the longest must be a DNS label of at most 63 characters."""


class ObjectMeta(ApiModel):
    """The part of Kubernetes object metadata that Plumbline reads; the rest is kept as it is."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")

    name: str = Field(min_length=1, max_length=253, description="Name of the object.")
    namespace: str | None = Field(None, max_length=63, description="Namespace of the object.")
    uid: str | None = Field(None, max_length=64, description="Unique id, given by the API server.")
    generation: int | None = Field(None, description="Counts changes of the spec.")
    resource_version: str | None = Field(None, description="Version of the stored object.")
    creation_timestamp: str | None = Field(None, description="Time of creation.")
    deletion_timestamp: str | None = Field(None, description="Time of the request to delete.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Annotations.")


JOB_NAME_RULES = (
    Rule(
        field("metadata.name").length() <= MAX_JOB_NAME,
        f"metadata.name must be at most {MAX_JOB_NAME} characters, so that the names of the job's pods fit",
        path="metadata.name",
    ),
    Rule(
        field("metadata.name").matches("^[a-z]([-a-z0-9]*[a-z0-9])?$"),
        "metadata.name must start with a letter and consist of a-z, 0-9 and '-': it becomes the name of a Service",
        path="metadata.name",
    ),
)

MANAGED_BY_OPERATOR = "plumbline.dev/operator"

MUTABLE_SPEC_FIELDS = ("runPolicy", "scheduling")
"""Blocks of the spec that may change after creation; a change anywhere else is refused."""


_SAME_FOLDER = (
    has("checkpoint.volume")
    & has("output.volume")
    & field("checkpoint.volume.claimName").equals(field("output.volume.claimName"))
    & (
        (~has("checkpoint.volume.path") & ~has("output.volume.path"))
        | (
            has("checkpoint.volume.path")
            & has("output.volume.path")
            & field("checkpoint.volume.path").equals(field("output.volume.path"))
        )
    )
)


class JobSpec(ApiModel):
    """Shared by PreferenceJob and RLVRJob. Everything but `runPolicy` and `scheduling` is fixed once created."""

    rules = (
        *(
            Rule(
                has("data.evaluation").when(has(f"evaluation.{name}")),
                f"evaluation.{name} needs data.evaluation: without held-out rows nothing is evaluated",
                path=f"evaluation.{name}",
            )
            for name in ("everySteps", "maxRows")
        ),
        Rule(
            has("evaluation.everySteps").when(has("checkpoint.best")),
            "checkpoint.best needs evaluation.everySteps: without evaluations on the way there is nothing to compare",
            path="checkpoint.best",
        ),
        Rule(
            ~_SAME_FOLDER,
            "checkpoint.volume must not be the folder of output.volume: the model would be written among the checkpoints",
            path="checkpoint.volume",
        ),
    )

    @classmethod
    def fixed_fields(cls) -> tuple[str, ...]:
        names = (declared.alias or name for name, declared in cls.model_fields.items())
        return tuple(name for name in names if name not in MUTABLE_SPEC_FIELDS)

    runtime_ref: RuntimeRef = Field(description="The runtime that provides image and defaults.")
    model: Model = Field(description="The language model that is trained.")
    reference: Reference | None = Field(
        None,
        description="The model that the policy is compared with; default: the model as it was at the start.",
    )
    data: Data = Field(description="The rows that the job learns from and is measured on.")
    optimizer: OptimizerChoice = Field(
        default_factory=lambda: OptimizerChoice.of("adamw"), description="The update rule: exactly one optimizer."
    )
    schedule: ScheduleChoice = Field(
        default_factory=lambda: ScheduleChoice.of("constant"),
        description="The learning-rate schedule: exactly one shape.",
    )
    peft: PeftChoice | None = Field(None, description="Train an adapter instead of all parameters: exactly one kind.")
    training: Training = Field(description="Length and size of the run.")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="When and how held-out rows are scored.")
    checkpoint: Checkpoint = Field(
        default_factory=Checkpoint, description="When the complete state of the run is saved, and where."
    )
    guardrails: list[Guardrail] = Field(
        default_factory=list,
        max_length=24,
        description="What is done about a training that goes wrong. Signals that are not mentioned are watched with their defaults, which only warn (docs/health.md).",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["signal", "action"]},
    )
    output: Output = Field(description="Where the trained model is written.")
    run_policy: RunPolicy = Field(
        default_factory=RunPolicy, description="The life of the run: suspension, deadlines, retries, clean-up."
    )
    scheduling: Scheduling = Field(
        default_factory=Scheduling, description="Where the pods may run and how important they are."
    )
    resources: Resources = Field(default_factory=Resources, description="What each pod of the job gets.")
    managed_by: str = Field(
        MANAGED_BY_OPERATOR,
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        description="Who runs the job. With any other value the operator leaves the job alone and writes nothing to it, so that a controller such as Kueue's MultiKueue (`kueue.x-k8s.io/multikueue`) can run it elsewhere and mirror its status.",
    )
