"""Budgets of samples: the formula, whole numbers that add up, and the variance that they save."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.exploration.budget import GradientVariance
from plumbline_trainer.exploration import BUDGETS, prompt_weights
from plumbline_trainer.exploration.budget import allocate, allocation_weights, squared_gradients
from plumbline_trainer.rollout.judged import judged

DOUBLE = torch.float64


def budget(rows=6, **parameters):
    chosen = GradientVariance(**parameters)
    return BUDGETS.of(chosen)(chosen, rows)


def rollout_of(outcomes, logprob=-0.7):
    """Groups of one-token completions from lists of outcomes, one list a slot."""
    groups = [slot for slot, results in enumerate(outcomes) for _ in results]
    rewards = [float(result) for results in outcomes for result in results]
    return judged(rewards, groups, logprobs=torch.full((len(rewards), 1), logprob))


def test_every_budget_of_the_api_is_implemented():
    assert BUDGETS.missing() == []


def test_weights_by_hand():
    acceptance, gradient = torch.tensor([0.25, 1.0, 0.0, 0.01], dtype=DOUBLE), torch.tensor([2.0, 3.0, 9.0, 1.0])
    found = allocation_weights(acceptance, gradient.double(), alpha=0.001, beta=2.0)
    expected = [2 / math.sqrt(0.25 + 0.004), 3 / math.sqrt(1.001), 0.0, 1 / math.sqrt(0.01 + 0.1)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_without_the_regulariser_the_harder_of_two_prompts_gets_more_and_with_it_the_hopeless_less():
    rates, ones = torch.tensor([0.5, 0.1, 1e-3], dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    plain = allocation_weights(rates, ones, alpha=0.0, beta=2.0)
    assert plain[0] < plain[1] < plain[2]
    bent = allocation_weights(rates, ones, alpha=1e-3, beta=2.0)
    assert bent[2] < bent[0] < bent[1]


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    st.integers(0, 5),
    st.integers(0, 200),
)
def test_budgets_add_up_and_keep_the_minimum(weights, minimum, spare):
    total = minimum * len(weights) + spare
    found = allocate(torch.tensor(weights, dtype=DOUBLE), total, minimum)
    assert sum(found) == total and min(found) >= minimum


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=12, unique=True), st.permutations(range(12)))
def test_a_budget_belongs_to_its_prompt_and_not_to_its_place(weights, order):
    order = [place for place in order if place < len(weights)]
    # multiples of irrational numbers leave no equal remainders
    values = torch.tensor(weights, dtype=DOUBLE).sqrt() + 0.1
    found = allocate(values, 8 * len(weights), 2)
    assert allocate(values[order], 8 * len(weights), 2) == [found[place] for place in order]


def test_shares_are_rounded_by_the_largest_remainder():
    assert allocate(torch.tensor([1.0, 2.0, 4.0]), 10, 0) == [1, 3, 6]  # 1.43, 2.86, 5.71
    assert allocate(torch.tensor([0.0, 0.0]), 5, 0) == [3, 2]
    assert allocate(torch.tensor([1.0, 1000.0, 1000.0]), 16, 2) == [2, 7, 7]


def test_less_than_the_minimum_for_all_is_refused():
    with pytest.raises(ValueError, match="3 samples are less than 2 for each of 2 prompts"):
        allocate(torch.ones(2), 3, 2)


def test_one_minus_the_probability_estimates_the_squared_gradient_of_the_logits():
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=DOUBLE, requires_grad=True)
    logprobs = logits.log_softmax(0)
    norms = torch.stack(
        [torch.autograd.grad(logprobs[token], logits, retain_graph=True)[0].square().sum() for token in range(5)]
    )
    probabilities = logprobs.exp().detach()
    estimate = squared_gradients(judged([0.0] * 5, [0] * 5, logprobs=logprobs.detach()[:, None]))
    torch.testing.assert_close((probabilities * norms).sum(), (probabilities * estimate).sum())


def test_padding_has_no_gradient():
    rollout = judged([0.0, 0.0], [0, 0], lengths=[1, 2], logprobs=torch.tensor([[-0.5, math.nan], [-0.5, -1.0]]))
    expected = [1 - math.exp(-0.5), 2 - math.exp(-0.5) - math.exp(-1.0)]
    assert squared_gradients(rollout).tolist() == pytest.approx(expected, rel=1e-6)


def test_prompts_that_were_never_seen_share_evenly():
    assert budget().budgets([0, 1, 2], 24) == [8, 8, 8]
    known = budget(alpha=1e-6)
    known.observe([0, 1], rollout_of([[1, 1, 1, 1], [1, 0, 0, 0]]))
    first, second, unseen = known.budgets([0, 1, 5], 24)
    assert unseen == 8 and second == pytest.approx(2 * first, abs=1) and first + second == 16


def test_an_unsolved_prompt_gets_the_minimum_until_it_is_solved():
    known = budget(memory=0.5)
    known.observe([3, 4], rollout_of([[0, 0, 0, 0], [1, 0, 1, 0]]))
    assert known.budgets([3, 4], 16) == [2, 14]
    known.observe([3], rollout_of([[1, 0]]))
    assert known.budgets([3, 4], 16)[0] > 8


def test_older_rollouts_count_less():
    forgetful, patient = budget(memory=0.0), budget(memory=0.9)
    for known in (forgetful, patient):
        known.observe([0, 1], rollout_of([[1, 1, 1, 1], [1, 0, 0, 0]]))
        known.observe([0, 1], rollout_of([[1, 0, 0, 0], [1, 0, 0, 0]]))
    assert forgetful.budgets([0, 1], 32) == [16, 16]
    assert patient.budgets([0, 1], 32)[0] < 16


def test_completions_without_reward_teach_nothing():
    known = budget()
    known.observe([0], judged([1.0, 1.0], [0, 0], valid=[False, False]))
    assert known.state_dict()["rows"] == []


def test_a_resumed_budget_is_the_same():
    known = budget()
    known.observe([0, 5], rollout_of([[1, 0, 0], [1, 1, 0]], logprob=-0.3))
    again = budget()
    again.load_state_dict(json.loads(json.dumps(known.state_dict())))
    for one in (known, again):
        one.observe([5, 2], rollout_of([[1, 0, 0], [1, 1, 0]]))
    assert again.state_dict() == known.state_dict()
    assert again.budgets([0, 2, 5, 1], 37) == known.budgets([0, 2, 5, 1], 37)


def test_with_prompt_weights_every_prompt_counts_the_same():
    valid = [True, True, True, True, True, False, True]
    rollout = judged([0.0] * 7, [0, 0, 0, 4, 4, 4, 2], valid=valid)
    weights = prompt_weights(rollout)
    assert weights.sum().item() == pytest.approx(6)
    for group in (0, 2, 4):
        assert weights[rollout.groups == group].sum().item() == pytest.approx(2)
    assert weights[5] == 0


def test_the_gradient_varies_less_than_with_even_budgets():
    """Softmax bandits with one right arm each: the gradient from accepted samples only, at equal totals."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.tensor([0.9, 0.6, 0.3, 0.08], dtype=DOUBLE)
    arms = 4

    def accepted_gradient(count, rate):
        """1 / (n p) sum over right samples of grad log pi: the right arms are two, so that it varies by itself."""
        probabilities = torch.tensor([rate / 2, rate / 2, (1 - rate) / 2, (1 - rate) / 2], dtype=DOUBLE)
        drawn = torch.multinomial(probabilities, count * 4000, replacement=True, generator=generator)
        gradients = torch.nn.functional.one_hot(drawn, arms).double() - probabilities
        gradients *= (drawn < 2)[:, None] / (count * rate)
        return gradients.view(4000, count, arms).sum(dim=1)

    def variance(budgets):
        return sum(
            float(accepted_gradient(count, float(rate)).var(dim=0).sum())
            for count, rate in zip(budgets, rates, strict=True)
        )

    squares = torch.tensor([1 - rate / 2 for rate in rates], dtype=DOUBLE)
    uneven = allocate(allocation_weights(rates, squares.sqrt(), 1e-4, 2.0), 64, 2)
    assert uneven[0] < uneven[1] < uneven[2] < uneven[3]
    assert variance(uneven) < 0.9 * variance([16] * 4)
