"""Estimators that compare a sample with others of its group: in pairs, or as the best of a few."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.ranking import PairwiseWinRate, PassAtK
from plumbline_trainer.advantages.group import centred_in
from plumbline_trainer.advantages.registry import ESTIMATORS
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout


@ESTIMATORS.implements(PairwiseWinRate)
def pairwise_win_rate(parameters: PairwiseWinRate, rollout: JudgedRollout) -> Tensor:
    """(W - 1/2) / (std + epsilon), W the share of its group that a sample beats; Pref-GRPO (Wang et al. 2025,
    arXiv:2508.20751). [N].

    W_i = sum_{j != i} P(i beats j) / (n - 1). P is 1/2 where the rewards differ by at most the tie band; else 0 or 1
    with `hard` comparison and the logistic function of (R_i - R_j) / temperature with `soft`. The mean of W over a
    group is always 1/2. The paper asks a preference model about every pair; here the pairs compare rewards, which may
    be scores of such a model.
    """
    group = Groups(rollout.groups, rollout.valid)
    table = group.table(rollout.rewards, torch.nan)
    differences = table[:, :, None] - table[:, None, :]
    if parameters.comparison == "soft":
        wins = torch.sigmoid(differences / parameters.temperature)
    else:
        wins = (differences > 0).double()
    wins = torch.where(differences.abs() <= parameters.tie_band, 0.5, wins)
    there = ~differences.isnan() & ~torch.eye(table.shape[1], dtype=torch.bool)
    rates = torch.where(there, wins, 0.0).sum(dim=2) / there.sum(dim=2).clamp(min=1)
    rate = group.of_table(rates)
    centred = centred_in(group, rate, rollout.valid)
    if parameters.normalize == "none":
        return centred
    return centred / (group.deviation(rate) + parameters.epsilon)


@ESTIMATORS.implements(PassAtK)
def pass_at_k(parameters: PassAtK, rollout: JudgedRollout) -> Tensor:
    """What a sample does for the best of k, in one of three forms; [N]. n is the size of the group.

    best: (R_max - R_2nd) / (std + epsilon) for the best sample, 0 for all others (Tang et al. 2025, arXiv:2503.19595):
    what the best of the whole group loses without the sample. Nobody gains where two samples are equally best.

    marginal: k E[max_S - max_{S - i}] over the sets S of k samples with i (Walder & Karkhanis 2025, arXiv:2505.15201).
    From E[max_S] = J_k: grad J_k = E[sum_{i in S} s_i max_S], and max_{S - i} does not depend on i, so it may be
    subtracted. Averaged over all C(n, k) sets, C(n - 1, k - 1) of which hold i, the sum of s_i / n times the value
    above is an unbiased estimate of grad J_k. With the others sorted, j of them below R_(j), and m of them below R_i:
    k / C(n - 1, k - 1) sum_{j < m} C(j, k - 2) (R_i - R_(j)), since sets whose best is above R_i cancel.

    normalized: (E[max_S | i in S] - E[max_S]) / (std + epsilon) with mean and (population) standard deviation over all
    sets; for rewards 0 and 1 the closed form of Chen et al. 2025 (arXiv:2508.10751, "Pass@k Training").

    In a group of fewer than k valid samples there is no such set: its advantages are 0.
    """
    group = Groups(rollout.groups, rollout.valid)
    rewards = rollout.rewards
    signal = rollout.valid & group.differs(rewards)
    if parameters.form == "best":
        best = signal & (rewards == group.highest(rewards))
        second = group.nth_lowest(rewards, (group.size - 2).clamp(min=0).long())
        gain = torch.where(best, rewards - second, 0.0)
        return gain / (group.deviation(rewards) + parameters.epsilon)
    assert parameters.k is not None
    of_set = _marginal if parameters.form == "marginal" else _normalized
    advantage = group.of_table(of_set(group.table(rewards, torch.inf), parameters.k, parameters.epsilon))
    return torch.where(signal & (group.size >= parameters.k), advantage, 0.0)


def _marginal(table: Tensor, k: int, epsilon: float) -> Tensor:
    """[C, S]: the `marginal` form of `pass_at_k`, from rewards [C, S] that are infinite where there is no sample."""
    size = table.isfinite().sum(dim=1, keepdim=True)
    ranked = table.sort(dim=1).values
    weights = _chance(torch.arange(table.shape[1]), k - 2, size - 1, k - 1)
    mass = _sums_before(weights)
    weighted = _sums_before(weights * ranked.nan_to_num(posinf=0.0))
    below = torch.searchsorted(ranked, table)
    return k * (table.nan_to_num(posinf=0.0) * mass.gather(1, below) - weighted.gather(1, below))


def _normalized(table: Tensor, k: int, epsilon: float) -> Tensor:
    """[C, S]: the `normalized` form of `pass_at_k`, from rewards [C, S] that are infinite where there is no sample."""
    size = table.isfinite().sum(dim=1, keepdim=True)
    places = torch.arange(table.shape[1]).expand(table.shape)
    order = table.argsort(dim=1)
    ranked = table.gather(1, order).nan_to_num(posinf=0.0)
    # the chance that a set's best is the sample at a place: the k - 1 others stand below it
    best = torch.where(places < size, _chance(places, k - 1, size, k), 0.0)
    mean = (best * ranked).sum(dim=1, keepdim=True)
    deviation = (best * (ranked - mean).square()).sum(dim=1, keepdim=True).sqrt()
    # given that sample i is in the set: it is the best itself, or another above it is, with k - 2 below that besides i
    itself = _chance(places, k - 1, size - 1, k - 1)
    above = torch.where(places < size, _chance(places - 1, k - 2, size - 1, k - 1) * ranked, 0.0)
    later = above.sum(dim=1, keepdim=True) - above.cumsum(dim=1)
    with_it = itself * ranked + later
    advantage = (with_it - mean) / (deviation + epsilon)
    return torch.empty_like(advantage).scatter_(1, order, advantage)


def _sums_before(values: Tensor) -> Tensor:
    """[C, S + 1]: sums of the first 0 to S entries of each row of `values` [C, S]."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def _chance(some: Tensor, chosen: int, all_: Tensor, of_all: int) -> Tensor:
    """C(some, chosen) / C(all_, of_all) for integer tensors, by logarithms; 0 where there is no choice."""
    possible = (some >= chosen) & (all_ >= of_all)
    logarithm = _log_choose(some.clamp(min=chosen), chosen) - _log_choose(all_.clamp(min=of_all), of_all)
    return torch.where(possible, logarithm.exp(), 0.0)


def _log_choose(of: Tensor, chosen: int) -> Tensor:
    of = of.double()
    return torch.lgamma(of + 1) - torch.lgamma(of - chosen + 1) - torch.lgamma(torch.tensor(chosen + 1.0).double())
