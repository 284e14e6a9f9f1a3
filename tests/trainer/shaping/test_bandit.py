"""Rewards of bandit players, and the policies they are compared with."""

import math
import random
import statistics

import pytest

from plumbline_api.methods.shaping.bandit import BanditRegret, OracleImitation
from plumbline_trainer.failures import DataError
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import apply_shaping
from plumbline_trainer.shaping.bandit import chosen_arm, greedy_arm, suffix_failure, ucb_arm

ROW = {"arms": 3, "means": [0.2, 0.9, 0.5], "history": [[0, 1.0], [1, 0.0], [2, 1.0], [2, 0.0]]}


def play(parameters, texts, row=ROW, **more):
    rollout = judged([0.0] * len(texts), [0] * len(texts), texts=texts, columns=[row] * len(texts), **more)
    return apply_shaping([parameters], rollout, {})


def test_regret_is_the_distance_to_the_best_arm():
    after, _, metrics = play(BanditRegret(), ["I take arm 1", "arm 0", "2", "none"])
    assert after.rewards.tolist() == pytest.approx([0, -0.7, -0.4, -1])
    name = "shaping/banditRegret/"
    assert metrics[name + "best_arm"].value == 0.25
    assert metrics[name + "invalid"].value == 0.25
    assert metrics[name + "greedy"].value == 0.25, "arm 0 looks best so far"
    assert metrics[name + "suffix_failure"].value == 0.75


def test_the_last_number_names_the_arm():
    assert chosen_arm("not 0 but 2", r"\d+", 3) == 2
    assert chosen_arm("<arm>1</arm> 7", r"<arm>(\d+)</arm>", 3) == 1
    assert chosen_arm("7", r"\d+", 3) is None
    assert chosen_arm("", r"\d+", 3) is None


def test_imitation_agrees_with_the_oracle():
    pulls = [(0, 1.0), (1, 0.0), (2, 1.0), (2, 0.0)]
    assert greedy_arm(3, pulls) == 0
    # c = 2: 1 + 2 sqrt(2 ln 4), 0 + 2 sqrt(2 ln 4), 0.5 + 2 sqrt(ln 4)
    assert ucb_arm(3, pulls, 2.0) == 0
    assert ucb_arm(3, [(0, 1.0), *[(0, 0.0)] * 3, (1, 0.0), (2, 0.0)], 2.0) == 1
    assert greedy_arm(3, [(0, 1.0), *[(0, 0.0)] * 3, (1, 0.0), (2, 0.0)]) == 0
    assert ucb_arm(3, [(0, 1.0), (2, 1.0)], 1.0) == 1, "an arm that was never pulled comes first"
    after, _, metrics = play(OracleImitation(oracle="greedy"), ["0", "1", "nothing"])
    assert after.rewards.tolist() == [1, 0, -1]
    assert metrics["shaping/oracleImitation/agreement"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("parameters", "row", "column"),
    [
        (BanditRegret(), {"means": "high"}, "means"),
        (BanditRegret(), {}, "means"),
        (BanditRegret(), {"means": [0.5, 0.1], "history": [[5, 1.0]]}, "history"),
        (BanditRegret(), {"means": [0.5, 0.1], "history": [3]}, "history"),
        (OracleImitation(), {"arms": 0}, "arms"),
    ],
)
def test_rows_that_are_no_bandits_are_refused_by_column(parameters, row, column):
    with pytest.raises(DataError, match=column):
        play(parameters, ["0"], row)


def episode(policy, means, horizon, generator):
    """Arms that a policy chooses in one bandit of coins."""
    pulls = []
    for _ in range(horizon):
        arm = policy(len(means), pulls)
        pulls.append((arm, float(generator.random() < means[arm])))
    return [arm for arm, _ in pulls]


def test_ucb_regrets_less_than_greedy_and_greedy_less_than_chance_but_greedy_gives_up_the_best_arm():
    generator = random.Random(0)
    policies = {
        "ucb": lambda arms, pulls: ucb_arm(arms, pulls, 0.5),
        "greedy": greedy_arm,
        "random": lambda arms, pulls: generator.randrange(arms),
    }
    regret, failures = dict.fromkeys(policies, 0.0), dict.fromkeys(policies, 0)
    means = [0.3, 0.7, 0.3]
    for _ in range(60):
        for name, policy in policies.items():
            arms = episode(policy, means, 300, generator)
            regret[name] += sum(max(means) - means[arm] for arm in arms)
            failures[name] += suffix_failure(arms, means, 150)
    assert regret["ucb"] < 0.8 * regret["greedy"]
    assert regret["greedy"] < 0.8 * regret["random"]
    assert failures["greedy"] > 3 * failures["ucb"]


def test_the_shaped_reward_has_less_variance_than_that_of_the_pull():
    generator = random.Random(1)
    row = {"means": [0.3, 0.6, 0.5]}
    choices = [generator.randrange(3) for _ in range(500)]
    shaped = play(BanditRegret(), [str(arm) for arm in choices], row)[0].rewards.tolist()
    raw = [float(generator.random() < row["means"][arm]) for arm in choices]
    assert statistics.variance(shaped) < 0.2 * statistics.variance(raw)
    assert statistics.mean(shaped) == pytest.approx(statistics.mean(raw) - 0.6, abs=3 * math.sqrt(0.25 / 500))
