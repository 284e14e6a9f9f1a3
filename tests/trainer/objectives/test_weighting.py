"""Weights of pairs: uniform and on-policy completions, what alignment does, TRL, and no gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.direct import Dpo
from plumbline_api.methods.weighting import Alignment, NoWeighting, Wpo
from plumbline_trainer.objectives.preference.direct import dpo
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, TokenLogprobs
from plumbline_trainer.objectives.preference.weighting import (
    PAIR_WEIGHTINGS,
    equal_weights,
    typical_logprobs,
    wpo_weights,
)
from tests.trainer.objectives.records import vector
from tests.trainer.objectives.trl_oracle import Bigram, PairBatch, Sequences, assert_same_loss, trl_dpo

ALIGNMENTS: list[Alignment] = ["sampled", "greedy", "none"]


def completions(
    logits: torch.Tensor, tokens: torch.Tensor, alignment: Alignment, mask: torch.Tensor | None = None
) -> Completions:
    """Completions with `tokens` [B, T] under `logits` [B, T, V]."""
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1).masked_fill(~mask, 0.0)
    by_token = TokenLogprobs(logprobs, mask, typical=typical_logprobs(alignment, logits))
    return Completions(logprobs.sum(1), mask.sum(1).to(logits.dtype), logprobs.sum(1).detach(), by_token=by_token)


def scored(sides: Sequences, policy: Bigram, reference: Bigram, alignment: Alignment) -> Completions:
    """Completions of TRL's oracle, with what a typical token has at each position."""
    given_completions = sides.scored(policy, reference)
    assert given_completions.by_token is not None
    typical = typical_logprobs(alignment, policy.table[sides.ids[:, :-1]])
    return replace(given_completions, by_token=replace(given_completions.by_token, typical=typical))


@pytest.mark.parametrize("alignment", ["sampled", "greedy"])
def test_under_a_uniform_policy_every_pair_weighs_one(alignment: Alignment) -> None:
    logits = torch.full((2, 3, 11), 4.0, dtype=torch.float64)
    sides = completions(logits, torch.tensor([[0, 5, 9], [1, 1, 2]]), alignment)
    assert wpo_weights(Wpo(alignment=alignment), Pairs(sides, sides)).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_weights_by_hand() -> None:
    """pi = (1/2, 1/4, 1/4): sum of squares 3/8, largest 1/2. Chosen tokens 0, 1 and rejected token 2.

    sampled: sqrt(4/3 x 2/3) x 2/3; greedy: sqrt(1 x 1/2) x 1/2; none: sqrt(1/2 x 1/4) x 1/4.
    """
    row = vector(0.5, 0.25, 0.25).log() + 3
    expected = {"sampled": math.sqrt(8 / 9) * 2 / 3, "greedy": math.sqrt(0.5) / 2, "none": math.sqrt(1 / 8) / 4}
    for alignment in ALIGNMENTS:
        chosen = completions(row.expand(1, 2, 3), torch.tensor([[0, 1]]), alignment)
        rejected = completions(row.expand(1, 2, 3), torch.tensor([[2, 0]]), alignment, torch.tensor([[True, False]]))
        weights = wpo_weights(Wpo(alignment=alignment), Pairs(chosen, rejected))
        assert weights.tolist() == pytest.approx([expected[alignment]], abs=1e-12)


