"""R-DPO, LD-DPO and ERPO: numbers by hand, the policies that they ask for, limits."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.preference.length_controlled import Erpo, LdDpo, Rdpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs
from plumbline_trainer.objectives.preference.length_controlled import erpo, ld_dpo, rdpo
from tests.trainer.objectives.records import completions_by_token, pair, pairs_of, vector

logprob = st.floats(-8, -0.01)
tokens = st.integers(1, 30)
positive = st.floats(0.05, 4)


def test_by_hand() -> None:
    """h = (1, -1), beta 0.5, lengths 2 and 5: R-DPO 1 + 0.1 (2 - 5) and ERPO 1 - 0.5 x 3/5 are 0.7."""
    given_pair = pair(-4, -7, -5, -6, lengths=(2, 5))
    losses, metrics = rdpo(Rdpo(beta=0.5, alpha=0.1), given_pair)
    assert losses.item() == pytest.approx(0.4031860, abs=1e-6)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == pytest.approx((0.7, 0.0))
    losses, metrics = erpo(Erpo(beta=0.5, length_weight=0.5), given_pair)
    assert losses.item() == pytest.approx(0.4031860, abs=1e-6)
    assert (metrics["rewards/chosen"].value, metrics["rewards/rejected"].value) == (0.5, -0.5)


# --- R-DPO ------------------------------------------------------------------------------------------------------------


def test_the_policy_that_pays_for_tokens_is_stationary_for_r_dpo() -> None:
    """pi = ref exp((r - alpha |y|) / beta) / Z, and labels that follow r alone. With the other sign of the length term
    it would not be: this settles the sign."""
    beta, alpha = 0.7, 0.15
    rewards, lengths = vector(0.2, -0.9, 1.1, 0.0), vector(3, 9, 12, 1)
    reference = torch.log_softmax(vector(0.5, -0.4, 0.1, -1.2), dim=0)
    best = torch.log_softmax(reference + (rewards - alpha * lengths) / beta, dim=0).requires_grad_()
    first, second = (torch.tensor(side) for side in zip(*combinations(range(4), 2), strict=True))
    wins = torch.sigmoid(rewards[first] - rewards[second])

    def losses(chosen: torch.Tensor, rejected: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        pairs = pairs_of(
            best[chosen], best[rejected], tokens[chosen], tokens[rejected], reference[chosen], reference[rejected]
        )
        return rdpo(Rdpo(beta=beta, alpha=alpha), pairs)[0]

    def gradient(tokens: torch.Tensor) -> float:
        total = (wins * losses(first, second, tokens) + (1 - wins) * losses(second, first, tokens)).sum()
        return float(torch.autograd.grad(total, best)[0].abs().max())

    assert gradient(lengths) < 1e-12
    assert gradient(-lengths) > 0.1


@given(logprob, logprob, logprob, logprob, tokens, tokens)
def test_r_dpo_without_a_price_or_with_equal_lengths_is_dpo(
    w: float, lose: float, rw: float, rl: float, nw: int, nl: int
) -> None:
    expected = dpo(Dpo(), pair(w, lose, rw, rl))[0].item()
    assert rdpo(Rdpo(alpha=0), pair(w, lose, rw, rl, (nw, nl)))[0].item() == pytest.approx(expected, abs=1e-12)
    assert rdpo(Rdpo(alpha=0.3), pair(w, lose, rw, rl, (nw, nw)))[0].item() == pytest.approx(expected, abs=1e-12)


def test_a_long_winner_is_pushed_less_than_a_short_one() -> None:
    slopes = []
    for lengths in ((20, 10), (10, 10), (10, 20)):
        chosen = vector(-5).requires_grad_()
        pairs = pairs_of(chosen, vector(-5), *(vector(n) for n in lengths), vector(-5), vector(-5))
        slopes.append([])
        for loss in (rdpo(Rdpo(alpha=0.1), pairs)[0], erpo(Erpo(), pairs)[0]):
            slopes[-1].append(-torch.autograd.grad(loss, chosen)[0].item())
    longer, equal, shorter = (torch.tensor(pair_of_slopes) for pair_of_slopes in slopes)
    assert (longer < equal).all() and (equal < shorter).all() and (longer > 0).all()


# --- LD-DPO -----------------------------------------------------------------------------------------------------------


def token_pairs(lengths: list[tuple[int, int]], seed: int = 0) -> Pairs:
    """Pairs of the given lengths with random log-probabilities of tokens; completions start at different columns."""
    random = torch.Generator().manual_seed(seed)
    sides = []
    for side in (0, 1):
        counts = torch.tensor([row[side] for row in lengths])
        position = torch.arange(int(counts.max()) + 1)
        mask = (position >= 1) & (position <= counts[:, None]) if side else position < counts[:, None]
        policy, reference = (-2 * torch.rand(mask.shape, generator=random, dtype=torch.float64) for _ in range(2))
        sides.append(completions_by_token(policy * mask, mask, reference * mask))
    return Pairs(*sides)


def test_ld_dpo_against_a_loop_over_tokens() -> None:
    parameters = LdDpo(beta=0.4, alpha=0.3)
    lengths = [(3, 5), (4, 4), (6, 1)]
    pairs = token_pairs(lengths)
    expected = []
    for row, shared in enumerate(min(pair_of_lengths) for pair_of_lengths in lengths):
        discounted = []
        for side in (pairs.chosen, pairs.rejected):
            assert side.by_token is not None and side.by_token.reference is not None
            kept = side.by_token.mask[row]
            policy, reference = side.by_token.policy[row][kept], side.by_token.reference[row][kept]
            weights = [1.0 if position < shared else 0.3 for position in range(len(policy))]
            discounted.append(float((vector(*weights) * (policy - reference)).sum()))
        expected.append(math.log1p(math.exp(-0.4 * (discounted[0] - discounted[1]))))
    losses, metrics = ld_dpo(parameters, pairs)
    assert losses.tolist() == pytest.approx(expected)
    assert metrics["rewards/margin"].value == pytest.approx(sum(-math.log(math.expm1(x)) for x in expected) / 3)


def test_ld_dpo_with_full_weight_or_equal_lengths_is_dpo_and_with_none_sees_only_shared_lengths() -> None:
    pairs = token_pairs([(3, 5), (4, 4), (6, 1)])
    dpo_losses = dpo(Dpo(), pairs)[0]
    torch.testing.assert_close(ld_dpo(LdDpo(alpha=1), pairs)[0], dpo_losses)
    torch.testing.assert_close(ld_dpo(LdDpo(alpha=0.2), pairs)[0][1], dpo_losses[1])

    def cut(side: Completions, start: int, length: int, row: int) -> Completions:
        assert side.by_token is not None and side.by_token.reference is not None
        columns = slice(start, start + length)
        parts = [t[row : row + 1, columns] for t in (side.by_token.policy, side.by_token.mask, side.by_token.reference)]
        return completions_by_token(*parts)

    for row, shared in enumerate((3, 4, 1)):
        shortened = Pairs(cut(pairs.chosen, 0, shared, row), cut(pairs.rejected, 1, shared, row))
        alone = dpo(Dpo(), shortened)[0]
        torch.testing.assert_close(ld_dpo(LdDpo(alpha=0), pairs)[0][row], alone[0])


# --- ERPO -------------------------------------------------------------------------------------------------------------


@given(logprob, logprob, logprob, logprob, tokens, tokens, positive, st.floats(0, 3))
def test_erpo_is_a_bradley_terry_likelihood_with_a_handicap_for_the_shorter_winner(
    w: float, lose: float, rw: float, rl: float, nw: int, nl: int, beta: float, weight: float
) -> None:
    """p(y_w > y_l) = a / (a + b e^(w x share of tokens saved)), a and b the ratios to the reference to the beta."""
    a, b = (math.exp(w) / math.exp(rw)) ** beta, (math.exp(lose) / math.exp(rl)) ** beta
    saved = 1 - nw / nl if nw < nl else nl / nw - 1
    losses, _ = erpo(Erpo(beta=beta, length_weight=weight), pair(w, lose, rw, rl, (nw, nl)))
    assert losses.item() == pytest.approx(-math.log(a / (a + b * math.exp(weight * saved))), rel=1e-8)


@given(tokens, tokens, st.integers(2, 50))
def test_erpo_s_offset_depends_on_the_ratio_of_lengths_and_stays_below_its_weight(nw: int, nl: int, times: int) -> None:
    losses, scaled, most = (
        erpo(parameters, pair(-1, -1, -1, -1, lengths))[0].item()
        for parameters, lengths in (
            (Erpo(length_weight=2), (nw, nl)),
            (Erpo(length_weight=2), (times * nw, times * nl)),
            (Erpo(length_weight=2), (1, 10**9)),
        )
    )
    assert losses == pytest.approx(scaled)
    assert losses < most + 1e-12 and most == pytest.approx(math.log1p(math.exp(2)), rel=1e-6)


def test_erpo_without_a_weight_or_with_equal_lengths_is_dpo() -> None:
    for lengths, weight in (((3, 8), 0.0), ((5, 5), 2.0)):
        given_pair = pair(-4, -7, -5, -6, lengths)
        expected = dpo(Dpo(), given_pair)[0]
        assert torch.equal(erpo(Erpo(length_weight=weight), given_pair)[0], expected)


def test_rounds_of_erpo_shorten_safe_answers_and_never_cost_safety() -> None:
    """Six answers, safe and unsafe ones of 4, 8 and 16 tokens. Each round pairs safe with unsafe answers and, among
    safe ones, shorter with longer; its reference is the last round's policy. The share of safe answers never falls; the
    mean length of safe answers falls in every round, and further than without the length term."""
    lengths, safe = vector(4, 8, 16, 4, 8, 16), torch.tensor([True, True, True, False, False, False])
    pairs_in_order = [
        (i, j) for i in range(6) for j in range(6) if safe[i] and (not safe[j] or lengths[i] < lengths[j])
    ]
    winners, losers = (torch.tensor(side) for side in zip(*pairs_in_order, strict=True))

    def rounds(weight: float) -> list[tuple[float, float]]:
        logits = vector(0, 1, 2, 0, 1, 2)  # long answers are the most likely at the start
        found = []
        for _ in range(4):
            policy = torch.softmax(logits, dim=0)
            found.append((float(policy[safe].sum()), float((policy * lengths)[safe].sum() / policy[safe].sum())))
            reference = torch.log_softmax(logits, dim=0)
            for _ in range(20):
                logits = logits.detach().requires_grad_()
                now = torch.log_softmax(logits, dim=0)
                sides = now[winners], now[losers], lengths[winners], lengths[losers]
                pairs = pairs_of(*sides, reference[winners], reference[losers])
                loss = erpo(Erpo(beta=0.5, length_weight=weight), pairs)[0].mean()
                logits = logits - torch.autograd.grad(loss, logits)[0]
            logits = logits.detach()
        return found

    controlled, plain = rounds(2.0), rounds(0.0)
    assert all(later > earlier for (earlier, _), (later, _) in pairwise(controlled))
    assert all(later < earlier for (_, earlier), (_, later) in pairwise(controlled))
    assert controlled[0] == plain[0]
    assert all(ours[1] < theirs[1] for ours, theirs in zip(controlled[1:], plain[1:], strict=True))
