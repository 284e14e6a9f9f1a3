"""Learning of values on a tree of tokens: its fixed point, what it does not exceed, and ranking by what it learnt."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.policy.conservative_bellman import ConservativeBellman
from plumbline_trainer.objectives.policy.conservative_bellman import (
    REWARDS,
    candidate_scores,
    conservative_bellman,
    conservative_targets,
    implied_rewards,
    rewards_of_tokens,
)
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.rollout.judged import judged

VOCABULARY, LENGTH = 3, 3
TEXTS = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
STATES = [prefix for length in range(LENGTH) for prefix in itertools.product(range(VOCABULARY), repeat=length)]
PLACE = {state: number for number, state in enumerate(STATES)}
REFERENCE = torch.randn(len(STATES), VOCABULARY, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
REWARD = torch.tensor([float((text[0] + 2 * text[1] + text[2]) % 4 == 1) for text in TEXTS], dtype=torch.float64)
BEFORE = torch.tensor([[PLACE[text[:depth]] for depth in range(LENGTH)] for text in TEXTS])
TAKEN = torch.tensor(TEXTS)
PARAMETERS = ConservativeBellman(scale=0.5, discount=0.9)


def tokens_of(logits: Tensor, values: Tensor, texts: Tensor, mu: Tensor) -> PolicyTokens:
    """The completions `texts` under tables of logits [S, V] and values [S]; `mu` [S] is the greedy choice of states."""
    gaps = logits - logits.amax(dim=1, keepdim=True)
    states = BEFORE[texts]
    rewards = torch.zeros(states.shape, dtype=torch.float64)
    rewards[:, -1] = REWARD[texts]
    return PolicyTokens(
        logits.log_softmax(1)[states, TAKEN[texts]],
        torch.ones(states.shape, dtype=torch.bool),
        torch.zeros(states.shape),
        values=values[states],
        gaps=gaps[states, TAKEN[texts]],
        reference_gaps=gaps[states, mu[states]].detach(),
        prepared={REWARDS: rewards},
    )


def learnt(*, conservative: bool = True) -> Tensor:
    """Q [S, V] at the fixed point over completions that another policy, the uniform one, wrote.

    Without `conservative` the backup is by the greedy policy that is learnt, as in Q-learning.
    """
    logits = REFERENCE.clone().requires_grad_()
    values = torch.zeros(len(STATES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits, values], lr=0.05)
    everything = torch.arange(len(TEXTS))
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 ** (step / 150)
        mu = (REFERENCE if conservative else logits.detach()).argmax(dim=1)
        losses, _ = conservative_bellman(PARAMETERS, tokens_of(logits, values, everything, mu))
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    gaps = logits - logits.amax(dim=1, keepdim=True)
    return (PARAMETERS.scale * gaps + values[:, None]).detach()


@pytest.fixture(scope="module")
def conservative() -> Tensor:
    return learnt()


@pytest.fixture(scope="module")
def optimal() -> Tensor:
    return learnt(conservative=False)


def test_it_converges_to_the_value_of_the_references_greedy_policy_behind_every_token(conservative: Tensor) -> None:
    for state, token in itertools.product(STATES, range(VOCABULARY)):
        text, discount = (*state, token), 1.0
        while len(text) < LENGTH:
            text, discount = (*text, int(REFERENCE[PLACE[text]].argmax())), discount * PARAMETERS.discount
        expected = discount * float(REWARD[TEXTS.index(text)])
        assert conservative[PLACE[state], token].item() == pytest.approx(expected, abs=1e-3)


def test_it_does_not_exceed_the_optimal_values(conservative: Tensor, optimal: Tensor) -> None:
    assert (conservative <= optimal + 2e-3).all() and (conservative < optimal - 0.1).any()


def test_targets_by_hand() -> None:
    """Two completions, of three tokens and of one; rewards at the end, and 0.5 for a token on the way."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    rewards = torch.tensor([[0.0, 0.5, 2.0], [1.0, 0.0, 0.0]])
    followed = torch.tensor([[9.0, 4.0, 6.0], [3.0, math.nan, 7.0]], requires_grad=True)
    found = conservative_targets(rewards, followed, mask, 0.5)
    assert found.tolist() == [[2.0, 3.5, 2.0], [1.0, 0.0, 0.0]]
    assert not found.requires_grad


