"""Where the pods of a job may run, in which queue they wait, and how important they are."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.locations import SUBDOMAIN_NAME
from plumbline_api.rules import Rule, field, has

LabelText = Annotated[str, Field(max_length=317)]


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
    """Where the pods may run, in which queue they wait, and how important they are."""

    rules: ClassVar = (
        Rule(
            has("queue").when(has("workloadPriorityClassName")),
            "workloadPriorityClassName needs queue: it orders the jobs that wait in queues",
            path="workloadPriorityClassName",
        ),
    )

    queue: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        pattern=SUBDOMAIN_NAME,
        description="Kueue's LocalQueue of the job's namespace. The pods of an attempt are one pod group and are held until Kueue admits it.",
    )
    workload_priority_class_name: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        pattern=SUBDOMAIN_NAME,
        description="Kueue's WorkloadPriorityClass: the job's place in the queue, without any meaning for the scheduler. Default: the priority of the pods.",
    )
    priority_class_name: str | None = Field(
        None, min_length=1, max_length=253, pattern=SUBDOMAIN_NAME, description="PriorityClass of the pods."
    )
    node_selector: dict[LabelText, Annotated[str, Field(max_length=63)]] | None = Field(
        None, max_length=32, description="Labels that a node must have; added to the runtime's."
    )
    tolerations: list[Toleration] | None = Field(
        None, max_length=32, description="Tolerations; added to the runtime's."
    )
