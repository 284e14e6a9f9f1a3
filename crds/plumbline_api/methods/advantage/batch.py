"""Normalisation over the whole rollout."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage


class BatchNormalizing(Advantage):
    """Parameters of estimators that normalise over the rollout; not an estimator itself."""

    uses_token_rewards = True
    keeps_scale = False

    epsilon: float = Field(1e-8, gt=0, le=1, description="Least variance that is divided by.")


class BatchNormalized(BatchNormalizing, key="batchNormalized"):
    """The return of each token, normalised over all tokens of the rollout (REINFORCE++; Hu et al. 2025, arXiv:2501.03262). Works with one sample a prompt."""


class GroupBatchNormalized(BatchNormalizing, key="groupBatchNormalized"):
    """Reward minus the mean of its group, then normalised over all tokens of the rollout (REINFORCE++ with baseline; Hu et al. 2025, arXiv:2501.03262)."""

    needs_group = True


class RewardDecoupled(Advantage, key="rewardDecoupled"):
    """Each component of the reward is standardised within its group, weighted and added up; the sum is standardised over the rollout (GDPO; Liu et al. 2026, arXiv:2601.05242). For several rewards of which one would drown the others."""

    needs_group = True
    needs_components = True
    keeps_scale = False

    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviations.")
