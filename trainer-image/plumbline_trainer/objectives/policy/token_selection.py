"""Which tokens of a rollout the objective learns from, decided once for all of its updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.token_selection import TokenSelection, TopEntropy
from plumbline_trainer.registry import Registry

SELECTED = "selected_tokens"
"""Under this name of `PolicyTokens.prepared` the loss finds the selection, 1 at tokens that keep their loss."""

Selector = Callable[[Any, Tensor, Tensor], Tensor]
"""(parameters, entropies [N, T], mask [N, T] bool) -> float32 [N, T], 1 at selected tokens, else 0."""

ROUNDING = 1e-9
"""A product that is a whole number but for rounding is taken for it."""

SELECTORS: Registry[Selector] = Registry(TokenSelection)


@SELECTORS.implements(TopEntropy)
def top_entropy(parameters: TopEntropy, entropies: Tensor, mask: Tensor) -> Tensor:
    """The `share` of tokens with the highest entropy (Wang et al. 2025, arXiv:2506.01939).

    `entropies` are those of the policy's next-token distributions over the completions of all ranks, so that the
    threshold, their 1 - `share` quantile, does not depend on the split. Of n tokens in order of entropy those from
    place ceil((1 - share) (n - 1)) on are kept, counted from 0: at least one, and all that are equal to the last.
    """
    inside = entropies[mask]
    if len(inside) == 0:
        return torch.zeros_like(entropies, dtype=torch.float32)
    place = math.ceil((1 - parameters.share) * (len(inside) - 1) - ROUNDING)
    threshold = inside.kthvalue(place + 1).values
    return (mask & (entropies >= threshold)).float()
