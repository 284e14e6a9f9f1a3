"""Objectives on pairs that see the difference of the log-ratios of policy to reference: DPO and its relatives."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.direct import Discopop, Dpo, Exo, Hinge, Ipo, Robust, StepDpo, TrDpo
from plumbline_trainer.objectives.preference.divergences import (
    alpha_divergence,
    forward_kl,
    jensen_shannon,
    reverse_kl,
)
from plumbline_trainer.objectives.preference.inputs import Losses, Pairs
from plumbline_trainer.objectives.preference.measures import logprob_metrics, pair_metrics
from plumbline_trainer.objectives.registry import implements

_IMPLICIT_REWARDS = {"reverseKl": reverse_kl, "forwardKl": forward_kl, "jensenShannon": jensen_shannon}


@implements(Dpo)
def dpo(parameters: Dpo, pairs: Pairs) -> Losses:
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), with label smoothing.

    -(1 - e) log sigma(beta (g(y_w) - g(y_l))) - e log sigma(-beta (g(y_w) - g(y_l))), where e is the assumed
    probability of a flipped label (Mitchell 2023, "A note on DPO with noisy preferences", eq. 3); e = 0 is eq. 7.

    g(y) is the log-ratio h(y), or another divergence's f'(pi / pi_ref) (Wang et al. 2023, arXiv:2309.16240; see
    `divergences`), or h(y) / |y| with `length_normalized` (Lambert et al. 2024, arXiv:2411.15124). Rewards are beta g
    (eq. 5 without its prompt-only term).
    """
    chosen, rejected = pairs.chosen.log_ratio, pairs.rejected.log_ratio
    if parameters.length_normalized:
        chosen, rejected = chosen / pairs.chosen.tokens, rejected / pairs.rejected.tokens
    chosen, rejected = (parameters.beta * _implicit_reward(parameters, ratio) for ratio in (chosen, rejected))
    margin = chosen - rejected
    flipped = parameters.label_smoothing
    losses = -(1 - flipped) * logsigmoid(margin) - flipped * logsigmoid(-margin)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


def _implicit_reward(parameters: Dpo, log_ratio: torch.Tensor) -> torch.Tensor:
    if parameters.divergence_alpha is not None:
        return alpha_divergence(log_ratio, parameters.divergence_alpha)
    return _IMPLICIT_REWARDS[parameters.divergence](log_ratio)


@implements(TrDpo)
def tr_dpo(parameters: TrDpo, pairs: Pairs) -> Losses:
    """Trust region DPO (Gorbatovski et al. 2024, arXiv:2404.09656): -log sigma(beta (h(y_w) - h(y_l))).

    The loss is DPO's; what differs is the reference, into which the policy is mixed every `every_steps` steps
    (`modeling.moving_reference`). Rewards are beta h under the present reference, so they jump towards 0 at each mix.
    """
    return _logistic(parameters.beta, pairs)


@implements(StepDpo)
def step_dpo(parameters: StepDpo, pairs: Pairs) -> Losses:
    """DPO on a step (Lai et al. 2024, arXiv:2406.18629; LongDPO: Ping et al. 2025, arXiv:2502.02095).

    -log sigma(beta (h(s_w) - h(s_l))), where s_w and s_l are two continuations of the same prompt and earlier steps,
    and h(s) = log pi(s | x, s_<k) - log pi_ref(s | x, s_<k). The earlier steps are context: the log-probabilities here
    are those of the step's tokens alone, so none of the prefix's tokens is a target.
    """
    return _logistic(parameters.beta, pairs)


def _logistic(beta: float, pairs: Pairs) -> Losses:
    chosen, rejected = _rewards(beta, pairs)
    return -logsigmoid(chosen - rejected), pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(Robust)
