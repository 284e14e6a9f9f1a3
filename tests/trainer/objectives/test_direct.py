"""DPO and its relatives on the margin: numbers by hand, probability forms, optima of tabular policies, limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline_api.methods.preference.direct import Discopop, Dpo, Exo, Hinge, Ipo, Robust, StepDpo, TrDpo
from plumbline_trainer.objectives import preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.preference.direct import discopop, dpo, exo, hinge, ipo, robust, step_dpo, tr_dpo
from plumbline_trainer.objectives.preference.inputs import Pairs
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import completions_by_token, pair, pairs_of, vector

logprob = st.floats(-8, -0.01)
positive = st.floats(0.05, 4)
tokens = st.integers(1, 30)


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    """h = (1, -1), beta (1 - -1) = 1: log(1 + e^-1) = 0.3132617; with e = 0.2: 0.8 x 0.3132617 + 0.2 x 1.3132617."""
    given_pair = pair(-4, -7, -5, -6)
    losses, metrics = dpo(Dpo(beta=0.5), given_pair)
    assert losses.tolist() == pytest.approx([0.31326168751822286], abs=1e-12)
    losses, _ = dpo(Dpo(beta=0.5, label_smoothing=0.2), given_pair)
    assert losses.tolist() == pytest.approx([0.51326168751822286], abs=1e-12)
    expected = {
        "rewards/chosen": 0.5,
        "rewards/rejected": -0.5,
        "rewards/margin": 1.0,
        "rewards/accuracy": 1.0,
        "logprobs/chosen": -4.0,
        "logprobs/rejected": -7.0,
    }
    assert {name: metrics[name].value for name in expected} == pytest.approx(expected)


def test_length_normalised_dpo_by_hand() -> None:
    """h = (2, -4) over 2 and 4 tokens is (1, -1): beta 0.5 x 2 = 1, log(1 + e^-1)."""
    losses, metrics = dpo(Dpo(beta=0.5, length_normalized=True), pair(-4, -14, -6, -10, lengths=(2, 4)))
    assert losses.tolist() == pytest.approx([0.31326168751822286], abs=1e-12)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == (0.5, -0.5)


def test_ipo_by_hand() -> None:
    """h = (2, -4); over 2 and 4 tokens (1, -1): (2 - 1/(2 x 0.5))^2 = 1; summed: (6 - 1)^2 = 25."""
    given_pair = pair(-4, -14, -6, -10, lengths=(2, 4))
    assert ipo(Ipo(tau=0.5), given_pair)[0].tolist() == pytest.approx([1.0])
    assert ipo(Ipo(tau=0.5, length_normalized=False), given_pair)[0].tolist() == pytest.approx([25.0])


def test_the_other_margin_losses_by_hand() -> None:
    """At m = 1: s(1) = 0.7310586, log s(1) = -0.3132617, log s(-1) = -1.3132617.

    Robust, e = 0.25: (0.75 x 0.3132617 - 0.25 x 1.3132617) / 0.5 = -0.1867383.
    EXO, e = 0.25: 0.7310586 (-0.3132617 - log 0.75) + 0.2689414 (-1.3132617 - log 0.25) = 0.0009209.
    DiscoPOP, temperature 1: w = s(1): 0.2689414 x 0.3132617 + 0.7310586 x 0.3678794 = 0.3531904.
    """
    given_pair = pair(-4, -7, -5, -6)
    assert robust(Robust(beta=0.5, flip_rate=0.25), given_pair)[0].item() == pytest.approx(-0.1867383, abs=1e-7)
    assert hinge(Hinge(beta=0.125), given_pair)[0].item() == 0.75
    assert hinge(Hinge(beta=0.5), given_pair)[0].item() == 0
    by_hand = 0.7310586 * (-0.3132617 - math.log(0.75)) + 0.2689414 * (-1.3132617 - math.log(0.25))
    assert exo(Exo(beta=0.5, label_smoothing=0.25), given_pair)[0].item() == pytest.approx(by_hand, abs=1e-6)
    assert discopop(Discopop(beta=0.5, temperature=1), given_pair)[0].item() == pytest.approx(0.3531904, abs=1e-6)


# --- probability forms: the same objective derived another way --------------------------------------------------------


@given(logprob, logprob, logprob, logprob, st.floats(0.05, 2), st.floats(0, 0.49))
def test_dpo_is_the_bradley_terry_likelihood_of_the_implicit_rewards(
    w: float, lose: float, rw: float, rl: float, beta: float, flip: float
) -> None:
    """Eq. 6 of the paper: p(y_w > y_l) = a / (a + b) with a = (pi/ref)^beta of the chosen, b of the rejected."""
    a, b = (math.exp(w) / math.exp(rw)) ** beta, (math.exp(lose) / math.exp(rl)) ** beta
    expected = -(1 - flip) * math.log(a / (a + b)) - flip * math.log(b / (a + b))
    losses, _ = dpo(Dpo(beta=beta, label_smoothing=flip), pair(w, lose, rw, rl))
    assert losses.item() == pytest.approx(expected, rel=1e-9)


@given(logprob, logprob, logprob, logprob, tokens, tokens, positive)
def test_length_normalised_dpo_compares_geometric_means_of_token_probabilities(
    w: float, lose: float, rw: float, rl: float, nw: int, nl: int, beta: float
) -> None:
    a, b = (math.exp(w) / math.exp(rw)) ** (beta / nw), (math.exp(lose) / math.exp(rl)) ** (beta / nl)
    losses, _ = dpo(Dpo(beta=beta, length_normalized=True), pair(w, lose, rw, rl, (nw, nl)))
    assert losses.item() == pytest.approx(-math.log(a / (a + b)), rel=1e-9)


@given(logprob, logprob, logprob, logprob, tokens, tokens, positive, st.booleans())
def test_ipo_is_the_squared_distance_of_the_log_of_a_ratio_of_ratios(
    w: float, lose: float, rw: float, rl: float, nw: int, nl: int, tau: float, normalized: bool
) -> None:
    """Eq. 17: h = log( pi(w) ref(l) / (pi(l) ref(w)) ), with each probability's geometric mean when normalised."""
    nw, nl = (nw, nl) if normalized else (1, 1)
    ratio = math.exp(w / nw) * math.exp(rl / nl) / (math.exp(lose / nl) * math.exp(rw / nw))
    losses, _ = ipo(Ipo(tau=tau, length_normalized=normalized), pair(w, lose, rw, rl, (nw, nl)))
    assert losses.item() == pytest.approx((math.log(ratio) - 1 / (2 * tau)) ** 2, rel=1e-7, abs=1e-9)