def test_rewards_of_tokens_are_the_completions_at_its_end_and_those_on_the_way() -> None:
    on_the_way = torch.tensor([[-0.1, -0.2, 0.0], [-0.3, 0.0, 0.0]], dtype=torch.float64)
    rollout = judged([1.0, 0.5], [0, 0], lengths=[3, 1], token_rewards=on_the_way)
    found = rewards_of_tokens(PARAMETERS, rollout, torch.zeros(2, 3))[REWARDS]
    torch.testing.assert_close(found, torch.tensor([[-0.1, -0.2, 1.0], [0.2, 0.0, 0.0]], dtype=torch.float64))


def test_gradients_reach_the_taken_token_and_its_state_alone() -> None:
    """d loss = (Q - target) d Q: no gradient through the value of what follows."""
    logits, values = REFERENCE.clone().requires_grad_(), torch.linspace(-1, 1, len(STATES), dtype=torch.float64)
    values.requires_grad_()
    text = torch.tensor([5])
    batch = tokens_of(logits, values, text, REFERENCE.argmax(dim=1))
    losses, _ = conservative_bellman(PARAMETERS, batch)
    (slope,) = torch.autograd.grad(losses[0, 0], values)
    first, second = BEFORE[5, 0], BEFORE[5, 1]
    assert batch.gaps is not None and batch.reference_gaps is not None
    taken = PARAMETERS.scale * batch.gaps[0, 0] + values[first]
    target = PARAMETERS.discount * (PARAMETERS.scale * batch.reference_gaps[0, 1] + values[second])
    assert slope[first].item() == pytest.approx((taken - target).item())
    assert slope.count_nonzero() == 1


def test_what_is_missing_is_named() -> None:
    batch = tokens_of(REFERENCE, torch.zeros(len(STATES)), torch.arange(2), REFERENCE.argmax(dim=1))
    with pytest.raises(ValueError, match="values, gaps"):
        conservative_bellman(PARAMETERS, replace(batch, gaps=None))


def of_texts(table: Tensor, texts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Values, gaps and mask [N, T] of completions under a table of Q."""
    values = table.amax(dim=1)
    gaps = (table - values[:, None]) / PARAMETERS.scale
    states = BEFORE[texts]
    return values[states], gaps[states, TAKEN[texts]], torch.ones(states.shape, dtype=torch.bool)


def test_of_an_optimal_value_function_the_implied_rewards_are_the_rewards(optimal: Tensor) -> None:
    values, gaps, mask = of_texts(optimal, list(range(len(TEXTS))))
    found = implied_rewards(PARAMETERS.scale * gaps + values, values, mask, PARAMETERS.discount)
    # where a token rules success out, the loss of value shows at that token
    torch.testing.assert_close(found[:, -1], REWARD, atol=5e-3, rtol=0)
    assert (found[:, :-1] <= 5e-3).all()


def test_ranking_by_value_raises_the_success_of_one_pick_of_several_samples(optimal: Tensor) -> None:
    generator = torch.Generator().manual_seed(6)
    steps = REFERENCE.log_softmax(1)[BEFORE, TAKEN]
    plain, ranked = 0.0, 0.0
    for _ in range(200):
        drawn = torch.multinomial(steps.sum(dim=1).exp(), 5, replacement=True, generator=generator).tolist()
        scores = candidate_scores(PARAMETERS, *of_texts(optimal, drawn))
        plain += float(REWARD[drawn].mean()) / 200
        ranked += float(REWARD[drawn[int(scores.argmax())]]) / 200
    assert ranked > plain + 0.2
