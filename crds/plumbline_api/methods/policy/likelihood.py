"""Objectives that weight log-likelihoods, without an importance ratio."""

from __future__ import annotations

from typing import ClassVar

from plumbline_api.methods.policy.family import CENTRED, PolicyObjective


class Reinforce(PolicyObjective, key="reinforce"):
    """REINFORCE: advantage-weighted sequence log-likelihood, strictly on-policy (Williams 1992; in this form Ahmadian et al. 2024, arXiv:2402.14740, eq. 6, by default with its leave-one-out baseline, eq. 8)."""

    aggregation = "sequenceSum"
    advantage: ClassVar = {"leaveOneOut": {}}
    strictly_on_policy = True


class Gpg(PolicyObjective, key="gpg"):
    """Group policy gradient: advantage-weighted log-likelihood, scaled up by the share of groups without signal; by default without a standard deviation (Chu et al. 2025, arXiv:2504.02546)."""

    aggregation = "tokenMean"
    advantage = CENTRED
    strictly_on_policy = True
