"""SRPO against numbers worked out by hand and against the closed-form solution of its game on a tabular bandit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Ipo
from plumbline_api.methods.preference.self_improving import Srpo
from plumbline_trainer.objectives.preference.direct import ipo
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, Revisions
from plumbline_trainer.objectives.preference.self_improving import srpo, srpo_losses
from tests.trainer.objectives.records import pair, pairs_of, vector

ANSWERS = 8
BETA = 0.5


def pairs_with(log_ratios: list[torch.Tensor]) -> Pairs:
    """Pairs whose log-ratios `[B]` are h(w), h(l), h(w|l), h(l|w), h(l|l), h(w|w), with a reference of -3."""
    records = [Completions(h - 3, torch.ones_like(h.detach()), torch.full_like(h.detach(), -3)) for h in log_ratios]
    return Pairs(records[0], records[1], revisions=Revisions(*records[2:]))


class Bandit:
    """Eight answers with a preference matrix that no Bradley-Terry model has, and the game's solution."""

    def __init__(self, seed: int = 0) -> None:
        draws = torch.Generator().manual_seed(seed)
        upper = torch.rand(ANSWERS, ANSWERS, generator=draws, dtype=torch.float64).triu(1)
        self.wins = upper + (1 - upper.T).tril(-1) + 0.5 * torch.eye(ANSWERS, dtype=torch.float64)
        """[a, b]: probability that a is better than b."""

        logits = torch.randn(ANSWERS + 1, ANSWERS, generator=draws, dtype=torch.float64)
        self.reference = logits[0].log_softmax(0)
        """[y]: log ref(y)."""

        self.reviser = logits[1:].log_softmax(1)
        """[shown, y]: log ref(y | shown)."""

        self.best_reviser = (self.reviser + self.wins.T / BETA).log_softmax(1)
        value = torch.logsumexp(self.reviser + self.wins.T / BETA, dim=1)
        self.best_policy = (self.reference - value).log_softmax(0)
        self.a, self.b = torch.triu_indices(ANSWERS, ANSWERS, 1)

    def pairs(self, policy: torch.Tensor, reviser: torch.Tensor, w: torch.Tensor, lose: torch.Tensor) -> Pairs:
        """Pairs (w, lose) under log-probabilities `policy` [y] and `reviser` [shown, y]."""

        def answer(y: torch.Tensor) -> Completions:
            return Completions(policy[y], torch.ones(len(y), dtype=torch.float64), self.reference[y])

        def revision(y: torch.Tensor, shown: torch.Tensor) -> Completions:
            ones = torch.ones(len(y), dtype=torch.float64)
            return Completions(reviser[shown, y], ones, self.reviser[shown, y])

        revisions = Revisions(revision(w, lose), revision(lose, w), revision(lose, lose), revision(w, w))
        return Pairs(answer(w), answer(lose), revisions=revisions)

    def fitted(self, shares: torch.Tensor, alpha: float, *, hard: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Policy and reviser that minimise SRPO's expected loss where pair n is drawn with `shares[n]`."""
        parameters = Srpo(beta=BETA, alpha=alpha)
        wins = self.wins[self.a, self.b]

        def loss(policy: torch.Tensor, reviser: torch.Tensor) -> torch.Tensor:
            if hard:  # both labels of every pair, as often as they occur
                right, _ = srpo(parameters, self.pairs(policy, reviser, self.a, self.b))
                wrong, _ = srpo(parameters, self.pairs(policy, reviser, self.b, self.a))
                return (shares * (wins * right + (1 - wins) * wrong)).sum()
            return (shares * srpo_losses(parameters, self.pairs(policy, reviser, self.a, self.b), wins)).sum()

        return minimised(loss)


def minimised(loss) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[no-untyped-def]
    """Log-probabilities `[y]` and `[shown, y]` at the minimum of `loss` over softmax tables."""
    logits = torch.zeros(ANSWERS, dtype=torch.float64, requires_grad=True)
    table = torch.zeros(ANSWERS, ANSWERS, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [logits, table], max_iter=3000, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        search.zero_grad()
        value: torch.Tensor = loss(logits.log_softmax(0), table.log_softmax(1))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(closure)
    return logits.detach().log_softmax(0), table.detach().log_softmax(1)


def uneven_shares(pairs: int) -> torch.Tensor:
    """Another way to collect data: some pairs are drawn thirty times as often as others."""
    return torch.logspace(0, -1.5, pairs, dtype=torch.float64) / torch.logspace(0, -1.5, pairs).sum()


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference of two tables of log-probabilities, as probabilities."""
    return float((found.exp() - wanted.exp()).abs().max())


def test_by_hand() -> None:
    """beta 0.1; h = (2, -1), h(w|l) = 3, h(l|w) = 1, h(l|l) = 1, h(w|w) = 4.

    Policy: 0.05 (3 - 1 + 2 + 1) = 0.25, (0.5 - 0.25)^2 = 0.0625. Improver: 0.1 (3 - 1) = 0.2, (0.5 - 0.2)^2 = 0.09;
    0.1 (1 - 4) = -0.3, (-0.5 + 0.3)^2 = 0.04; their mean is 0.065. A quarter of the improver's and the rest:
    0.75 x 0.0625 + 0.25 x 0.065 = 0.063125.
    """
    pairs = pairs_with([vector(h) for h in (2, -1, 3, 1, 1, 4)])
    losses, metrics = srpo(Srpo(beta=0.1, alpha=0.25), pairs)
    assert losses.tolist() == pytest.approx([0.063125], abs=1e-14)
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(
        {
            "rewards/chosen": 0.25,
            "rewards/rejected": 0.0,
            "rewards/margin": 0.25,
            "rewards/accuracy": 1.0,
            "logprobs/chosen": -1.0,
            "logprobs/rejected": -4.0,
            "improver/towards_chosen": 0.2,
            "kl": 0.5,
            "improver/towards_rejected": -0.3,
            "improver/accuracy": 1.0,
        }
    )


def test_every_residual_is_zero_at_the_game_s_solution() -> None:
    bandit = Bandit()
    solution = bandit.pairs(bandit.best_policy, bandit.best_reviser, bandit.a, bandit.b)
    for alpha in (0.0, 0.3, 1.0):
        losses = srpo_losses(Srpo(beta=BETA, alpha=alpha), solution, bandit.wins[bandit.a, bandit.b])
        assert losses.max().item() < 1e-28


def test_the_solution_is_a_saddle_point_of_the_game() -> None:
    """The game's value, evaluated by enumeration: no other improver gains, no other policy loses less."""
    bandit = Bandit()

    def value(policy: torch.Tensor, reviser: torch.Tensor) -> float:
        held = (reviser.exp() * (bandit.wins.T - BETA * (reviser - bandit.reviser))).sum(1)
        return float((policy.exp() * (held + BETA * (policy - bandit.reference))).sum())

    best = value(bandit.best_policy, bandit.best_reviser)
    draws = torch.Generator().manual_seed(1)
    for _ in range(20):
        bent = (bandit.best_reviser + 0.3 * torch.randn(ANSWERS, ANSWERS, generator=draws)).log_softmax(1)
        other = (bandit.best_policy + 0.3 * torch.randn(ANSWERS, generator=draws)).log_softmax(0)
        assert value(bandit.best_policy, bent) < best < value(other, bandit.best_reviser)


@pytest.mark.parametrize("hard", [False, True])
def test_minimising_the_loss_finds_the_solution(hard: bool) -> None:
    bandit = Bandit()
    even = torch.full((len(bandit.a),), 1 / len(bandit.a), dtype=torch.float64)
    policy, reviser = bandit.fitted(even, 0.5, hard=hard)
    assert distance(reviser, bandit.best_reviser) < 1e-3
    assert distance(policy, bandit.best_policy) < 1e-3


def test_the_solution_does_not_depend_on_which_pairs_were_drawn_while_ipo_s_does() -> None:
    bandit = Bandit()
    even = torch.full((len(bandit.a),), 1 / len(bandit.a), dtype=torch.float64)
    uneven = uneven_shares(len(bandit.a))
    policy, reviser = bandit.fitted(uneven, 0.5, hard=True)
    assert distance(reviser, bandit.best_reviser) < 1e-3
    assert distance(policy, bandit.best_policy) < 1e-3

    def ipo_policy(shares: torch.Tensor) -> torch.Tensor:
        parameters = Ipo(tau=BETA, length_normalized=False)
        wins = bandit.wins[bandit.a, bandit.b]

        def loss(policy: torch.Tensor, reviser: torch.Tensor) -> torch.Tensor:
            right, _ = ipo(parameters, bandit.pairs(policy, reviser, bandit.a, bandit.b))
            wrong, _ = ipo(parameters, bandit.pairs(policy, reviser, bandit.b, bandit.a))
            return (shares * (wins * right + (1 - wins) * wrong)).sum() + 0 * reviser.sum()

        return minimised(loss)[0]

    assert distance(ipo_policy(even), ipo_policy(uneven)) > 0.02


ratio = st.floats(-6, 6)


@given(ratio, ratio, ratio, ratio, st.floats(0.05, 2))
def test_an_improver_that_ignores_the_answer_turns_the_policy_s_loss_into_ipo(
    w: float, lose: float, rw: float, rl: float, beta: float
) -> None:
    """Then h(y|answer) = h(y), and (1/2 - beta (h(w) - h(l)))^2 is beta^2 times IPO's with tau = beta."""
    plain = pair(w, lose, rw, rl)
    record = Revisions(plain.chosen, plain.rejected, plain.rejected, plain.chosen)
    losses, _ = srpo(Srpo(beta=beta, alpha=0), Pairs(plain.chosen, plain.rejected, revisions=record))
    expected = beta**2 * ipo(Ipo(tau=beta, length_normalized=False), plain)[0].item()
    assert losses.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.lists(ratio, min_size=6, max_size=6), st.floats(0, 1), st.floats(0, 1))
def test_both_orders_of_a_pair_say_the_same(h: list[float], p: float, alpha: float) -> None:
    """The loss of (a, b) with p(a > b) = p is that of (b, a) with 1 - p."""
    a, b, ab, ba, bb, aa = (vector(value) for value in h)
    parameters = Srpo(beta=0.2, alpha=alpha)
    forwards = srpo_losses(parameters, pairs_with([a, b, ab, ba, bb, aa]), vector(p))
    backwards = srpo_losses(parameters, pairs_with([b, a, ba, ab, aa, bb]), vector(1 - p))
    assert forwards.item() == pytest.approx(backwards.item(), rel=1e-9, abs=1e-12)


def test_label_smoothing_is_the_probability_that_the_chosen_completion_wins() -> None:
    pairs = pairs_with([vector(h) for h in (2, -1, 3, 1, 1, 4)])
    smoothed, _ = srpo(Srpo(beta=0.1, label_smoothing=0.2), pairs)
    assert smoothed.item() == srpo_losses(Srpo(beta=0.1), pairs, vector(0.8)).item()


def test_gradients_equal_finite_differences() -> None:
    values = [torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    torch.autograd.gradcheck(
        lambda *h: srpo(Srpo(beta=0.3, alpha=0.3, label_smoothing=0.1), pairs_with(list(h)))[0],
        [value.requires_grad_() for value in values],
    )


def test_extreme_log_ratios_stay_finite() -> None:
    for size in (-1e4, 1e4):
        values = [vector(size if n % 2 else -size).requires_grad_() for n in range(6)]
        losses, _ = srpo(Srpo(), pairs_with(values))
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(losses.sum(), values))


def test_pairs_without_revisions_are_refused() -> None:
    with pytest.raises(ValueError, match="needs revisions"):
        srpo(Srpo(), pairs_of(vector(-1), vector(-2), reference_chosen=vector(-1), reference_rejected=vector(-1)))
