"""The bandit over categories: its arithmetic, and a learner whose frontier it follows."""

import math

import numpy as np
import pytest
import torch

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.curriculum.adaptive import SelfEvolving
from plumbline_trainer.advantages import advantages
from plumbline_trainer.curriculum import Prompts, open_curriculum
from plumbline_trainer.curriculum.bandit import MAX_CATEGORIES
from plumbline_trainer.failures import DataError
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.rollout.sampling import Stream, uniforms

LEVELS = ["easy", "hard", "medium"]


def bandit(columns, seed=0, **parameters):
    places = [f"train.jsonl:{row + 1}" for row in range(len(columns))]
    return open_curriculum(SelfEvolving(category_column="level", **parameters), Prompts(columns, places, seed))


def by_level(count=30):
    return [{"level": LEVELS[row % 3]} for row in range(count)]


def test_values_follow_the_mean_absolute_advantage_of_their_category():
    curriculum = bandit(by_level(), rate=0.25)
    rows = [0, 3, 1]  # easy, easy, hard
    rollout = judged([0.0] * 6, [0, 0, 1, 1, 2, 2], valid=[True, True, True, False, True, True])
    curriculum.observe(0, rows, rollout, torch.tensor([1.0, -2.0, 3.0, 99.0, -0.5, 0.5]))
    assert curriculum.values == pytest.approx([0.25 * 2.0, 0.25 * 0.5, 0.0])
    curriculum.observe(1, [0], judged([0.0] * 2, [0, 0]), torch.tensor([0.0, 0.0]))
    assert curriculum.values == pytest.approx([0.75 * 0.5, 0.125, 0.0])


def test_advantages_of_tokens_count_by_their_mean_over_the_completion():
    curriculum = bandit(by_level(), rate=1)
    rollout = judged([0.0, 0.0], [0, 0], lengths=[3, 1])
    curriculum.observe(0, [0], rollout, torch.tensor([[3.0, -1.0, 2.0], [4.0, math.nan, math.nan]]))
    assert curriculum.values[0] == pytest.approx((2.0 + 4.0) / 2)


def test_chances_are_a_softmax():
    curriculum = bandit(by_level(), temperature=0.5)
    curriculum.values = np.array([1.0, 0.0, 0.5])
    weights = [math.exp(2), 1, math.exp(1)]
    assert curriculum.probabilities == pytest.approx([weight / sum(weights) for weight in weights])


def test_slots_draw_categories_by_their_chances():
    curriculum = bandit(by_level(300), temperature=0.5)
    curriculum.values = np.array([1.0, 0.0, 0.5])
    counts = np.zeros(3)
    for number in range(200):
        rows = curriculum.choose(number, 20)
        assert len(set(rows)) == 20
        for row in rows:
            counts[LEVELS.index(LEVELS[row % 3])] += 1
    expected = curriculum.probabilities * 4000
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square with 2 degrees of freedom, p = 0.001


def test_a_small_category_repeats_its_rows_only_when_it_must():
    curriculum = bandit([{"level": "rare"}, *[{"level": "common"}] * 20], temperature=0.01)
    curriculum.values = np.array([0.0, 1.0])
    assert curriculum.choose(0, 4) == [0] * 4


def test_the_order_of_a_rollouts_completions_does_not_matter():
    one, other = bandit(by_level()), bandit(by_level())
    groups, sizes = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, -1.0, 0.5, -0.25, 2.0, 0.0])
    shuffled = torch.tensor([4, 1, 5, 0, 3, 2])
    one.observe(0, [0, 1, 4], judged([0.0] * 6, groups), sizes)
    other.observe(0, [0, 1, 4], judged([0.0] * 6, groups[shuffled]), sizes[shuffled])
    assert one.values == pytest.approx(other.values, abs=1e-15)


def test_the_mass_follows_a_moving_frontier_and_leaves_what_is_mastered_or_hopeless():
    """A learner with one skill: the pass rate of level l is logistic in skill - difficulty, and the skill grows with
    what its rollouts can teach. Categories are the levels, advantages those of GRPO."""
    difficulties = {"1": 0.0, "2": 6.0, "3": 12.0, "9": 60.0}
    columns = [{"level": list(difficulties)[row % 4]} for row in range(400)]
    curriculum = bandit(columns, seed=5, rate=0.5, temperature=0.2)
    skill, history = 0.0, []
    for number in range(260):
        history.append(curriculum.probabilities)
        rows = curriculum.choose(number, 16)
        rates = [1 / (1 + math.exp(difficulties[columns[row]["level"]] - skill)) for row in rows]
        streams = [Stream(1, "learner", number, slot, 0) for slot in range(16)]
        rewards = (uniforms(streams, np.tile(np.arange(8), (16, 1))) < np.array(rates)[:, None]).astype(float)
        rollout = judged(rewards.flatten().tolist(), np.repeat(np.arange(16), 8).tolist())
        estimated = advantages(GroupRelative(), rollout)
        skill += 0.02 * float((estimated != 0).double().sum()) / 8
        curriculum.observe(number, rows, rollout, estimated)
    mass = np.array(history)
    busiest = [int(mass[:, level].argmax()) for level in range(3)]
    assert busiest == sorted(busiest) and busiest[0] < busiest[1] < busiest[2]
    for level in range(3):
        assert mass[:, level].max() > 0.5
    assert mass[busiest[2], 0] < 0.1  # mastered
    # hopeless: never above its even share, and least where there is something to learn
    assert mass[:, 3].max() <= 0.25 + 1e-12 and mass[busiest, 3].max() < 0.05
    assert skill > 12


def test_a_row_without_a_category_is_named():
    with pytest.raises(DataError, match=r"train.jsonl:2: level must be text or a number"):
        bandit([{"level": "easy"}, {"kind": "x"}])
    with pytest.raises(DataError, match=r"train.jsonl:1: level must be text or a number"):
        bandit([{"level": ["easy"]}])


def test_a_column_of_identifiers_is_refused():
    with pytest.raises(DataError, match=f"has {MAX_CATEGORIES + 1} different values"):
        bandit([{"level": row} for row in range(MAX_CATEGORIES + 1)])


def test_values_and_chances_are_metrics():
    curriculum = bandit(by_level())
    curriculum.values = np.array([1.0, 0.0, 0.5])
    metrics = {name: metric.value for name, metric in curriculum.metrics().items()}
    assert metrics["curriculum/value/medium"] == 0.5
    assert sum(metrics[f"curriculum/chance/{level}"] for level in LEVELS) == pytest.approx(1)
