"""What holds for every policy objective: gradients, independence of the split, deafness to padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.kl import KlInLoss
from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy_aggregation import Constant, PolicyAggregation, SequenceMean, SequenceSum, TokenMean
from plumbline_trainer.objectives.policy.aggregation import AGGREGATIONS
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.policy.kl import KL_PENALTIES
from plumbline_trainer.objectives.policy.preparation import PROMPT_WEIGHT
from plumbline_trainer.objectives.registry import POLICY_OBJECTIVES, implementation_of
from plumbline_trainer.reporting.metrics import merge
from tests.trainer.policy.records import counts, loss_of, random_tokens, with_preparation

OBJECTIVES = [PolicyObjectiveChoice.of(member.member_key).value for member in PolicyObjective.members()]
objectives = pytest.mark.parametrize("parameters", OBJECTIVES, ids=lambda parameters: parameters.member_key)
WEIGHTED = {"rpg", "rpgReference", "sequenceConfidence", "tokenConfidence", "cispo", "topr", "vespo"}
"""Objectives that weight log-likelihoods by constants which depend on the policy, so that the gradient of their loss is
right and no derivative of its value; their own tests compare it with the exact one."""

AGGREGATED = [SequenceMean(), TokenMean(), SequenceSum(), Constant(), Constant(tokens=5)]


def batch_for(parameters: PolicyObjective, seed: int) -> PolicyTokens:
    return with_preparation(parameters, random_tokens(seed=seed, on_policy=parameters.strictly_on_policy))


def test_every_policy_objective_of_the_api_is_implemented() -> None:
    assert POLICY_OBJECTIVES.missing() == []
    assert {member.member_key for member in PolicyObjective.members()} >= {"grpo", "drGrpo", "reinforce"}


def test_every_aggregation_and_penalty_of_the_api_is_implemented() -> None:
    assert AGGREGATIONS.missing() == KL_PENALTIES.missing() == []


@objectives
def test_gradients_match_finite_differences(parameters: PolicyObjective) -> None:
    if parameters.member_key in WEIGHTED:
        pytest.skip("the loss is no primitive of its gradient")
    batch = batch_for(parameters, seed=3)
    assert batch.entropy is not None and batch.success_logits is not None

    def loss(logprobs: torch.Tensor, entropy: torch.Tensor, success_logits: torch.Tensor) -> torch.Tensor:
        frozen = replace(
            batch, old_logprobs=batch.logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        )
        given = replace(frozen, logprobs=logprobs, entropy=entropy, success_logits=success_logits)
        return loss_of(parameters, given)[0]

    assert torch.autograd.gradcheck(loss, (batch.logprobs, batch.entropy, batch.success_logits))


@objectives
@pytest.mark.parametrize("split", [[6], [2, 4], [2, 2, 2], [1, 5], [1] * 6], ids=str)
def test_loss_gradient_and_metrics_do_not_depend_on_the_split(parameters: PolicyObjective, split: list[int]) -> None:
    if parameters.needs_whole_groups and any(size % 2 for size in split):
        pytest.skip("completions of one prompt share a pass")
    batch = batch_for(parameters, seed=1)
    whole, whole_metrics = loss_of(parameters, batch)
    assert batch.success_logits is not None
    inputs = (batch.logprobs, batch.success_logits)
    expected = torch.autograd.grad(whole, inputs, retain_graph=True, materialize_grads=True)
    pieces = [batch.rows(rows) for rows in torch.arange(6).split(split)]
    shares = [loss_of(parameters, piece, counts(batch)) for piece in pieces]
    total = torch.stack([loss for loss, _ in shares]).sum()
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(torch.autograd.grad(total, inputs, materialize_grads=True), expected)
    merged = merge(metrics for _, metrics in shares)
    assert {name: metric.value for name, metric in merged.items()} == pytest.approx(
        {name: metric.value for name, metric in whole_metrics.items()}
    )


@objectives
def test_padding_may_hold_anything(parameters: PolicyObjective) -> None:
    batch = batch_for(parameters, seed=2)
    loss, _ = loss_of(parameters, batch)

    def spoiled(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else torch.where(batch.mask, values, float("nan"))

    logprobs, advantages = spoiled(batch.logprobs), spoiled(batch.advantages)
    assert logprobs is not None and advantages is not None
    changed = replace(
        batch,
        logprobs=logprobs,
        advantages=advantages,
        old_logprobs=spoiled(batch.old_logprobs),
        sampled_logprobs=spoiled(batch.sampled_logprobs),
        reference_logprobs=spoiled(batch.reference_logprobs),
        entropy=spoiled(batch.entropy),
        success_logits=spoiled(batch.success_logits),
    )
    again, metrics = loss_of(parameters, changed)
    assert again.item() == loss.item()
    (gradient,) = torch.autograd.grad(again, batch.logprobs, materialize_grads=True)
    assert gradient.isfinite().all()
    assert all(torch.tensor(metric.value).isfinite() for metric in metrics.values())


@objectives
def test_token_losses_are_zero_outside_the_mask(parameters: PolicyObjective) -> None:
    batch = batch_for(parameters, seed=5)
    losses, _ = implementation_of(parameters)(parameters, batch)
    assert losses.shape == batch.mask.shape
    assert (losses[~batch.mask] == 0).all()


@objectives
def test_very_unlikely_tokens_leave_loss_and_gradient_finite(parameters: PolicyObjective) -> None:
    batch = batch_for(parameters, seed=6)
    far = replace(batch, logprobs=(batch.logprobs.detach() - 200).requires_grad_())
    loss, _ = loss_of(parameters, far)
    (gradient,) = torch.autograd.grad(loss, far.logprobs, allow_unused=True)
    assert loss.isfinite()
    assert gradient is None or gradient.isfinite().all()


@objectives
def test_a_prompts_weight_is_a_factor_of_its_losses_and_of_no_penalty(parameters: PolicyObjective) -> None:
    batch = batch_for(parameters, seed=7)
    factors = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)[batch.groups]
    heavier = replace(batch, prepared={**batch.prepared, PROMPT_WEIGHT: factors})
    plain, _ = implementation_of(parameters)(parameters, batch)
    how = SequenceMean()
    expected = AGGREGATIONS.of(how)(how, plain * factors[:, None], batch.mask, counts(batch))
    torch.testing.assert_close(loss_of(parameters, heavier, aggregation=how)[0], expected)
    kl = KlInLoss(coefficient=0.1)
    penalty = loss_of(parameters, batch, kl=kl)[0] - loss_of(parameters, batch)[0]
    torch.testing.assert_close(loss_of(parameters, heavier, kl=kl)[0] - loss_of(parameters, heavier)[0], penalty)


@pytest.mark.parametrize("aggregation", AGGREGATED, ids=repr)
@pytest.mark.parametrize("kl", [None, KlInLoss(coefficient=0.1)], ids=repr)
def test_an_aggregation_adds_up_over_micro_batches(aggregation: PolicyAggregation, kl: KlInLoss | None) -> None:
    [grpo] = [parameters for parameters in OBJECTIVES if parameters.member_key == "grpo"]
    batch = random_tokens(seed=1)
    whole, _ = loss_of(grpo, batch, kl=kl, aggregation=aggregation)
    pieces = [batch.rows(rows) for rows in torch.arange(6).split([1, 3, 2])]
    shares = [loss_of(grpo, piece, counts(batch), kl=kl, aggregation=aggregation)[0] for piece in pieces]
    torch.testing.assert_close(torch.stack(shares).sum(), whole)
