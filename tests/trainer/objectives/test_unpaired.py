"""KTO, APO, BCO and PMPO on unpaired rows: numbers by hand, other derivations, limits, optima, TRL and gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.supervised import Sft
from plumbline_api.methods.preference.unpaired import ApoZeroUnpaired, Bco, Kto, Pmpo
from plumbline_trainer.objectives import preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.preference.inputs import Completions, Demonstrations, Unpaired
from plumbline_trainer.objectives.preference.supervised import sft
from plumbline_trainer.objectives.preference.unpaired import (
    apo_zero_unpaired,
    bco,
    kto,
    kto_reference_point,
    pmpo,
    updated_running_reward,
)
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import merge
from tests.trainer.objectives.records import completions_by_token, unpaired, unpaired_of, vector
from tests.trainer.objectives.trl_oracle import PairBatch, Sequences, assert_same_loss, trl_bco, trl_kto

positive = st.floats(0.05, 4)
log_ratio = st.floats(-4, 4)

POLICY, REFERENCE = vector(-3, -9, -5, -4, -6), vector(-4, -7, -5.5, -2, -6.5)
DESIRABLE = torch.tensor([True, False, True, True, False])
"""Five rows with h = 1, -2, 0.5, -2, 0.5, of which the second and the last are undesirable."""


NOTHING_SEEN = vector(0, 0), vector(0, 0)
"""Means and counts of rewards at the start of a run."""


def five_rows(policy: torch.Tensor = POLICY, reference: torch.Tensor = REFERENCE) -> Unpaired:
    """The five rows with everything that an objective may ask for."""
    rows = unpaired_of(policy, reference, DESIRABLE, torch.tensor(0.3, dtype=torch.float64))
    completion = replace(rows.completion, reference_kl=policy.square() / 50)
    return replace(rows, completion=completion, running_reward=vector(0.8, -0.2))


def part_of(rows: Unpaired, start: int, end: int) -> Unpaired:
    """Some of the rows, as a micro-batch has them."""

    def cut(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values[start:end]

    completion = rows.completion
    part = Completions(
        completion.logprob[start:end],
        completion.tokens[start:end],
        cut(completion.reference),
        reference_kl=cut(completion.reference_kl),
    )
    return replace(rows, completion=part, desirable=rows.desirable[start:end])


METHODS: list[Any] = [
    Kto(desirable_weight=0.7, undesirable_weight=2),
    ApoZeroUnpaired(beta=0.5, undesirable_weight=2),
    Bco(beta=0.5),
    Pmpo(alpha=0.7),
]


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_kto_by_hand() -> None:
    """beta (h - z0) = 0.2 x 0.5 = 0.1: desirable 1 - s(0.1) = 0.4750208; undesirable 3 (1 - s(-0.1)) = 1.5749376."""
    parameters = Kto(beta=0.2, undesirable_weight=3)
    good, metrics = kto(parameters, unpaired(1.0, True, 0.5))
    bad, bad_metrics = kto(parameters, unpaired(1.0, False, 0.5))
    assert good.tolist() == pytest.approx([0.47502081252106], abs=1e-12)
    assert bad.tolist() == pytest.approx([1.57493756243682], abs=1e-12)
    assert metrics["rewards/desirable"].value == pytest.approx(0.2)
    assert math.isnan(metrics["rewards/undesirable"].value), "a mean over no rows is not zero"
    assert (metrics["rewards/accuracy"].value, bad_metrics["rewards/accuracy"].value) == (1, 0)
    assert metrics["kl"].value == 0.5


def test_bco_by_hand() -> None:
    """r = 0.5 x (1, -2, 0.5, -2, 0.5), delta = (0.8 - 0.2) / 2 = 0.3: r - delta = 0.2, -1.3, -0.05, -1.3, -0.05."""
    losses, metrics = bco(Bco(beta=0.5), five_rows())
    softplus = [math.log1p(math.exp(x)) for x in (-0.2, -1.3, 0.05, 1.3, -0.05)]
    assert losses.tolist() == pytest.approx(softplus, abs=1e-12)
    assert metrics["rewards/shift"].value == pytest.approx(0.3)
    assert metrics["rewards/accuracy_desirable"].value == pytest.approx(1 / 3)
    assert metrics["rewards/accuracy_undesirable"].value == 1


def test_pmpo_by_hand() -> None:
    """alpha 0.7: -0.7 x -3 and 0.3 x -9, each plus 2 x KL."""
    rows = unpaired_of(vector(-3, -9), vector(-4, -7), torch.tensor([True, False]))
    rows = replace(rows, completion=replace(rows.completion, reference_kl=vector(0.25, 0.5)))
    losses, metrics = pmpo(Pmpo(alpha=0.7, beta=2), rows)
    assert losses.tolist() == pytest.approx([2.1 + 0.5, -2.7 + 1.0], abs=1e-12)
    assert metrics["kl/reference"].value == pytest.approx(0.375)
    assert metrics["rewards/accuracy"].value == 1


# --- the same objective derived another way ---------------------------------------------------------------------------


@given(log_ratio, st.floats(0, 2), positive, st.booleans(), positive, positive)
def test_kto_is_the_weight_minus_the_value(
    h: float, point: float, beta: float, good: bool, desirable: float, undesirable: float
) -> None:
    """Eq. 8: lambda_y - v(x, y), with v = lambda_y s(+-beta (r - z0)); 1 - s(x) = (1 - tanh(x/2)) / 2."""
    parameters = Kto(beta=beta, desirable_weight=desirable, undesirable_weight=undesirable)
    losses, _ = kto(parameters, unpaired(h, good, point))
    weight, signed = (desirable, h - point) if good else (undesirable, point - h)
    assert losses.item() == pytest.approx(weight * (1 - math.tanh(beta * signed / 2)) / 2, rel=1e-9)


@given(log_ratio, positive, st.booleans(), positive)
def test_apo_zero_is_kto_with_its_reference_point_at_zero(h: float, beta: float, good: bool, weight: float) -> None:
    apo = ApoZeroUnpaired(beta=beta, desirable_weight=weight)
    losses, metrics = apo_zero_unpaired(apo, unpaired(h, good, 5.0))
    expected, its_metrics = kto(Kto(beta=beta, desirable_weight=weight), unpaired(h, good, 0.0))
    assert losses.item() == pytest.approx(expected.item(), rel=1e-12)
    assert metrics["rewards/accuracy"].value == its_metrics["rewards/accuracy"].value


@given(log_ratio, st.floats(-2, 2), positive, st.booleans())
def test_bco_is_the_cross_entropy_of_a_classifier(h: float, shift: float, beta: float, good: bool) -> None:
    """The probability of "desirable" is e^r / (e^r + e^delta)."""
    rows = replace(unpaired(h, good, 0.0), running_reward=vector(shift, shift))
    probability = math.exp(beta * h) / (math.exp(beta * h) + math.exp(shift))
    expected = -math.log(probability if good else 1 - probability)
    assert bco(Bco(beta=beta), rows)[0].item() == pytest.approx(expected, rel=1e-9)


@given(log_ratio, log_ratio, positive, st.floats(-2, 2))
def test_both_kinds_of_bco_together_bound_dpo_s_loss_and_are_closest_at_the_midpoint(
    chosen: float, rejected: float, beta: float, shift: float
) -> None:
    def together(mean: float) -> float:
        rows = unpaired_of(vector(chosen, rejected), vector(0, 0), torch.tensor([True, False]))
        return float(bco(Bco(beta=beta), replace(rows, running_reward=vector(mean, mean)))[0].sum())

    midpoint = beta * (chosen + rejected) / 2
    dpo = -float(logsigmoid(vector(beta * (chosen - rejected))))
    assert together(shift) >= together(midpoint) - 1e-12
    assert together(midpoint) >= dpo - 1e-12


# --- limits, optima and what happens without them ---------------------------------------------------------------------


def test_bco_without_shift_on_both_sides_of_pairs_is_the_pairwise_form() -> None:
    """-log s(beta h(y_w)) - log s(-beta h(y_l)) a pair, which TRL calls bco_pair: twice the mean over its two rows."""
    batch = PairBatch.random(seed=3)
    pairs = batch.pairs()
    rows = replace(batch.unpaired(), running_reward=vector(0, 0))
    expected = -logsigmoid(0.1 * pairs.chosen.log_ratio) - logsigmoid(-0.1 * pairs.rejected.log_ratio)
    torch.testing.assert_close(2 * bco(Bco(), rows)[0].mean(), expected.mean())


def test_pmpo_on_demonstrations_without_divergence_is_supervised_fine_tuning() -> None:
    """alpha = 1, beta = 0: the same sum of token losses, and the same gradient for every token."""
    tokens = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -0.5, -0.25]], requires_grad=True)
    completion = completions_by_token(tokens, torch.tensor([[True, True, False], [True, True, True]]), tokens.detach())
    rows = Unpaired(replace(completion, reference_kl=vector(7, 7)), torch.tensor([True, True]))
    ours = pmpo(Pmpo(alpha=1, beta=0), rows)[0].sum()
    losses, _ = sft(Sft(), Demonstrations(completion))
    assert completion.by_token is not None
    theirs = losses[completion.by_token.mask].sum()
    assert ours.item() == pytest.approx(theirs.item())
    gradients = (torch.autograd.grad(loss, tokens, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients)


def tabular_pmpo(
    parameters: Pmpo, reference: torch.Tensor, drawn: list[int], desirable: list[bool], steps: int
) -> torch.Tensor:
    """[steps, V]: the policies while one softmax over V completions of one token descends the loss from `reference`."""
    logits = reference.log().clone().requires_grad_()
    visited = []
    for _ in range(steps):
        logprobs = logits.log_softmax(0)
        divergence = (reference * (reference.log() - logprobs)).sum()
        completion = Completions(
            logprobs[drawn], torch.ones(len(drawn)), reference.log()[drawn], reference_kl=divergence.expand(len(drawn))
        )
        losses, _ = pmpo(parameters, Unpaired(completion, torch.tensor(desirable)))
        (gradient,) = torch.autograd.grad(losses.mean(), logits)
        logits = (logits - gradient).detach().requires_grad_()
        visited.append(logits.detach().softmax(0))
    return torch.stack(visited)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (0.8, 0.5), (0.0, 2.0), (1.0, 0.3)])
def test_pmpo_s_tabular_optimum(alpha: float, beta: float) -> None:
    """pi* is proportional to beta pi_ref + alpha p - (1 - alpha) n, p and n the shares of rows of each kind."""
    reference = vector(0.4, 0.3, 0.2, 0.1)
    drawn, desirable = [0, 1, 1, 2, 0, 3], [True, True, False, True, False, True]
    target = beta * reference
    for completion, good in zip(drawn, desirable, strict=True):
        target[completion] += (alpha if good else alpha - 1) / len(drawn)
    assert target.min() > 0
    reached = tabular_pmpo(Pmpo(alpha=alpha, beta=beta), reference, drawn, desirable, steps=400)[-1]
    torch.testing.assert_close(reached, target / target.sum(), rtol=1e-5, atol=1e-6)


def test_pmpo_learns_from_rejections_alone_and_stays_bounded_with_the_divergence_only() -> None:
    reference, drawn, desirable = vector(0.6, 0.3, 0.1), [1], [False]
    held = tabular_pmpo(Pmpo(alpha=0, beta=5), reference, drawn, desirable, steps=400)[:, 1]
    assert held[-1].item() == pytest.approx((5 * 0.3 - 1) / (5 - 1), rel=1e-6)
    assert held[-1] < reference[1]
    free = Pmpo.model_construct(alpha=0.0, beta=0.0)  # refused from a user, for what follows
    falling = tabular_pmpo(free, reference, drawn, desirable, steps=200)[:, 1].log()
    assert all(later < earlier for earlier, later in pairwise(falling.tolist()))
    assert falling[-1] < -100


def test_pmpo_that_nothing_would_bound_is_refused() -> None:
    with pytest.raises(ValidationError, match="beta must be above 0 where alpha is below 1"):
        Pmpo(alpha=0.5, beta=0)
    Pmpo(alpha=1, beta=0)


# --- the state of a step ----------------------------------------------------------------------------------------------


def test_kto_s_reference_point_is_the_mean_log_ratio_of_the_whole_batch_and_never_negative() -> None:
    policy_logprobs, reference = vector(-1, -2, -6), vector(-2, -4, -3)
    assert kto_reference_point(policy_logprobs, reference).item() == pytest.approx(0.0)
    assert kto_reference_point(policy_logprobs[:2], reference[:2]).item() == pytest.approx(1.5)
    assert kto_reference_point(vector(-9), vector(-1)).item() == 0


def test_no_gradient_flows_through_what_a_step_shares() -> None:
    mismatched = vector(-1, -2).requires_grad_()
    assert not kto_reference_point(mismatched, vector(-3, -3)).requires_grad
    rows = unpaired_of(mismatched, vector(-3, -3), torch.tensor([True, False]))
    mean, count = updated_running_reward(Bco(), *NOTHING_SEEN, rows)
    assert not mean.requires_grad and not count.requires_grad


@given(st.lists(st.tuples(log_ratio, st.booleans()), min_size=1, max_size=12), st.integers(1, 11))
def test_bco_s_running_rewards_are_the_means_of_all_rows_so_far_by_kind(
    drawn: list[tuple[float, bool]], cut: int
) -> None:
    mean, count = NOTHING_SEEN
    for part in (drawn[:cut], drawn[cut:]):
        if part:
            rows = unpaired_of(
                vector(*(h for h, _ in part)), vector(*[0] * len(part)), torch.tensor([good for _, good in part])
            )
            mean, count = updated_running_reward(Bco(beta=0.5), mean, count, rows)
    for index, kind in enumerate((True, False)):
        values = [0.5 * h for h, good in drawn if good is kind]
        assert count[index].item() == len(values)
        assert mean[index].item() == pytest.approx(sum(values) / len(values) if values else 0.0, abs=1e-9)


def test_a_limited_memory_makes_bco_s_running_rewards_follow_the_newest() -> None:
    """With memory 2, a step of 2 rows a kind has the weight 2 / (2 + 2) once 2 rows were seen: halfway each time."""
    parameters, labels = Bco(beta=1, reward_memory=2), torch.tensor([True, True, False, False])
    mean, count = NOTHING_SEEN
    seen = []
    for level in (8.0, 0.0, 0.0):
        rows = unpaired_of(vector(level, level, -level, -level), vector(0, 0, 0, 0), labels)
        mean, count = updated_running_reward(parameters, mean, count, rows)
        seen.append(mean.tolist())
    assert seen == [[8, -8], [4, -4], [2, -2]]
    assert count.tolist() == [2, 2]


@pytest.mark.parametrize("parameters", METHODS, ids=lambda parameters: parameters.member_key)
def test_no_split_of_the_rows_changes_losses_gradients_or_metrics(parameters: Any) -> None:
    function = implementation_of(parameters)
    policy = POLICY.clone().requires_grad_()
    losses, metrics = function(parameters, five_rows(policy))
    (expected,) = torch.autograd.grad(losses.sum(), policy)
    for split in range(2**4):
        edges = [0, *(edge for edge in range(1, 5) if split >> (edge - 1) & 1), 5]
        policy = POLICY.clone().requires_grad_()
        rows = five_rows(policy)
        parts = [function(parameters, part_of(rows, *edge)) for edge in pairwise(edges)]
        torch.testing.assert_close(torch.cat([part[0] for part in parts]), losses)
        (gradient,) = torch.autograd.grad(sum(part[0].sum() for part in parts), policy)
        torch.testing.assert_close(gradient, expected)
        merged = merge(part[1] for part in parts)
        assert {n: m.value for n, m in merged.items()} == pytest.approx({n: m.value for n, m in metrics.items()})


# --- equality with TRL ------------------------------------------------------------------------------------------------


def mismatched(batch: PairBatch) -> Sequences:
    """Every prompt with the completion of the row before: all prompts are 2 tokens long."""
    both = [
        torch.cat([getattr(side, name) for side in (batch.chosen, batch.rejected)])
        for name in ("ids", "completion", "attention")
    ]
    ids, completion, attention = (tensor.roll(1, dims=0) for tensor in both)
    return Sequences(torch.cat([both[0][:, :2], ids[:, 2:]], dim=1), completion, attention)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kto_equals_trl(seed: int) -> None:
    batch = PairBatch.random(seed)
    scored = mismatched(batch).scored(batch.policy, batch.reference)
    assert scored.reference is not None
    rows = replace(batch.unpaired(), reference_point=kto_reference_point(scored.logprob, scored.reference))
    parameters = Kto(beta=0.3, desirable_weight=1.2, undesirable_weight=0.6)
    theirs = trl_kto(batch, mismatched(batch), **parameters.model_dump())
    assert_same_loss(batch.policy, kto(parameters, rows)[0].mean(), theirs)


def test_the_comparison_with_trl_has_batches_with_and_without_a_reference_point_above_zero() -> None:
    means = []
    for seed in (0, 1, 2):
        batch = PairBatch.random(seed)
        means.append(float(mismatched(batch).scored(batch.policy, batch.reference).log_ratio.mean().detach()))
    assert min(means) < -0.1 and max(means) > 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_apo_zero_equals_trl(seed: int) -> None:
    batch = PairBatch.random(seed)
    parameters = ApoZeroUnpaired(beta=0.3, desirable_weight=1.2, undesirable_weight=0.6)
    settings = parameters.model_dump()
    theirs = trl_kto(batch, loss_type="apo_zero_unpaired", **settings)
    assert_same_loss(batch.policy, apo_zero_unpaired(parameters, batch.unpaired())[0].mean(), theirs)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bco_equals_trl(seed: int) -> None:
    """With as many rows of one kind as of the other, the midpoint of both means is TRL's mean over all rows."""
    batch = PairBatch.random(seed)
    parameters, rows = Bco(beta=0.3), batch.unpaired()
    mean, _ = updated_running_reward(parameters, *NOTHING_SEEN, rows)
    theirs, shift = trl_bco(batch, beta=0.3)
    assert mean.mean().item() == pytest.approx(shift, abs=1e-6)
    given_shift = replace(rows, running_reward=vector(shift, shift))
    assert_same_loss(batch.policy, bco(parameters, given_shift)[0].mean(), theirs)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", METHODS, ids=lambda parameters: parameters.member_key)
