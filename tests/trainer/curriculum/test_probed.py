"""Curricula from a probe: what stays, in which order, and what is said where nothing does."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.curriculum.probed import HardestShare, PassRateBand, PassRateOrder, RewardDeviation
from plumbline_trainer.curriculum import Probe, Prompts, open_curriculum
from plumbline_trainer.failures import DataError
from plumbline_trainer.rollout.judged import judged


def prompts(count, seed=0):
    return Prompts([{}] * count, [f"train.jsonl:{row + 1}" for row in range(count)], seed)


def probe_of(rates, samples=10):
    """A probe in which row r was right in rates[r] of its samples."""
    rewards = [float(sample < rate * samples - 1e-9) for rate in rates for sample in range(samples)]
    found = Probe.empty(len(rates))
    found.add(judged(rewards, [row for row in range(len(rates)) for _ in range(samples)]))
    return found


def kept(parameters, rates, seed=0):
    """The rows that the curriculum ever chooses."""
    curriculum = open_curriculum(parameters, prompts(len(rates), seed))
    curriculum.probed(probe_of(rates))
    return sorted(set().union(*(curriculum.choose(number, 5) for number in range(len(rates)))))


def test_a_band_keeps_its_borders_and_drops_both_ends_of_a_u():
    rates = [0, 0, 0, 0, 0.1, 0.3, 0.5, 0.9, 1, 1, 1, 1]
    assert kept(PassRateBand(minimum=0.1, maximum=0.9), rates) == [4, 5, 6, 7]
    assert kept(PassRateBand(minimum=0, maximum=0.3), rates) == [0, 1, 2, 3, 4, 5]


def test_the_hardest_share_is_the_lowest_decile():
    rates = [0.9, 0.2, 0.4, 0.1, 0.6, 0.7, 0.3, 0.8, 0.5, 1.0] * 3
    assert kept(HardestShare(fraction=0.1), rates) == [3, 13, 23]
    assert kept(HardestShare(fraction=0.1), rates[:11]) == [1, 3]


def test_unsolved_prompts_can_be_dropped_before_the_share_is_taken():
    rates = [0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert kept(HardestShare(fraction=0.25), rates)[:2] == [0, 1]
    assert kept(HardestShare(fraction=0.25, unsolved="drop"), rates) == [2, 3]


def test_of_equally_hard_prompts_the_seed_decides():
    chosen = {tuple(kept(HardestShare(fraction=0.25), [0.5] * 8, seed)) for seed in range(12)}
    assert len(chosen) > 6 and all(len(rows) == 2 for rows in chosen)


def test_reward_deviation_keeps_what_differs():
    # sample standard deviation of one success in ten: sqrt(0.1)
    assert kept(RewardDeviation(minimum=0.316), [0, 0.1, 0.5, 1]) == [1, 2]
    assert kept(RewardDeviation(minimum=0.317), [0, 0.1, 0.5, 1]) == [2]


@pytest.mark.parametrize(("first", "expected"), [("easiest", [3, 1, 2, 0]), ("hardest", [0, 2, 1, 3])])
def test_an_order_by_pass_rate_repeats_in_every_epoch(first, expected):
    curriculum = open_curriculum(PassRateOrder(first=first), prompts(4))
    curriculum.probed(probe_of([0.0, 0.5, 0.2, 0.9]))
    assert curriculum.choose(0, 4) == curriculum.choose(1, 4) == expected
    assert curriculum.choose(1, 3) == [expected[3], *expected[:2]]


def test_nothing_left_is_refused_with_counts():
    curriculum = open_curriculum(PassRateBand(probe_samples=10), prompts(4))
    with pytest.raises(DataError, match="of 4 prompts the model solved 3 never and 1 always in 10 samples"):
        curriculum.probed(probe_of([0, 0, 1, 0]))
    assert curriculum.probe_samples == 10


def test_choosing_before_the_probe_is_an_error():
    with pytest.raises(RuntimeError, match="not been probed"):
        open_curriculum(PassRateBand(), prompts(4)).choose(0, 2)


def test_shares_are_metrics():
    curriculum = open_curriculum(PassRateBand(), prompts(8))
    assert curriculum.metrics() == {}
    curriculum.probed(probe_of([0, 0, 0, 1, 0.5, 0.5, 0.2, 1]))
    values = {name: metric.value for name, metric in curriculum.metrics().items()}
    assert values == {"curriculum/kept": 0.375, "curriculum/unsolved": 0.375, "curriculum/mastered": 0.25}


def test_a_prompt_that_could_not_be_judged_has_no_pass_rate_and_stays_out():
    found = Probe.empty(3)
    found.add(judged([0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2], valid=[True, True, False, False, True, False]))
    assert found.pass_rates[0] == 0.5 and found.pass_rates[1].isnan() and found.pass_rates[2] == 1
    assert found.deviations[2].isnan()
    for parameters in (PassRateBand(minimum=0, maximum=1), HardestShare(fraction=1), PassRateOrder()):
        curriculum = open_curriculum(parameters, prompts(3))
        curriculum.probed(found)
        assert 1 not in curriculum.choose(0, 12)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(-50, 50)), min_size=2, max_size=40),
    st.integers(1, 39),
)
def test_a_probe_in_parts_is_the_probe_of_all(samples, cut):
    groups, rewards = [group for group, _ in samples], [reward for _, reward in samples]
    parts = Probe.empty(4)
    for some in (slice(None, cut), slice(cut, None)):
        if groups[some]:
            parts.add(judged(rewards[some], groups[some]))
    for row in range(4):
        mine = torch.tensor([reward for group, reward in samples if group == row], dtype=torch.float64)
        assert int(parts.judged[row]) == len(mine)
        if len(mine) > 1:
            torch.testing.assert_close(parts.rewards[row], mine.mean(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(parts.deviations[row], mine.std(), rtol=1e-6, atol=1e-6)


def test_a_probe_comes_back_exactly():
    found = Probe.empty(5)
    found.add(judged([0.1, 0.7, 1 / 3, 2.5, 1e-17], [0, 0, 1, 4, 4]))
    again = Probe.from_state(json.loads(json.dumps(found.state_dict())))
    for name in ("judged", "correct", "rewards", "squares"):
        assert torch.equal(getattr(again, name), getattr(found, name))
