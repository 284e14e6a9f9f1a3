"""What guardrails measure, and when they say so: tables of steps and what must be seen in them."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from plumbline_api.guardrails import SIGNALS, Action, Guardrail, Kind, SignalName, effective_guardrails
from plumbline_trainer.checkpoint.rollbacks import START, Rollback, learning_rate_factor, order_seed, protected
from plumbline_trainer.reporting.health import HealthMonitor, Verdict

W = 4
Steps = list[dict[str, float]]


def watching(
    signal: SignalName, bound: float, action: Action = "Warn", kind: Kind = "RLVRJob", score: str = "accuracy"
) -> HealthMonitor:
    own = Guardrail(signal=signal, bound=bound, window_steps=W, action=action)
    found = [one for one in effective_guardrails(kind, [own]) if one.signal in (signal, "notFinite")]
    return HealthMonitor(found, score, rollouts=kind == "RLVRJob")


def first_broken(monitor: HealthMonitor, steps: Steps) -> int | None:
    """The step whose verdict is the first one."""
    for number, metrics in enumerate(steps, start=1):
        if monitor.step_done(number, metrics):
            return number
    return None


def value_of(monitor: HealthMonitor, signal: str) -> float | None:
    return next(one.value for one in monitor.report().signals if one.signal == signal)


def constant(count: int, **metrics: float) -> Steps:
    return [{name.replace("__", "/"): value for name, value in metrics.items()}] * count


def noisy(mean: float, spread: float, count: int, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [mean + generator.gauss(0, spread) for _ in range(count)]


LEVELS: list[tuple[SignalName, str, float, float, float]] = [
    ("kl", "kl", 1.0, 0.9, 1.1),
    ("truncation", "completions/truncated", 0.5, 0.4, 0.6),
    ("verifierErrors", "reward_errors/right", 0.05, 0.04, 0.06),
    ("zeroAdvantage", "advantages/zero_groups", 0.9, 0.8, 1.0),
    ("gradientNorm", "gradient_norm", 10.0, 9.0, 11.0),
    ("entropyCollapse", "entropy", 0.1, 0.2, 0.05),
]


@pytest.mark.parametrize(("signal", "metric", "bound", "good", "bad"), LEVELS)
def test_a_level_is_the_mean_over_the_window_and_nothing_is_said_before_it_is_full(
    signal: SignalName, metric: str, bound: float, good: float, bad: float
) -> None:
    assert first_broken(watching(signal, bound), [{metric: good}] * 20) is None
    assert first_broken(watching(signal, bound), [{metric: bad}] * 20) == W
    spoilt = [{metric: good}] * 6 + [{metric: bad}] * 20
    means = [math.fsum(step[metric] for step in spoilt[end - W : end]) / W for end in range(W, len(spoilt) + 1)]
    crossed = [mean < bound if SIGNALS[signal].below else mean > bound for mean in means]
    assert first_broken(watching(signal, bound), spoilt) == W + crossed.index(True)


def test_the_sign_of_a_log_ratio_does_not_hide_its_size() -> None:
    assert first_broken(watching("kl", 1.0, kind="PreferenceJob"), [{"kl": -2.0}] * 9) == W


def test_the_component_that_fails_most_counts() -> None:
    steps = constant(9, reward_errors__a=0.0, reward_errors__b=0.2)
    assert first_broken(watching("verifierErrors", 0.1), steps) == W


def test_steps_without_a_finite_value_do_not_count() -> None:
    monitor = watching("truncation", 0.5)
    bad, none = {"completions/truncated": 1.0}, {"completions/truncated": math.nan}
    assert first_broken(monitor, [bad, none, {}, bad, bad, none]) is None
    assert [verdict.guardrail.signal for verdict in monitor.step_done(7, bad)] == ["truncation"]


@pytest.mark.parametrize(
    ("signal", "metric", "bad"),
    [("zeroAdvantage", "advantages/zero_groups", 1.0), ("entropyCollapse", "entropy", 0.0)],
)
def test_a_solved_task_needs_neither_entropy_nor_advantages(signal: SignalName, metric: str, bad: float) -> None:
    bound = 0.5
    assert first_broken(watching(signal, bound), [{metric: bad, "accuracy": 0.95}] * 20) is None
    assert first_broken(watching(signal, bound), [{metric: bad, "accuracy": 0.5}] * 20) == W
    forgetting = [{metric: bad, "accuracy": 0.95}] * 10 + [{metric: bad, "accuracy": 0.5}] * 10
    assert first_broken(watching(signal, bound), forgetting) == 10 + W


@pytest.mark.parametrize(
    ("signal", "metric", "kind"),
    [("rewardCollapse", "reward/mean", "RLVRJob"), ("marginCollapse", "rewards/margin", "PreferenceJob")],
)
def test_a_collapse_is_the_share_of_the_best_mean_that_is_lost(signal: SignalName, metric: str, kind: Kind) -> None:
    def steps(*values: float) -> Steps:
        return [{metric: value} for value in values]

    rising = [0.1 * step for step in range(10)]
    monitor = watching(signal, 0.5, kind=kind)
    assert first_broken(monitor, steps(*rising, *[0.9] * 4, *[0.6] * 4)) is None
    assert value_of(monitor, signal) == pytest.approx(1 / 3, rel=1e-3)
    # after the third of these steps the window's mean is 0.375, less than half of 0.9
    assert first_broken(monitor, steps(*[0.3] * 4)) == 3
    monitor.step_done(4, {metric: 0.3})
    assert value_of(monitor, signal) == pytest.approx(2 / 3, rel=1e-3)


def test_a_collapse_of_negative_rewards_is_measured_on_the_scale_of_the_start() -> None:
    monitor = watching("rewardCollapse", 0.5)
    rewards = [-1.0] * 4 + [-0.2] * 4 + [-0.9] * 4
    assert first_broken(monitor, [{"reward/mean": reward} for reward in rewards]) == 12
    assert value_of(monitor, "rewardCollapse") == pytest.approx(0.7)


@pytest.mark.parametrize("seed", range(40))
def test_noise_around_a_small_reward_is_no_collapse(seed: int) -> None:
    """Window means of 20 noisy steps differ by more than half of a mean that is small beside the noise."""
    own = Guardrail(signal="rewardCollapse", bound=0.5, window_steps=20)
    monitor = HealthMonitor(effective_guardrails("RLVRJob", [own]), "accuracy", rollouts=True)
    rewards = noisy(0.02, 0.05, 400, seed)
    assert all(not monitor.step_done(step, {"reward/mean": reward}) for step, reward in enumerate(rewards, start=1))


def test_growth_is_taken_from_the_first_window() -> None:
    monitor = watching("gradientGrowth", 5.0)
    norms = [2.0] * 4 + [9.0] * 4 + [11.0] * 4
    assert first_broken(monitor, [{"gradient_norm": norm} for norm in norms]) == 11
    monitor.step_done(12, {"gradient_norm": 11.0})
    assert value_of(monitor, "gradientGrowth") == pytest.approx(5.5)


def test_length_may_grow_as_long_as_the_reward_does() -> None:
    def steps(reward_grows: bool) -> Steps:
        return [
            {"completions/length": 10.0 * step, "reward/mean": 0.01 * step if reward_grows else 0.3}
            for step in range(1, 40)
        ]

    assert first_broken(watching("lengthGrowth", 3.0), steps(reward_grows=True)) is None
    # the best reward is the first window's, mean length 25: above three times that at a mean of 85, steps 7 to 10
    assert first_broken(watching("lengthGrowth", 3.0), steps(reward_grows=False)) == 10


EVALUATED: list[tuple[str, list[tuple[float, float]], list[bool]]] = [
    ("both fall below the best", [(0.5, 0.8), (0.6, 0.5), (0.7, 0.55)], [False, False, True]),
    ("one bad evaluation is not enough", [(0.5, 0.8), (0.6, 0.5), (0.7, 0.8)], [False, False, False]),
    ("the reward falls as well", [(0.5, 0.8), (0.4, 0.5), (0.4, 0.5)], [False, False, False]),
    ("both rise", [(0.5, 0.5), (0.6, 0.7), (0.7, 0.8)], [False, False, False]),
]


@pytest.mark.parametrize(
    ("reward_and_score", "expected"), [case[1:] for case in EVALUATED], ids=[c[0] for c in EVALUATED]
)
def test_over_optimisation_is_a_held_out_fall_while_the_reward_holds(
    reward_and_score: list[tuple[float, float]], expected: list[bool]
) -> None:
    monitor, step, found = watching("overOptimisation", 0.25), 0, []
    for reward, score in reward_and_score:
        for _ in range(W):
            step += 1
            assert not monitor.step_done(step, {"reward/mean": reward})
        found.append(bool(monitor.evaluated(step, {"accuracy": score})))
    assert found == expected


def test_of_a_loss_less_is_better() -> None:
    monitor, step = watching("overOptimisation", 0.25, kind="PreferenceJob", score="loss"), 0
    verdicts: list[Verdict] = []
    for training, held_out in [(2.0, 1.0), (1.5, 1.4), (1.0, 1.5)]:
        for _ in range(W):
            step += 1
            monitor.step_done(step, {"loss": training})
        verdicts += monitor.evaluated(step, {"loss": held_out})
    assert [verdict.guardrail.signal for verdict in verdicts] == ["overOptimisation"]
    assert value_of(monitor, "overOptimisation") == pytest.approx(0.4)


def test_it_is_told_once_and_mended_after_a_whole_window_within_the_bound() -> None:
    monitor = watching("truncation", 0.5)
    bad, good = {"completions/truncated": 1.0}, {"completions/truncated": 0.0}
    told = [bool(monitor.step_done(step, bad)) for step in range(1, 8)]
    assert told == [False, False, False, True, False, False, False]
    assert not monitor.healthy
    # the mean is within the bound from the second good step on
    states = []
    for step in range(8, 14):
        monitor.step_done(step, good)
        states.append(monitor.healthy)
    assert states == [False, False, False, False, True, True]
    assert [bool(monitor.step_done(step, bad)) for step in range(14, 18)] == [False, False, True, False]


def test_the_strongest_action_comes_first() -> None:
    own = [
        Guardrail(signal="truncation", bound=0.5, window_steps=2, action=action)
        for action in ("Warn", "Suspend", "Rollback", "Fail")
    ]
    monitor = HealthMonitor(effective_guardrails("RLVRJob", own), "accuracy", rollouts=True)
    monitor.step_done(1, {"completions/truncated": 1.0})
    verdicts = monitor.step_done(2, {"completions/truncated": 1.0})
    assert [verdict.guardrail.action for verdict in verdicts] == ["Fail", "Rollback", "Suspend", "Warn"]
    assert {verdict.sound_until for verdict in verdicts} == {0}
    assert verdicts[0].message == (
        "guardrail truncation: the share of completions that are cut off by training.maxCompletionTokens is 1 over the "
        "last 2 steps, above the bound 0.5"
    )


def test_a_step_that_is_not_finite_fails_unless_the_job_says_otherwise() -> None:
    assert watching("truncation", 0.5).not_finite(3, "the loss is nan").guardrail.action == "Fail"
    own = Guardrail(signal="notFinite", action="Suspend")
    monitor = HealthMonitor(effective_guardrails("RLVRJob", [own]), "accuracy", rollouts=True)
    assert monitor.not_finite(3, "the loss is nan").guardrail.action == "Suspend"
    assert not monitor.healthy


def test_by_default_every_signal_of_a_kind_only_warns_and_a_job_changes_single_ones() -> None:
    by_default = effective_guardrails("RLVRJob", [])
    assert {one.signal: one.action for one in by_default if one.action != "Warn"} == {"notFinite": "Fail"}
    assert all(one.bound is not None and one.window_steps for one in by_default if one.signal != "notFinite")
    own = [Guardrail(signal="truncation", action="Ignore"), Guardrail(signal="zeroAdvantage", bound=0.5, action="Fail")]
    changed = effective_guardrails("RLVRJob", own)
    assert {one.signal for one in by_default} - {one.signal for one in changed} == {"truncation"}
    assert [(one.bound, one.window_steps, one.action) for one in changed if one.signal == "zeroAdvantage"] == [
        (0.5, 20, "Fail")
    ]


def metrics_at(step: int) -> dict[str, float]:
    generator = random.Random(step)
    names = ("kl", "entropy", "completions/truncated", "reward/mean", "gradient_norm", "completions/length", "accuracy")
    return {name: generator.uniform(0, 2) for name in names} | {"reward_errors/a": generator.uniform(0, 0.1)}


@pytest.mark.parametrize("interrupted_after", [1, 3, 10, 25, 39])
def test_windows_go_on_where_they_stood_after_a_restart(interrupted_after: int) -> None:
    def fresh() -> HealthMonitor:
        own = [Guardrail(signal="kl", bound=1.05, window_steps=7), Guardrail(signal="gradientNorm", bound=1.0)]
        return HealthMonitor(effective_guardrails("RLVRJob", own), "accuracy", rollouts=True)

    whole, before = fresh(), fresh()
    expected = []
    for step in range(1, 60):
        told = [verdict.message for verdict in whole.step_done(step, metrics_at(step))]
        if step % 10 == 0:
            told += [verdict.message for verdict in whole.evaluated(step, {"accuracy": 1 - step / 100})]
        expected.append((told, whole.report()))
    for step in range(1, interrupted_after + 1):
        before.step_done(step, metrics_at(step))
        if step % 10 == 0:
            before.evaluated(step, {"accuracy": 1 - step / 100})
    after = fresh()
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for step in range(interrupted_after + 1, 60):
        told = [verdict.message for verdict in after.step_done(step, metrics_at(step))]
        if step % 10 == 0:
            told += [verdict.message for verdict in after.evaluated(step, {"accuracy": 1 - step / 100})]
        assert (told, after.report()) == expected[step - 1]


def test_another_guardrail_starts_with_an_empty_window() -> None:
    short, long = watching("truncation", 0.5), watching("truncation", 0.5, action="Fail")
    for step in range(1, 4):
        short.step_done(step, {"completions/truncated": 1.0})
    long.load_state_dict(short.state_dict())
    assert first_broken(long, constant(9, completions__truncated=1.0)) == W


# which checkpoints a rollback needs


def sound(*steps: int, best: int | None = None) -> dict[int, dict[str, Any]]:
    recorded = None if best is None else {"step": best}
    return {step: {"health": {"sound": True}, "best": recorded} for step in steps}


@pytest.mark.parametrize(
    ("states", "step", "window", "expected"),
    [
        (sound(10, 20, 30), 30, 5, {20, 30}),
        (sound(10, 20, 30), 30, 20, {10, 20}),
        (sound(10, 20, 30), 30, 25, {10}),
        (sound(10, 20) | {25: {"health": {"sound": False}}}, 30, 5, {20}),
        ({10: {}, 20: {"health": {"sound": False}}}, 30, 5, set()),
        (sound(20, best=10) | sound(10) | sound(30), 31, 5, {10, 20, 30}),
    ],
)
def test_retention_leaves_what_may_be_returned_to(
    states: dict[int, dict[str, Any]], step: int, window: int, expected: set[int]
) -> None:
    assert set(protected(states, step, window)) == expected


def test_with_a_checkpoint_at_every_step_one_older_than_the_window_is_always_there() -> None:
    kept: set[int] = set()
    for step in range(1, 200):
        kept = {number for number in kept | {step} if number > step - 2} | set(protected(sound(*kept, step), step, 20))
        assert len(kept) <= 4
        if step > 2 * 20:
            assert any(step - 2 * 20 <= number <= step - 20 for number in kept)


def test_learning_rates_shrink_with_every_rollback_and_orders_differ() -> None:
    def rollback(number: int, factor: float, new_order: bool) -> Rollback:
        return Rollback(number, "kl", 40, START, "2030-01-01T00:00:00+00:00", factor, new_order, True)

    first, second, third = rollback(1, 0.5, True), rollback(2, 0.1, False), rollback(3, 1.0, True)
    assert learning_rate_factor([]) == 1
    assert learning_rate_factor([first, second, third]) == pytest.approx(0.05)
    assert order_seed(7, []) is None
    seeds = [order_seed(7, [first]), order_seed(7, [first, second]), order_seed(7, [first, second, third])]
    assert seeds[0] == seeds[1] != seeds[2]
    assert order_seed(8, [first]) != seeds[0]
    assert all(seed is not None and 0 <= seed < 2**32 for seed in seeds)
