"""Losses that are added to those of a preference objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from plumbline_api.methods.auxiliary import AuxiliaryLoss, PreferenceDegree
from plumbline_trainer.objectives.preference.inputs import Losses
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric

AUXILIARY_LOSSES: Registry[Callable[..., Losses]] = Registry(AuxiliaryLoss)
"""Functions `(parameters, ...) -> (losses [B], metrics)`; the losses are weighted and ready to be added."""


@AUXILIARY_LOSSES.implements(PreferenceDegree)
def preference_degree(parameters: PreferenceDegree, logits: torch.Tensor, degrees: torch.Tensor) -> Losses:
    """Self-supervised preference optimization with preference-degree awareness (Li et al. 2024, arXiv:2409.17791).

    weight x the sum over a row's completions of -log softmax(logits)[degree], `[B]`.

    Every completion of a row (chosen and rejected, or the one of an unpaired row) has a copy from which content was
    removed to one of the degrees 0 (nothing) to levels - 1. `logits` [B, k, levels] are what the degree head says
    about the k copies of each row, `degrees` [B, k] int64 their true degrees. With L the objective's loss, the row's
    whole loss is L + weight (CE_chosen + CE_rejected). The paper's abstract gives the idea; that the head reads the
    hidden state of the copy's last token, and that both sides have one weight, is not settled from it.

    Metrics: the mean cross-entropy of a copy, at log(levels) for a head that knows nothing, and the share of copies
    whose degree is the likeliest; a tie of several degrees counts as the chance to draw the right one.
    """
    each = cross_entropy(logits.flatten(0, 1), degrees.flatten(), reduction="none").view(degrees.shape)
    best = logits.detach() == logits.detach().amax(dim=-1, keepdim=True)
    right = best.gather(-1, degrees[..., None]).squeeze(-1) / best.sum(dim=-1)
    metrics = {"degree/loss": Metric.mean_of(each), "degree/accuracy": Metric.mean_of(right)}
    return parameters.weight * each.sum(dim=1), metrics
