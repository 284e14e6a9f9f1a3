"""GAE, frozen values and Monte-Carlo values against sums written out."""

from __future__ import annotations

import math

import pytest
import torch

from plumbline_api.methods.advantage.values import FrozenValue, GeneralizedAdvantage, MonteCarloValue
from plumbline_trainer.advantages import advantages, value_targets
from plumbline_trainer.rollout.judged import JudgedRollout, judged
from tests.trainer.advantages.rollouts import full_rollout


def gae(gamma: float = 1.0, lambda_: float = 1.0, normalize: str = "none") -> GeneralizedAdvantage:
    return GeneralizedAdvantage(gamma=gamma, lambda_=lambda_, normalize=normalize)  # type: ignore[arg-type]


def random_rollout(seed: int = 0, *, token_rewards: bool = True) -> JudgedRollout:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(9, dtype=torch.float64, generator=generator)
    penalties = torch.randn(9, 5, dtype=torch.float64, generator=generator) if token_rewards else None
    return full_rollout(rewards, torch.arange(9) // 3, seed, token_rewards=penalties)


def differences_of(rollout: JudgedRollout, row: int, gamma: float) -> list[float]:
    """delta_t of one completion, by a loop."""
    assert rollout.values is not None
    length = int(rollout.lengths[row])
    values = [*rollout.values[row, :length].tolist(), 0.0]
    rewards = [0.0] * length if rollout.token_rewards is None else rollout.token_rewards[row, :length].tolist()
    rewards[-1] += float(rollout.rewards[row])
    return [rewards[t] + gamma * values[t + 1] - values[t] for t in range(length)]


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.99, 0.0)])
def test_gae_is_the_sum_over_all_later_differences(gamma: float, lambda_: float) -> None:
    rollout = random_rollout()
    found = advantages(gae(gamma, lambda_), rollout)
    for row in range(9):
        differences = differences_of(rollout, row, gamma)
        for t in range(len(differences)):
            expected = sum((gamma * lambda_) ** later * delta for later, delta in enumerate(differences[t:]))
            assert found[row, t].item() == pytest.approx(expected, abs=1e-12)


def test_gae_by_hand() -> None:
    """Values 0.5, 0.6, 0.8 and reward 1, lambda 1/2: differences 0.1, 0.2, 0.2."""
    rollout = judged([1], [0], lengths=[3], values=torch.tensor([[0.5, 0.6, 0.8]], dtype=torch.float64))
    assert advantages(gae(lambda_=0.5), rollout)[0].tolist() == pytest.approx([0.25, 0.3, 0.2])


def test_with_lambda_1_it_is_the_return_minus_the_value() -> None:
    """Gamma = lambda = 1 is the recipe of Open-Reasoner-Zero: R - V(s_t)."""
    rollout = random_rollout(1, token_rewards=False)
    assert rollout.values is not None
    found = advantages(gae(), rollout)
    expected = rollout.rewards[:, None] - rollout.values
    torch.testing.assert_close(found[rollout.mask], expected[rollout.mask])


def test_with_lambda_0_it_is_the_temporal_difference() -> None:
    rollout = random_rollout(2)
    found = advantages(gae(0.9, 0.0), rollout)
    for row in range(9):
        expected = differences_of(rollout, row, 0.9)
        assert found[row, : len(expected)].tolist() == pytest.approx(expected)


def test_normalised_over_all_tokens() -> None:
    rollout = random_rollout(3)
    plain, scaled = advantages(gae(), rollout)[rollout.mask], advantages(gae(normalize="batch"), rollout)[rollout.mask]
    torch.testing.assert_close(scaled, (plain - plain.mean()) / plain.std(correction=0))


def test_targets_with_lambda_1_are_returns_whatever_the_critic_says() -> None:
    rollout = random_rollout(4, token_rewards=False)
    found = value_targets(gae(lambda_=0.3), 1.0, rollout)
    torch.testing.assert_close(found, torch.where(rollout.mask, rollout.rewards[:, None], 0.0))


def test_targets_are_values_plus_advantages_of_the_targets_own_lambda() -> None:
    rollout = random_rollout(5)
    assert rollout.values is not None
    found = value_targets(gae(0.9, 0.2), 0.7, rollout)
    expected = advantages(gae(0.9, 0.7), rollout) + rollout.values
    torch.testing.assert_close(found[rollout.mask], expected[rollout.mask])


