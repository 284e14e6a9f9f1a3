"""Objectives on single completions that are desirable or not."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.unpaired import ApoZeroUnpaired, Bco, Kto, Pmpo
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
    point = rows.reference_point
    metrics = _metrics(rows, parameters.beta, point)
    metrics["kl"] = Metric(float(point) * len(rows.desirable), float(len(rows.desirable)))
    return _prospect(parameters, rows, rows.completion.log_ratio - point), metrics


def kto_reference_point(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """z_0 of a step: max(0, mean of log pi(y'|x) - log pi_ref(y'|x)) over mismatched pairs, scalar.

    `policy` and `reference` are `[M]`, the log-probabilities of every row's prompt with another row's completion, for
    ALL rows of the optimizer step, over all micro-batches and ranks: z_0 estimates KL(pi || pi_ref) (sec. 4.1 of the
    paper) and is shared by the whole batch. Taken per micro-batch it would make the loss depend on the split, and
    biased upwards, because max(0, .) of a noisy mean is. No gradient flows through it, as in the paper, so it can be
    computed in a pass of its own before the step's first micro-batch.
    """
    return (policy - reference).detach().mean().clamp(min=0)


@implements(ApoZeroUnpaired)
def apo_zero_unpaired(parameters: ApoZeroUnpaired, rows: Unpaired) -> Losses:
    """Anchored preference optimization, zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7), one side a row.

    w_D (1 - sigma(beta h(y))) for a desirable and w_U sigma(beta h(y)) for an undesirable completion. The two terms of
    the paper's loss of a pair share nothing but their sum, so each stands on its own; it is KTO with z_0 = 0.
    """
    return _prospect(parameters, rows, rows.completion.log_ratio), _metrics(rows, parameters.beta)


@implements(Bco)
def bco(parameters: Bco, rows: Unpaired) -> Losses:
    """Binary classifier optimization (Jung et al. 2024, arXiv:2404.04656).

    -log sigma(r - delta) for a desirable and -log sigma(-(r - delta)) for an undesirable completion, with the reward
    r = beta h(y) and delta the midpoint of `running_reward`, which carries no gradient.

    Why the midpoint: with a = r(y_w) - delta and b = delta - r(y_l), DPO's loss is log(1 + e^-(a+b)) and the sum of
    both classification losses log((1 + e^-a)(1 + e^-b)) is never below it, for any delta; the two products differ by
    e^-a + e^-b, which is smallest at a = b, delta = (r(y_w) + r(y_l)) / 2. The paper takes the mean of that over the
    data. Rows are not reweighted for prompts that only one kind of completion has.

    A row counts as accurate when its reward lies on its label's side of delta.
    """
    if rows.running_reward is None:
        raise ValueError("BCO needs the running reward")
    shift = rows.running_reward.mean()
    signs = _by_kind(rows, 1, -1)
    losses = -logsigmoid(signs * (parameters.beta * rows.completion.log_ratio - shift))
    metrics = _metrics(rows, parameters.beta, shift / parameters.beta)
    metrics["rewards/shift"] = Metric(float(shift) * len(signs), float(len(signs)))
    return losses, metrics


def updated_running_reward(
    parameters: Bco, previous_mean: torch.Tensor, previous_count: torch.Tensor, whole_step: Unpaired
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and counts of rewards after a step, each `[2]`: of desirable and of undesirable rows.

    Call it once a step with ALL its rows, before its first micro-batch, and give the means to `bco`; both tensors
    belong into the checkpoint. Their dtype is kept: float64 does not lose single rows of a long run. A run begins with
    zeros. With n rows of a kind in the step and their mean reward m: mean <- mean + (m - mean) n / (count + n),
    count <- min(count + n, `reward_memory`). Unlimited, that is the mean over all rows so far; limited to M, an
    exponential average in which a row's share shrinks by M / (M + n) a step. The kinds are averaged apart, so a step
    with few rows (or none) of one kind does not pull the midpoint towards the other. A kind of which nothing was seen
    keeps the mean 0, the reward of every completion before the first update.
    """
    rewards = parameters.beta * whole_step.completion.log_ratio.detach().to(previous_mean)
    kinds = torch.stack([whole_step.desirable, ~whole_step.desirable]).to(previous_mean)
    rows = kinds.sum(dim=1)
    count = previous_count + rows
    mean = previous_mean + ((kinds * rewards).sum(dim=1) - rows * previous_mean) / count.clamp(min=1)
    return mean, count if parameters.reward_memory is None else count.clamp(max=parameters.reward_memory)


