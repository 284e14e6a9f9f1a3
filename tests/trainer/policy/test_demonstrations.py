"""Demonstrations beside samples: their likelihood alone, with every objective and in every split."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.off_policy import Truncated
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_trainer.objectives.policy.aggregation import AGGREGATIONS
from plumbline_trainer.objectives.policy.demonstrations import DEMONSTRATED
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.policy.loss import default_aggregation
from tests.trainer.policy.records import counts, loss_of, random_tokens, with_preparation
from tests.trainer.policy.test_every_objective import objectives

SAMPLES, DEMONSTRATIONS = torch.arange(4), torch.tensor([4, 5])
WEIGHT = 0.7


def mixed(parameters: PolicyObjective) -> PolicyTokens:
    """Four samples in two groups, prepared as a rollout of their own, and two demonstrations."""
    batch = random_tokens(seed=4, on_policy=parameters.strictly_on_policy)
    of_samples = with_preparation(parameters, batch.rows(SAMPLES)).prepared
    prepared = {
        name: torch.cat([values, values.new_zeros(2, *values.shape[1:])]) for name, values in of_samples.items()
    }
    advantages = batch.advantages.clone()
    advantages[DEMONSTRATIONS] = WEIGHT
    shown = torch.zeros(6).index_fill(0, DEMONSTRATIONS, 1.0)
    return replace(batch, advantages=advantages, prepared={**prepared, DEMONSTRATED: shown})


def likelihood(parameters: PolicyObjective, batch: PolicyTokens) -> torch.Tensor:
    """The loss of the demonstrations alone, as the step has it."""
    mask = batch.mask & (batch.prepared[DEMONSTRATED] > 0)[:, None]
    losses = torch.where(mask, -WEIGHT * batch.logprobs, 0.0)
    how = default_aggregation(parameters)
    return AGGREGATIONS.of(how)(how, losses, batch.mask, counts(batch))


@objectives
def test_a_demonstration_has_the_loss_of_its_likelihood_and_samples_that_of_the_objective(
    parameters: PolicyObjective,
) -> None:
    batch = mixed(parameters)
    found, metrics = loss_of(parameters, batch)
    samples = replace(batch.rows(SAMPLES), prepared=with_preparation(parameters, batch.rows(SAMPLES)).prepared)
    expected, of_samples = loss_of(parameters, samples, counts(batch))
    torch.testing.assert_close(found, expected + likelihood(parameters, batch))
    assert metrics == of_samples
    (gradient,) = torch.autograd.grad(found, batch.logprobs)
    (wanted,) = torch.autograd.grad(likelihood(parameters, batch), batch.logprobs)
    torch.testing.assert_close(gradient[DEMONSTRATIONS], wanted[DEMONSTRATIONS])
    assert (gradient[DEMONSTRATIONS][batch.mask[DEMONSTRATIONS]] < 0).all()


@objectives
def test_demonstrations_may_fill_a_micro_batch_of_their_own(parameters: PolicyObjective) -> None:
    batch = mixed(parameters)
    whole, _ = loss_of(parameters, batch)
    pieces = [batch.rows(SAMPLES), replace(batch.rows(DEMONSTRATIONS), prepared={DEMONSTRATED: torch.ones(2)})]
    shares = [loss_of(parameters, piece, counts(batch)) for piece in pieces]
    torch.testing.assert_close(shares[0][0] + shares[1][0], whole)
    assert shares[1][1] == {}


@pytest.mark.parametrize("ratio", [0.01, 100.0])
def test_a_demonstration_is_neither_clipped_nor_weighted_by_its_sampler(ratio: float) -> None:
    [grpo] = [member() for member in PolicyObjective.members() if member.member_key == "grpo"]
    batch = mixed(grpo)
    far = replace(
        batch,
        old_logprobs=batch.logprobs.detach() - torch.tensor(ratio).log(),
        sampled_logprobs=batch.logprobs.detach() - 3.0,
    )
    only = replace(far.rows(DEMONSTRATIONS), prepared={DEMONSTRATED: torch.ones(2)})
    found, _ = loss_of(grpo, only, counts(batch), correction=Truncated())
    torch.testing.assert_close(found, likelihood(grpo, batch))
