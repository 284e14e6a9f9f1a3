"""Off-policy traces: hand-computed tables, GAE where nothing is off-policy, fixed points on a small chain."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.advantage.traces import RecencyBounded, Retrace, TraceEstimator, VTrace
from plumbline_api.methods.advantage.values import GeneralizedAdvantage
from plumbline_trainer.advantages import advantages, value_targets
from plumbline_trainer.advantages.traces import ratios
from plumbline_trainer.rollout.judged import JudgedRollout, judged
from tests.trainer.advantages.rollouts import full_rollout

TRACES = [VTrace, Retrace, RecencyBounded]
traces = pytest.mark.parametrize("estimator", TRACES, ids=lambda estimator: estimator.member_key)


def random_rollout(seed: int = 0) -> JudgedRollout:
    rewards = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return full_rollout(rewards, torch.arange(9) // 3, seed)


def rollout_with(rho: list[float], deltas: list[float]) -> JudgedRollout:
    """One completion with these ratios and these temporal differences under gamma 1: values are sums of later ones."""
    values = [-sum(deltas[t:]) for t in range(len(deltas))]
    return judged(
        [0.0],
        [0],
        lengths=[len(rho)],
        logprobs=torch.zeros(1, len(rho), dtype=torch.float64),
        policy_logprobs=torch.tensor([rho], dtype=torch.float64).log(),
        values=torch.tensor([values], dtype=torch.float64),
    )


@traces
@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 1.0), (0.9, 0.6), (1.0, 0.0)])
@pytest.mark.parametrize("normalize", ["batch", "none"])
def test_on_policy_all_are_gae(estimator: type[TraceEstimator], gamma: float, lambda_: float, normalize: str) -> None:
    rollout = random_rollout()
    rollout = replace(rollout, policy_logprobs=rollout.logprobs)
    parameters = estimator(gamma=gamma, lambda_=lambda_, normalize=normalize)  # type: ignore[arg-type]
    plain = GeneralizedAdvantage(gamma=gamma, lambda_=lambda_, normalize=normalize)  # type: ignore[arg-type]
    torch.testing.assert_close(advantages(parameters, rollout), advantages(plain, rollout), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(value_targets(parameters, 0.7, rollout), value_targets(plain, 0.7, rollout))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # ratios 3, 1/2, 4, 1; weights of the differences 1, 10, 100, 1000 in the first token's advantage, lambda 1
        (Retrace(normalize="none"), [1, 0.5, 0.5, 0.5]),
        (RecencyBounded(normalize="none"), [1, 0.5, 1, 1]),
        (VTrace(normalize="none"), [1, 0.5, 0.5, 0.5]),
        (VTrace(rho_clip=2.0, trace_clip=1.5, normalize="none"), [1, 0.5, 0.5 * 2, 0.5 * 1.5 * 1]),
        (VTrace(rho_clip=1e6, trace_clip=1000, normalize="none"), [1, 0.5, 2, 2]),
        # and with lambda 1/2
        (Retrace(lambda_=0.5, normalize="none"), [1, 0.25, 0.125, 0.0625]),
        (RecencyBounded(lambda_=0.5, normalize="none"), [1, 0.5, 0.25, 0.125]),
        (VTrace(lambda_=0.5, normalize="none"), [1, 0.25, 0.125, 0.0625]),
    ],
)
def test_traces_by_hand(parameters: TraceEstimator, expected: list[float]) -> None:
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    rollout = rollout_with([3.0, 0.5, 4.0, 1.0], weights.tolist())
    found = advantages(parameters, rollout)[0, 0].item()
    assert found == pytest.approx(sum(part * weight for part, weight in zip(expected, weights.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (Retrace(), [1, 0.5, 0.5, 0.5]),
        (RecencyBounded(), [1, 0.5, 1, 1]),
        (VTrace(rho_clip=1e6, trace_clip=1000), [3, 1.5, 6, 6]),
    ],
)
def test_traces_of_targets_begin_with_the_first_ratio(parameters: TraceEstimator, expected: list[float]) -> None:
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    rollout = rollout_with([3.0, 0.5, 4.0, 1.0], weights.tolist())
    assert rollout.values is not None
    found = (value_targets(parameters, 1.0, rollout) - rollout.values)[0, 0].item()
    assert found == pytest.approx(sum(part * weight for part, weight in zip(expected, weights.tolist(), strict=True)))


def test_a_cut_trace_recovers_with_rbis_and_not_with_retrace() -> None:
    rollout = rollout_with([1.0, 0.01, 50.0, 50.0], [0.0, 0.0, 0.0, 1.0])
    recovered = advantages(RecencyBounded(normalize="none"), rollout)[0, 0].item()
    cut = advantages(Retrace(normalize="none"), rollout)[0, 0].item()
    assert (recovered, cut) == (pytest.approx(1.0), pytest.approx(0.01))


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 1.0), (0.9, 0.8)])
def test_rbis_against_traces_by_loops(gamma: float, lambda_: float) -> None:
    rollout = random_rollout(3)
    rho = ratios(rollout)
    plain = GeneralizedAdvantage(gamma=gamma, lambda_=0.0, normalize="none")
    differences = advantages(plain, rollout)
    parameters = RecencyBounded(gamma=gamma, lambda_=lambda_, normalize="none")
    found, targets = advantages(parameters, rollout), value_targets(parameters, lambda_, rollout)
    assert rollout.values is not None
    for row in range(9):
        for start in range(int(rollout.lengths[row])):
            after, own = 1.0, min(1.0, rho[row, start].item())
            sums = [differences[row, start].item(), own * differences[row, start].item()]
            for t in range(start + 1, int(rollout.lengths[row])):
                distance = t - start
                after = min(lambda_**distance, after * rho[row, t].item())
                own = min(lambda_**distance, own * rho[row, t].item())
                sums[0] += gamma**distance * after * differences[row, t].item()
                sums[1] += gamma**distance * own * differences[row, t].item()
            assert found[row, start].item() == pytest.approx(sums[0], abs=1e-12)
            value = rollout.values[row, start].item()
            assert targets[row, start].item() == pytest.approx(value + sums[1], abs=1e-12)


def test_vtrace_bounded_by_1_is_retrace() -> None:
    rollout = random_rollout(4)
    torch.testing.assert_close(
        advantages(VTrace(gamma=0.9, lambda_=0.7), rollout), advantages(Retrace(gamma=0.9, lambda_=0.7), rollout)
    )


@traces
def test_extreme_ratios_stay_finite(estimator: type[TraceEstimator]) -> None:
    rollout = rollout_with([1.0] * 4, [1.0, 2.0, 3.0, 4.0])
    extreme = replace(rollout, policy_logprobs=torch.tensor([[0.0, -1e4, 1e4, 1e4]], dtype=torch.float64))
    assert bool(advantages(estimator(normalize="none"), extreme).isfinite().all())


# --- a chain of two choices, sampled by another policy ----------------------------------------------------------------

PATHS = [(a, b) for a in (0, 1) for b in (0, 1)]
REWARDS = {(0, 0): 0.2, (0, 1): 1.0, (1, 0): 0.0, (1, 1): 0.6}
SAMPLER = {(): 0.7, (0,): 0.4, (1,): 0.8}
POLICY = {(): 0.2, (0,): 0.9, (1,): 0.5}
"""Chance of choice 1 after what was chosen before."""

Chances = dict[tuple[int, ...], float]


def of(chances: Chances, before: tuple[int, ...], choice: int) -> float:
    return chances[before] if choice else 1 - chances[before]


def true_values(chances: Chances) -> Chances:
    last = {(a,): sum(of(chances, (a,), b) * REWARDS[a, b] for b in (0, 1)) for a in (0, 1)}
    return {**last, (): sum(of(chances, (), a) * last[(a,)] for a in (0, 1))}


def between() -> Chances:
    """The policy proportional to min(sampler, policy)."""
    lower = {state: [min(of(SAMPLER, state, c), of(POLICY, state, c)) for c in (0, 1)] for state in POLICY}
    return {state: both[1] / sum(both) for state, both in lower.items()}


def fixed_point(parameters: TraceEstimator, lambda_: float) -> Chances:
    """Values that are their own expected targets under the sampler, found by iterating; every path is one row."""
    values: Chances = dict.fromkeys(POLICY, 0.0)
    chance = {(a, b): of(SAMPLER, (), a) * of(SAMPLER, (a,), b) for a, b in PATHS}

    def logprobs(chances: Chances) -> torch.Tensor:
        return torch.tensor(
            [[math.log(of(chances, (), a)), math.log(of(chances, (a,), b))] for a, b in PATHS], dtype=torch.float64
        )

    for _ in range(300):
        rollout = judged(
            [REWARDS[path] for path in PATHS],
            [0] * 4,
            lengths=[2] * 4,
            logprobs=logprobs(SAMPLER),
            policy_logprobs=logprobs(POLICY),
            values=torch.tensor([[values[()], values[(a,)]] for a, _ in PATHS], dtype=torch.float64),
        )
        targets = value_targets(parameters, lambda_, rollout).tolist()
        values = {
            (): sum(chance[path] * targets[row][0] for row, path in enumerate(PATHS)),
            **{(a,): sum(of(SAMPLER, (a,), b) * targets[PATHS.index((a, b))][1] for b in (0, 1)) for a in (0, 1)},
        }
    return values


@pytest.mark.parametrize("lambda_", [1.0, 0.5])
@pytest.mark.parametrize("trace_clip", [0.5, 1.0, 1000])
def test_with_whole_ratios_at_the_differences_the_fixed_point_is_the_policys_value(
    trace_clip: float, lambda_: float
) -> None:
    found = fixed_point(VTrace(rho_clip=1e6, trace_clip=trace_clip), lambda_)
    assert found == pytest.approx(true_values(POLICY), abs=1e-6)
    assert found != pytest.approx(true_values(SAMPLER), abs=0.05)


@pytest.mark.parametrize("parameters", [VTrace(), Retrace()], ids=["vtrace", "retrace"])
def test_with_cut_ratios_it_is_the_value_of_a_policy_between_both(parameters: TraceEstimator) -> None:
    assert fixed_point(parameters, 1.0) == pytest.approx(true_values(between()), abs=1e-6)


def test_with_rbis_it_is_so_at_the_last_choice() -> None:
    found, expected = fixed_point(RecencyBounded(), 1.0), true_values(between())
    assert (found[(0,)], found[(1,)]) == pytest.approx((expected[(0,)], expected[(1,)]), abs=1e-6)


def test_advantages_with_whole_ratios_are_unbiased_for_the_policy() -> None:
    """Whatever the critic says: the first choice's advantage, averaged over how the sampler goes on, is its true value
    minus what the critic says of the prompt."""
    rows = [(0, 0), (0, 1)]
    rollout = judged(
        [REWARDS[row] for row in rows],
        [0, 0],
        lengths=[2, 2],
        logprobs=torch.tensor([[0.0, math.log(of(SAMPLER, (0,), b))] for _, b in rows], dtype=torch.float64),
        policy_logprobs=torch.tensor([[0.0, math.log(of(POLICY, (0,), b))] for _, b in rows], dtype=torch.float64),
        values=torch.tensor([[0.3, 0.77], [0.3, 0.77]], dtype=torch.float64),
    )
    found = advantages(VTrace(rho_clip=1e6, trace_clip=1000, normalize="none"), rollout)[:, 0].tolist()
    mean = sum(of(SAMPLER, (0,), b) * value for (_, b), value in zip(rows, found, strict=True))
    assert mean == pytest.approx(true_values(POLICY)[(0,)] - 0.3)