@given(logprob, logprob, logprob, logprob, positive, st.floats(0.01, 0.49))
def test_exo_is_the_reverse_and_dpo_the_forward_kl_between_label_and_policy(
    w: float, lose: float, rw: float, rl: float, beta: float, smoothing: float
) -> None:
    implicit = torch.softmax(beta * vector(w - rw, lose - rl), dim=0)
    label = vector(1 - smoothing, smoothing)
    given_pair = pair(w, lose, rw, rl)
    reverse = (implicit * (implicit / label).log()).sum().item()
    forward = (label * (label / implicit).log()).sum().item()
    entropy = -(label * label.log()).sum().item()
    losses, _ = exo(Exo(beta=beta, label_smoothing=smoothing), given_pair)
    assert losses.item() == pytest.approx(reverse, abs=1e-9)
    losses, _ = dpo(Dpo(beta=beta, label_smoothing=smoothing), given_pair)
    assert losses.item() - entropy == pytest.approx(forward, abs=1e-9)


@given(logprob, logprob, logprob, logprob, positive, st.floats(0, 0.45))
def test_robust_dpo_on_labels_flipped_at_its_rate_is_dpo_on_right_labels(
    w: float, lose: float, rw: float, rl: float, beta: float, rate: float
) -> None:
    """Unbiased for every pair: the expectation over the flip of the label."""
    parameters = Robust(beta=beta, flip_rate=rate)
    right, wrong = (robust(parameters, p)[0].item() for p in (pair(w, lose, rw, rl), pair(lose, w, rl, rw)))
    clean = dpo(Dpo(beta=beta), pair(w, lose, rw, rl))[0].item()
    assert (1 - rate) * right + rate * wrong == pytest.approx(clean, rel=1e-6, abs=1e-9)


@given(st.floats(-6, 6), st.floats(0.02, 1))
def test_discopop_is_a_blend_of_logistic_and_exponential_loss(margin: float, temperature: float) -> None:
    exponential = 1 / (1 + math.exp(-margin / temperature))
    expected = (1 - exponential) * math.log1p(math.exp(-margin)) + exponential * math.exp(-margin)
    losses, _ = discopop(Discopop(beta=1, temperature=temperature), pair(margin - 9, -9, -9, -9))
    assert losses.item() == pytest.approx(expected, rel=1e-9)


# --- optima -----------------------------------------------------------------------------------------------------------


