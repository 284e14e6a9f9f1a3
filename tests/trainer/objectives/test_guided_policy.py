"""Value-based learning on token trees: the analytic regularized policy."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from plumbline_trainer.objectives.guided_policy import (
    categorical_regularized_value,
    guided_logits,
    outcome_loss,
    regularized_value,
)
from tests.trainer.policy.bandit import minimize

VOCABULARY, LENGTH = 3, 3
COMPLETIONS = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
STATES = [prefix for length in range(LENGTH) for prefix in itertools.product(range(VOCABULARY), repeat=length)]
GENERATOR = torch.Generator().manual_seed(11)
REFERENCE = {state: torch.randn(VOCABULARY, generator=GENERATOR, dtype=torch.float64) for state in STATES}
REWARD = {text: float((text[0] + 2 * text[1] + text[2]) % 4 == 1) for text in COMPLETIONS}


def chance(text: tuple[int, ...], logits: dict[tuple[int, ...], Tensor]) -> float:
    """The probability of a completion under the policy with these logits."""
    steps = [logits[text[:depth]].log_softmax(0)[token].item() for depth, token in enumerate(text)]
    return math.exp(sum(steps))


def optimum(eta: float) -> dict[tuple[int, ...], float]:
    """pi_ref exp(R / eta) / Z over whole completions, by enumeration."""
    weights = {text: chance(text, REFERENCE) * math.exp(REWARD[text] / eta) for text in COMPLETIONS}
    total = sum(weights.values())
    return {text: weight / total for text, weight in weights.items()}


def success_after(prefix: tuple[int, ...]) -> float:
    """The reference's exact success rate behind a prefix."""
    behind = [text for text in COMPLETIONS if text[: len(prefix)] == prefix]
    weights = [chance(text, REFERENCE) for text in behind]
    return sum(w * REWARD[text] for w, text in zip(weights, behind, strict=True)) / sum(weights)


def guided(success_logits: dict[tuple[int, ...], float], eta: float) -> dict[tuple[int, ...], Tensor]:
    """Logits of the guided policy in every state, from the success logits behind every prefix."""
    found = {}
    for state in STATES:
        behind = torch.tensor([success_logits[*state, token] for token in range(VOCABULARY)], dtype=torch.float64)
        found[state] = guided_logits(REFERENCE[state][None], regularized_value(behind, eta)[None], eta)[0]
    return found


def distance(policy: dict[tuple[int, ...], Tensor], eta: float) -> float:
    """Total variation from the analytic optimum."""
    best = optimum(eta)
    return sum(abs(chance(text, policy) - best[text]) for text in COMPLETIONS) / 2


PREFIXES = [prefix for length in range(1, LENGTH + 1) for prefix in itertools.product(range(3), repeat=length)]


@pytest.mark.parametrize("eta", [0.1, 0.5, 2.0])
def test_with_exact_success_rates_decoding_is_the_analytic_optimum(eta):
    logits = {prefix: torch.tensor(success_after(prefix)).clamp(1e-12, 1 - 1e-7).logit().item() for prefix in PREFIXES}
    assert distance(guided(logits, eta), eta) < 1e-4


def fitted(share: Tensor, start: Tensor) -> Tensor:
    """The success logits that are likeliest for these shares of successes."""

    def loss(logits: Tensor) -> Tensor:
        mask = torch.ones(len(logits), 1, dtype=torch.bool)
        right = outcome_loss(logits[:, None], torch.ones(len(logits)), mask)[:, 0]
        wrong = outcome_loss(logits[:, None], torch.zeros(len(logits)), mask)[:, 0]
        return (share * right + (1 - share) * wrong).sum()

    return minimize(loss, start)


