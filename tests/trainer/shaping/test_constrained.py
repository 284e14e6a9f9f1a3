"""Lagrange multipliers: exact steps, and a bandit whose proxy must not be pushed too far."""

import json
import math

import pytest
import torch

from plumbline_api.methods.shaping.constrained import Constrained
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import apply_shaping


def rollout_of(rewards, **components):
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in components.items()}
    return judged(rewards, [0] * len(rewards), components=values)


def test_an_inequality_begins_with_equal_weights_and_follows_its_gap():
    parameters = Constrained(constraints=[{"component": "proxy", "threshold": 0.5}], learning_rate=0.2)
    rollout = rollout_of([1.0, 0.0], proxy=[0.2, 0.4])
    after, states, metrics = apply_shaping([parameters], rollout, {})
    assert after.rewards.tolist() == pytest.approx([0.5 * 1 + 0.5 * (0.2 - 0.5), 0.5 * (0.4 - 0.5)])
    assert states["constrained"]["raw"]["proxy"] == pytest.approx(0.2 * (0.5 - 0.3))
    assert metrics["shaping/constrained/gap/proxy"].value == pytest.approx(-0.2)
    assert metrics["shaping/constrained/multiplier/proxy"].value == 0.5


@pytest.mark.parametrize(
    ("kind", "mean", "direction"), [("atLeast", 0.2, 1), ("atLeast", 0.8, -1), ("atMost", 0.2, -1), ("atMost", 0.8, 1)]
)
def test_a_multiplier_grows_where_its_constraint_is_broken(kind, mean, direction):
    parameters = Constrained(constraints=[{"component": "proxy", "threshold": 0.5, "kind": kind}])
    _, states, _ = apply_shaping([parameters], rollout_of([0.0], proxy=[mean]), {})
    assert math.copysign(1, states["constrained"]["raw"]["proxy"]) == direction


def test_an_equality_may_have_a_negative_multiplier():
    parameters = Constrained(constraints=[{"component": "proxy", "threshold": 0.5, "kind": "equal"}], learning_rate=10)
    above = rollout_of([1.0, 0.0], proxy=[1.0, 1.0])
    after, states, _ = apply_shaping([parameters], above, {})
    assert after.rewards.tolist() == [1, 0], "it begins at 0"
    multiplier = math.tanh(10 * (0.5 - 1.0))
    after, _, _ = apply_shaping([parameters], above, states)
    left = 1 - abs(multiplier)
    assert after.rewards.tolist() == pytest.approx([left + multiplier * 0.5, multiplier * 0.5])


def test_several_constraints_share_the_weight():
    parameters = Constrained(
        constraints=[{"component": "one", "threshold": 0}, {"component": "two", "threshold": 0, "kind": "atMost"}]
    )
    after, _, _ = apply_shaping([parameters], rollout_of([8.0], one=[4.0], two=[2.0]), {})
    # multipliers 1/2 and 1/2: (1 - 1/2) 8 + 4/4 - 2/4
    assert after.rewards.tolist() == pytest.approx([4 + 1 - 0.5])


def test_momentum_repeats_the_last_change():
    parameters = Constrained(constraints=[{"component": "p", "threshold": 1}], learning_rate=0.1, momentum=0.5)
    rollout = rollout_of([0.0], p=[0.0])
    _, states, _ = apply_shaping([parameters], rollout, {})
    _, states, _ = apply_shaping([parameters], rollout, states)
    assert states["constrained"] == {"raw": {"p": pytest.approx(0.1 + 0.15)}, "last": {"p": pytest.approx(0.15)}}


def test_a_rollout_without_rewards_moves_no_multiplier():
    parameters = Constrained(constraints=[{"component": "p", "threshold": 1}])
    rollout = judged([0.0], [0], valid=[False], components={"p": torch.tensor([math.nan], dtype=torch.float64)})
    after, states, _ = apply_shaping([parameters], rollout, {"constrained": {"raw": {"p": 2.0}, "last": {"p": 1.0}}})
    assert states["constrained"] == {"raw": {"p": 2.0}, "last": {"p": 1.0}}
    assert after.rewards.tolist() == [0]


def test_only_valid_completions_count():
    parameters = Constrained(constraints=[{"component": "p", "threshold": 0}], learning_rate=1)
    rollout = judged([0.0, 0.0], [0, 0], valid=[True, False], components={"p": torch.tensor([3.0, math.nan]).double()})
    _, states, _ = apply_shaping([parameters], rollout, {})
    assert states["constrained"]["raw"]["p"] == -3


# Arms by how far they push the proxy; the gold reward rises with it up to 0.5 and falls behind.
PROXY = torch.linspace(0, 1, 11, dtype=torch.float64)
GOLD = 1 - (PROXY - 0.5).square() * 4
REFERENCE = torch.softmax(-6 * PROXY, -1)


