"""Which groups get more samples and which give way to others."""

import math

import pytest
import torch

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.exploration.resampling import DifficultyAdaptive, DynamicSampling
from plumbline_trainer.advantages import advantages
from plumbline_trainer.exploration import RESAMPLINGS, plan_resampling
from plumbline_trainer.rollout.judged import judged


def rollout_of(right, samples=16, first=0):
    """Group g (counted from `first`) has right[g] correct ones of its samples."""
    rewards = [float(sample < count) for count in right for sample in range(samples)]
    return judged(rewards, [first + group for group in range(len(right)) for _ in range(samples)])


def totals(right, samples=16, **parameters):
    plan = plan_resampling(DifficultyAdaptive(**parameters), rollout_of(right, samples), 0)
    return [samples + plan.extra.get(group, 0) for group in range(len(right))]


def test_every_resampling_of_the_api_is_implemented():
    assert RESAMPLINGS.missing() == []


def test_without_parameters_nothing_more_is_sampled():
    assert not plan_resampling(None, rollout_of([0, 3]), 0)


@pytest.mark.parametrize("right", [1, 2, 5, 8, 13])
def test_the_summed_absolute_advantage_of_grpo(right):
    """2 n sqrt(u (1 - u)) with the population deviation; the sample deviation scales it by sqrt((n - 1) / n)."""
    found = advantages(GroupRelative(epsilon=1e-12), rollout_of([right])).abs().sum().item()
    rate = right / 16
    assert found == pytest.approx(2 * 16 * math.sqrt(rate * (1 - rate)) * math.sqrt(15 / 16), rel=1e-9)


def test_equal_treatment_makes_up_for_difficulty():
    found = totals([1, 2, 4, 8, 12], max_samples=4096)
    for total, right in zip(found[:3], [1, 2, 4], strict=True):
        rate = right / 16
        assert 16 <= 2 * total * math.sqrt(rate * (1 - rate)) < 16 + 2 * math.sqrt(rate * (1 - rate))
    assert found == [34, 25, 19, 16, 16]


def test_hardness_weighted_gives_more_the_harder_it_is():
    found = totals([1, 2, 4, 7, 8], max_samples=4096, schedule="hardnessWeighted")
    for total, right in zip(found[:4], [1, 2, 4, 7], strict=True):
        rate = right / 16
        size = math.sqrt(rate * (1 - rate))
        assert 2 * (1 - rate) * 16 <= 2 * total * size + 1e-9 < 2 * (1 - rate) * 16 + 2 * size
    assert found[:4] == sorted(found[:4], reverse=True) and found[4] == 16
    assert all(more >= less for more, less in zip(found, totals([1, 2, 4, 7, 8], max_samples=4096), strict=True))


def test_a_whole_number_of_samples_is_not_rounded_up():
    # u = 1/5: 10 / (2 * 0.4) = 12.5; hardness weighted: 10 * sqrt(4) = 20
    assert totals([2], 10, max_samples=99) == [13]
    assert totals([2], 10, max_samples=99, schedule="hardnessWeighted") == [20]


def test_unsolved_prompts_get_the_most_and_nobody_gets_more():
    assert totals([0, 1, 16], max_samples=20) == [20, 20, 16]
    assert totals([0, 1], max_samples=8) == [16, 16]


def test_more_samples_are_drawn_once():
    assert not plan_resampling(DifficultyAdaptive(), rollout_of([0, 1]), 1)


def test_what_could_not_be_judged_is_no_failure():
    valid = [True] * 2 + [False] * 2 + [False] * 4
    rollout = judged([1, 0, 0, 0, 0, 0, 0, 0], [0] * 4 + [1] * 4, valid)
    assert plan_resampling(DifficultyAdaptive(), rollout, 0).extra == {}


def test_groups_keep_their_ids_in_any_order():
    rollout = judged([0, 1, 0, 0, 0, 1], [9, 4, 9, 4, 9, 4])
    assert plan_resampling(DifficultyAdaptive(max_samples=7), rollout, 0).extra == {9: 4}


def test_groups_without_difference_are_replaced_until_the_attempts_are_used_up():
    rollout = rollout_of([0, 3, 16, 8], first=5)
    for attempt in range(2):
        assert plan_resampling(DynamicSampling(max_attempts=2), rollout, attempt).replaced == (5, 7)
    assert not plan_resampling(DynamicSampling(max_attempts=2), rollout, 2)
    assert not plan_resampling(DynamicSampling(), rollout_of([1, 15]), 0)


def test_a_difference_that_only_a_failed_verifier_makes_is_none():
    rollout = judged([0.3, 0.3, 0.0, 0.1, 0.1, 0.2], [0, 0, 0, 1, 1, 1], [True, True, False, True, True, True])
    assert plan_resampling(DynamicSampling(), rollout, 0).replaced == (0,)


def bandit_steps(plan_of, seed):
    """Policy gradient with GRPO's advantages on two-armed bandits of pass rates 0.03 and 0.5; samples drawn until the
    hard one is solved more often than not."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.tensor([math.log(0.03 / 0.97), 0.0], dtype=torch.float64)
    drawn = 0
    while logits[0] < 0:
        rates = logits.sigmoid()
        outcomes = [torch.rand(8, generator=generator, dtype=torch.float64) < rate for rate in rates]
        rollout = judged(torch.cat(outcomes).double(), [0] * 8 + [1] * 8)
        for group, extra in plan_of(rollout).items():
            more = torch.rand(extra, generator=generator, dtype=torch.float64) < rates[group]
            outcomes[group] = torch.cat([outcomes[group], more])
        drawn += sum(len(results) for results in outcomes)
        groups = [group for group, results in enumerate(outcomes) for _ in results]
        right = torch.cat(outcomes).double()
        estimated = advantages(GroupRelative(), judged(right, groups))
        for group in range(2):
            mine = torch.tensor(groups) == group
            logits[group] += 0.02 * (estimated * (right - rates[group]))[mine].sum()
    return drawn


def test_extra_samples_raise_the_hardest_prompt_sooner_at_equal_totals():
    parameters = DifficultyAdaptive(max_samples=32)
    even = [bandit_steps(lambda rollout: {}, seed) for seed in range(12)]
    adaptive = [bandit_steps(lambda rollout: plan_resampling(parameters, rollout, 0).extra, seed) for seed in range(12)]
    assert sum(adaptive) < 0.85 * sum(even)
