"""Divergences of DPO: each reward is f'(pi / pi_ref), and its optimum is the policy that the divergence asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.divergences import (
    LARGEST_EXPONENT,
    alpha_divergence,
    forward_kl,
    jensen_shannon,
    reverse_kl,
)
from tests.trainer.objectives.records import pair, pairs_of, vector

Function = Callable[[torch.Tensor], torch.Tensor]

# the generator f of each divergence, as a function of u = pi / pi_ref
GENERATORS: dict[str, tuple[Function, Function]] = {
    "reverse KL": (lambda u: u * u.log(), reverse_kl),
    "forward KL": (lambda u: -u.log(), forward_kl),
    "Jensen-Shannon": (lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(), jensen_shannon),
    "alpha 0.3": (
        lambda u: (u**0.7 - 0.7 * u - 0.3) / (0.3 * -0.7),
        lambda h: alpha_divergence(h, 0.3),
    ),
}


@pytest.mark.parametrize("name", GENERATORS)
@given(h=st.floats(-6, 6))
def test_reward_is_the_derivative_of_the_generator_up_to_a_constant(name: str, h: float) -> None:
    """By automatic differentiation of f; what is left after the value at u = 1 depends on no completion."""
    generator, reward = GENERATORS[name]
    ratios = torch.tensor([math.exp(h), 1.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(generator(ratios).sum(), ratios)
    assert reward(vector(h)).item() == pytest.approx(float(slopes[0] - slopes[1]), rel=1e-7, abs=1e-9)
    assert reward(vector(0.0)).item() == 0


@pytest.mark.parametrize(("name", "curvature"), [("forward KL", 1), ("Jensen-Shannon", 0.5), ("alpha 0.3", 1)])
def test_near_the_reference_every_reward_is_the_log_ratio_to_first_order(name: str, curvature: float) -> None:
    """f''(1) h, with an error that shrinks as h^2."""
    reward = GENERATORS[name][1]
    errors = [abs(reward(vector(h)).item() - curvature * h) for h in (1e-2, 1e-3)]
    assert errors[0] < 1e-4 and errors[1] < errors[0] / 90


def test_the_alpha_divergence_goes_from_the_reverse_to_the_forward_kl() -> None:
    ratios = vector(-3, -0.5, 0.0, 2.0, 5.0)
    torch.testing.assert_close(alpha_divergence(ratios, 1e-9), reverse_kl(ratios), atol=1e-7, rtol=0)
    torch.testing.assert_close(alpha_divergence(ratios, 1 - 1e-9), forward_kl(ratios), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(forward_kl(ratios), 1 - torch.exp(-ratios))


@pytest.mark.parametrize(
    ("parameters", "generator"),
    [
        (Dpo(beta=0.5, divergence="forwardKl"), GENERATORS["forward KL"][0]),
        (Dpo(beta=0.5, divergence="jensenShannon"), GENERATORS["Jensen-Shannon"][0]),
        (Dpo(beta=0.5, divergence="alpha", divergence_alpha=0.3), GENERATORS["alpha 0.3"][0]),
    ],
    ids=lambda value: value.divergence if isinstance(value, Dpo) else "",
)
def test_the_best_policy_under_a_divergence_is_stationary_for_the_loss(parameters: Dpo, generator: Function) -> None:
    """Maximise E[r] - beta D_f(pi || pi_ref) over a tabular policy, numerically and without the derived reward; the
    loss on pairs labelled with Bradley-Terry probabilities of r has gradient 0 there."""
    rewards = vector(0.3, -0.4, 0.5, 0.0)
    reference = torch.softmax(vector(0.5, -0.4, 0.1, -0.3), dim=0)
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-17, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        policy = torch.softmax(logits, dim=0)
        value = -(policy * rewards).sum() + parameters.beta * (reference * generator(policy / reference)).sum()
        value.backward()
        return value

    optimizer.step(closure)
    best = torch.log_softmax(logits.detach(), dim=0).requires_grad_()
    first, second = (torch.tensor(side) for side in zip(*combinations(range(4), 2), strict=True))
    wins = torch.sigmoid(rewards[first] - rewards[second])

    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        log_reference = reference.log()
        pairs = pairs_of(
            best[chosen],
            best[rejected],
            reference_chosen=log_reference[chosen],
            reference_rejected=log_reference[rejected],
        )
        return dpo(parameters, pairs)[0]

    total = (wins * losses(first, second) + (1 - wins) * losses(second, first)).sum()
    (gradient,) = torch.autograd.grad(total, best)
    assert gradient.abs().max() < 1e-6
    assert (best.detach().exp() - reference).abs().max() > 0.02, "the best policy is not the reference"


def test_an_exponential_that_would_overflow_goes_on_as_its_tangent() -> None:
    edge = vector(-LARGEST_EXPONENT).requires_grad_()
    beyond = vector(-LARGEST_EXPONENT - 5).requires_grad_()
    values = [forward_kl(ratio) for ratio in (edge, beyond)]
    slopes = [torch.autograd.grad(value, ratio)[0].item() for value, ratio in zip(values, (edge, beyond), strict=True)]
    assert slopes == pytest.approx([math.exp(LARGEST_EXPONENT)] * 2)
    assert (values[0] - values[1]).item() == pytest.approx(5 * math.exp(LARGEST_EXPONENT))


def test_forward_kl_holds_on_to_what_the_reference_covers() -> None:
    """A chosen completion that fell to e^-5 of the reference's probability is pulled back e^5 times as hard."""
    weights = []
    for divergence in ("reverseKl", "forwardKl"):
        chosen = vector(-5.0).requires_grad_()
        given_pair = pairs_of(chosen, vector(-5.0), reference_chosen=vector(0), reference_rejected=vector(0))
        (gradient,) = torch.autograd.grad(dpo(Dpo.model_validate({"divergence": divergence}), given_pair)[0], chosen)
        weights.append(gradient.item())
    assert weights[1] / weights[0] == pytest.approx(math.exp(5))


def test_by_hand() -> None:
    """h = (log 2, -log 2): forward KL 1 - 1/2 and 1 - 2; Jensen-Shannon log(4/3) and log(2/3); alpha 1/2, 2 - sqrt 2
    and 2 - 2 sqrt 2."""
    given_pair = pair(math.log(2), -math.log(2), 0, 0)
    for parameters, margin in (
        (Dpo(beta=1, divergence="forwardKl"), 1.5),
        (Dpo(beta=1, divergence="jensenShannon"), math.log(2)),
        (Dpo(beta=1, divergence="alpha", divergence_alpha=0.5), math.sqrt(2)),
    ):
        losses, metrics = dpo(parameters, given_pair)
        assert metrics["rewards/margin"].value == pytest.approx(margin)
        assert losses.item() == pytest.approx(math.log1p(math.exp(-margin)))