def play(parameters, steps=3000, rate=0.3, weight=0.0):
    """Exact gradient ascent on closeness to a reference, shaped; returns mean proxy, gold reward and states."""
    logits = REFERENCE.log().clone()
    states: dict = {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        policy = logits.softmax(-1)
        arms = torch.multinomial(policy.expand(256, -1), 1, generator=generator).flatten()
        closeness = (REFERENCE.log() - policy.log())[arms]
        rollout = judged(
            closeness + weight * PROXY[arms], [0] * 256, components={"proxy": PROXY[arms], "gold": GOLD[arms]}
        )
        if parameters is not None:
            rollout, states, _ = apply_shaping([parameters], rollout, states)
        centred = rollout.rewards - rollout.rewards.mean()
        scores = torch.nn.functional.one_hot(arms, 11).double() - policy
        logits = logits + rate * (centred[:, None] * scores).mean(0)
    policy = logits.softmax(-1)
    return float((policy * PROXY).sum()), float((policy * GOLD).sum()), states


@pytest.mark.parametrize("kind", ["atLeast", "equal"])
def test_the_constrained_run_stops_at_the_threshold_that_a_fixed_weight_overshoots(kind):
    parameters = Constrained(constraints=[{"component": "proxy", "threshold": 0.5, "kind": kind}], learning_rate=0.05)
    proxy, gold, states = play(parameters)
    overshot, less_gold, _ = play(None, weight=30.0)
    assert proxy == pytest.approx(0.5, rel=0.05)
    assert overshot > 0.8
    assert gold > less_gold + 0.1
    assert json.loads(json.dumps(states)) == states


SEARCHING = {
    "constraints": [{"component": "p", "threshold": 0.5}],
    "thresholdSearch": {"component": "gold", "every": 4},
}


def searching(**changes):
    return Constrained.model_validate({**SEARCHING, **changes})


def test_each_candidate_is_held_and_measured_in_the_later_half():
    states: dict = {}
    held = []
    for gold in (9, 9, 1, 2, 9, 9, 3, 3, 0):
        rollout = rollout_of([0.0, 0.0], p=[0.0, 1.0], gold=[gold - 1, gold + 1])
        _, states, metrics = apply_shaping([searching()], rollout, states)
        held.append(metrics["shaping/constrained/threshold/p"].value)
    assert held == pytest.approx([0.5] * 4 + [0.6] * 4 + [0.7])  # 0.6 was better, so 0.5 is reflected
    assert states["constrained"]["search"]["simplex"]["values"] == [-3.0, -1.5]
    assert metrics["shaping/constrained/best_threshold/p"].value == pytest.approx(0.6)


def test_multipliers_and_rewards_follow_the_candidate():
    simplex = {"bounds": [0, 1], "points": [[0.9], [0.5]], "values": [None, None], "trial": None, "reflected": None}
    states = {"constrained": {"search": {"simplex": simplex, "rollouts": 1, "total": 0.0}}}
    rollout = rollout_of([1.0, 0.0], p=[0.2, 0.4], gold=[0.0, 0.0])
    after, states, metrics = apply_shaping([searching(learningRate=0.2)], rollout, states)
    assert after.rewards.tolist() == pytest.approx([0.5 + 0.5 * (0.2 - 0.9), 0.5 * (0.4 - 0.9)])
    assert states["constrained"]["raw"]["p"] == pytest.approx(0.2 * (0.9 - 0.3))
    assert metrics["shaping/constrained/gap/p"].value == pytest.approx(-0.6)


def test_a_rollout_without_rewards_is_not_one_of_those_for_which_a_candidate_holds():
    nothing = torch.tensor([math.nan], dtype=torch.float64)
    rollout = judged([0.0], [0], valid=[False], components={"p": nothing, "gold": nothing})
    _, before, _ = apply_shaping([searching()], rollout_of([0.0], p=[1.0], gold=[1.0]), {})
    _, after, _ = apply_shaping([searching()], rollout, before)
    assert after == before


def tilt(parameters, steps):
    """As `play`, of a policy that can only tilt the reference by the proxy, and so follows a threshold both ways."""
    slope, states = -6.0, {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        arms = torch.multinomial((slope * PROXY).softmax(-1), 256, replacement=True, generator=generator)
        components = {"proxy": PROXY[arms], "gold": GOLD[arms]}
        rollout = judged((-6 - slope) * PROXY[arms], [0] * 256, components=components)
        rollout, states, _ = apply_shaping([parameters], rollout, states)
        centred = PROXY[arms] - PROXY[arms].mean()
        slope += float((rollout.rewards * centred).sum() / centred.square().sum().clamp_min(1e-3))
    return float(((slope * PROXY).softmax(-1) * GOLD).sum()), states


@pytest.mark.parametrize("start", [0.2, 0.8])
def test_one_run_finds_the_threshold_with_the_most_of_what_is_really_wanted(start):
    """From a threshold that is far too low, or far too high, to where the gold reward has its top."""
    constraint = {"component": "proxy", "threshold": start, "kind": "equal"}
    found = {"constraints": [constraint], "thresholdSearch": {"component": "gold", "every": 60}}
    gold, states = tilt(Constrained.model_validate({**found, "learningRate": 0.5}), steps=1200)
    as_given, _ = tilt(Constrained.model_validate({"constraints": [constraint], "learningRate": 0.5}), steps=1200)
    [best] = states["constrained"]["search"]["simplex"]["points"][0]
    assert best == pytest.approx(0.5, abs=0.1)
    assert gold > as_given + 0.1
    assert json.loads(json.dumps(states)) == states