def test_true_values_have_no_advantage_in_the_mean() -> None:
    """A chain of two choices: first 0 or 1, then 0 or 1, reward the second if the first was 1. Under the policy's own
    chances the advantages of both tokens average to 0, and they say how much a choice was worth."""
    first, second = 0.3, 0.8
    values = {(): first * second, (0,): 0.0, (1,): second}
    paths = [(a, b) for a in (0, 1) for b in (0, 1)]
    chance = torch.tensor(
        [(first if a else 1 - first) * (second if b else 1 - second) for a, b in paths], dtype=torch.float64
    )
    rollout = judged(
        [float(a and b) for a, b in paths],
        [0] * 4,
        lengths=[2] * 4,
        values=torch.tensor([[values[()], values[(a,)]] for a, _ in paths], dtype=torch.float64),
    )
    found = advantages(gae(lambda_=0.0), rollout)
    assert found[3, 0].item() == pytest.approx(second - first * second)
    assert (chance[:, None] * found).sum(dim=0).tolist() == pytest.approx([0, 0], abs=1e-12)


def test_frozen_values_are_those_after_the_token_and_the_reward_at_the_end() -> None:
    values = torch.tensor([[0.5, 0.6, 0.8], [0.4, 0.1, math.nan]], dtype=torch.float64)
    rollout = judged([1, 0], [0, 1], lengths=[3, 2], values=values)
    quality = torch.tensor([0.6, 0.8, 1.0, 0.1, 0.0], dtype=torch.float64)
    found = advantages(FrozenValue(), rollout)[rollout.mask]
    torch.testing.assert_close(found, (quality - quality.mean()) / quality.std(correction=0))
    gains = torch.tensor([0.1, 0.2, 0.2, -0.3, -0.1], dtype=torch.float64)
    found = advantages(FrozenValue(baseline="value"), rollout)[rollout.mask]
    torch.testing.assert_close(found, (gains - gains.mean()) / gains.std(correction=0))


def test_a_policy_reaches_the_optimum_by_frozen_values_alone() -> None:
    """Two choices of three, reward 1 for (2, 1), 0.6 for (0, 0), else 0. The frozen model knows the true values under
    the first, uniform policy, and a wrong one would lead astray: 0.6 is reached from as many states as 1 is."""
    rewards = torch.zeros(3, 3, dtype=torch.float64)
    rewards[2, 1], rewards[0, 0] = 1.0, 0.6
    after_first = rewards.mean(dim=1)
    first, second = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        one = torch.multinomial(first.softmax(0), 64, replacement=True, generator=generator)
        two = torch.multinomial(second.softmax(1)[one], 1, generator=generator).squeeze(1)
        values = torch.stack([after_first.mean().expand(64), after_first[one]], dim=1)
        rollout = judged(rewards[one, two], [0] * 64, lengths=[2] * 64, values=values)
        found = advantages(FrozenValue(), rollout)
        scores = torch.nn.functional.one_hot(one, 3) - first.softmax(0)
        of_second = torch.nn.functional.one_hot(two, 3) - second.softmax(1)[one]
        first += 0.3 * (found[:, :1] * scores).mean(dim=0)
        second.index_add_(0, one, 0.3 * found[:, 1:] * of_second / 64)
    assert (first.softmax(0)[2] * second.softmax(1)[2, 1]).item() > 0.9


def test_monte_carlo_values_give_each_step_its_own_credit() -> None:
    """Steps of two, one and two tokens: values 0.5, 0.25, 1.0 at their starts, reward 1."""
    nan = math.nan
    prefix_values = torch.tensor([[0.5, nan, 0.25, 1.0, nan], [0.75, nan, nan, nan, nan]], dtype=torch.float64)
    rollout = judged([1, 0], [0, 0], lengths=[5, 2], prefix_values=prefix_values)
    assert advantages(MonteCarloValue(), rollout).tolist() == [
        [-0.25, -0.25, 0.75, 0.0, 0.0],
        [-0.75, -0.75, 0.0, 0.0, 0.0],
    ]


def test_credits_of_steps_add_up_to_the_reward_minus_the_prompts_value() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 12, (20,), generator=generator)
    values = torch.rand(20, 12, dtype=torch.float64, generator=generator)
    boundary = torch.rand(20, 12, generator=generator) < 0.4
    boundary[:, 0] = True
    rewards = torch.rand(20, dtype=torch.float64, generator=generator)
    rollout = judged(
        rewards,
        [0] * 20,
        lengths=lengths,
        prefix_values=torch.where(boundary, values, torch.nan)[:, : int(lengths.max())],
    )
    found = advantages(MonteCarloValue(), rollout)
    starts = boundary[:, : found.shape[1]] & rollout.mask
    torch.testing.assert_close((found * starts).sum(dim=1), rewards - values[:, 0])
    inside = rollout.mask[:, 1:] & ~starts[:, 1:]
    assert bool((found[:, 1:][inside] == found[:, :-1][inside]).all())


def test_a_completion_whose_prompt_could_not_be_judged_has_no_advantage() -> None:
    values = torch.tensor([[math.nan, 0.5], [0.5, math.nan]], dtype=torch.float64)
    rollout = judged([1, 1], [0, 1], lengths=[2, 2], prefix_values=values)
    assert advantages(MonteCarloValue(), rollout).tolist() == [[0, 0], [0.5, 0.5]]
