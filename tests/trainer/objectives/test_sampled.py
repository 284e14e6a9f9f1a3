"""Objectives that see samples of the reference: by hand, and the distributions that they lead tables of answers to."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.reference_free import Cpo
from plumbline_api.methods.preference.sampled import Ddo, Typo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Completions, Demonstrations, Pairs
from plumbline_trainer.objectives.preference.reference_free import cpo
from plumbline_trainer.objectives.preference.sampled import ddo, typo
from tests.trainer.objectives.records import pairs_of, vector


def completions_of(logprobs: torch.Tensor, reference: torch.Tensor | None = None) -> Completions:
    return Completions(logprobs, torch.ones_like(logprobs.detach()), reference)


def sampled_pairs(chosen: torch.Tensor, rejected: torch.Tensor, samples: torch.Tensor) -> Pairs:
    """Pairs `[B]` with samples `[B, S]`."""
    pairs = pairs_of(chosen, rejected)
    return Pairs(pairs.chosen, pairs.rejected, samples=completions_of(samples))


def demonstrations_of(
    logprobs: torch.Tensor, reference: torch.Tensor, samples: torch.Tensor, sample_reference: torch.Tensor
) -> Demonstrations:
    """Demonstrations `[B]` with samples `[B, S]`."""
    return Demonstrations(completions_of(logprobs, reference), completions_of(samples, sample_reference))


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_typo_by_hand() -> None:
    """log(1 + e^-1) + 0.5 (3 + 5)/2. With flips of 0.2: 0.8 x 0.3132617 + 0.2 x 1.3132617 - 0.5004024 in place."""
    pairs = sampled_pairs(vector(-4), vector(-5), vector(-3, -5)[None])
    losses, metrics = typo(Typo(reference_weight=0.5), pairs)
    assert losses.item() == pytest.approx(2.3132616875182228)
    assert (metrics["loss/preference"].value, metrics["logprobs/samples"].value) == pytest.approx((0.3132616875, -4))
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    smoothed = typo(Typo(reference_weight=0, label_smoothing=0.2), pairs)[0]
    assert smoothed.item() == pytest.approx(0.5132616875182228 - entropy)


def test_ddo_by_hand() -> None:
    """d(y) = 0.5 x 3 - 0.5 = 1, of the samples 0.5 (-1, 3) - 0.5 = (-1, 1): 0.3132617 + 2 (0.3132617 + 1.3132617)/2."""
    rows = demonstrations_of(vector(-2), vector(-5), vector(-4, -1)[None], vector(-3, -4)[None])
    losses, metrics = ddo(Ddo(beta=0.5, shift=-0.5, sample_weight=2), rows)
    assert losses.item() == pytest.approx(1.9397850625546684)
    assert (metrics["rewards/demonstrations"].value, metrics["rewards/samples"].value) == (1, 0)
    assert metrics["rewards/accuracy"].value == 0.75, "right about the demonstration and about one of two samples"
    assert metrics["kl"].value == 3


# --- the same objective derived another way ---------------------------------------------------------------------------


@given(st.floats(-6, -0.01), st.floats(-6, -0.01), st.floats(0.01, 0.49), st.lists(st.floats(-6, -0.01), min_size=1))
def test_typo_is_a_divergence_of_labels_plus_the_likelihood_of_samples(
    w: float, lose: float, flip: float, samples: list[float]
) -> None:
    p = math.exp(w) / (math.exp(w) + math.exp(lose))
    divergence = (1 - flip) * math.log((1 - flip) / p) + flip * math.log(flip / (1 - p))
    pairs = sampled_pairs(vector(w), vector(lose), vector(*samples)[None])
    losses, _ = typo(Typo(label_smoothing=flip, reference_weight=2), pairs)
    assert losses.item() == pytest.approx(divergence - 2 * sum(samples) / len(samples), rel=1e-9, abs=1e-12)


@given(st.floats(-6, -0.01), st.floats(-6, -0.01), st.floats(-6, -0.01))
def test_typo_with_the_chosen_completion_as_sample_is_cpo(w: float, lose: float, other: float) -> None:
    """And without samples' weight, DPO under a uniform reference."""
    pairs = sampled_pairs(vector(w), vector(lose), vector(w)[None])
    expected = cpo(Cpo(beta=1, likelihood_weight=0.3), pairs)[0].item()
    assert typo(Typo(reference_weight=0.3), pairs)[0].item() == pytest.approx(expected)
    uniform = pairs_of(vector(w), vector(lose), reference_chosen=vector(other), reference_rejected=vector(other))
    expected = dpo(Dpo(beta=1), uniform)[0].item()
    assert typo(Typo(reference_weight=0), pairs)[0].item() == pytest.approx(expected, rel=1e-9)


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.1, 2), st.floats(-2, 2), st.floats(0.1, 3))
def test_ddo_is_the_loss_of_a_discriminator_made_of_a_likelihood_ratio(
    h: float, sampled: float, beta: float, shift: float, weight: float
) -> None:
    """D = a / (1 + a) with a = e^shift (pi/ref)^beta: -log D(data) - weight log(1 - D(sample))."""
    parameters = Ddo(beta=beta, shift=shift, sample_weight=weight)
    rows = demonstrations_of(vector(h - 9), vector(-9), vector(sampled - 9)[None], vector(-9)[None])
    a, b = (math.exp(shift) * math.exp(ratio) ** beta for ratio in (h, sampled))
    expected = -math.log(a / (1 + a)) - weight * math.log(1 / (1 + b))
    assert ddo(parameters, rows)[0].item() == pytest.approx(expected, rel=1e-9)


