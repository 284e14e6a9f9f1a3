"""Objectives that fit the implicit rewards of a group to its actual ones."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.policy.family import PolicyObjective


class Gvpo(PolicyObjective, key="gvpo"):
    """Group variance policy optimization: the squared difference of centred implicit and centred actual rewards of a group, whose one optimum is the KL-regularized one for any sampler (Zhang et al. 2025, arXiv:2504.19599)."""

    regularizes_divergence = True
    needs_whole_groups = True
    uses_zero_advantages = True

    beta: float = Field(
        0.1,
        gt=0,
        le=10,
        description="Strength of the pull to the policy before the rollout's updates: a completion's implicit reward is beta times its log-ratio.",
    )
