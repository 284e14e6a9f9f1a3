"""The table of bad specs, continued: guardrails, and the currency of a runtime's prices."""

from __future__ import annotations

from typing import Any

from plumbline_api.guardrails import SIGNALS
from tests.api.bad_spec_rows import BadSpec, Judge

_OF_RLVR = ", ".join(name for name, signal in SIGNALS.items() if "PreferenceJob" not in signal.kinds)
_OF_PREFERENCES = ", ".join(name for name, signal in SIGNALS.items() if "RLVRJob" not in signal.kinds)
_SHARES = ", ".join(name for name, signal in SIGNALS.items() if signal.share)


def _bad(
    name: str, guardrail: dict[str, Any], path: str, message: str, judge: Judge = "rule", kind: str = "RLVRJob"
) -> BadSpec:
    return BadSpec(name, kind, {"spec.guardrails": [guardrail]}, f"spec.guardrails{path}", message, judge)


BAD_GUARDRAIL_SPECS = (
    _bad(
        "rewards-of-a-preference-job",
        {"signal": "rewardCollapse"},
        "",
        f"guardrails must not name the signals {_OF_RLVR}: a PreferenceJob does not measure them",
        kind="PreferenceJob",
    ),
    _bad(
        "margins-of-an-rlvr-job",
        {"signal": "marginCollapse"},
        "",
        f"guardrails must not name the signals {_OF_PREFERENCES}: a RLVRJob does not measure them",
    ),
    _bad(
        "kl-without-bound",
        {"signal": "kl"},
        "[0].bound",
        "bound must be set for the signals kl and gradientNorm, whose scale depends on the job",
    ),
    _bad(
        "steps-of-what-cannot-be-applied",
        {"signal": "notFinite", "action": "Fail", "windowSteps": 3},
        "[0].bound",
        "bound and windowSteps must not be set for the signal notFinite: one such step is one too many",
    ),
    _bad(
        "warning-of-what-cannot-be-applied",
        {"signal": "notFinite", "action": "Warn"},
        "[0].action",
        "action must be Suspend, Rollback or Fail for the signal notFinite: such a step cannot be applied",
    ),
    _bad(
        "more-than-all-completions",
        {"signal": "truncation", "bound": 1.5},
        "[0].bound",
        f"bound must be at most 1 for the signals {_SHARES}, which are shares",
    ),
    _bad(
        "rollback-that-only-warns",
        {"signal": "truncation", "rollback": {}},
        "[0].rollback",
        "rollback needs action Rollback",
    ),
    _bad(
        "rollback-that-repeats-itself",
        {"signal": "truncation", "action": "Rollback", "rollback": {"learningRateFactor": 1, "newOrder": False}},
        "[0].rollback.newOrder",
        "newOrder must be true or learningRateFactor below 1: otherwise the run would repeat itself",
    ),
    _bad(
        "window-of-no-steps",
        {"signal": "truncation", "windowSteps": 0},
        "[0].windowSteps",
        "0 is below the minimum of 1",
        "bounds",
    ),
    BadSpec(
        "currency-of-two-words",
        "ClusterTrainerRuntime",
        {"spec.prices": {"currency": "US dollars"}},
        "spec.prices.currency",
        r'"US dollars" does not match ^[^\s]*$',
    ),
)
