"""Which tokens of a completion the objective learns from."""

from __future__ import annotations

from pydantic import Field

from plumbline_api.base import Choice, Family


class TokenSelection(Family):
    """Tokens that keep their loss; the others still count in what the loss is divided by."""


class TopEntropy(TokenSelection, key="topEntropy"):
    """The tokens at which the policy was least certain (Wang et al. 2025, Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement Learning for LLM Reasoning, arXiv:2506.01939)."""

    share: float = Field(0.2, gt=0, lt=1, description="Share of the rollout's tokens that are kept.")


class TokenSelectionChoice(Choice, family=TokenSelection):
    """Which tokens the objective learns from: exactly one way."""
