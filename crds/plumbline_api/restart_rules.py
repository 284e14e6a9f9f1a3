"""What follows when an attempt ends badly: an ordered list of rules in front of the contract's own answer."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from plumbline_api.base import ApiModel
from plumbline_api.conditions import ATTEMPT_ENDS
from plumbline_api.rules import Rule, any_of, field, has

Action = Literal["RestartJob", "RestartRole", "Fail", "Ignore", "Suspend"]


def _ends_an_attempt(value: str) -> str:
    if value not in ATTEMPT_ENDS:
        raise ValueError(f"{value} is not a reason for which an attempt ends; docs/operations.md lists them")
    return value


AttemptEnd = Annotated[
    str,
    Field(max_length=63, json_schema_extra={"enum": [str(reason) for reason in ATTEMPT_ENDS]}),
    AfterValidator(_ends_an_attempt),
]

MessagePattern = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\n]*[^*\n][^\n]*$")]
"""Text with `*` for anything in between. Not a regular expression: logs come from code that nobody has read, and no log
may keep the operator busy."""


class FailureMatch(ApiModel):
    """Which ends of an attempt a rule is about: all fields that are set must match."""

    rules: ClassVar = (
        Rule(
            any_of([has(name) for name in ("exitCodes", "reasons", "roles", "messages")]),
            "at least one of exitCodes, reasons, roles and messages must be set",
        ),
    )

    exit_codes: list[Annotated[int, Field(ge=1, le=255)]] | None = Field(
        None,
        min_length=1,
        max_length=32,
        description="The container that ended the attempt had one of these exit codes.",
    )
    reasons: list[AttemptEnd] | None = Field(
        None, min_length=1, max_length=32, description="The attempt ended for one of these reasons."
    )
    roles: list[Literal["trainer"]] | None = Field(
        None, min_length=1, max_length=1, description="The pod that ended the attempt had one of these roles."
    )
    messages: list[MessagePattern] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="One of these texts occurs in a line of the failure's message or of the last lines of its log; `*` in a text stands for anything within the line.",
    )


class RestartRule(ApiModel):
    """One rule: the first whose match fits decides."""

    rules: ClassVar = (
        Rule(
            has("match.roles").when(field("action").equals("RestartRole")),
            "action RestartRole needs match.roles: it restarts the pods of the roles that the rule names",
            path="match.roles",
        ),
        Rule(
            field("action").is_in(["RestartJob", "RestartRole"]).when(has("countsTowardsLimit")),
            "countsTowardsLimit needs action RestartJob or RestartRole: nothing else could count",
            path="countsTowardsLimit",
        ),
    )

    match: FailureMatch = Field(description="Which ends of an attempt the rule is about.")
    action: Action = Field(
        description="RestartJob: all pods again, from the newest verified checkpoint, after the backoff. RestartRole: the pods of the roles that the rule names; today trainer is the only one, so that is all of them. Fail: the job fails at once. Ignore: all pods again without backoff, and it does not count, as after an eviction. Suspend: spec.runPolicy.suspend becomes true, so that a person can look.",
    )
    counts_towards_limit: bool | None = Field(
        None,
        description="Whether the restart counts towards backoffLimit; default: as it would without the rule, and for what would otherwise fail the job, yes.",
    )
