"""Which tokens of a rollout the objective learns from, decided once for all of its updates."""

from __future__ import annotations

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

SELECTORS: Registry[Selector] = Registry(TokenSelection)


@SELECTORS.implements(TopEntropy)
def top_entropy(parameters: TopEntropy, entropies: Tensor, mask: Tensor) -> Tensor:
    """The `share` of tokens with the highest entropy (Wang et al. 2025, arXiv:2506.01939, eq. 5).

    `entropies` are those of the policy's next-token distributions over the completions of all ranks, so that the
    threshold, their 1 - share quantile, does not depend on the split. At least one is kept; of equal ones the first.
    """
    count = int(mask.sum())
    kept = min(count, max(1, round(parameters.share * count)))
    ranked = entropies.where(mask, -torch.inf).flatten().argsort(descending=True, stable=True)
    selected = torch.zeros(mask.numel(), dtype=torch.float32, device=mask.device)
    selected[ranked[:kept]] = 1.0
    return selected.view(mask.shape)
