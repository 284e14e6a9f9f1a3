"""Success rates as weights against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from plumbline_api.methods.advantage.difficulty import DifficultyWeighted, MaximumLikelihood
from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_trainer.advantages import advantages
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.rollout.judged import judged


@pytest.mark.parametrize("right", range(9))
def test_maximum_likelihood_over_all_success_counts(right: int) -> None:
    """(1 - p) / p for right samples, -1 for wrong ones; nothing where all are right or none is."""
    result = advantages(MaximumLikelihood(), judged([1] * right + [0] * (8 - right), [0] * 8)).tolist()
    if right in (0, 8):
        assert result == [0] * 8
    else:
        assert result[:right] == pytest.approx([(8 - right) / right] * right)
        assert result[right:] == pytest.approx([-1] * (8 - right))


def test_maximum_likelihood_refuses_negative_rewards() -> None:
    with pytest.raises(ConfigError, match="not negative, but a completion has -1"):
        advantages(MaximumLikelihood(), judged([1, -1], [0, 0]))
    advantages(MaximumLikelihood(), judged([1, -1], [0, 0], [True, False]))


@pytest.mark.parametrize("normalize", ["std", "none"])
@pytest.mark.parametrize("function", ["exponential", "linear"])
def test_without_strength_it_is_the_relative_reward(function: str, normalize: str) -> None:
    rollout = judged([1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1])
    parameters = DifficultyWeighted(function=function, strength=0, normalize=normalize)  # type: ignore[arg-type]
    expected = advantages(GroupRelative(normalize=normalize), rollout)  # type: ignore[arg-type]
    torch.testing.assert_close(advantages(parameters, rollout), expected)


def test_the_factors_by_hand() -> None:
    """One of four right: p = 1/4."""
    rollout = judged([1, 0, 0, 0], [0] * 4)
    plain = advantages(GroupRelative(), rollout)
    torch.testing.assert_close(advantages(DifficultyWeighted(strength=2), rollout), plain * math.exp(0.5))
    linear = DifficultyWeighted(strength=2, function="linear")
    torch.testing.assert_close(advantages(linear, rollout), plain * 1.5)


@pytest.mark.parametrize("function", ["exponential", "linear"])
def test_hard_prompts_weigh_more(function: str) -> None:
    """The factor falls as more samples are right, by what is right and not by what the reward is."""
    parameters = DifficultyWeighted(strength=1.5, function=function)  # type: ignore[arg-type]
    factors = []
    for right in range(1, 8):
        correct = torch.arange(8) < right
        rollout = judged(torch.rand(8, generator=torch.Generator().manual_seed(0)), [0] * 8, correct=correct)
        factor = advantages(parameters, rollout) / advantages(GroupRelative(), rollout)
        torch.testing.assert_close(factor, factor[0].expand(8))
        factors.append(factor[0].item())
    assert factors == sorted(factors, reverse=True)
    assert factors[3] == pytest.approx(1)
    assert min(factors) > 0
