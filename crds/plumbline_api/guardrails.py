"""Guardrails: signs that a run goes wrong, measured over windows of steps, and what is done about them.

`SIGNALS` is the one table of what can be watched; the trainer measures by it, the operator and the documentation speak
its words. A guardrail binds a signal to a bound, a window and an action. Signals that a job does not mention are watched
with the defaults of its kind, which only warn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.conditions import Reason
from plumbline_api.rules import Rule, has, some
from plumbline_api.rules import field as field_of

Kind = Literal["PreferenceJob", "RLVRJob"]
Action = Literal["Ignore", "Warn", "Suspend", "Rollback", "Fail"]
SignalName = Literal[
    "notFinite",
    "kl",
    "rewardCollapse",
    "entropyCollapse",
    "zeroAdvantage",
    "truncation",
    "verifierErrors",
    "gradientNorm",
    "gradientGrowth",
    "marginCollapse",
    "overOptimisation",
    "lengthGrowth",
]

NOT_FINITE: SignalName = "notFinite"
"""The one signal without bound and window: a step that is not finite cannot be applied."""

BOTH: tuple[Kind, ...] = ("PreferenceJob", "RLVRJob")


@dataclass(frozen=True)
class Signal:
    """What can be watched."""

    reason: Reason
    """Reason of the condition Healthy while the signal is beyond its bound."""

    measures: str
    """What is compared with the bound, as a noun phrase."""

    kinds: tuple[Kind, ...] = BOTH
    below: bool = False
    """Whether the run is unhealthy below the bound; above it otherwise."""

    share: bool = False
    """Whether the value is a share, and the bound therefore at most 1."""

    defaults: dict[Kind, float] = field(default_factory=dict)
    """Bound by kind of job, where the signal is watched unasked."""

    window_steps: int = 20


_RLVR: tuple[Kind, ...] = ("RLVRJob",)
_PREFERENCE: tuple[Kind, ...] = ("PreferenceJob",)

SIGNALS: dict[SignalName, Signal] = {
    NOT_FINITE: Signal(Reason.NOT_FINITE, "a loss or gradient that is not finite"),
    "kl": Signal(
        Reason.KL_ABOVE_BOUND,
        "the mean distance from the reference: of RLVR jobs the estimated KL divergence in nats a token, of preference "
        "jobs the absolute log-ratio in nats a sequence",
        defaults={"RLVRJob": 1.0},
    ),
    "rewardCollapse": Signal(
        Reason.REWARD_COLLAPSE,
        "the share of the best mean reward that is lost again",
        kinds=_RLVR,
        defaults={"RLVRJob": 0.5},
    ),
    "entropyCollapse": Signal(
        Reason.ENTROPY_COLLAPSE,
        "the mean entropy of the policy in nats a token, while fewer than nine in ten completions are right",
        kinds=_RLVR,
        below=True,
        defaults={"RLVRJob": 0.01},
    ),
    "zeroAdvantage": Signal(
        Reason.ZERO_ADVANTAGE,
        "the share of groups without any advantage, while fewer than nine in ten completions are right",
        kinds=_RLVR,
        share=True,
        defaults={"RLVRJob": 0.95},
    ),
    "truncation": Signal(
        Reason.TRUNCATION,
        "the share of completions that are cut off by training.maxCompletionTokens",
        kinds=_RLVR,
        share=True,
        defaults={"RLVRJob": 0.8},
    ),
    "verifierErrors": Signal(
        Reason.VERIFIER_ERRORS,
        "the share of failed calls of the reward component that fails most",
        kinds=_RLVR,
        share=True,
        defaults={"RLVRJob": 0.05},
        window_steps=10,
    ),
    "gradientNorm": Signal(Reason.GRADIENT_NORM_ABOVE_BOUND, "the mean norm of the gradient before clipping"),
    "gradientGrowth": Signal(
        Reason.GRADIENT_GROWTH,
        "the mean norm of the gradient, divided by that of the first window of the run",
        defaults={"PreferenceJob": 20.0, "RLVRJob": 20.0},
    ),
    "marginCollapse": Signal(
        Reason.MARGIN_COLLAPSE,
        "the share of the best mean margin between chosen and rejected that is lost again",
        kinds=_PREFERENCE,
        defaults={"PreferenceJob": 0.5},
    ),
    "overOptimisation": Signal(
        Reason.OVER_OPTIMISATION,
        "the share of the best held-out score that both of the last two evaluations have lost, while what is trained "
        "on got no worse",
        defaults={"PreferenceJob": 0.25, "RLVRJob": 0.25},
    ),
    "lengthGrowth": Signal(
        Reason.LENGTH_GROWTH,
        "the mean length of completions, divided by that in the window with the best reward",
        kinds=_RLVR,
        defaults={"RLVRJob": 3.0},
    ),
}

_SHARES = [name for name, signal in SIGNALS.items() if signal.share]
_WITHOUT_BOUND_OF_THEIR_OWN = ["kl", "gradientNorm"]
"""Signals whose scale is the job's: who names them says the bound."""


