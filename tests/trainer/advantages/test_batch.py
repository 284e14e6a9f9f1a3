"""Normalisation over the rollout against the formulas written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.advantage.batch import BatchNormalized, GroupBatchNormalized, RewardDecoupled
from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_trainer.advantages import advantages
from plumbline_trainer.advantages.recursions import backward_sums, whitened
from plumbline_trainer.rollout.judged import judged
from tests.trainer.advantages.rollouts import full_rollout


def test_every_token_of_the_rollout_counts_alike() -> None:
    """Rewards 1 and 0 of one and three tokens: mean 1/4, variance 3/16."""
    result = advantages(BatchNormalized(), judged([1, 0], [0, 1], lengths=[1, 3]))
    deviation = (3 / 16) ** 0.5
    torch.testing.assert_close(
        result, torch.tensor([[0.75, 0, 0], [-0.25, -0.25, -0.25]], dtype=torch.float64) / deviation
    )


def test_rewards_of_tokens_are_returns_from_there_on() -> None:
    penalties = torch.tensor([[-0.1, -0.2, -0.3], [-0.5, torch.nan, torch.nan]], dtype=torch.float64)
    rollout = judged([1, 0], [0, 1], lengths=[3, 1], token_rewards=penalties)
    returns = torch.tensor([0.4, 0.5, 0.7, -0.5], dtype=torch.float64)
    expected = (returns - returns.mean()) / returns.std(correction=0)
    result = advantages(BatchNormalized(), rollout)
    torch.testing.assert_close(result[rollout.mask], expected)


def test_with_the_groups_mean_taken_off_first() -> None:
    rollout = judged([1, 0, 3, 3], [0, 0, 1, 1], lengths=[2, 1, 1, 1])
    centred = torch.tensor([0.5, 0.5, -0.5, 0, 0], dtype=torch.float64)
    scaled = (centred - centred.mean()) / centred.std(correction=0)
    result = advantages(GroupBatchNormalized(), rollout)
    torch.testing.assert_close(result[rollout.mask], torch.cat([scaled[:3], torch.zeros(2).double()]))


@pytest.mark.parametrize("parameters", [BatchNormalized(), GroupBatchNormalized()])
def test_normalised_advantages_have_mean_0_and_variance_1_over_tokens(parameters) -> None:  # type: ignore[no-untyped-def]
    rewards = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rollout = full_rollout(rewards, torch.arange(20) // 4)
    result = advantages(parameters, rollout)[rollout.mask]
    assert result.mean().item() == pytest.approx(0, abs=1e-12)
    assert result.var(correction=0).item() == pytest.approx(1)


def test_components_are_standardised_before_they_are_added() -> None:
    """Two components in one group of three, written out."""
    right, form = (
        torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([0.0, 100.0, 50.0], dtype=torch.float64),
    )
    rollout = judged(
        right + form, [0, 0, 0], components={"right": right, "form": form}, weights={"right": 2.0, "form": 0.5}
    )

    def standardised(values: torch.Tensor) -> torch.Tensor:
        return (values - values.mean()) / (values.std() + 1e-4)

    total = 2.0 * standardised(right) + 0.5 * standardised(form)
    torch.testing.assert_close(advantages(RewardDecoupled(), rollout), standardised(total))


def test_decoupled_rewards_tell_apart_what_their_sum_does_not() -> None:
    """(1, 0), (0, 1) and (1, 1), (0, 0): only the sum of standardised components sees which component is rare."""
    right, form = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), torch.tensor([0.0, 1, 1, 0], dtype=torch.float64)
    rollout = judged(right + form, [0] * 4, components={"a": right, "b": form}, weights={"a": 1.0, "b": 1.0})
    coupled, decoupled = advantages(GroupRelative(), rollout), advantages(RewardDecoupled(), rollout)
    assert coupled[0] == coupled[1]
    assert decoupled[0] > decoupled[1] + 0.1


def test_a_component_that_failed_adds_nothing() -> None:
    right = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    form = torch.tensor([3.0, 1.0, torch.nan], dtype=torch.float64)
    rollout = judged(right, [0] * 3, components={"a": right, "b": form}, weights={"a": 1.0, "b": 1.0})
    of_right = (right - 0.5) / (right.std() + 1e-4)
    of_form = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / (form[:2].std() + 1e-4)
    total = of_right + of_form
    torch.testing.assert_close(advantages(RewardDecoupled(), rollout), (total - total.mean()) / (total.std() + 1e-4))


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=17),
    st.floats(-1, 1),
)
def test_backward_sums_are_the_recursion(terms: list[float], factor: float) -> None:
    expected, later = [], 0.0
    for term in reversed(terms):
        later = term + factor * later
        expected.append(later)
    found = backward_sums(torch.tensor([terms], dtype=torch.float64), factor)
    torch.testing.assert_close(found[0], torch.tensor(expected[::-1], dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_backward_sums_with_a_factor_for_each_place() -> None:
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(3, 13, dtype=torch.float64, generator=generator)
    factors = torch.rand(3, 13, dtype=torch.float64, generator=generator)
    expected = torch.zeros(3, 14, dtype=torch.float64)
    for place in range(12, -1, -1):
        expected[:, place] = terms[:, place] + factors[:, place] * expected[:, place + 1]
    torch.testing.assert_close(backward_sums(terms, factors), expected[:, :-1])


def test_values_without_difference_are_whitened_to_exactly_0() -> None:
    values = torch.full((3, 3), 0.1, dtype=torch.float64)
    assert whitened(values, torch.ones(3, 3, dtype=torch.bool)).tolist() == [[0.0] * 3] * 3
