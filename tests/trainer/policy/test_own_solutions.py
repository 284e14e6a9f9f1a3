"""Supervised objectives on own solutions: gradient weights, what is kept, and how many ways to solve a task survive."""

from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.policy.own_solutions import (
    ExpertIteration,
    MarginalLikelihood,
    MleAugmented,
    ReturnConditioned,
)
from plumbline_trainer.objectives.policy.inputs import PolicyTokens
from plumbline_trainer.objectives.policy.own_solutions import different_solutions
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.rollout.return_conditioning import label_of, labelled
from tests.trainer.policy.records import loss_of, tokens

ROLLOUT = judged(
    [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
    [0, 0, 0, 0, 1, 1, 1],
    [True] * 6 + [False],
    texts=["a", " a\n", "b", "c", "a", "a", "d"],
)


def ready(parameters, batch: PolicyTokens, rollout=ROLLOUT) -> PolicyTokens:
    return replace(batch, prepared=prepared(parameters, rollout, torch.zeros(len(rollout.rewards))))


def test_only_rewarded_different_texts_are_kept():
    assert different_solutions(ROLLOUT).tolist() == [True, False, False, True, True, False, False]
    assert different_solutions(ROLLOUT, most=1).tolist() == [True, False, False, False, True, False, False]
    assert different_solutions(replace(ROLLOUT, texts=())).tolist() == [True, True, False, True, True, False, False]
    found = prepared(ExpertIteration(per_prompt=1), ROLLOUT, torch.zeros(7))["weight"]
    assert found.tolist() == [1, 0, 0, 0, 1, 0, 0]


def seven(logprobs: list[float]) -> PolicyTokens:
    return tokens([[value] for value in logprobs], [0.0] * 7, groups=ROLLOUT.groups)


LIKELIHOODS = [-1.0, -1.0, -2.0, -3.0, -0.5, -0.5, -4.0]


def test_expert_iteration_is_the_likelihood_of_what_is_kept():
    batch = ready(ExpertIteration(), seven(LIKELIHOODS))
    assert loss_of(ExpertIteration(), batch)[0].item() == pytest.approx((1.0 + 3.0 + 0.5) / 7)


@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_marginal_likelihood_by_hand_and_its_gradient_weights(beta):
    """Two solutions of the first prompt's four completions, one of the second's two valid ones."""
    batch = ready(MarginalLikelihood(beta=beta), seven(LIKELIHOODS))
    loss, _ = loss_of(MarginalLikelihood(beta=beta), batch)
    powers = torch.tensor([-1.0, -3.0], dtype=torch.float64).mul(beta).exp()
    assert loss.item() == pytest.approx((4 * -powers.sum().log().item() / beta + 2 * 0.5) / 7)
    (gradient,) = torch.autograd.grad(loss, batch.logprobs)
    weights = 4 / 7 * powers / powers.sum()
    expected = [-weights[0].item(), 0, 0, -weights[1].item(), -2 / 7, 0, 0]
    assert gradient[:, 0].tolist() == pytest.approx(expected)


def test_a_small_beta_has_the_even_weights_of_mle_augmented():
    """Up to the scale 1/b of b solutions: the weights P^beta / sum P^beta become alike."""
    batch = seven(LIKELIHOODS)
    small = loss_of(MarginalLikelihood(beta=1e-6), ready(MarginalLikelihood(), batch))[0]
    plain = loss_of(MleAugmented(), ready(MleAugmented(), batch))[0]
    found, expected = (torch.autograd.grad(loss, batch.logprobs)[0][[0, 3], 0] for loss in (small, plain))
    torch.testing.assert_close(found, expected * 4 / 2, rtol=1e-5, atol=0)


def trained(parameters, only: int | None = None) -> torch.Tensor:
    """A policy over five programs, of which the first three are right, after descent on one prompt's solutions."""
    correct = [True, True, True, False, False]
    rollout = judged([float(right) for right in correct], [0] * 5, texts=[str(index) for index in range(5)])
    if only is not None:
        rollout = replace(rollout, correct=torch.arange(5) == only)
    logits = torch.tensor([1.0, 0.0, -0.5, 0.5, 0.5], dtype=torch.float64)
    for _ in range(300):
        leaf = logits.clone().requires_grad_()
        batch = PolicyTokens(
            leaf.log_softmax(0)[:, None],
            torch.ones(5, 1, dtype=torch.bool),
            torch.zeros(5, 1),
            groups=torch.zeros(5, dtype=torch.long),
        )
        loss, _ = loss_of(parameters, ready(parameters, batch, rollout))
        logits = logits - 0.5 * torch.autograd.grad(loss, leaf)[0]
    return logits.softmax(0)


def test_a_smaller_beta_keeps_more_ways_to_solve_the_task():
    """Entropy among the right programs: one reference < MML < beta-MML, which pass@k of several tries rewards."""

    def variety(policy: torch.Tensor) -> float:
        right = policy[:3] / policy[:3].sum()
        return -(right * right.log()).sum().item()

    reference, mml, beta = (
        trained(MleAugmented(), only=0),
        trained(MarginalLikelihood(beta=1.0)),
        trained(MarginalLikelihood(beta=0.25)),
    )
    assert all(policy[:3].sum() > 0.95 for policy in (reference, mml, beta))
    assert variety(reference) < variety(mml) < 0.5 * variety(beta)
    # a task that only the third program solves: chance of success in 20 tries
    assert 1 - (1 - beta[2].item()) ** 20 > 0.9 > 1 - (1 - reference[2].item()) ** 20


def test_return_conditioning_learns_one_policy_for_each_label():
    """Two rows of logits stand for the two labels; with the good one only the rewarded action remains."""
    parameters = ReturnConditioned()
    rewards = torch.tensor([1.0, 0.0, 0.0])
    rows = torch.tensor([0 if label_of(parameters, reward) == "[GOOD]" else 1 for reward in rewards.tolist()])
    logits = torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(200):
        leaf = logits.clone().requires_grad_()
        behind = leaf.log_softmax(1)[rows, torch.arange(3)]
        batch = PolicyTokens(behind[:, None], torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1))
        loss, _ = loss_of(parameters, batch)
        logits = logits - torch.autograd.grad(loss, leaf)[0]
    policies = logits.softmax(1)
    assert policies[0, 0] > 0.95
    assert policies[1].tolist() == pytest.approx([0, 0.5, 0.5], abs=0.05)


def test_labels_go_before_the_prompt_or_the_last_message():
    assert labelled("2 + 2", "[GOOD]") == "[GOOD] 2 + 2"
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert labelled(chat, "[BAD]") == [chat[0], {"role": "user", "content": "[BAD] u"}]
    assert chat[1]["content"] == "u"
    assert label_of(ReturnConditioned(threshold=0.5), 0.5) == "[GOOD]"


def test_groups_are_needed():
    batch = ready(MarginalLikelihood(), tokens([[-1.0]] * 7, [0.0] * 7))
    with pytest.raises(ValueError, match="groups"):
        loss_of(MarginalLikelihood(), batch)
