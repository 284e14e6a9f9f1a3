"""Objectives without labels: they make the policy surer of what it says already."""

from __future__ import annotations

from plumbline_api.methods.policy.family import PolicyObjective


class EntropyFinetuning(PolicyObjective, key="entropyFinetuning"):
    """Entropy of the next token as the loss, on the policy's own completions and without any reward (EM-FT; Agarwal et al. 2025, arXiv:2505.15134). It helps where the model's likeliest answer is right, and harms elsewhere."""

    strictly_on_policy = True
    needs_entropy = True
    uses_zero_advantages = True


class SequenceConfidence(PolicyObjective, key="sequenceConfidence"):
    """REINFORCE with the log-likelihood of the completion itself as the only reward, less that of the group's others (EM-RL-sequence; Agarwal et al. 2025, arXiv:2505.15134)."""

    aggregation = "sequenceSum"
    strictly_on_policy = True
    needs_whole_groups = True
    uses_zero_advantages = True


class TokenConfidence(PolicyObjective, key="tokenConfidence"):
    """REINFORCE with minus the summed entropies of the completion's tokens as the only reward, less that of the group's others (EM-RL-token; Agarwal et al. 2025, arXiv:2505.15134)."""

    aggregation = "sequenceSum"
    strictly_on_policy = True
    needs_entropy = True
    needs_whole_groups = True
    uses_zero_advantages = True
