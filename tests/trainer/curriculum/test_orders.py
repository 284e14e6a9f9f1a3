"""Orders of rows: the data's own, one without end, replacements; what every curriculum keeps to."""

import json
from collections import Counter

import pytest
import torch

from plumbline_api.methods.curriculum.adaptive import SelfEvolving
from plumbline_api.methods.curriculum.probed import HardestShare, PassRateBand, PassRateOrder, RewardDeviation
from plumbline_trainer.curriculum import CURRICULA, Probe, Prompts, open_curriculum
from plumbline_trainer.curriculum.orders import endless, replacements
from plumbline_trainer.data.order import DataOrder
from plumbline_trainer.rollout.judged import judged

ROWS = 40
EVERY = [
    None,
    PassRateBand(),
    HardestShare(fraction=0.5),
    RewardDeviation(),
    PassRateOrder(),
    SelfEvolving(category_column="level"),
]


def prompts(shuffle=True, seed=3):
    columns = [{"level": row % 4} for row in range(ROWS)]
    return Prompts(columns, [f"train.jsonl:{row + 1}" for row in range(ROWS)], seed, shuffle)


def probe():
    """Row r is solved in r of ROWS - 1 samples."""
    found = Probe.empty(ROWS)
    samples = ROWS - 1
    rewards = [float(sample < row) for row in range(ROWS) for sample in range(samples)]
    found.add(judged(rewards, [row for row in range(ROWS) for _ in range(samples)]))
    return found


def opened(parameters, **more):
    curriculum = open_curriculum(parameters, prompts(**more))
    if curriculum.probe_samples:
        curriculum.probed(probe())
    return curriculum


def teach(curriculum, number):
    """A rollout whose advantages depend on the category."""
    rows = curriculum.choose(number, 8)
    groups = [slot for slot in range(8) for _ in range(2)]
    advantages = torch.tensor([(-1.0) ** place * (rows[slot] % 4) / (number + 1) for place, slot in enumerate(groups)])
    curriculum.observe(number, rows, judged([0.0] * 16, groups), advantages)


def test_every_curriculum_of_the_api_is_implemented():
    assert CURRICULA.missing() == []


@pytest.mark.parametrize("shuffle", [True, False])
def test_without_a_curriculum_rollouts_follow_the_data(shuffle):
    order = DataOrder(ROWS, 12, 3, shuffle)
    curriculum = opened(None, shuffle=shuffle)
    assert [curriculum.choose(number, 12) for number in range(9)] == [order.rows_of(number) for number in range(9)]


@pytest.mark.parametrize("parameters", EVERY)
def test_a_choice_depends_on_seed_and_state_alone(parameters):
    one, other = opened(parameters), opened(parameters)
    forward = [one.choose(number, 8) for number in range(6)]
    assert [other.choose(number, 8) for number in reversed(range(6))] == forward[::-1]
    assert len({tuple(rows) for rows in forward}) > 1
    if not isinstance(parameters, PassRateOrder):
        assert opened(parameters, seed=4).choose(0, 8) != forward[0]


@pytest.mark.parametrize("parameters", EVERY)
def test_a_resumed_curriculum_goes_on_as_if_nothing_had_been(parameters):
    whole = opened(parameters)
    for number in range(3):
        teach(whole, number)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = open_curriculum(parameters, prompts())
    resumed.load_state_dict(state)
    assert resumed.probe_samples == 0
    for number in range(3, 8):
        assert resumed.choose(number, 8) == whole.choose(number, 8)
        teach(whole, number)
        teach(resumed, number)
    assert resumed.state_dict() == whole.state_dict()
    assert state == json.loads(json.dumps(state))


@pytest.mark.parametrize("parameters", EVERY)
def test_replacements_are_new_rows_of_the_same_curriculum(parameters):
    curriculum = opened(parameters)
    first = curriculum.choose(2, 8)
    second = curriculum.choose(2, 5, attempt=1, exclude=first)
    third = curriculum.choose(2, 5, attempt=2, exclude=[*first, *second])
    assert len(second) == len(set(second)) == 5
    assert not set(first) & set(second) and not set(third) & {*first, *second}
    assert curriculum.choose(2, 5, attempt=1, exclude=first) == second
    usable = set().union(*(curriculum.choose(number, 8) for number in range(40)))
    assert set(second) <= usable


@pytest.mark.parametrize("parameters", EVERY)
def test_replacements_run_out_without_repeating(parameters):
    curriculum = opened(parameters)
    assert curriculum.choose(0, 4, attempt=1, exclude=range(ROWS)) == []


def test_an_endless_order_takes_every_row_equally_often_in_new_orders():
    rows = [2, 3, 5, 7, 11, 13, 17]
    taken = [row for number in range(7) for row in endless(rows, number * 3, 3, seed=1, shuffle=True)]
    assert Counter(taken) == dict.fromkeys(rows, 3)
    epochs = [taken[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == rows for epoch in epochs) and epochs[0] != epochs[1]
    assert endless(rows, 5, 4, seed=1, shuffle=False) == [13, 17, 2, 3]


def test_a_rollout_larger_than_the_rows_repeats_them():
    assert Counter(endless([4, 9], 0, 7, seed=0, shuffle=True)) in ({4: 4, 9: 3}, {4: 3, 9: 4})


def test_replacements_differ_by_attempt_and_leave_out_what_they_must():
    rows = list(range(100, 130))
    assert replacements(rows, 5, (0, 1, 1)) != replacements(rows, 5, (0, 1, 2))
    assert set(replacements(rows, 99, (0, 1, 1), exclude=range(100, 120))) == set(range(120, 130))
