"""Objectives on single completions that are desirable or not."""

from __future__ import annotations

import torch

from plumbline_api.methods.preference.unpaired import Kto
from plumbline_trainer.objectives.preference.inputs import Losses, Unpaired
from plumbline_trainer.objectives.preference.measures import won
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Kto)
def kto(parameters: Kto, rows: Unpaired) -> Losses:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8).

    lambda_D (1 - sigma(beta (h(y) - z_0))) for a desirable and lambda_U (1 - sigma(beta (z_0 - h(y)))) for an
    undesirable completion. Rewards are beta h; a row counts as accurate when h lies on its label's side of z_0, half
    when it lies on z_0.
    """
    if rows.reference_point is None:
        raise ValueError("KTO needs its reference point")
    log_ratios = rows.completion.log_ratio
    distance = log_ratios - rows.reference_point
    signed = torch.where(rows.desirable, distance, -distance)
    weights = torch.full_like(signed, parameters.desirable_weight)
    weights[~rows.desirable] = parameters.undesirable_weight
    losses = weights * torch.sigmoid(-parameters.beta * signed)

    rewards = parameters.beta * log_ratios.detach()
    desirable, undesirable = rows.desirable, ~rows.desirable
    correct = won(signed)
    metrics = {
        "rewards/desirable": Metric.mean_of(rewards, desirable),
        "rewards/undesirable": Metric.mean_of(rewards, undesirable),
        "rewards/accuracy": Metric.mean_of(correct),
        "rewards/accuracy_desirable": Metric.mean_of(correct, desirable),
        "rewards/accuracy_undesirable": Metric.mean_of(correct, undesirable),
        "logprobs/desirable": Metric.mean_of(rows.completion.logprob, desirable),
        "logprobs/undesirable": Metric.mean_of(rows.completion.logprob, undesirable),
        "kl": Metric(float(rows.reference_point) * len(rewards), float(len(rewards))),
    }
    return losses, metrics


def kto_reference_point(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """z_0 of a step: max(0, mean of log pi(y'|x) - log pi_ref(y'|x)) over mismatched pairs, scalar.

    `policy` and `reference` are `[M]`, the log-probabilities of every row's prompt with another row's completion, for
    ALL rows of the optimizer step, over all micro-batches and ranks: z_0 estimates KL(pi || pi_ref) (sec. 4.1 of the
    paper) and is shared by the whole batch. Taken per micro-batch it would make the loss depend on the split, and
    biased upwards, because max(0, .) of a noisy mean is. No gradient flows through it, as in the paper, so it can be
    computed in a pass of its own before the step's first micro-batch.
    """
    return (policy - reference).detach().mean().clamp(min=0)
