"""Win rates and best-of-k advantages against enumeration of all pairs and sets."""

from __future__ import annotations

from itertools import combinations
from math import comb
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.advantage.ranking import PairwiseWinRate, PassAtK
from plumbline_trainer.advantages import advantages
from plumbline_trainer.rollout.judged import judged

REWARDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), min_size=2, max_size=7)


def estimate(parameters, rewards, groups=None, valid=None):  # type: ignore[no-untyped-def]
    return advantages(parameters, judged(rewards, groups or [0] * len(rewards), valid)).tolist()


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_win_rates_count_half_of_a_tie() -> None:
    """Of 3, 1, 1 and 0 the win rates are 1, 1/2, 1/2 and 0: a tie among the two in the middle."""
    result = estimate(PairwiseWinRate(normalize="none"), [3, 1, 1, 0])
    assert result == pytest.approx([0.5, 0.0, 0.0, -0.5], abs=1e-15)


def test_soft_win_rates_are_logistic() -> None:
    result = estimate(PairwiseWinRate(comparison="soft", temperature=2.0, normalize="none"), [1, 0])
    chance = torch.sigmoid(torch.tensor(0.5).double()).item()
    assert result == pytest.approx([chance - 0.5, 0.5 - chance])


@pytest.mark.parametrize("comparison", ["hard", "soft"])
def test_noise_within_the_tie_band_is_no_signal_while_grpo_blows_it_up(comparison: str) -> None:
    noise = [0.5, 0.50004, 0.49998, 0.50009]
    banded = PairwiseWinRate(comparison=comparison, tie_band=1e-3)  # type: ignore[arg-type]
    assert estimate(banded, noise) == [0] * 4
    assert max(map(abs, estimate(GroupRelative(epsilon=1e-6), noise))) > 0.9


def test_a_well_separated_group_is_ordered_as_by_grpo() -> None:
    rewards = [0.1, 3.0, -2.0, 1.0]
    wins, relative = estimate(PairwiseWinRate(tie_band=0.5), rewards), estimate(GroupRelative(), rewards)
    assert sorted(range(4), key=wins.__getitem__) == sorted(range(4), key=relative.__getitem__)
    assert torch.tensor(wins).double().std().item() == pytest.approx(1, rel=1e-3)


@given(REWARDS, st.sampled_from(["hard", "soft"]), st.sampled_from([0.0, 0.3]))
def test_win_rates_are_means_over_all_others(rewards: list[float], comparison: str, band: float) -> None:
    def chance(difference: float) -> float:
        if abs(difference) <= band:
            return 0.5
        return torch.sigmoid(torch.tensor(difference).double()).item() if comparison == "soft" else difference > 0

    rates = [
        fmean(chance(mine - other) for place, other in enumerate(rewards) if place != index)
        for index, mine in enumerate(rewards)
    ]
    parameters = PairwiseWinRate(comparison=comparison, tie_band=band, normalize="none")  # type: ignore[arg-type]
    # another group and a completion without reward stand between
    found = estimate(
        parameters,
        [9.0, *rewards, 5.0, 7.0],
        [1, *[0] * len(rewards), 0, 1],
        [True] * (len(rewards) + 1) + [False, True],
    )
    assert found[1:-2] == pytest.approx([rate - 0.5 for rate in rates], abs=1e-12)


# --- the best of k ----------------------------------------------------------------------------------------------------


def test_the_best_sample_gains_what_the_group_would_lose_without_it() -> None:
    rewards = [0.5, 3.0, 1.0]
    deviation = torch.tensor(rewards).double().std().item()
    assert estimate(PassAtK(), rewards) == pytest.approx([0, 2 / (deviation + 1e-6), 0])
    assert estimate(PassAtK(), [3, 3, 1]) == [0, 0, 0]


def test_the_best_of_the_valid_samples() -> None:
    result = estimate(PassAtK(), [1, 0, 50, 7, 2], [0, 0, 0, 1, 1], [True, True, False, True, True])
    deviation = torch.tensor([1.0, 0.0], dtype=torch.float64).std().item()
    wide = torch.tensor([7.0, 2.0], dtype=torch.float64).std().item()
    assert result == pytest.approx([1 / (deviation + 1e-6), 0, 0, 5 / (wide + 1e-6), 0])


@given(REWARDS, st.integers(2, 7))
def test_marginal_gains_over_all_sets(rewards: list[float], k: int) -> None:
    count = len(rewards)
    expected = [0.0] * count
    if k <= count and len(set(rewards)) > 1:
        sets = list(combinations(range(count), k))
        for index in range(count):
            gains = [
                max(rewards[member] for member in some) - max(rewards[member] for member in some if member != index)
                for some in sets
                if index in some
            ]
            expected[index] = k * fmean(gains)
    assert estimate(PassAtK(form="marginal", k=k), rewards) == pytest.approx(expected, abs=1e-9)


@given(REWARDS, st.integers(2, 7))
def test_normalized_rewards_of_sets(rewards: list[float], k: int) -> None:
    count = len(rewards)
    expected = [0.0] * count
    if k <= count and len(set(rewards)) > 1:
        best = {some: max(rewards[member] for member in some) for some in combinations(range(count), k)}
        every = torch.tensor(list(best.values())).double()
        for index in range(count):
            mine = fmean(value for some, value in best.items() if index in some)
            expected[index] = (mine - every.mean().item()) / (every.std(correction=0).item() + 1e-6)
    assert estimate(PassAtK(form="normalized", k=k), rewards) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("right", range(1, 8))
def test_the_closed_form_of_pass_at_k_training(right: int) -> None:
    """Rewards 0 and 1, n = 8, k = 4: (1 - R) / s for right samples, (1 - R - C(w-1, k-1)/C(n-1, k-1)) / s for wrong
    ones, with w wrong samples, R = 1 - C(w, k)/C(n, k) and s^2 = R (1 - R)."""
    count, k, wrong = 8, 4, 8 - right
    mean = 1 - comb(wrong, k) / comb(count, k)
    deviation = (mean * (1 - mean)) ** 0.5 + 1e-6
    result = estimate(PassAtK(form="normalized", k=k), [1.0] * right + [0.0] * wrong)
    alone = comb(wrong - 1, k - 1) / comb(count - 1, k - 1) if wrong else 0
    assert result[:right] == pytest.approx([(1 - mean) / deviation] * right, abs=1e-9)
    assert result[right:] == pytest.approx([(1 - mean - alone) / deviation] * wrong, abs=1e-9)


def test_marginal_gains_of_rewards_0_and_1() -> None:
    """A right sample counts k times the chance that k - 1 others are all wrong; a wrong one never does."""
    result = estimate(PassAtK(form="marginal", k=3), [1, 1, 0, 0, 0, 0])
    gain = 3 * comb(4, 2) / comb(5, 2)
    assert result == pytest.approx([gain, gain, 0, 0, 0, 0])


def test_large_groups_do_not_overflow() -> None:
    rewards = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for form in ("marginal", "normalized"):
        result = advantages(PassAtK(form=form, k=900), judged(rewards, [0] * 2000))  # type: ignore[arg-type]
        assert bool(result.isfinite().all())
        assert result.argmax() == rewards.argmax()