@given(st.lists(st.floats(-6, 6), min_size=2, max_size=8))
def test_the_factor_of_a_token_is_one_on_average_when_sampled_and_at_most_one_against_the_greedy_token(
    row: list[float],
) -> None:
    logits = vector(*row)
    probabilities = logits.softmax(0)
    sampled, greedy = typical_logprobs("sampled", logits), typical_logprobs("greedy", logits)
    assert (probabilities * probabilities / sampled.exp()).sum().item() == pytest.approx(1, rel=1e-9)
    assert (probabilities / greedy.exp()).max().item() == pytest.approx(1, rel=1e-9)
    assert typical_logprobs("none", logits).item() == 0


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_completions_that_the_policy_writes_weigh_more_than_corrupted_ones(alignment: Alignment) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 8, 13, generator=generator, dtype=torch.float64)
    written = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(50, 8)
    corrupted = written.clone()
    corrupted[:, ::2] = torch.randint(13, (50, 4), generator=generator)
    own, other = (completions(logits, tokens, alignment) for tokens in (written, corrupted))
    parameters = Wpo(alignment=alignment)
    heavier = wpo_weights(parameters, Pairs(own, own)) > wpo_weights(parameters, Pairs(own, other))
    assert heavier.double().mean() > 0.9


def test_sampled_alignment_makes_own_completions_weigh_alike_where_the_policy_is_sure_and_where_it_is_not() -> None:
    generator = torch.Generator().manual_seed(1)
    means = {}
    for alignment in ("sampled", "none"):
        for spread in (0.5, 4.0):
            logits = spread * torch.randn(400, 12, 9, generator=generator, dtype=torch.float64)
            own = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(400, 12)
            side = completions(logits, own, alignment)
            means[alignment, spread] = float(wpo_weights(Wpo(alignment=alignment), Pairs(side, side)).mean())
    assert means["sampled", 0.5] == pytest.approx(means["sampled", 4.0], rel=0.35)
    assert means["none", 4.0] > 10 * means["none", 0.5]


def test_weights_have_no_gradient_and_scale_that_of_their_pair() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    chosen, rejected = (completions(logits, torch.randint(5, (3, 4), generator=generator), "sampled") for _ in range(2))
    pairs = Pairs(chosen, rejected)
    weights = wpo_weights(Wpo(), pairs)
    assert not weights.requires_grad
    losses, _ = dpo(Dpo(), pairs)
    (plain,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (weighted,) = torch.autograd.grad((weights * losses).sum(), logits)
    torch.testing.assert_close(weighted, weights[:, None, None] * plain)


def test_padding_never_counts() -> None:
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    tokens = torch.tensor([[1, 2, 3, 4]])
    short = completions(logits[:, :2], tokens[:, :2], "sampled")
    padded = completions(logits, tokens, "sampled", torch.tensor([[True, True, False, False]]))
    assert padded.by_token is not None and padded.by_token.typical is not None
    padded.by_token.typical[:, 2:] = -torch.inf
    expected = wpo_weights(Wpo(), Pairs(short, short))
    assert wpo_weights(Wpo(), Pairs(padded, padded)).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wpo_equals_trl(seed: int) -> None:
    batch = PairBatch.random(seed)
    chosen, rejected = (
        scored(side, batch.policy, batch.reference, "sampled") for side in (batch.chosen, batch.rejected)
    )
    pairs = Pairs(chosen, rejected)
    weights = wpo_weights(Wpo(), pairs)
    assert weights.max() / weights.min() > 1.5
    ours = (weights * dpo(Dpo(beta=0.3), pairs)[0]).mean()
    assert_same_loss(batch.policy, ours, trl_dpo(batch, "sigmoid", beta=0.3, use_weighting=True))


def test_no_weighting_weighs_every_pair_the_same() -> None:
    pairs = PairBatch.random(0).pairs()
    assert equal_weights(NoWeighting(), pairs).tolist() == [1, 1, 1, 1]


def test_every_weighting_of_the_api_is_implemented_and_says_what_it_was_not_given() -> None:
    assert PAIR_WEIGHTINGS.missing() == []
    pairs = PairBatch.random(0).pairs()
    with pytest.raises(ValueError, match="sampled alignment needs typical log-probabilities"):
        wpo_weights(Wpo(), pairs)
    blind = replace(pairs, chosen=replace(pairs.chosen, by_token=None))
    with pytest.raises(ValueError, match="log-probability of every token"):
        wpo_weights(Wpo(alignment="none"), blind)
