"""DPO weighted by advantages: its limits, the policy gradient it begins with, and the policy it ends with."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.stepwise import AdvantageDpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Pairs
from plumbline_trainer.objectives.preference.stepwise import advantage_dpo
from tests.trainer.objectives.records import pairs_of, vector

REFERENCE = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
ADVANTAGE = vector(0.6, -0.2, 0.1, -0.2 / 3)  # of mean zero under the reference


def scored(chosen: Any, rejected: Any, better: torch.Tensor, worse: torch.Tensor) -> Pairs:
    """Pairs whose reference log-probabilities are all -2, with scores."""
    fixed = torch.full_like(chosen.detach(), -2)
    return pairs_of(
        chosen,
        rejected,
        reference_chosen=fixed,
        reference_rejected=fixed,
        chosen_score=better,
        rejected_score=worse,
    )


def every_ordered_pair(logits: torch.Tensor) -> tuple[Pairs, torch.Tensor]:
    """All pairs of different steps, the better one chosen, and how often the reference draws each of them."""
    policy = logits.log_softmax(0)
    pairs = [(a, b) for a, b in itertools.permutations(range(4), 2) if ADVANTAGE[a] > ADVANTAGE[b]]
    won, lost = torch.tensor(pairs).T
    reference = REFERENCE.log()
    drawn = 2 * REFERENCE[won] * REFERENCE[lost]  # (a, b) and (b, a) become the same pair
    return pairs_of(
        policy[won],
        policy[lost],
        reference_chosen=reference[won],
        reference_rejected=reference[lost],
        chosen_score=ADVANTAGE[won],
        rejected_score=ADVANTAGE[lost],
    ), drawn


def test_by_hand() -> None:
    """beta (h_w - h_l) = 0.5 x (1 - -1) = 1: log(1 + e^-1) = 0.3132617, and log(1 + e) = 1.3132617.

    Gap 0.3 over a scale of 0.5 is 0.6: weighted 0.6 x 0.3132617; soft labels sigma(0.6) = 0.6456563.
    """
    pairs = scored(vector(-1), vector(-3), vector(0.2), vector(-0.1))
    weighted, metrics = advantage_dpo(AdvantageDpo(beta=0.5, gap_scale=0.5), pairs)
    soft, _ = advantage_dpo(AdvantageDpo(beta=0.5, gap_scale=0.5, form="softLabels"), pairs)
    assert weighted.item() == pytest.approx(0.6 * 0.31326168751822286)
    assert soft.item() == pytest.approx(
        0.6456563062257954 * 0.31326168751822286 + 0.3543436937742046 * 1.3132616875182228
    )
    assert (metrics["scores/gap"].value, metrics["scores/without_gap"].value) == pytest.approx((0.3, 0))
    assert metrics["rewards/margin"].value == pytest.approx(1)


@given(st.floats(-8, -0.01), st.floats(-8, -0.01), st.floats(0.05, 2), st.floats(0.01, 1))
def test_weighted_pairs_whose_gap_is_the_scale_are_dpo(w: float, lose: float, beta: float, gap: float) -> None:
    pairs = scored(vector(w), vector(lose), vector(gap), vector(0))
    losses, _ = advantage_dpo(AdvantageDpo(beta=beta, gap_scale=gap), pairs)
    assert losses.item() == pytest.approx(dpo(Dpo(beta=beta), pairs)[0].item())
    twice, _ = advantage_dpo(AdvantageDpo(beta=beta, gap_scale=gap / 2), pairs)
    assert twice.item() == pytest.approx(2 * losses.item()), "a common factor of all gaps only scales the loss"


def test_soft_labels_become_dpo_as_the_scale_goes_to_zero_and_even_odds_as_it_grows() -> None:
    pairs = scored(vector(-1), vector(-3), vector(0.2), vector(-0.1))
    certain, _ = advantage_dpo(AdvantageDpo(form="softLabels", gap_scale=1e-3), pairs)
    assert certain.item() == pytest.approx(dpo(Dpo(), pairs)[0].item(), abs=1e-12)
    even, _ = advantage_dpo(AdvantageDpo(form="softLabels", gap_scale=1e6), pairs)
    assert even.item() == pytest.approx(dpo(Dpo(label_smoothing=0.5 - 1e-9), pairs)[0].item(), abs=1e-6)


def test_the_first_weighted_step_is_the_policy_gradient_of_the_expected_advantage() -> None:
    """d E_pi[A] / d logit_k = pi_k (A_k - E_pi[A]) for a softmax policy; the loss's is -beta / gapScale times that."""
    logits = REFERENCE.log().requires_grad_()
    pairs, drawn = every_ordered_pair(logits)
    losses, _ = advantage_dpo(AdvantageDpo(beta=0.3, gap_scale=0.5), pairs)
    (gradient,) = torch.autograd.grad((drawn * losses).sum(), logits)
    expected = REFERENCE * (ADVANTAGE - (REFERENCE * ADVANTAGE).sum())
    assert torch.allclose(gradient, -0.3 / 0.5 * expected, atol=1e-12)
    (of_dpo,) = torch.autograd.grad((drawn * dpo(Dpo(beta=0.3), every_ordered_pair(logits)[0])[0]).sum(), logits)
    angle = torch.cosine_similarity(of_dpo, -expected, dim=0)
    assert angle < 0.99, "without the weights the direction is another one"


