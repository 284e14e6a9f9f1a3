"""Regularized policy gradients against the exact gradient by enumeration."""

import itertools
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy.regularized_gradient import Rpg, RpgReference
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.policy.bandit import every_action, expected_loss, probabilities
from tests.trainer.policy.records import tokens

OLD = probabilities(0.1, 0.4, 0.3, 0.2)
REFERENCE = probabilities(0.25, 0.15, 0.2, 0.4)
GAINS = torch.tensor([1.0, -0.5, 0.3, 0.0], dtype=torch.float64)
LOGITS = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
FORMS = list(itertools.product(["reverse", "forward"], [True, False], ["differentiable", "reinforce"]))
forms = pytest.mark.parametrize(("divergence", "normalized", "estimator"), FORMS)


def regularized(policy: Tensor, reference: Tensor, direction: str, beta: float) -> Tensor:
    """Minus the objective itself, by its definition."""
    first, second = (policy, reference) if direction == "reverse" else (reference, policy)
    return -(policy * GAINS).sum() + beta * (first * (first / second).log()).sum()


def gradient_of(parameters, logits: Tensor, **more) -> Tensor:
    logits = logits.clone().requires_grad_()
    loss = expected_loss(parameters, every_action(logits, OLD, GAINS, **more), OLD)
    return torch.autograd.grad(loss, logits)[0]


def exact(reference: Tensor, divergence: str, beta: float) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(regularized(logits.softmax(0), reference, divergence, beta), logits)[0]


@forms
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_every_form_has_the_exact_gradient(divergence, normalized, estimator, level):
    parameters = Rpg(divergence=divergence, normalized=normalized, estimator=estimator, coefficient=0.7, level=level)
    torch.testing.assert_close(gradient_of(parameters, LOGITS), exact(OLD, divergence, 0.7), rtol=0, atol=1e-12)


@forms
def test_every_form_has_the_exact_gradient_toward_the_frozen_reference(divergence, normalized, estimator):
    parameters = RpgReference(divergence=divergence, normalized=normalized, estimator=estimator, coefficient=0.7)
    found = gradient_of(parameters, LOGITS, reference_logprobs=REFERENCE.log()[:, None])
    torch.testing.assert_close(found, exact(REFERENCE, divergence, 0.7), rtol=0, atol=1e-12)


def test_the_unweighted_penalty_of_grpo_is_biased_once_the_policy_has_moved():
    """Its k3 term, averaged over samples of the old policy, has the gradient of neither divergence."""
    logits = LOGITS.clone().requires_grad_()
    difference = REFERENCE.log() - logits.log_softmax(0)
    (found,) = torch.autograd.grad((OLD * (difference.exp() - difference - 1)).sum(), logits)
    for divergence in ["reverse", "forward"]:
        with_gains = exact(REFERENCE, divergence, 1.0)
        alone = with_gains - exact(REFERENCE, divergence, 0.0)
        assert (found - alone).abs().max() > 0.02


@forms
def test_the_sequence_level_is_exact_for_completions_of_several_tokens(divergence, normalized, estimator):
    """Two tokens, the second drawn from a distribution of its own for each first one: nine completions."""
    torch.manual_seed(1)
    first, second = torch.randn(3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    logits = torch.cat([first, second.flatten()]).requires_grad_()
    old_logits, gains = torch.randn(12, dtype=torch.float64), torch.randn(9, dtype=torch.float64)

    def logprobs(values: Tensor) -> Tensor:
        rows = values[3:].view(3, 3).log_softmax(1)
        return torch.stack([values[:3].log_softmax(0).repeat_interleave(3), rows.flatten()], dim=1)

    old = logprobs(old_logits)
    batch = PolicyTokens(
        logprobs(logits), torch.ones(9, 2, dtype=torch.bool), gains[:, None].expand(9, 2), old_logprobs=old
    )
    parameters = Rpg(
        divergence=divergence, normalized=normalized, estimator=estimator, coefficient=0.4, level="sequence"
    )
    losses, _ = implementation_of(parameters)(parameters, batch)
    drawn = old.sum(dim=1).exp()
    found = torch.autograd.grad((drawn * losses.mean(dim=1)).sum(), logits)[0]
    policy = logprobs(logits).sum(dim=1).exp()
    pair = (policy, drawn) if divergence == "reverse" else (drawn, policy)
    objective = -(policy * gains).sum() + 0.4 * (pair[0] * (pair[0] / pair[1]).log()).sum()
    torch.testing.assert_close(found, torch.autograd.grad(objective, logits)[0], rtol=0, atol=1e-12)


def test_weights_clip_the_ratio():
    """Ratio 1.5 becomes 1.2 in the weight; the log-likelihood keeps its gradient, unlike under PPO's clip."""
    batch = tokens([[0.6]], [2.0], old=[[0.4]])
    batch = replace(batch, logprobs=batch.logprobs.log(), old_logprobs=batch.old_logprobs.log())
    for divergence, normalized, expected in [
        ("reverse", True, 1.2 * (2.0 - 0.1 * torch.tensor(1.5).log().item() - 0.1)),
        ("reverse", False, 1.2 * (2.0 - 0.1 * torch.tensor(1.5).log().item())),
        ("forward", True, 1.2 * 2.0 + 0.1),
        ("forward", False, 1.2 * 2.0 + 0.1 * (1 - 1.2)),
    ]:
        parameters = Rpg(divergence=divergence, normalized=normalized, coefficient=0.1, clip_low=0.2, clip_high=0.2)
        losses, _ = implementation_of(parameters)(parameters, batch)
        (gradient,) = torch.autograd.grad(losses.sum(), batch.logprobs, retain_graph=True)
        assert gradient.item() == pytest.approx(-expected, rel=1e-6)


def test_bounds_of_the_ratio_are_for_weights_only():
    with pytest.raises(ValidationError, match="need estimator reinforce"):
        PolicyObjectiveChoice.of("rpg", estimator="differentiable", clipHigh=0.2)


def test_the_divergence_is_reported():
    parameters = RpgReference(divergence="reverse")
    batch = every_action(LOGITS, LOGITS.softmax(0), GAINS, reference_logprobs=REFERENCE.log()[:, None])
    _, metrics = implementation_of(parameters)(parameters, batch)
    policy = LOGITS.softmax(0)
    per_action = (policy / REFERENCE).log() - 1 + REFERENCE / policy
    assert metrics["divergence"].value == pytest.approx(per_action.mean().item())
    assert (policy * per_action).sum().item() == pytest.approx((policy * (policy / REFERENCE).log()).sum().item())


def test_a_missing_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        implementation_of(RpgReference())(RpgReference(), tokens([[-1.0]], [1.0]))