# --- where training leads ---------------------------------------------------------------------------------------------


def minimised(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """The distribution over a table of answers that minimises `loss` of its log-probabilities `[V]`."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits.log_softmax(dim=0))
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach().log_softmax(dim=0)


REFERENCE = vector(0.4, 0.3, 0.2, 0.1).log()


def typo_on_a_table(weight: float, policy: torch.Tensor) -> torch.Tensor:
    """Expected loss where answer 1 beats answer 0 in 3 of 4 comparisons and the others are never compared.

    The expectation over samples is exact: the loss is linear in what it takes from them, so rows are one sample each,
    weighted by the reference's probabilities.
    """
    flipped, sampled = torch.arange(2).repeat_interleave(4), torch.arange(4).repeat(2)
    pairs = sampled_pairs(policy[1 - flipped], policy[flipped], policy[sampled, None])
    weights = vector(0.75, 0.25)[flipped] * REFERENCE[sampled].exp()
    return (weights * typo(Typo(reference_weight=weight), pairs)[0]).sum()


def test_typo_goes_from_the_reference_to_the_bradley_terry_fit() -> None:
    """lambda to infinity: the reference. lambda to 0: odds of 3 : 1 as observed, and not a collapse onto the winner;
    what was never compared, and the mass of what was, stay as in the reference."""
    start = torch.zeros(4, dtype=torch.float64)
    held = minimised(lambda policy: typo_on_a_table(1000, policy) / 1000, start)
    torch.testing.assert_close(held.exp(), REFERENCE.exp(), atol=1e-3, rtol=0)

    fitted = minimised(lambda policy: typo_on_a_table(1e-3, policy), start)
    torch.testing.assert_close(fitted.exp(), vector(0.7 / 4, 0.7 * 3 / 4, 0.2, 0.1), atol=1e-3, rtol=0)

    between = [minimised(lambda policy, w=weight: typo_on_a_table(w, policy), start) for weight in (0.1, 1.0, 10.0)]
    odds = [float(policy[1] - policy[0]) for policy in between]
    assert math.log(3) > odds[0] > odds[1] > odds[2] > math.log(3 / 4)


def test_typo_leaves_a_reference_that_fits_the_labels_while_dpo_overshoots() -> None:
    """On a prompt where the reference has the labels' odds already, every lambda keeps it; DPO tilts it once more."""
    odds = math.log(3)
    reference = vector(0, odds).log_softmax(dim=0)

    def expected(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], policy: torch.Tensor) -> torch.Tensor:
        return 0.75 * loss(policy, torch.tensor([1, 0])) + 0.25 * loss(policy, torch.tensor([0, 1]))

    def of_typo(policy: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        held = (reference.exp() * policy).sum().view(1, 1)
        return typo(Typo(reference_weight=0.5), sampled_pairs(policy[sides[:1]], policy[sides[1:]], held))[0].sum()

    def of_dpo(policy: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
        pairs = pairs_of(
            policy[sides[:1]],
            policy[sides[1:]],
            reference_chosen=reference[sides[:1]],
            reference_rejected=reference[sides[1:]],
        )
        return dpo(Dpo(beta=1), pairs)[0].sum()

    start = torch.zeros(2, dtype=torch.float64)
    kept = minimised(lambda policy: expected(of_typo, policy), start)
    torch.testing.assert_close(kept, reference, atol=1e-5, rtol=0)
    tilted = minimised(lambda policy: expected(of_dpo, policy), start)
    assert float(tilted[1] - tilted[0]) == pytest.approx(2 * odds, abs=1e-5)


DATA = vector(0.05, 0.6, 0.25, 0.1)


def ddo_on_a_table(parameters: Ddo, policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Expected loss with demonstrations from DATA and samples from the reference: all pairs of both, weighted."""
    rows = demonstrations_of(
        policy.repeat_interleave(4),
        reference.repeat_interleave(4),
        policy.repeat(4)[:, None],
        reference.repeat(4)[:, None],
    )
    weights = (DATA[:, None] * reference.exp()).flatten()
    return (weights * ddo(parameters, rows)[0]).sum()


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL in nats between distributions given by log-probabilities."""
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_ddo_s_optimum_is_the_distribution_of_the_demonstrations(weight: float) -> None:
    """With a weight of the samples, the shift of -log(weight) keeps that optimum."""
    parameters = Ddo(sample_weight=weight, shift=-math.log(weight))
    policy = minimised(lambda p: ddo_on_a_table(parameters, p, REFERENCE), REFERENCE)
    assert divergence(DATA.log(), policy) < 1e-6


def test_ddo_with_a_small_scale_overshoots_the_demonstrations() -> None:
    """pi_ref^(1 - 1/beta) p^(1/beta) / Z, for the shift beta log Z."""
    beta = 0.5
    overshot = (1 - 1 / beta) * REFERENCE + DATA.log() / beta
    policy = minimised(
        lambda p: ddo_on_a_table(Ddo(beta=beta, shift=beta * float(overshot.logsumexp(dim=0))), p, REFERENCE), REFERENCE
    )
    assert divergence(overshot.log_softmax(dim=0), policy) < 1e-6
    assert policy[1].exp() > 0.7, "the answer that the reference has too seldom is raised beyond the data's 0.6"


def test_ddo_at_its_optimum_has_the_demonstrations_as_fixed_point_of_rounds() -> None:
    policy = minimised(lambda p: ddo_on_a_table(Ddo(), p, DATA.log()), DATA.log())
    assert divergence(DATA.log(), policy) < 1e-10


def test_rounds_of_ddo_shorten_the_distance_to_the_demonstrations() -> None:
    """A few steps each from a reference that covers everything; each round's policy is the next one's reference."""
    reference = vector(1, 1, 1, 1).log_softmax(dim=0)
    distances = [divergence(DATA.log(), reference)]
    for _ in range(6):
        logits = reference.clone().requires_grad_()
        for _ in range(5):
            loss = ddo_on_a_table(Ddo(), logits.log_softmax(dim=0), reference)
            (gradient,) = torch.autograd.grad(loss, logits)
            logits = (logits.detach() - 0.5 * gradient).requires_grad_()
        reference = logits.detach().log_softmax(dim=0)
        distances.append(divergence(DATA.log(), reference))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.05 * distances[0]


# --- numbers at the edge, splits of a batch, inputs that are missing --------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_margins_stay_finite(dtype: torch.dtype) -> None:
    for values in ((-1e4, 0.0, -1e4), (0.0, -1e4, 0.0), (0.0, 0.0, 0.0)):
        first, second, third = (torch.tensor([v], dtype=dtype, requires_grad=True) for v in values)
        zero = torch.zeros(1, dtype=dtype)
        losses = (
            typo(Typo(label_smoothing=0.1), sampled_pairs(first, second, third[:, None]))[0]
            + ddo(Ddo(), demonstrations_of(first, zero, second[:, None], zero[:, None]))[0]
        )
        gradients = torch.autograd.grad(losses.sum(), (first, second, third))
        assert losses.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)


def test_rows_do_not_see_each_other() -> None:
    first, second = vector(-3, -9, -0.5), vector(-4.5, -8, -6)
    samples = torch.tensor([[-2.0, -4.0], [-1.0, -7.0], [-3.0, -3.5]], dtype=torch.float64)
    typos = typo(Typo(), sampled_pairs(first, second, samples))[0]
    ddos = ddo(Ddo(), demonstrations_of(first, second, samples, samples.flip(0)))[0]
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(typos[one], typo(Typo(), sampled_pairs(first[one], second[one], samples[one]))[0])
        alone = demonstrations_of(first[one], second[one], samples[one], samples.flip(0)[one])
        assert torch.equal(ddos[one], ddo(Ddo(), alone)[0])


def test_missing_samples_and_references_are_named() -> None:
    for call in (
        lambda: typo(Typo(), pairs_of(vector(-1), vector(-2))),
        lambda: ddo(Ddo(), Demonstrations(completions_of(vector(-1), vector(-2)))),
    ):
        with pytest.raises(ValueError, match="drawn from the reference"):
            call()
    unreferenced = Demonstrations(completions_of(vector(-1)), completions_of(vector(-1)[None]))
    with pytest.raises(ValueError, match="reference log-probabilities"):
        ddo(Ddo(), unreferenced)


def test_labels_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="labels say nothing"):
        Typo(label_smoothing=0.5)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients_equal_finite_differences() -> None:
    first, second = vector(-3, -9, -0.5).requires_grad_(), vector(-4.5, -8, -6).requires_grad_()
    samples = torch.tensor([[-2.0, -4.0], [-1.0, -7.0], [-3.0, -3.5]], dtype=torch.float64, requires_grad=True)
    reference, sample_reference = vector(-2, -8, -1), samples.detach().flip(0)
    torch.autograd.gradcheck(
        lambda w, r, s: typo(Typo(label_smoothing=0.2), sampled_pairs(w, r, s))[0], [first, second, samples]
    )
    torch.autograd.gradcheck(
        lambda y, s: ddo(Ddo(beta=0.7, shift=0.2), demonstrations_of(y, reference, s, sample_reference))[0],
        [first, samples],
    )
