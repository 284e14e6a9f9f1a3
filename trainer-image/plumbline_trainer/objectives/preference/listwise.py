"""Objectives on lists of scored completions of the same prompt.

Inputs are `[B, K]`, losses `[B]`. None depends on the order in which a list gives its completions, and completions with
equal scores are never told apart.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.listwise import ExoListwise, LipoLambda, PlackettLuce, Rrhf
from plumbline_trainer.objectives.preference.inputs import Lists, Losses
from plumbline_trainer.objectives.preference.measures import ordered_pairs, pair_metrics
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric

LARGEST_SCORE = 64.0
"""Largest score for which a gain of 2^score is taken: beyond, no other completion of the list would count."""


@implements(Rrhf)
def rrhf(parameters: Rrhf, lists: Lists) -> Losses:
    """RRHF (Yuan et al. 2023, arXiv:2304.05302, sec. 3; Duan et al. 2023, arXiv:2312.05657, for code optimization).

    sum over pairs with score_i > score_j of max(0, p_j - p_i), p = log pi(y|x) / |y|, plus c times the negative
    log-likelihood of the best completion, averaged over its tokens if `length_normalized`. Where several share the
    best score, the likelihood term is their mean. Rewards are p.
    """
    completions = lists.completions
    rewards = completions.mean_logprob
    ranking = torch.where(better(lists), -_differences(rewards), 0.0).relu().sum(dim=(1, 2))
    best = best_of(lists)
    likelihood = rewards if parameters.length_normalized else completions.logprob
    best_likelihood = torch.where(best, likelihood, 0.0).sum(dim=1) / best.sum(dim=1)
    metrics = list_metrics(lists, rewards)
    metrics |= {"loss/ranking": Metric.mean_of(ranking), "loss/likelihood": Metric.mean_of(-best_likelihood)}
    return ranking - parameters.sft_weight * best_likelihood, metrics


@implements(ExoListwise)
def exo_listwise(parameters: ExoListwise, lists: Lists) -> Losses:
    """Efficient exact optimization with K completions (Ji et al. 2024, arXiv:2402.00856).

    KL(p_f || p_r) with p_f(k) = softmax_k(beta_pi h(y_k)) and p_r(k) = softmax_k(score_k / beta_r): the reverse
    direction, so a policy that cannot match p_r concentrates on its best completions. It is 0 where beta_pi h and
    score / beta_r differ by a constant of the prompt, that is at pi proportional to pi_ref exp(score / (beta_pi
    beta_r)): the product is the coefficient of the KL-regularised reward maximisation that it solves. Rewards are
    beta_pi h.
    """
    rewards = parameters.beta_policy * lists.completions.log_ratio
    scores = lists.completions.given_score / parameters.beta_reward
    policy = torch.where(lists.present, rewards, -torch.inf).log_softmax(dim=1)
    target = torch.where(lists.present, scores, -torch.inf).log_softmax(dim=1)
    losses = (policy.exp() * torch.where(lists.present, policy - target, 0.0)).sum(dim=1)
    return losses, list_metrics(lists, rewards)


@implements(PlackettLuce)
def plackett_luce(parameters: PlackettLuce, lists: Lists) -> Losses:
    """Listwise DPO (Rafailov et al. 2023, arXiv:2305.18290, appendix A.3).

    -sum_k [beta h(y_k) - log sum_{j: score_j <= score_k} exp(beta h(y_j))]: the Plackett-Luce likelihood of the ranking
    by score. Two completions give DPO; the last of a ranking contributes 0. Among equal scores each competes with all
    its equals (Breslow 1974, "Covariance analysis of censored survival data", for ties), so no order is invented and
    the optimum treats them alike. Rewards are beta h.
    """
    rewards = parameters.beta * lists.completions.log_ratio
    scores = lists.completions.given_score
    itself = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    rivals = (scores[:, None, :] <= scores[:, :, None]) & lists.present[:, None, :] | itself
    normalizers = torch.where(rivals, rewards[:, None, :], -torch.inf).logsumexp(dim=2)
    losses = torch.where(lists.present, normalizers - rewards, 0.0).sum(dim=1)
    return losses, list_metrics(lists, rewards)


@implements(LipoLambda)
def lipo_lambda(parameters: LipoLambda, lists: Lists) -> Losses:
    """LiPO-lambda (Liu et al. 2024, arXiv:2402.01878): DPO on all ordered pairs with lambda weights.

    -sum over pairs with score_i > score_j of D_ij log sigma(beta h(y_i) - beta h(y_j)). The weight, of which no
    gradient is taken, is D_ij = |G_i - G_j| |1 / log(1 + t_i) - 1 / log(1 + t_j)|, with the gain G (2^score - 1, or the
    score) and t_i = 1, 2, ..., the position of y_i when the list is sorted by falling h. Completions with equal h stand
    with the lower score first: a policy that still equals its reference then ranks nothing right, and learns. Rewards
    are beta h. Raises `ValueError` for an exponential gain of scores above 64.
    """
    scores = lists.completions.given_score
    rewards = parameters.beta * lists.completions.log_ratio
    if parameters.gain == "exponential":
        if bool((torch.where(lists.present, scores, 0.0) > LARGEST_SCORE).any()):
            raise ValueError(
                f"the gain 2^score takes scores up to {LARGEST_SCORE:g}: set gain to linear or rescale them"
            )
        gains = torch.exp2(scores) - 1
    else:
        gains = scores
    discounts = 1 / torch.log1p(_positions(rewards.detach(), lists))
    weights = _differences(gains).abs() * _differences(discounts).abs()
    losses = -(torch.where(better(lists), weights, 0.0) * logsigmoid(_differences(rewards))).sum(dim=(1, 2))
    return losses, list_metrics(lists, rewards)


def better(lists: Lists) -> torch.Tensor:
    """[B, K, K] bool: whether completion i is present and scored above a present completion j."""
    both = lists.present[:, :, None] & lists.present[:, None, :]
    return both & (_differences(lists.completions.given_score) > 0)


def best_of(lists: Lists) -> torch.Tensor:
    """[B, K] bool: the completions with the highest score of their list, at least one in every row."""
    scores = torch.where(lists.present, lists.completions.given_score, -torch.inf)
    return lists.present & (scores == scores.amax(dim=1, keepdim=True))


def list_metrics(lists: Lists, rewards: torch.Tensor) -> dict[str, Metric]:
    """`pair_metrics` of rewards `[B, K]` over all pairs of a list with different scores; log-probabilities of the best
    and of the other completions; and `kl`, the mean of h(y), where there is a reference."""
    best, completions = best_of(lists), lists.completions
    metrics = pair_metrics(*ordered_pairs(rewards, completions.given_score, lists.present))
    metrics["logprobs/best"] = Metric.mean_of(completions.logprob, best)
    metrics["logprobs/others"] = Metric.mean_of(completions.logprob, lists.present & ~best)
    if completions.reference is not None:
        metrics["kl"] = Metric.mean_of(completions.log_ratio, lists.present)
    return metrics


def _positions(rewards: torch.Tensor, lists: Lists) -> torch.Tensor:
    """[B, K] float: places from 1 when sorted by falling reward, among equals by rising score, then as given."""
    above, equal = _differences(rewards) < 0, _differences(rewards) == 0
    scores = lists.completions.given_score
    worse, same = _differences(scores) > 0, _differences(scores) == 0
    earlier = torch.ones_like(same[0]).tril(diagonal=-1)
    ahead = above | equal & (worse | same & earlier)
    return 1 + (ahead & lists.present[:, None, :]).sum(dim=2).to(rewards.dtype)


def _differences(values: torch.Tensor) -> torch.Tensor:
    """[B, K, K]: value i minus value j."""
    return values[:, :, None] - values[:, None, :]