def robust(parameters: Robust, pairs: Pairs) -> Losses:
    """Robust DPO (Chowdhury et al. 2024, arXiv:2403.00409).

    [-(1 - e) log sigma(m) + e log sigma(-m)] / (1 - 2e) with m = beta (h(y_w) - h(y_l)) and the rate e at which labels
    are flipped. With l(m) = -log sigma(m), this is L(m) = [(1 - e) l(m) - e l(-m)] / (1 - 2e), and over labels that are
    flipped at rate e, (1 - e) L(m) + e L(-m) = l(m): its expectation is DPO's loss on the right labels. A single row's
    loss is not bounded below: its slope goes from -(1 - e) / (1 - 2e) to -e / (1 - 2e). Rewards are beta h.
    """
    chosen, rejected = _rewards(parameters.beta, pairs)
    margin, rate = chosen - rejected, parameters.flip_rate
    losses = (-(1 - rate) * logsigmoid(margin) + rate * logsigmoid(-margin)) / (1 - 2 * rate)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(Ipo)
def ipo(parameters: Ipo, pairs: Pairs) -> Losses:
    """Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17).

    ((h(y_w) - h(y_l)) - 1 / (2 tau))^2. With `length_normalized` each h is first divided by its number of tokens.
    Rewards are tau times the log-ratios that enter the loss.
    """
    chosen, rejected = pairs.chosen.log_ratio, pairs.rejected.log_ratio
    if parameters.length_normalized:
        chosen, rejected = chosen / pairs.chosen.tokens, rejected / pairs.rejected.tokens
    losses = (chosen - rejected - 1 / (2 * parameters.tau)).square()
    return losses, pair_metrics(parameters.tau * chosen, parameters.tau * rejected) | logprob_metrics(pairs)


@implements(Hinge)
def hinge(parameters: Hinge, pairs: Pairs) -> Losses:
    """max(0, 1 - beta (h(y_w) - h(y_l))): a pair whose rewards are a distance of 1 apart has no gradient.

    Sequence likelihood calibration (Zhao et al. 2023, arXiv:2305.10425) takes the hinge of log pi(y_w) - log pi(y_l);
    Liu et al. 2023 (arXiv:2309.06657) put the log-ratio to the reference in its place. Rewards are beta h.
    """
    chosen, rejected = _rewards(parameters.beta, pairs)
    losses = torch.relu(1 - (chosen - rejected))
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(Exo)
def exo(parameters: Exo, pairs: Pairs) -> Losses:
    """Efficient exact optimization on pairs (Ji et al. 2024, arXiv:2402.00856, eq. 16).

    sigma(m) [log sigma(m) - log(1 - e)] + sigma(-m) [log sigma(-m) - log e] with m = beta (h(y_w) - h(y_l)): the
    reverse KL(p || q) of the policy's preference p = (sigma(m), sigma(-m)) to the label q = (1 - e, e). DPO with label
    smoothing e is KL(q || p) and q's entropy. 0 at sigma(m) = 1 - e, at most -log e. Rewards are beta h.
    """
    chosen, rejected = _rewards(parameters.beta, pairs)
    margin, smoothing = chosen - rejected, parameters.label_smoothing
    losses = torch.sigmoid(margin) * (logsigmoid(margin) - math.log1p(-smoothing)) + torch.sigmoid(-margin) * (
        logsigmoid(-margin) - math.log(smoothing)
    )
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


@implements(Discopop)
def discopop(parameters: Discopop, pairs: Pairs) -> Losses:
    """Discovered preference optimization (Lu et al. 2024, arXiv:2406.08414, eq. 5).

    (1 - w) (-log sigma(m)) + w e^-m with m = beta (h(y_w) - h(y_l)) and the weight w = sigma(m / temperature). The
    second term is computed as exp(log w - m): for a temperature of at most 1 that exponent has a bound, while e^-m
    alone overflows for wrongly ordered pairs, where w is 0. Rewards are beta h.
    """
    chosen, rejected = _rewards(parameters.beta, pairs)
    margin = chosen - rejected
    modulation = margin / parameters.temperature
    losses = -torch.sigmoid(-modulation) * logsigmoid(margin) + torch.exp(logsigmoid(modulation) - margin)
    return losses, pair_metrics(chosen, rejected) | logprob_metrics(pairs)


def _rewards(beta: float, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Implicit rewards beta h of both sides, `[B]` each."""
    return beta * pairs.chosen.log_ratio, beta * pairs.rejected.log_ratio
