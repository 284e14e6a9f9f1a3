"""What follows when an attempt ended badly: the job's own rules first, then the contract's answer (pure).

Message patterns are plain text with `*`: they are searched part by part from left to right, in time proportional to the
text, whatever text a log holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from plumbline_api.conditions import Reason
from plumbline_api.restart_rules import FailureMatch, RestartRule
from plumbline_operator.decide.diagnosis import Finding
from plumbline_operator.resources import TRAINER_ROLE

MESSAGE_CHARACTERS = 4096
LOG_CHARACTERS = 8192
"""How much of a failure's message, and of the end of its log, patterns are searched in."""


class Answer(StrEnum):
    """What is done about an attempt that ended badly."""

    RESTART = "restart"
    """The next attempt after the backoff."""
    IGNORE = "ignore"
    """The next attempt at once, as after an eviction."""
    FAIL = "fail"
    SUSPEND = "suspend"


_ANSWERS = {
    "RestartJob": Answer.RESTART,
    "RestartRole": Answer.RESTART,  # the only role's pods are all pods
    "Fail": Answer.FAIL,
    "Ignore": Answer.IGNORE,
    "Suspend": Answer.SUSPEND,
}


@dataclass(frozen=True)
class Response:
    """What follows, whether it counts towards backoffLimit, and who said so."""

    answer: Answer
    counts: bool = False
    said_by: str = ""
    """Field of the rule; empty for the contract's own answer."""


def respond(finding: Finding, log_tail: str, rules: Sequence[RestartRule]) -> Response:
    """The answer of the first rule that matches, and without one the contract's."""
    for index, rule in enumerate(rules):
        if not matches(rule.match, finding, log_tail):
            continue
        answer = _ANSWERS[rule.action]
        counts = finding.counts if rule.counts_towards_limit is None else rule.counts_towards_limit
        return Response(answer, counts and answer == Answer.RESTART, f"runPolicy.restartRules[{index}]")
    return default_response(finding)


def default_response(finding: Finding) -> Response:
    """Without rules: what repeats with certainty fails, what is nobody's fault costs nothing, the rest is repeated.
    Pods that did not come together are nobody's fault and wait nevertheless: others may need the nodes."""
    if finding.reason == Reason.SUSPENDED_BY_GUARDRAIL:
        return Response(Answer.SUSPEND)
    if finding.permanent:
        return Response(Answer.FAIL)
    if finding.reason == Reason.PENDING_TIMEOUT:
        return Response(Answer.RESTART)
    return Response(Answer.RESTART, counts=True) if finding.counts else Response(Answer.IGNORE)


def matches(match: FailureMatch, finding: Finding, log_tail: str) -> bool:
    """Whether every field that the match sets fits."""
    role = finding.pod.role if finding.pod is not None else TRAINER_ROLE
    if match.exit_codes is not None and finding.exit_code not in match.exit_codes:
        return False
    if match.reasons is not None and finding.reason not in match.reasons:
        return False
    if match.roles is not None and role not in match.roles:
        return False
    if match.messages is None:
        return True
    text = f"{finding.message[:MESSAGE_CHARACTERS]}\n{log_tail[-LOG_CHARACTERS:]}"
    return any(occurs(pattern, text) for pattern in match.messages)


def occurs(pattern: str, text: str) -> bool:
    """Whether a line of the text contains the pattern's parts in their order."""
    parts = [part for part in pattern.split("*") if part]
    return any(_in_order(parts, line) for line in text.splitlines())


def _in_order(parts: Sequence[str], line: str) -> bool:
    position = 0
    for part in parts:
        found = line.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return True