def test_gradients_equal_finite_differences(parameters: Any) -> None:
    function = implementation_of(parameters)
    inputs = [POLICY.clone().requires_grad_(), REFERENCE.clone().requires_grad_()]
    torch.autograd.gradcheck(lambda policy, reference: function(parameters, five_rows(policy, reference))[0], inputs)


@pytest.mark.parametrize("parameters", METHODS, ids=lambda parameters: parameters.member_key)
@pytest.mark.parametrize("extreme", [-1e4, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_ratios_stay_finite(parameters: Any, extreme: float, dtype: torch.dtype) -> None:
    policy = torch.tensor([extreme, extreme], dtype=dtype, requires_grad=True)
    rows = unpaired_of(policy, torch.zeros(2, dtype=dtype), torch.tensor([True, False]), torch.tensor(0.0, dtype=dtype))
    completion = replace(rows.completion, reference_kl=torch.ones(2, dtype=dtype))
    rows = replace(rows, completion=completion, running_reward=torch.zeros(2, dtype=dtype))
    losses = implementation_of(parameters)(parameters, rows)[0]
    (gradient,) = torch.autograd.grad(losses.sum(), policy)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert losses.dtype == dtype


@pytest.mark.parametrize(
    ("parameters", "missing"),
    [(Kto(), "reference point"), (Bco(), "running reward"), (Pmpo(), "KL divergence from the reference")],
)
def test_an_objective_says_what_it_was_not_given(parameters: Any, missing: str) -> None:
    rows = unpaired_of(POLICY, REFERENCE, DESIRABLE)
    with pytest.raises(ValueError, match=missing):
        implementation_of(parameters)(parameters, rows)
