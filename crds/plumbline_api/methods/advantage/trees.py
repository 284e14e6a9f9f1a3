"""Estimators for completions that start from prefixes of known trees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.advantage.family import Advantage


class PrefixTree(Advantage, key="prefixTree"):
    """Reward minus the value of the prefix that the completion starts from, read off all completions of the rollout below that prefix, centred over the tree (Tree-OPO; Huang et al. 2025, arXiv:2509.09284)."""

    keeps_scale = ("normalize", "none")

    tree_column: str = Field(
        "tree", min_length=1, max_length=128, description="Column that tells trees apart, such as the problem's name."
    )
    prefix_column: str = Field(
        "prefix",
        min_length=1,
        max_length=128,
        description="Column with the prefix, as text or as a list of steps; a prefix that another one begins with is its ancestor.",
    )
    baseline: Literal["expectation", "optimistic", "pessimistic"] = Field(
        "expectation",
        description="Value of a prefix from the rewards at or below it: expectation is their mean, optimistic the highest, pessimistic the lowest.",
    )
    alpha: float = Field(
        1.0, ge=0, le=1, description="Share of the value that is subtracted; 0 leaves the centred reward."
    )
    normalize: Literal["std", "none"] = Field(
        "none", description="std divides by the standard deviation of the tree's advantages, none leaves them centred."
    )
    epsilon: float = Field(1e-4, gt=0, le=1, description="Added to the standard deviation.")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.tree_column, self.prefix_column)