def test_soft_labels_end_at_the_policy_of_advantage_weighted_reinforcement_learning() -> None:
    """pi(a) = pi_ref(a) exp(A(a) / (beta gapScale)) / Z, the maximiser of E_pi[A] - beta gapScale KL(pi || pi_ref)."""
    beta, scale = 0.8, 0.5
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        pairs, drawn = every_ordered_pair(logits)
        losses, _ = advantage_dpo(AdvantageDpo(beta=beta, gap_scale=scale, form="softLabels"), pairs)
        loss = (drawn * losses).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    expected = REFERENCE * (ADVANTAGE / (beta * scale)).exp()
    assert torch.allclose(logits.detach().softmax(0), expected / expected.sum(), atol=1e-6)


def test_pairs_without_a_gap_teach_nothing_in_the_weighted_form() -> None:
    chosen = vector(-1, -1).requires_grad_()
    losses, metrics = advantage_dpo(AdvantageDpo(), scored(chosen, vector(-3, -3), vector(0.1, 0), vector(0.1, 0.5)))
    (gradient,) = torch.autograd.grad(losses.sum(), chosen)
    assert losses.tolist() == [0, 0]
    assert gradient.tolist() == [0, 0]
    assert metrics["scores/without_gap"].value == 1


@pytest.mark.parametrize("form", ["weighted", "softLabels"])
def test_gradients_equal_finite_differences(form: Any) -> None:
    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return advantage_dpo(
            AdvantageDpo(form=form, gap_scale=0.3), scored(chosen, rejected, vector(0.5, 0.1), vector(-0.2, 0))
        )[0]

    torch.autograd.gradcheck(losses, [vector(-3, -9).requires_grad_(), vector(-4, -8).requires_grad_()])


@pytest.mark.parametrize("form", ["weighted", "softLabels"])
@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_extreme_margins_stay_finite(form: Any, margin: float) -> None:
    chosen = vector(margin).requires_grad_()
    losses, _ = advantage_dpo(AdvantageDpo(beta=1, form=form), scored(chosen, vector(-2), vector(1), vector(0)))
    (gradient,) = torch.autograd.grad(losses.sum(), chosen)
    assert math.isfinite(losses.item()) and math.isfinite(gradient.item())


def test_scores_are_needed() -> None:
    pairs = pairs_of(vector(-1), vector(-2), reference_chosen=vector(-1), reference_rejected=vector(-2))
    with pytest.raises(ValueError, match="scores"):
        advantage_dpo(AdvantageDpo(), pairs)
