"""What estimators estimate: gradients of a bandit, exactly, by enumeration of all rollouts.

A softmax over three answers, a group of n independent samples. The update's direction is the mean over the group of
advantage times score; its expectation over all 3^n groups, weighted by their chances, is compared with gradients of
objectives that are written down for the policy itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import comb

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.advantage.difficulty import MaximumLikelihood
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.advantage.group import (
    GreedyBaseline,
    GroupRelative,
    LeaveOneOut,
    LengthWeightedBaseline,
    NoBaseline,
)
from plumbline_api.methods.advantage.ranking import PassAtK
from plumbline_trainer.advantages import advantages
from plumbline_trainer.rollout.judged import judged

LOGITS = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
SCORED = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
BINARY = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)


def directions(parameters: Advantage, rewards: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The direction [G, 3] of every group and its chance [G]."""
    probabilities = LOGITS.softmax(dim=0)
    answers = torch.tensor(list(product(range(3), repeat=size)))
    rollout = judged(
        rewards[answers].flatten(),
        torch.arange(len(answers)).repeat_interleave(size),
        lengths=torch.tensor([3, 1, 6])[answers].flatten(),
        greedy_rewards=rewards[LOGITS.argmax()].expand(answers.numel()).clone(),
    )
    scores = torch.nn.functional.one_hot(answers, 3) - probabilities
    estimated = advantages(parameters, rollout).view(answers.shape)
    return (estimated[..., None] * scores).mean(dim=1), probabilities[answers].prod(dim=1)


def expected_direction(parameters: Advantage, rewards: Tensor, size: int) -> Tensor:
    found, chances = directions(parameters, rewards, size)
    return (chances[:, None] * found).sum(dim=0)


def variance(parameters: Advantage, rewards: Tensor, size: int) -> float:
    found, chances = directions(parameters, rewards, size)
    mean = (chances[:, None] * found).sum(dim=0)
    return float((chances[:, None] * (found - mean).square()).sum())


def gradient(objective: Callable[[Tensor], Tensor]) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(logits.softmax(dim=0)), logits)
    return found


def mean_reward(probabilities: Tensor) -> Tensor:
    return probabilities @ SCORED


@pytest.mark.parametrize("parameters", [LeaveOneOut(), NoBaseline(), GreedyBaseline()], ids=lambda p: p.member_key)
def test_the_gradient_of_the_mean_reward_is_estimated_without_bias(parameters: Advantage) -> None:
    torch.testing.assert_close(expected_direction(parameters, SCORED, 3), gradient(mean_reward))


@pytest.mark.parametrize("size", [2, 4])
def test_a_baseline_that_includes_the_sample_itself_scales_the_gradient(size: int) -> None:
    """The mean of the whole group holds a share 1/n of the sample's own reward."""
    found = expected_direction(GroupRelative(normalize="none"), SCORED, size)
    torch.testing.assert_close(found, (size - 1) / size * gradient(mean_reward))


def test_baselines_reduce_the_variance() -> None:
    found = {type(one): variance(one, SCORED, 4) for one in (NoBaseline(), LeaveOneOut(), GreedyBaseline())}
    assert found[LeaveOneOut] < 0.4 * found[NoBaseline]
    assert found[GreedyBaseline] < 0.5 * found[NoBaseline]


def test_the_length_weighted_baseline_minimises_the_length_weighted_square() -> None:
    """The objective that its derivation minimises: sum_i |y_i| (R_i - b)^2, so no other baseline does better."""
    generator = torch.Generator().manual_seed(0)
    rewards, lengths = torch.rand(6, dtype=torch.float64, generator=generator), torch.tensor([1, 9, 4, 2, 7, 3])
    left = advantages(LengthWeightedBaseline(), judged(rewards, [0] * 6, lengths=lengths))

    def weighted_square(shift: float) -> float:
        return float((lengths * (left - shift).square()).sum())

    assert all(weighted_square(0.0) < weighted_square(shift) for shift in (-0.1, -1e-4, 1e-4, 0.1))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_marginal_gains_estimate_the_gradient_of_the_best_of_k(k: int) -> None:
    def best_of_k(probabilities: Tensor) -> Tensor:
        """E[max of k] = sum over rewards in order of reward times the chance that it is the highest."""
        order = SCORED.argsort()
        below = probabilities[order].cumsum(dim=0) ** k
        chance = below - torch.nn.functional.pad(below[:-1], (1, 0))
        return chance @ SCORED[order]

    found = expected_direction(PassAtK(form="marginal", k=k), SCORED, 4)
    torch.testing.assert_close(found, gradient(best_of_k))


def test_the_best_sample_alone_points_along_the_best_of_the_group_for_rewards_of_one_scale() -> None:
    """Without its scale, `best` is a marginal gain with k = n: divided by the deviation, whole groups are reweighed."""
    found, _ = directions(PassAtK(form="marginal", k=3), SCORED, 3)
    scaled, _ = directions(PassAtK(form="best"), SCORED, 3)
    size = scaled.norm(dim=1, keepdim=True) / found.norm(dim=1, keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(scaled, found * size, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_maximum_likelihood_estimates_the_truncated_series_of_the_log_likelihood(size: int) -> None:
    """sum_{k < n} grad pass@k / k, which goes to grad log p as the group grows."""

    def truncated(probabilities: Tensor) -> Tensor:
        wrong = 1 - probabilities @ BINARY
        return -torch.stack([wrong**k / k for k in range(1, size)]).sum()

    found = expected_direction(MaximumLikelihood(), BINARY, size)
    torch.testing.assert_close(found, gradient(truncated))
    whole = gradient(lambda probabilities: (probabilities @ BINARY).log())
    plain = expected_direction(LeaveOneOut(), BINARY, size)
    torch.testing.assert_close(plain, gradient(lambda probabilities: probabilities @ BINARY))
    assert (found - whole).norm() < (plain - whole).norm() or size == 2


def test_the_chance_of_a_group_counts_its_orders() -> None:
    """The enumeration itself: all chances add up to 1, and two right of four have the binomial's."""
    _, chances = directions(NoBaseline(), BINARY, 4)
    assert float(chances.sum()) == pytest.approx(1)
    p = float(LOGITS.softmax(dim=0)[0])
    right = torch.tensor([group.count(0) for group in product(range(3), repeat=4)])
    assert float(chances[right == 2].sum()) == pytest.approx(comb(4, 2) * p**2 * (1 - p) ** 2)
