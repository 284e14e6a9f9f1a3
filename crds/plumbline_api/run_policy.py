"""The life of a run: suspension, deadlines, retries, bad nodes, clean-up."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.restart_rules import RestartRule
from plumbline_api.rules import Rule, field


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


class NodeExclusion(ApiModel):
    """What the pods of the next attempts think of a node on which attempts came to grief."""

    mode: Literal["Preferred", "Required", "None"] = Field(
        "Preferred",
        description="Preferred: any other node that fits is better. Required: the pods rather wait than run there. None: nodes are not held against.",
    )
    seconds: int = Field(
        3600,
        ge=60,
        le=2_592_000,
        description="How long a node is excluded, so that a small cluster does not run out of them.",
    )


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
    restart_rules: list[RestartRule] = Field(
        default_factory=list,
        max_length=20,
        description="What follows when an attempt ends badly; the first rule that matches decides. Without one: the contract's answer by exit code (docs/operations.md).",
    )
    pending_timeout_seconds: int = Field(
        1800,
        ge=0,
        le=604_800,
        description="All pods of an attempt run, or none holds a node for longer than this: counted from the first pod that got a node. The pods are then given back, and the next attempt starts after the backoff; it does not count. 0 waits for ever.",
    )
    first_step_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=2_592_000,
        description="An attempt whose pods run so long without a first step is stopped and repeated; it counts. Default: no limit, because preparing the data takes as long as there is data.",
    )
    progress_deadline_seconds: int | None = Field(
        None,
        ge=0,
        le=2_592_000,
        description="An attempt that has made no step for so long is stalled: it is stopped and repeated, and counts. Default: from the job's own median step time. 0 switches this off.",
    )
    node_lost_timeout_seconds: int = Field(
        30,
        ge=0,
        le=86_400,
        description="Pods on a node that has not been ready for so long are given up, and the next attempt starts elsewhere. Kubernetes by itself waits 300 s and then for the grace period of pods that nobody can stop.",
    )
    node_exclusion: NodeExclusion = Field(
        default_factory=NodeExclusion,
        description="Nodes on which the job lost an attempt are avoided by the next ones for a time.",
    )
    termination_grace_period_seconds: int | None = Field(
        None,
        ge=5,
        le=86_400,
        description="Time between SIGTERM and SIGKILL; must suffice to finish a micro-batch and save a checkpoint. Default: twice the time that saving was measured to take, and at least 120 s.",
    )