def test_a_learnt_classifier_guides_to_the_optimum():
    """Rounds: roll in with the guided policy, finish with the reference, classify all outcomes so far."""
    eta, generator = 0.5, torch.Generator().manual_seed(2)
    index = {prefix: number for number, prefix in enumerate(PREFIXES)}
    table = torch.zeros(len(PREFIXES), dtype=torch.float64)
    successes, counts = torch.zeros(2, len(PREFIXES), dtype=torch.float64)
    for _ in range(4):
        policy = guided(dict(zip(PREFIXES, table.tolist(), strict=True)), eta)
        for _ in range(2000):
            text: tuple[int, ...] = ()
            switch = int(torch.randint(LENGTH, (), generator=generator))
            for depth in range(LENGTH):
                logits = (policy if depth < switch else REFERENCE)[text]
                text = (*text, int(torch.multinomial(logits.softmax(0), 1, generator=generator)))
            behind = [index[text[:depth]] for depth in range(switch + 1, LENGTH + 1)]
            successes[behind] += REWARD[text]
            counts[behind] += 1
        table = fitted((successes + 1e-3) / (counts + 2e-3), table)
    assert distance(guided(dict(zip(PREFIXES, table.tolist(), strict=True)), eta), eta) < 0.02


def test_at_equal_reward_it_stays_nearer_than_a_guide_by_plain_success_rates():
    """Guides pi_ref exp(p / tau): the tau with the same expected reward lies farther from the reference."""

    def outcome(policy: dict[tuple[int, ...], Tensor]) -> tuple[float, float]:
        reward = sum(chance(text, policy) * REWARD[text] for text in COMPLETIONS)
        divergence = sum(
            chance(text, policy) * math.log(chance(text, policy) / chance(text, REFERENCE)) for text in COMPLETIONS
        )
        return reward, divergence

    def plain(tau: float) -> dict[tuple[int, ...], Tensor]:
        return {
            state: REFERENCE[state]
            + torch.tensor([success_after((*state, token)) for token in range(VOCABULARY)], dtype=torch.float64) / tau
            for state in STATES
        }

    logits = {prefix: torch.tensor(success_after(prefix)).clamp(1e-12, 1 - 1e-7).logit().item() for prefix in PREFIXES}
    reward, divergence = outcome(guided(logits, 0.3))
    low, high = 0.005, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outcome(plain(middle))[0] > reward else (low, middle)
    equal, farther = outcome(plain(low))
    assert equal == pytest.approx(reward, abs=1e-6)
    assert farther > divergence * 1.02


def test_values_of_rewards_zero_and_one():
    """By the definition, and in its limits: the mean for a large eta, the best case for a small one."""
    p = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    found = regularized_value(p.logit(), 0.5)
    torch.testing.assert_close(found, 0.5 * (1 - p + p * math.exp(2)).log())
    torch.testing.assert_close(regularized_value(p.logit(), 1e4), p, rtol=0, atol=1e-4)
    torch.testing.assert_close(regularized_value(p.logit(), 1e-3), 1 + 1e-3 * p.log(), rtol=0, atol=1e-9)
    both = torch.stack([(1 - p).log(), p.log()], dim=1)
    torch.testing.assert_close(categorical_regularized_value(both, torch.tensor([0.0, 1.0]).double(), 0.5), found)
    with pytest.raises(ValueError, match="eta"):
        regularized_value(p, 0.0)


def test_tokens_without_a_value_are_ruled_out():
    reference = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    found = guided_logits(reference, torch.tensor([[5.0, 0.0]]), 1.0, tokens=torch.tensor([[1, 0]]))
    assert found.tolist() == [[3.0, 7.0, -math.inf, -math.inf]]
    with pytest.raises(ValueError, match="eta"):
        guided_logits(reference, reference, 0.0)


def test_outcome_losses_ignore_what_is_masked():
    logits = torch.tensor([[0.0, math.nan]], requires_grad=True)
    losses = outcome_loss(logits, torch.tensor([1.0]), torch.tensor([[True, False]]))
    assert losses.tolist() == [[pytest.approx(math.log(2)), 0.0]]
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert gradient.tolist() == [[-0.5, 0.0]]
