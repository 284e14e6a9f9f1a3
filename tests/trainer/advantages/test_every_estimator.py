"""What holds for every advantage estimator: shapes, order, deafness to padding and to what no verifier could judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.advantage.family import Advantage
from plumbline_trainer.advantages import ESTIMATORS, VALUE_TARGETS, advantages, value_targets
from plumbline_trainer.rollout.judged import JudgedRollout
from tests.trainer.advantages.rollouts import full_rollout, rows_of

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "passAtK": [{}, {"form": "marginal", "k": 2}, {"form": "normalized", "k": 3}],
    "pairwiseWinRate": [{}, {"comparison": "soft", "tieBand": 0.1}],
    "frozenValue": [{}, {"baseline": "value"}],
    "gae": [{}, {"gamma": 0.9, "lambda": 0.8, "normalize": "none"}],
    "prefixTree": [{}, {"baseline": "optimistic", "normalize": "std"}],
    "groupRelative": [{}, {"normalize": "batchStd"}, {"normalize": "none"}],
    "quantile": [{}, {"normalize": "none"}],
    "difficultyWeighted": [{}, {"normalize": "none"}],
}
"""Parameters beside the defaults, where estimators have forms."""

ESTIMATED = [
    AdvantageChoice.of(member.member_key, **parameters).value
    for member in Advantage.members()
    for parameters in VARIANTS.get(member.member_key, [{}])
]
estimators = pytest.mark.parametrize("parameters", ESTIMATED, ids=lambda parameters: parameters.member_key)
TRAINING = [one for one in ESTIMATED if one.needs_values and not one.needs_frozen_values]
training = pytest.mark.parametrize("parameters", TRAINING, ids=lambda parameters: parameters.member_key)


def rollout_of(count: int = 12, seed: int = 0, **more: Any) -> JudgedRollout:
    generator = torch.Generator().manual_seed(seed + 100)
    rewards = torch.rand(count, dtype=torch.float64, generator=generator)
    groups = torch.arange(count) % 3
    return full_rollout(rewards, groups, seed, **more)


def test_every_estimator_is_implemented_and_every_trained_critic_has_targets() -> None:
    assert ESTIMATORS.missing() == []
    training_members = {type(parameters).member_key for parameters in TRAINING}
    assert set(VALUE_TARGETS.missing()) == {member.member_key for member in Advantage.members()} - training_members
    assert training_members == {"gae", "vtrace", "retrace", "rbis"}


@estimators
def test_advantages_are_finite_double_and_zero_after_the_end(parameters: Advantage) -> None:
    rollout = rollout_of()
    result = advantages(parameters, rollout)
    assert result.dtype == torch.float64
    assert result.shape in {rollout.rewards.shape, rollout.mask.shape}
    assert bool(result.isfinite().all()), "padding leaked: it holds NaN"
    assert bool((result != 0).any())
    if result.dim() == 2:
        assert bool((result[~rollout.mask] == 0).all())


@estimators
def test_what_could_not_be_judged_gets_0_and_enters_no_baseline(parameters: Advantage) -> None:
    valid = torch.ones(12, dtype=torch.bool)
    valid[[1, 5, 6]] = False
    rollout = rollout_of(valid=valid)
    ridiculous = replace(rollout, rewards=torch.where(valid, rollout.rewards, -1e6))
    components = {name: torch.where(valid, value, torch.nan) for name, value in rollout.components.items()}
    result = advantages(parameters, replace(ridiculous, components=components))
    assert bool((result[~valid] == 0).all())
    without = advantages(parameters, rows_of(rollout, valid.nonzero().squeeze(1)))
    torch.testing.assert_close(result[valid], without, rtol=1e-10, atol=1e-12)


@estimators
def test_the_order_of_completions_does_not_matter(parameters: Advantage) -> None:
    rollout = rollout_of(seed=3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    expected = advantages(parameters, rollout)[order]
    torch.testing.assert_close(advantages(parameters, rows_of(rollout, order)), expected, rtol=1e-10, atol=1e-12)


@estimators
def test_whether_advantages_grow_with_rewards_is_declared(parameters: Advantage) -> None:
    rollout = rollout_of(correct=torch.arange(12) % 2 == 0)
    twice = {name: 2 * getattr(rollout, name) for name in ("rewards", "values", "greedy_rewards", "prefix_values")}
    components = {name: 2 * values for name, values in rollout.components.items()}
    once, more = (
        advantages(parameters, rollout),
        advantages(parameters, replace(rollout, **twice, components=components)),
    )
    if parameters.grows_with_rewards:
        torch.testing.assert_close(more, 2 * once)
    else:
        assert float((more - once).abs().max()) < 0.5 * float(once.abs().max())


@estimators
def test_names_of_groups_do_not_matter(parameters: Advantage) -> None:
    rollout = rollout_of(seed=4)
    other = replace(rollout, groups=torch.tensor([500, -3, 41])[rollout.groups])
    torch.testing.assert_close(advantages(parameters, other), advantages(parameters, rollout))


@estimators
def test_a_wider_table_changes_nothing(parameters: Advantage) -> None:
    rollout = rollout_of(seed=5)

    def wider(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else torch.nn.functional.pad(values, (0, 3), value=torch.nan)

    names = ("logprobs", "policy_logprobs", "values", "prefix_values")
    other = replace(rollout, **{name: wider(getattr(rollout, name)) for name in names})  # type: ignore[arg-type]
    expected, found = advantages(parameters, rollout), advantages(parameters, other)
    torch.testing.assert_close(found[:, :5] if found.dim() == 2 else found, expected, rtol=1e-12, atol=1e-12)


@estimators
def test_the_rollout_is_left_as_it_was(parameters: Advantage) -> None:
    rollout, again = rollout_of(seed=6), rollout_of(seed=6)
    advantages(parameters, rollout)
    for name, value in vars(rollout).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, getattr(again, name), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    "parameters", [one for one in ESTIMATED if one.needs_group], ids=lambda parameters: parameters.member_key
)
def test_a_group_without_difference_has_exactly_no_signal(parameters: Advantage) -> None:
    # the mean of seven times 0.1 is not 0.1 in binary; that must not become an advantage
    rewards = torch.tensor([0.1] * 7 + [1.0, 0.0, 0.3, 0.6], dtype=torch.float64)
    groups = torch.tensor([0] * 7 + [1] * 4)
    result = advantages(parameters, full_rollout(rewards, groups))
    assert bool((result[:7] == 0).all())
    assert bool((result[7:] != 0).any())


@estimators
def test_a_rollout_without_anything_judged_moves_nothing(parameters: Advantage) -> None:
    rollout = rollout_of(valid=torch.zeros(12, dtype=torch.bool))
    assert bool((advantages(parameters, rollout) == 0).all())


@training
def test_value_targets_are_finite_and_zero_outside(parameters: Advantage) -> None:
    valid = torch.ones(12, dtype=torch.bool)
    valid[4] = False
    rollout = rollout_of(valid=valid)
    targets = value_targets(parameters, 0.9, rollout)
    assert targets.dtype == torch.float64 and targets.shape == rollout.mask.shape
    assert bool(targets.isfinite().all())
    assert bool((targets[~(rollout.mask & valid[:, None])] == 0).all())
    assert bool((targets[rollout.mask & valid[:, None]] != 0).all())


@pytest.mark.parametrize(
    ("key", "missing", "said"),
    [
        ("gae", "values", "critic"),
        ("frozenValue", "values", "critic"),
        ("rbis", "policy_logprobs", "policy as it is now"),
        ("monteCarloValue", "prefix_values", "continuations"),
        ("remax", "greedy_rewards", "greedy"),
        ("rewardDecoupled", "weights", "weights"),
        ("prefixTree", "columns", "columns"),
    ],
)
def test_what_an_estimator_needs_and_does_not_get_is_named(key: str, missing: str, said: str) -> None:
    empty = {"weights": {}, "columns": ()}.get(missing)
    rollout = replace(rollout_of(), **{missing: empty})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        advantages(AdvantageChoice.of(key).value, rollout)