def minimised(loss: Callable[[torch.Tensor], torch.Tensor], actions: int) -> torch.Tensor:
    """Log-probabilities of the softmax policy over `actions` that minimises a smooth loss of its log-probabilities."""
    logits = torch.zeros(actions, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(torch.log_softmax(logits, dim=0))
        value.backward()
        return value

    optimizer.step(closure)
    return torch.log_softmax(logits.detach(), dim=0)


def test_ipo_is_smallest_where_the_margin_is_one_over_two_tau() -> None:
    for tau in (0.05, 0.1, 2.0):
        target = 1 / (2 * tau)
        for distance in (-0.5, 0.0, 0.5):
            losses, _ = ipo(Ipo(tau=tau, length_normalized=False), pair(target + distance - 9, -9, -9, -9))
            assert losses.item() == pytest.approx(distance**2)


def test_gradient_descent_on_ipo_ends_at_its_fixed_point_while_dpo_s_margin_keeps_growing() -> None:
    """What the paper argues against DPO: labels that always agree send DPO's margin to infinity at any beta."""

    def margins(parameters: Any, rate: float) -> list[float]:
        chosen = vector(-3).requires_grad_()
        found = []
        for _ in range(4):
            for _ in range(250):
                losses, _ = implementation_of(parameters)(
                    parameters, pairs_of(chosen, vector(-3), reference_chosen=vector(-3), reference_rejected=vector(-3))
                )
                (gradient,) = torch.autograd.grad(losses.sum(), chosen)
                chosen = (chosen - rate * gradient).detach().requires_grad_()
            found.append(chosen.item() + 3)
        return found

    assert margins(Ipo(tau=0.25, length_normalized=False), 0.1) == pytest.approx([2.0] * 4, abs=1e-9)
    growing = margins(Dpo(beta=0.25), 8.0)
    assert growing[0] > 10 and all(later > earlier + 1 for earlier, later in pairwise(growing))


def test_three_actions_in_total_order_reach_the_closed_form_of_ipo() -> None:
    """The paper's bandit: y1 beats y2 beats y3, always. The policy that maximises E[p(y beats mu)] - tau KL(pi || ref)
    is ref exp(p(y beats mu) / tau) / Z, and for uniform mu those win rates are 5/6, 1/2, 1/6 (against itself 1/2)."""
    tau = 0.4
    reference = torch.log_softmax(vector(0.3, -1.0, 0.8), dim=0)
    winners, losers = (torch.tensor(side) for side in zip(*combinations(range(3), 2), strict=True))

    def loss(policy: torch.Tensor) -> torch.Tensor:
        pairs = pairs_of(
            policy[winners],
            policy[losers],
            reference_chosen=reference[winners],
            reference_rejected=reference[losers],
        )
        return ipo(Ipo(tau=tau, length_normalized=False), pairs)[0].mean()

    expected = torch.log_softmax(reference + vector(5 / 6, 1 / 2, 1 / 6) / tau, dim=0)
    torch.testing.assert_close(minimised(loss, 3), expected, atol=1e-6, rtol=0)


def test_a_tabular_policy_recovers_the_reward_that_labels_were_drawn_from() -> None:
    """Pairs weighed by the Bradley-Terry probability of their label: the optimum is ref exp(r / beta) / Z (eq. 4)."""
    beta, rewards = 0.7, vector(0.2, -0.9, 1.1, 0.0)
    reference = torch.log_softmax(vector(0.5, -0.4, 0.1, -1.2), dim=0)
    first, second = (torch.tensor(side) for side in zip(*combinations(range(4), 2), strict=True))
    wins = torch.sigmoid(rewards[first] - rewards[second])

    def pairs(policy: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor) -> Pairs:
        return pairs_of(
            policy[chosen],
            policy[rejected],
            reference_chosen=reference[chosen],
            reference_rejected=reference[rejected],
        )

    def loss(policy: torch.Tensor) -> torch.Tensor:
        parameters = Dpo(beta=beta)
        right = dpo(parameters, pairs(policy, first, second))[0]
        turned = dpo(parameters, pairs(policy, second, first))[0]
        return (wins * right + (1 - wins) * turned).mean()

    expected = torch.log_softmax(reference + rewards / beta, dim=0)
    torch.testing.assert_close(minimised(loss, 4), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("flip", [0.1, 0.3, 0.49])
def test_label_smoothing_moves_dpo_s_optimum_from_infinity_to_the_log_odds_of_a_right_label(flip: float) -> None:
    best = math.log((1 - flip) / flip)
    for parameters in (Dpo(beta=1, label_smoothing=flip), Exo(beta=1, label_smoothing=flip)):
        chosen = vector(best - 5).requires_grad_()
        given_pair = pairs_of(chosen, vector(-5), vector(1), vector(1), vector(-5), vector(-5))
        losses, _ = implementation_of(parameters)(parameters, given_pair)
        (gradient,) = torch.autograd.grad(losses.sum(), chosen)
        assert gradient.item() == pytest.approx(0, abs=1e-12)


def test_exo_lets_go_of_a_pair_that_it_has_wholly_wrong_and_dpo_pulls_at_it_with_full_weight() -> None:
    """The reverse KL is at most -log e and flat where the policy gives the chosen answer no mass: it seeks a mode. The
    forward KL grows with the margin and must cover every label."""
    for parameters, value, slope in (
        (Exo(beta=1, label_smoothing=0.01), -math.log(0.01), 0.0),
        (Dpo(beta=1, label_smoothing=0.01), 0.99 * 40, -0.99),
    ):
        chosen = vector(-40).requires_grad_()
        given_pair = pairs_of(chosen, vector(0), reference_chosen=vector(0), reference_rejected=vector(0))
        losses = implementation_of(parameters)(parameters, given_pair)[0]
        (gradient,) = torch.autograd.grad(losses.sum(), chosen)
        assert losses.item() == pytest.approx(value, abs=1e-9)
        assert gradient.item() == pytest.approx(slope, abs=1e-9)


# --- limits and symmetries --------------------------------------------------------------------------------------------

SAME_AS_DPO = [Robust(beta=0.3, flip_rate=0), TrDpo(beta=0.3), StepDpo(beta=0.3), Dpo(beta=0.3, divergence="reverseKl")]


@pytest.mark.parametrize("parameters", SAME_AS_DPO, ids=lambda parameters: parameters.member_key)
def test_limits_that_are_dpo_exactly(parameters: Any) -> None:
    random = torch.Generator().manual_seed(0)
    values = [-5 * torch.rand(6, generator=random, dtype=torch.float64) for _ in range(4)]
    given_pairs = pairs_of(values[0], values[1], reference_chosen=values[2], reference_rejected=values[3])
    assert torch.equal(implementation_of(parameters)(parameters, given_pairs)[0], dpo(Dpo(beta=0.3), given_pairs)[0])


def test_as_label_smoothing_goes_to_one_half_neither_answer_is_preferred() -> None:
    forwards, _ = dpo(Dpo(beta=1, label_smoothing=0.5 - 1e-9), pair(-1, -4, -2, -2))
    backwards, _ = dpo(Dpo(beta=1, label_smoothing=0.5 - 1e-9), pair(-4, -1, -2, -2))
    assert forwards.item() == pytest.approx(backwards.item(), abs=1e-7)


@given(logprob, logprob, logprob, logprob, st.floats(-5, 5))
def test_margin_objectives_see_only_log_ratios(w: float, lose: float, rw: float, rl: float, shift: float) -> None:
    moved = pair(w + shift, lose + shift, rw + shift, rl + shift)
    for parameters in (Dpo(), Ipo(length_normalized=False), Robust(), Hinge(), Exo(), Discopop()):
        function = implementation_of(parameters)
        losses, _ = function(parameters, pair(w, lose, rw, rl))
        assert function(parameters, moved)[0].item() == pytest.approx(losses.item(), rel=1e-6, abs=1e-9)


def test_at_the_start_every_margin_objective_has_its_known_value_and_no_preference() -> None:
    start = pair(-3, -5, -3, -5)
    expected: list[tuple[Any, float]] = [
        (Dpo(beta=7), math.log(2)),
        (Robust(beta=7, flip_rate=0.3), math.log(2)),
        (Ipo(tau=0.1), 25.0),
        (Hinge(), 1.0),
        (Exo(label_smoothing=0.1), -math.log(2) - (math.log(0.9) + math.log(0.1)) / 2),
        (Discopop(), (math.log(2) + 1) / 2),
    ]
    for parameters, value in expected:
        losses, metrics = implementation_of(parameters)(parameters, start)
        assert losses.item() == pytest.approx(value)
        assert metrics["rewards/accuracy"].value == 0.5, "a tie counts as half"


# --- gradients and their weights --------------------------------------------------------------------------------------


def pair_weight(parameters: Dpo, policy: tuple[float, float], reference: tuple[float, float]) -> float:
    """What a pair's gradient is multiplied by: -d loss / d (beta log pi(y_w))."""
    chosen = vector(policy[0]).requires_grad_()
    given_pair = pairs_of(
        chosen, vector(policy[1]), reference_chosen=vector(reference[0]), reference_rejected=vector(reference[1])
    )
    (gradient,) = torch.autograd.grad(dpo(parameters, given_pair)[0].sum(), chosen)
    return -gradient.item() / parameters.beta


def test_dpo_s_gradient_weighs_a_pair_by_how_wrong_its_implicit_reward_is() -> None:
    """Sec. 4 of the paper: d loss / d log pi(y_w) = -beta s(r_l - r_w), and the opposite for y_l."""
    chosen, rejected = vector(-4).requires_grad_(), vector(-7).requires_grad_()
    losses, _ = dpo(Dpo(beta=0.5), pairs_of(chosen, rejected, vector(1), vector(1), vector(-5), vector(-6)))
    losses.sum().backward()
    weight = 0.5 / (1 + math.exp(1.0))
    assert chosen.grad is not None and rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-weight, weight))


