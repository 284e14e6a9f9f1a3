"""The advantage of an RLVRJob that names none: that of its objective's paper. Rules speak of both, named or not."""

from __future__ import annotations

from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.policy import choice as _all_objectives  # noqa: F401  (declares the members)
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Expression, any_of, field, has

DEFAULT_ADVANTAGES: dict[str, AdvantageChoice] = {
    member.member_key: AdvantageChoice.model_validate(member.advantage) for member in PolicyObjective.members()
}
"""The advantage of a job that names none, by its objective."""


def estimating(keys: list[str]) -> Expression:
    """The advantage is one of `keys`, named or by default."""
    objectives = [objective for objective, chosen in DEFAULT_ADVANTAGES.items() if chosen.key in keys]
    return any_of([*(has(f"advantage.{key}") for key in keys), *_by_default(objectives)])


def keeping_scale() -> Expression:
    """The advantage, named or by default, grows with the rewards."""
    named = []
    for member in Advantage.members():
        path = f"advantage.{member.member_key}"
        if isinstance(member.keeps_scale, tuple):
            name, value = member.keeps_scale
            named.append(has(path) & field(f"{path}.{name}").equals(value))
        elif member.keeps_scale:
            named.append(has(path))
    objectives = [objective for objective, chosen in DEFAULT_ADVANTAGES.items() if chosen.value.grows_with_rewards]
    return any_of([*named, *_by_default(objectives)])


def _by_default(objectives: list[str]) -> list[Expression]:
    """No advantage is named, and the objective is one of `objectives`."""
    others = [objective for objective in DEFAULT_ADVANTAGES if objective not in objectives]
    if not others:
        return [~has("advantage")]
    if len(others) < len(objectives):  # the shorter rule of the two
        return [~has("advantage") & ~any_of([has(f"objective.{key}") for key in others])]
    return [~has("advantage") & any_of([has(f"objective.{key}") for key in objectives])] if objectives else []


def described_defaults() -> str:
    """Which advantage each objective has by default, in words; the commonest one comes last, without its objectives."""
    objectives: dict[str, list[str]] = {}
    for member in PolicyObjective.members():
        ((key, parameters),) = member.advantage.items()
        said = ", ".join(f"{name} {value}" for name, value in parameters.items())
        text = f"{key} ({said})" if said else key
        objectives.setdefault(text, []).append(member.member_key)
    *rest, common = sorted(objectives, key=lambda text: len(objectives[text]))
    return "; ".join([*(f"{text} with {', '.join(objectives[text])}" for text in rest), f"else {common}"])
