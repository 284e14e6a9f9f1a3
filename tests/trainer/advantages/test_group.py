"""Advantage estimators against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.advantage.group import GroupRelative, LeaveOneOut, NoBaseline
from plumbline_trainer.advantages import ESTIMATORS, advantages
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
