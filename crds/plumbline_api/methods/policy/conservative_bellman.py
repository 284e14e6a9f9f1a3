"""Learning of values in place of a policy gradient: the logits themselves are advantages of actions."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.methods.policy.family import WITHOUT_BASELINE, PolicyObjective


class ConservativeBellman(PolicyObjective, key="conservativeBellman"):
    """Value-based learning of B-Coder (Yu et al. 2023, arXiv:2310.03173): Q(s, a) = scale (logit - largest logit) + V(s), V of critic.shared, learns by temporal differences the value of a token followed by the reference's greedy ones. Completions of any policy teach it without ratios; of the critic it takes learningRate, trunkCoefficient and what the output is."""

    aggregation = "tokenMean"
    advantage = WITHOUT_BASELINE
    needs_reference = True
    uses_zero_advantages = True
    learns_values = True

    scale: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="Reward that a logit stands for: a token that loses a reward of 1 comes 1/scale below the best one.",
    )
    discount: float = Field(1.0, gt=0, le=1, description="Factor on the value of what follows a token.")
