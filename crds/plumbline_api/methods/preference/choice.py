"""The one-of of all preference objectives, and weighted sums of them."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.base import ApiModel, Choice
from plumbline_api.methods.preference import (  # noqa: F401  (importing a module declares its members)
    calibrated,
    diffusion,
    direct,
    length_controlled,
    likelihood_anchored,
    listwise,
    reference_free,
    reward_model,
    sampled,
    scored,
    self_improving,
    stepwise,
    supervised,
    transport,
    unpaired,
)
from plumbline_api.methods.preference.family import PreferenceObjective


def _can_be_a_term(member: type[PreferenceObjective]) -> bool:
    """Whether a row of a pair says everything that the objective sees."""
    special = (
        member.trains_scalar_head,
        member.masked_likelihood,
        member.moves_reference,
        member.draws_samples,
        member.needs_revisions,
        member.needs_prefix,
        member.needs_whole_step,
    )
    return member.data_shape in ("pairs", "completions") and not any(special)


class TermChoice(Choice, family=PreferenceObjective, only=_can_be_a_term):
    """A term of the sum: exactly one method with its parameters."""


class MixtureTerm(ApiModel):
    """One objective of a sum, and its weight."""

    weight: float = Field(1.0, gt=0, le=1000, description="Factor of this objective in the sum.")
    objective: TermChoice = Field(description="A term of the sum: exactly one method with its parameters.")


class Mixture(PreferenceObjective, key="mixture"):
    """Weighted sum of objectives on the same pairs, such as dpo, nca and sft (mixed preference optimization: Wang et al. 2024, arXiv:2411.10442, eq. 1); objectives on demonstrations learn from the chosen completions."""

    terms: list[MixtureTerm] = Field(min_length=2, max_length=8, description="The objectives and their weights.")

    def parts(self) -> list[PreferenceObjective]:
        """The objectives whose needs count."""
        return [term.objective.value for term in self.terms]


class PreferenceObjectiveChoice(Choice, family=PreferenceObjective):
    """What the job minimises: exactly one method with its parameters."""
