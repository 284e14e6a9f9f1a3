"""Objectives that weight log-likelihoods, without an importance ratio."""

from __future__ import annotations

from plumbline_api.methods.policy.family import PolicyObjective


class Reinforce(PolicyObjective, key="reinforce"):
    """REINFORCE: advantage-weighted sequence log-likelihood, strictly on-policy (Williams 1992; in this form Ahmadian et al. 2024, arXiv:2402.14740, eq. 6)."""

    aggregation = "sequenceSum"
    strictly_on_policy = True


class Gpg(PolicyObjective, key="gpg"):
    """Group policy gradient: advantage-weighted log-likelihood, scaled up by the share of groups without signal (Chu et al. 2025, arXiv:2504.02546)."""

    aggregation = "tokenMean"
    strictly_on_policy = True