class Rollback(ApiModel):
    """How a run goes on from its last healthy checkpoint, so that it does not repeat bit for bit."""

    rules: ClassVar = (
        Rule(
            field_of("newOrder") | (field_of("learningRateFactor") < 1.0),
            "newOrder must be true or learningRateFactor below 1: otherwise the run would repeat itself",
            path="newOrder",
        ),
    )

    limit: int = Field(
        2, ge=1, le=100, description="Rollbacks by this guardrail; where the next would follow, the job fails."
    )
    learning_rate_factor: float = Field(
        0.5,
        gt=0,
        le=1,
        description="The learning rate is multiplied by this from then on; once more with every further rollback. Of a critic it stays.",
    )
    new_order: bool = Field(
        True, description="Rows come in another order, and completions are sampled with other random numbers."
    )


class Guardrail(ApiModel):
    """What is done about a signal that is beyond its bound over a window of steps."""

    rules: ClassVar = (
        Rule(
            has("bound").when(
                field_of("signal").is_in(_WITHOUT_BOUND_OF_THEIR_OWN) & field_of("action").differs("Ignore")
            ),
            f"bound must be set for the signals {' and '.join(_WITHOUT_BOUND_OF_THEIR_OWN)}, whose scale depends on the job",
            path="bound",
        ),
        Rule(
            (~(has("bound") | has("windowSteps"))).when(field_of("signal").equals(NOT_FINITE)),
            "bound and windowSteps must not be set for the signal notFinite: one such step is one too many",
            path="bound",
        ),
        Rule(
            (~field_of("action").is_in(["Ignore", "Warn"])).when(field_of("signal").equals(NOT_FINITE)),
            "action must be Suspend, Rollback or Fail for the signal notFinite: such a step cannot be applied",
            path="action",
        ),
        Rule(
            (~has("bound") | (field_of("bound") <= 1.0)).when(field_of("signal").is_in(_SHARES)),
            f"bound must be at most 1 for the signals {', '.join(_SHARES)}, which are shares",
            path="bound",
        ),
        Rule(
            field_of("action").equals("Rollback").when(has("rollback")),
            "rollback needs action Rollback",
            path="rollback",
        ),
    )

    signal: SignalName = Field(description="What is watched; docs/health.md says how each is measured.")
    bound: float | None = Field(
        None, ge=0, le=1e12, description="Beyond this the run is unhealthy. Default: the signal's own."
    )
    window_steps: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Steps over which the signal is taken; nothing is said before that many were seen. Default: the signal's own.",
    )
    action: Action = Field(
        "Warn",
        description="Warn: condition and event. Suspend: a checkpoint is saved and spec.runPolicy.suspend becomes true, so that a person can look. Rollback: the run goes on from its last healthy checkpoint, in another way. Fail: the job fails. Ignore: the signal is not watched.",
    )
    rollback: Rollback | None = Field(
        None, description="How the run goes on after action Rollback; default: the block's defaults."
    )


def kind_rule(kind: Kind) -> Rule:
    """Refuses guardrails on signals that a kind of job does not have."""
    others = [name for name, signal in SIGNALS.items() if kind not in signal.kinds]
    return Rule(
        (~some("guardrails", "guardrail", lambda guardrail: guardrail("signal").is_in(others))).when(has("guardrails")),
        f"guardrails must not name the signals {', '.join(others)}: a {kind} does not measure them",
        path="guardrails",
    )


def effective_guardrails(kind: Kind, guardrails: Sequence[Guardrail]) -> list[Guardrail]:
    """What is watched in a job: its own guardrails and the defaults for signals that it does not mention.

    Every one has its bound and window, but for `notFinite`; those with action Ignore are left out. Order: that of
    `SIGNALS`, a job's own of one signal as the job has them.
    """
    named = {guardrail.signal for guardrail in guardrails}
    found: list[Guardrail] = []
    for name, signal in SIGNALS.items():
        own = [guardrail for guardrail in guardrails if guardrail.signal == name and guardrail.action != "Ignore"]
        if name == NOT_FINITE:
            found.extend(own or ([Guardrail(signal=name, action="Fail")] if name not in named else []))
            continue
        if name not in named and kind in signal.defaults:
            own = [Guardrail(signal=name, action="Warn", bound=signal.defaults[kind])]
        found.extend(_resolved(guardrail, signal, kind) for guardrail in own)
    return found


def _resolved(guardrail: Guardrail, signal: Signal, kind: Kind) -> Guardrail:
    bound = guardrail.bound if guardrail.bound is not None else signal.defaults[kind]
    window = guardrail.window_steps or signal.window_steps
    rollback = guardrail.rollback or (Rollback() if guardrail.action == "Rollback" else None)
    return guardrail.model_copy(update={"bound": bound, "window_steps": window, "rollback": rollback})