@implements(Pmpo)
def pmpo(parameters: Pmpo, rows: Unpaired) -> Losses:
    """Preference optimization as probabilistic inference (Abdolmaleki et al. 2024, arXiv:2410.04166, eq. 10).

    -alpha log pi(y|x) for a desirable and +(1 - alpha) log pi(y|x) for an undesirable row, plus for either
    beta sum_t KL(pi_ref(.|x, y_<t) || pi(.|x, y_<t)), with the KL exact over the vocabulary at every position of y.

    The paper writes one expectation over desirable and one over undesirable completions; here each row has the weight
    of its kind, so kinds count by their share of the data and no count of the step enters a row's loss. That form has a
    closed optimum. For one prompt and completions of one token, with p(y), n(y) the shares of all rows that are
    desirable, or undesirable, with completion y, stationarity on the simplex gives

        pi*(y) proportional to beta pi_ref(y) + alpha p(y) - (1 - alpha) n(y)

    where that is positive for every y, and no minimum where it is negative for some y: pi(y) then falls to 0. Rows that
    the reference drew have n <= pi_ref, so beta > 1 - alpha suffices.

    A row counts as accurate when h lies on its label's side of 0.
    """
    if rows.completion.reference_kl is None:
        raise ValueError("PMPO needs the KL divergence from the reference")
    weights = _by_kind(rows, -parameters.alpha, 1 - parameters.alpha)
    losses = weights * rows.completion.logprob + parameters.beta * rows.completion.reference_kl
    metrics = _metrics(rows, 1.0)
    metrics["kl/reference"] = Metric.mean_of(rows.completion.reference_kl)
    return losses, metrics


def _prospect(parameters: Kto | ApoZeroUnpaired, rows: Unpaired, distances: torch.Tensor) -> torch.Tensor:
    """[B]: weight (1 - sigma(+-beta distance)), the value lost by `distances` [B] of log-ratios from their anchor."""
    weights = _by_kind(rows, parameters.desirable_weight, parameters.undesirable_weight)
    return weights * torch.sigmoid(-parameters.beta * _by_kind(rows, 1, -1) * distances)


def _by_kind(rows: Unpaired, desirable: float, undesirable: float) -> torch.Tensor:
    """[B]: one number for desirable rows, the other for undesirable ones."""
    numbers = torch.full_like(rows.completion.logprob.detach(), undesirable)
    return numbers.masked_fill(rows.desirable, desirable)


def _metrics(rows: Unpaired, beta: float, anchor: torch.Tensor | float = 0.0) -> dict[str, Metric]:
    """Rewards beta h and log-probabilities of both kinds, and the share of rows whose h is on the right side."""
    log_ratios = rows.completion.log_ratio.detach()
    rewards = beta * log_ratios
    desirable, undesirable = rows.desirable, ~rows.desirable
    correct = won(_by_kind(rows, 1, -1) * (log_ratios - anchor))
    return {
        "rewards/desirable": Metric.mean_of(rewards, desirable),
        "rewards/undesirable": Metric.mean_of(rewards, undesirable),
        "rewards/accuracy": Metric.mean_of(correct),
        "rewards/accuracy_desirable": Metric.mean_of(correct, desirable),
        "rewards/accuracy_undesirable": Metric.mean_of(correct, undesirable),
        "logprobs/desirable": Metric.mean_of(rows.completion.logprob, desirable),
        "logprobs/undesirable": Metric.mean_of(rows.completion.logprob, undesirable),
    }
