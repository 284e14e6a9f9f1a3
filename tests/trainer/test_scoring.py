"""From outcomes to rewards: weights, failed calls, and the limit on them."""

import math

import pytest

from plumbline_api.sources import Reward
from plumbline_trainer.failures import RewardFunctionError
from plumbline_trainer.reporting.metrics import merge
from plumbline_trainer.rewards.pool import Outcome, VerifierPool
from plumbline_trainer.rewards.scoring import Sample, Scorer, check_error_shares, combine

FAILED = Outcome(None, "ValueError: no")
LATE = Outcome(None, "did not return within 1 s", timed_out=True)


def reward(name, **options):
    return Reward(name=name, verifier={"regex": {"pattern": ".*"}}, **options)


def values(*numbers):
    return [number if isinstance(number, Outcome) else Outcome(float(number)) for number in numbers]


def test_the_total_is_the_weighted_sum():
    scores = combine([reward("a"), reward("b", weight=-0.5)], {"a": values(1, 0), "b": values(1, 3)})
    assert scores.totals.tolist() == [0.5, -1.5]
    assert scores.valid.tolist() == [True, True]
    assert scores.metrics["reward/a"].value == 0.5
    assert scores.metrics["reward/b"].value == 2.0
    assert scores.metrics["reward/mean"].value == -0.5


def test_a_failed_call_leaves_the_completion_without_reward():
    scores = combine([reward("a"), reward("b")], {"a": values(1, FAILED, 1), "b": values(1, 1, LATE)})
    assert scores.valid.tolist() == [True, False, False]
    assert scores.totals.tolist() == [2.0, 0.0, 0.0]
    assert math.isnan(scores.components["a"][1])
    assert scores.metrics["reward/mean"].value == 2.0, "the mean is over completions with a reward"
    assert scores.metrics["reward/a"].value == 1.0, "and that of a component over its successful calls"


def test_an_error_value_takes_the_place_of_a_failed_call():
    scores = combine([reward("a", error_value=-1.0), reward("b")], {"a": values(1, FAILED), "b": values(1, 1)})
    assert scores.valid.tolist() == [True, True]
    assert scores.totals.tolist() == [2.0, 0.0]


def test_errors_and_timeouts_are_counted_for_each_component_even_with_an_error_value():
    rewards = [reward("a", error_value=0.0), reward("b")]
    parts = [
        combine(rewards, {"a": values(1, FAILED, LATE, 1), "b": values(1, 1, 1, 1)}).metrics,
        combine(rewards, {"a": values(1, 1, 1, 1), "b": values(LATE, 1, 1, 1)}).metrics,
    ]
    merged = {name: metric.value for name, metric in merge(parts).items()}
    assert merged["reward_errors/a"] == 2 / 8
    assert merged["reward_timeouts/a"] == 1 / 8
    assert merged["reward_errors/b"] == 1 / 8


def test_the_limit_on_errors_counts_the_whole_step():
    rewards = [reward("a", max_error_fraction=0.7)]
    three = combine(rewards, {"a": values(1, 1, FAILED)}).metrics
    four = combine(rewards, {"a": values(1, *[FAILED] * 6)}).metrics
    check_error_shares(rewards, merge([three, four]))
    with pytest.raises(RewardFunctionError, match=r"reward a: 6 of the step's 7 calls failed.*maxErrorFraction 0\.7"):
        check_error_shares(rewards, four)


def test_rounding_takes_no_allowed_error_away():
    """0.29 * 100 is 28.999999999999996 in binary; 29 of 100 calls may fail all the same."""
    rewards = [reward("a", max_error_fraction=0.29)]
    check_error_shares(rewards, combine(rewards, {"a": values(*[FAILED] * 29, *[1] * 71)}).metrics)
    with pytest.raises(RewardFunctionError):
        check_error_shares(rewards, combine(rewards, {"a": values(*[FAILED] * 30, *[1] * 70)}).metrics)


def test_seconds_are_summed_for_each_component():
    rewards = [reward("a"), reward("b")]
    outcomes = {
        "a": [Outcome(1.0, seconds=0.25), Outcome(None, "no", seconds=0.75)],
        "b": [Outcome(1.0, seconds=2.0), Outcome(1.0)],
    }
    merged = merge([combine(rewards, outcomes).metrics] * 2)
    assert (merged["reward_seconds/a"].value, float(merged["reward_seconds/a"].total)) == (0.5, 2.0)
    assert merged["reward_seconds/b"].value == 1.0


class CountingPool(VerifierPool):
    """Counts the outcomes that it has seen."""

    settled = 0

    def run(self, calls, poll, on_outcome):
        def counted(call, outcome):
            self.settled += 1
            on_outcome(call, outcome)

        return super().run(calls, poll, counted)


@pytest.fixture
def scorer(tmp_path):
    code = tmp_path / "reward.py"
    code.write_text("def verify(prompt, completion, answer, row):\n    return int(completion)\n")
    rewards = [Reward(name="code", verifier={"python": {"path": str(code)}}, max_error_fraction=0.1)]
    with CountingPool(rewards, {"code": code}, workers=1) as pool:
        yield Scorer(rewards, pool)


def samples(*completions):
    return [Sample("p", completion, None, {}) for completion in completions]


def test_a_component_over_the_limit_ends_the_step_at_once(scorer):
    """Scoring the rest of a large step after the verdict is certain could take hours of timeouts."""
    with pytest.raises(RewardFunctionError, match=r"(?s)reward code: 3 of the step's 20 calls failed.*invalid literal"):
        scorer.score(samples(*["1", "x", "x", "x"], *["1"] * 16))
    assert scorer._pool.settled == 4


def test_calls_on_other_ranks_widen_the_limit(scorer):
    scores = scorer.score(samples(*["x", "x", "1"], *["2"] * 17), calls_of_step=20)
    assert scores.metrics["reward_errors/code"].value == 0.1
    scores = scorer.score(samples("x", "x", "1"), calls_of_step=20)
    assert scores.valid.tolist() == [False, False, True]
