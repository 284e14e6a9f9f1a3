"""Supervised objectives on solutions that the policy found itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rules import Rule, field, has


class OwnSolutions(PolicyObjective):
    """Parameters of the objectives that imitate a prompt's different right completions; not an objective itself."""

    uses_zero_advantages = True
    rules: ClassVar = (
        Rule(
            (field("keepSolutions") >= 1).when(has("partialSolutions")),
            "keepSolutions must be at least 1 with partialSolutions, which are known by the solutions that are kept",
            path="keepSolutions",
        ),
    )

    partial_solutions: Literal["arithmeticPrograms"] | None = Field(
        None,
        description="Also imitate the longest first lines of a wrong program that have computed what a kept solution had; solutions then differ by their programs, not their texts; default: neither.",
    )
    keep_solutions: int = Field(
        8,
        ge=0,
        le=1024,
        description="Most different right completions of each prompt that are kept, in checkpoints too, and imitated again whenever the prompt comes; 0 keeps none.",
    )

    @property
    def weighs_by_samples(self) -> bool:
        """Every text counts once, however many samples it took to find it."""
        return False


class ExpertIteration(OwnSolutions, key="expertIteration"):
    """Expert iteration: the likelihood of each prompt's right completions, every text once, so that a prompt that is solved often in one way does not drown the others (Havrilla et al. 2024, arXiv:2403.04642; Anthony et al. 2017, arXiv:1705.08439)."""

    aggregation = "tokenMean"

    per_prompt: int = Field(
        4, ge=1, le=4096, description="Most completions of a prompt; the first different ones are taken."
    )
    keep_solutions: int = Field(
        0,
        ge=0,
        le=1024,
        description="Most different right completions of each prompt that are kept, in checkpoints too, and imitated again whenever the prompt comes; 0 keeps none.",
    )


class MleAugmented(OwnSolutions, key="mleAugmented"):
    """MLE-Aug: the summed log-likelihood of all different right completions of a prompt, each of which must become likely (Ni et al. 2023, arXiv:2205.14318)."""

    aggregation = "sequenceSum"


class MarginalLikelihood(OwnSolutions, key="marginalLikelihood"):
    """Marginal likelihood of a prompt's different right completions: minus log sum P^beta over beta, which one likely solution satisfies at beta 1 (MML) and only all of them together as beta falls to 0 (beta-MML; Ni et al. 2023, arXiv:2205.14318)."""

    needs_whole_groups = True

    beta: float = Field(
        0.25,
        gt=0,
        le=1,
        description="1 is the marginal likelihood; below, likely solutions get less of the gradient, so that more ways to solve a problem survive.",
    )

    @property
    def weighs_by_samples(self) -> bool:
        """A prompt's solutions together weigh as much as its samples."""
        return True


class ReturnConditioned(PolicyObjective, key="returnConditioned"):
    """Return-conditioned learning: the likelihood of every completion behind a label in its prompt that says whether it was good; completions are sampled, and the job's result is used, with the good label (Havrilla et al. 2024, arXiv:2403.04642)."""

    aggregation = "tokenMean"
    uses_zero_advantages = True
    conditions_on_return = True

    good_label: str = Field(
        "[GOOD]", min_length=1, max_length=256, description="What prompts of good completions begin with."
    )
    bad_label: str = Field(
        "[BAD]", min_length=1, max_length=256, description="What prompts of other completions begin with."
    )
    threshold: float = Field(1.0, ge=-1000, le=1000, description="Least reward of a good completion, after shaping.")