@given(logprob, logprob, logprob, logprob, positive)
def test_a_guiding_reference_weighs_pairs_by_what_it_learnt(
    w: float, lose: float, guide_w: float, guide_l: float, beta: float
) -> None:
    """Pre-DPO (Pan et al. 2025, arXiv:2504.15843): the policy starts from the initial model, the reference is a guide
    trained from it. The weight of a pair is s(beta (guide's margin - initial margin)); with the initial model as
    reference it is 1/2 for every pair."""
    parameters = Dpo(beta=beta)
    weight = pair_weight(parameters, policy=(w, lose), reference=(guide_w, guide_l))
    learnt = beta * ((guide_w - guide_l) - (w - lose))
    assert weight == pytest.approx(1 / (1 + math.exp(-learnt)), rel=1e-9)
    assert pair_weight(parameters, policy=(w, lose), reference=(w, lose)) == pytest.approx(0.5)


def test_a_pair_that_the_hinge_separates_has_no_gradient() -> None:
    chosen = vector(-4, -4).requires_grad_()
    pairs = pairs_of(chosen, vector(-9, -5), reference_chosen=vector(-6, -6), reference_rejected=vector(-6, -6))
    (gradient,) = torch.autograd.grad(hinge(Hinge(beta=0.5), pairs)[0].sum(), chosen)
    assert gradient.tolist() == [0, -0.5]


