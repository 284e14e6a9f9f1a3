"""Objectives whose proximal policy, near which an update stays, is not the policy that sampled."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.policy.clipped import ClippedRatioObjective


class DecoupledPpo(ClippedRatioObjective, key="decoupledPpo"):
    """PPO with the clip around the policy before the rollout's updates and a weight for completions of an older one, so that stale completions are used as what they are (Hilton et al. 2022, arXiv:2110.00641, sec. 3)."""

    aggregation = "tokenMean"

    max_weight: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Upper bound of a token's weight, the probability before the updates over that of the sampler; unset: none.",
    )


class PpoEwma(DecoupledPpo, key="ppoEwma"):
    """Decoupled PPO whose clip is around an exponentially weighted moving average of the policy's weights, which makes the size of a batch matter less (PPO-EWMA; Hilton et al. 2022, arXiv:2110.00641, sec. 3.2)."""

    decay: float = Field(
        0.889,
        gt=0,
        lt=1,
        description="Weight of the average against the present policy in each update; its centre of mass is decay / (1 - decay) updates back.",
    )
