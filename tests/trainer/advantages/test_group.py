"""Advantage estimators against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.advantage.group import (
    GreedyBaseline,
    GroupRelative,
    LeaveOneOut,
    LengthWeightedBaseline,
    NoBaseline,
    QuantileBaseline,
)
from plumbline_trainer.advantages import ESTIMATORS, advantages
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import judged


def estimate(parameters, rewards, groups, valid=None):
    return advantages(parameters, judged(rewards, groups, valid)).tolist()


def test_every_estimator_of_the_api_is_implemented():
    assert ESTIMATORS.missing() == []
    assert {member.member_key for member in Advantage.members()} >= {"groupRelative", "leaveOneOut", "none"}


def test_group_relative_divides_by_the_sample_standard_deviation():
    result = estimate(GroupRelative(epsilon=1e-4), [1, 0, 0, 0, 5, 7], [3, 3, 3, 3, 1, 1])
    deviation = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    expected = [0.75 / (deviation + 1e-4), *[-0.25 / (deviation + 1e-4)] * 3]
    assert result[:4] == pytest.approx(expected, rel=1e-12)
    assert result[4:] == pytest.approx([-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4)], rel=1e-12)


def test_group_relative_without_scale_only_centres():
    assert estimate(GroupRelative(normalize="none"), [1, 0, 0, 1, 10], [0, 0, 0, 0, 1]) == [0.5, -0.5, -0.5, 0.5, 0]


def test_leave_one_out_subtracts_the_mean_of_the_others():
    assert estimate(LeaveOneOut(), [3, 0, 1, 9], [0, 0, 0, 1]) == [3 - 0.5, 0 - 2, 1 - 1.5, 0]


def test_without_baseline_the_reward_is_the_advantage():
    assert estimate(NoBaseline(), [3, -1], [0, 0], [True, False]) == [3, 0]


@pytest.mark.parametrize("parameters", [GroupRelative(), GroupRelative(normalize="none"), LeaveOneOut()])
def test_a_group_without_difference_has_exactly_no_signal(parameters):
    # the mean of seven times 0.1 is not 0.1 in binary; that must not become an advantage
    assert estimate(parameters, [0.1] * 7 + [1, 0], [0] * 7 + [1, 1])[:7] == [0.0] * 7


@pytest.mark.parametrize("parameters", [GroupRelative(), GroupRelative(normalize="none"), LeaveOneOut()])
def test_completions_without_reward_leave_loss_and_baseline_alone(parameters):
    masked = estimate(parameters, [1, 0, 777, 0, 5, 888], [0, 0, 0, 0, 1, 1], [True, True, False, True, True, False])
    without = estimate(parameters, [1, 0, 0], [0, 0, 0])
    assert masked == [without[0], without[1], 0, without[2], 0, 0]


@given(
    rewards=st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=2, max_size=24),
    seed=st.integers(0, 1000),
)
def test_leave_one_out_is_the_scaled_centred_reward_for_any_grouping(rewards, seed):
    groups = torch.randint(0, 4, (len(rewards),), generator=torch.Generator().manual_seed(seed)).tolist()
    centred = estimate(GroupRelative(normalize="none"), rewards, groups)
    left_out = estimate(LeaveOneOut(), rewards, groups)
    for index, group in enumerate(groups):
        size = groups.count(group)
        assert left_out[index] == pytest.approx(centred[index] * size / max(size - 1, 1), abs=1e-9)
        members = [centred[other] for other in range(len(groups)) if groups[other] == group]
        assert sum(members) == pytest.approx(0, abs=1e-9)


def test_the_scale_may_be_that_of_all_rewards_of_the_rollout():
    rewards = [1.0, 0.0, 5.0, 7.0, 3.0, 3.0]
    result = estimate(GroupRelative(normalize="batchStd", epsilon=1e-4), rewards, [0, 0, 1, 1, 2, 2])
    scale = torch.tensor(rewards).double().std().item() + 1e-4
    assert result == pytest.approx([0.5 / scale, -0.5 / scale, -1 / scale, 1 / scale, 0, 0], rel=1e-12)


def test_the_length_weighted_baseline_by_hand():
    """Lengths 1, 2 and 5 and rewards 1, 0 and 3: the baseline is (1 + 0 + 15) / 8 = 2."""
    rollout = judged([1, 0, 3, 100], [0, 0, 0, 0], [True, True, True, False], lengths=[1, 2, 5, 9])
    assert advantages(LengthWeightedBaseline(), rollout).tolist() == [-1, -2, 1, 0]


def test_with_equal_lengths_the_length_weighted_baseline_is_the_mean():
    rollout = judged([1, 0, 0, 5, 2], [0, 0, 0, 1, 1], lengths=[4] * 5)
    expected = advantages(GroupRelative(normalize="none"), rollout)
    torch.testing.assert_close(advantages(LengthWeightedBaseline(), rollout), expected)


@pytest.mark.parametrize("size", [5, 8, 30])
@pytest.mark.parametrize("quantile", [0.1, 0.4, 0.5, 0.8])
def test_the_quantile_gate_over_all_success_counts(size, quantile):
    """Hard prompts (p <= 1 - K) reinforce successes alone, easy ones punish failures alone."""
    for right in range(size + 1):
        result = estimate(QuantileBaseline(quantile=quantile), [1] * right + [0] * (size - right), [0] * size)
        successes, failures = result[:right], result[right:]
        if right in (0, size):
            assert result == [0] * size
        elif right <= round(size * (1 - quantile), 9):
            assert min(successes) > 0 and failures == [0] * len(failures)
        else:
            assert successes == [0] * right and max(failures) < 0


def test_the_quantile_is_an_order_statistic_of_the_valid_rewards():
    """K = 0.4 of five rewards is the second lowest; the sixth has no reward."""
    rewards, valid = [5.0, 1.0, 4.0, 2.0, 3.0, -9.0], [True] * 5 + [False]
    result = estimate(QuantileBaseline(normalize="none"), rewards, [7] * 6, valid)
    assert result == [3, -1, 2, 0, 1, 0]
    scale = torch.tensor(rewards[:5]).double().std().item() + 1e-4
    scaled = estimate(QuantileBaseline(), rewards, [7] * 6, valid)
    assert scaled == pytest.approx([value / scale for value in result], rel=1e-12)


def test_remax_subtracts_the_reward_of_the_greedy_completion():
    greedy = torch.tensor([0.5, 0.5, math.nan], dtype=torch.float64)
    rollout = judged([1, 0, 1], [0, 0, 1], greedy_rewards=greedy)
    assert advantages(GreedyBaseline(), rollout).tolist() == [0.5, -0.5, 0]
    with pytest.raises(ValueError, match="greedy"):
        advantages(GreedyBaseline(), judged([1], [0]))


def test_tables_of_groups_hold_valid_members_and_give_them_back():
    groups = Groups(torch.tensor([9, 4, 9, 4, 9]), torch.tensor([True, True, False, True, True]))
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    table = groups.table(values, -1.0)
    assert table.tolist() == [[2.0, 4.0, -1.0], [1.0, -1.0, 5.0]]
    assert groups.of_table(table).tolist() == [1.0, 2.0, -1.0, 4.0, 5.0]
    assert groups.of_table(table.sum(dim=1, keepdim=True)).tolist() == [5.0, 5.0, 5.0, 5.0, 5.0]
    assert groups.nth_lowest(values, torch.tensor([1, 0, 0, 1, 0])).tolist() == [5.0, 2.0, 1.0, 4.0, 1.0]