# --- methods whose loss is DPO's and whose inputs differ --------------------------------------------------------------


def test_step_dpo_s_prefix_is_context_and_bears_no_loss() -> None:
    """A bigram policy on prompt 0, steps 1 2, and the steps 3 or 4 with end 5: transitions within the prefix have no
    gradient, the transition from the prefix into the step has one, and without a prefix the loss is DPO's."""
    random = torch.Generator().manual_seed(3)
    table, reference_table = (torch.randn(6, 6, generator=random, dtype=torch.float64) for _ in range(2))
    table.requires_grad_()

    def step_pairs(prefix: list[int]) -> Pairs:
        sides = []
        for step in ([3, 5], [4, 5]):
            ids = torch.tensor([[0, *prefix, *step]])
            mask = torch.arange(1, ids.shape[1])[None] > len(prefix)
            logprobs = [torch.log_softmax(t, dim=1)[ids[:, :-1], ids[:, 1:]] * mask for t in (table, reference_table)]
            sides.append(completions_by_token(logprobs[0], mask, logprobs[1].detach()))
        return Pairs(*sides)

    losses, _ = step_dpo(StepDpo(beta=0.5), step_pairs([1, 2]))
    (gradient,) = torch.autograd.grad(losses.sum(), table)
    assert (gradient[:2] == 0).all(), "prompt to step 1 and step 1 to step 2 are no targets"
    assert (gradient[2].abs() > 1e-3).any()
    assert torch.equal(step_dpo(StepDpo(beta=0.5), step_pairs([]))[0], dpo(Dpo(beta=0.5), step_pairs([]))[0])


def test_after_a_hard_update_of_the_reference_tr_dpo_starts_over() -> None:
    before, metrics = tr_dpo(TrDpo(beta=0.5), pair(-4, -7, -5, -6))
    after, metrics_after = tr_dpo(TrDpo(beta=0.5), pair(-4, -7, -4, -7))
    assert before.item() == pytest.approx(0.31326168751822286) and metrics["rewards/margin"].value == 1
    assert after.item() == pytest.approx(math.log(2)) and metrics_after["rewards/margin"].value == 0


# --- parameters that are refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"labelSmoothing": 0.5}, "labelSmoothing must be below 0.5"),
        ({"divergence": "alpha"}, "divergence alpha needs divergenceAlpha"),
        ({"divergenceAlpha": 0.3}, "divergenceAlpha is the coefficient of divergence alpha"),
        ({"divergence": "forwardKl", "lengthNormalized": True}, "lengthNormalized is defined for"),
        ({"divergence": "alpha", "divergenceAlpha": 1}, "less than 1"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dpo.model_validate(parameters)
