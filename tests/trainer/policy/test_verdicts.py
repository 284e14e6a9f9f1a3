"""Learning from the verdict: which completions count, with what weight, and where a bandit ends up."""

from __future__ import annotations

import pytest
import torch

from plumbline_api.methods.policy.verdicts import Raft, RaftPlusPlus, WReinforce
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.objectives.policy.verdicts import WEIGHT, best_of_each_group
from plumbline_trainer.rollout.judged import judged
from tests.trainer.policy.bandit import every_action, expected_loss, minimize
from tests.trainer.policy.records import loss_of, random_tokens, with_preparation

GROUPS = [0, 0, 0, 1, 1, 1]
REWARDS = [0.0, 1.0, 1.0, 0.2, 0.5, 0.1]


def test_raft_keeps_right_completions_or_the_best_of_each_prompt():
    rollout = judged(REWARDS, GROUPS)
    nothing = torch.zeros(6)
    assert prepared(Raft(), rollout, nothing)[WEIGHT].tolist() == [0, 3, 3, 0, 0, 0]
    assert prepared(Raft(keep="best"), rollout, nothing)[WEIGHT].tolist() == [0, 3, 0, 0, 3, 0]
    assert prepared(RaftPlusPlus(), rollout, nothing)[WEIGHT].tolist() == [0, 3, 3, 0, 0, 0]


def test_a_completion_without_reward_is_not_kept():
    rollout = judged([5.0, 1.0, 0.0, 0.0], [0, 0, 1, 1], [False, True, True, False])
    assert best_of_each_group(rollout).tolist() == [False, True, True, False]
    assert prepared(Raft(), rollout, torch.zeros(4))[WEIGHT].tolist() == [0, 2, 0, 0]
    assert prepared(WReinforce(), rollout, torch.zeros(4))[WEIGHT].tolist() == [0, 0.1, -1, 0]


def test_raft_is_the_supervised_loss_of_the_kept_completions():
    batch = with_preparation(Raft(), random_tokens(seed=1))
    kept = batch.prepared[WEIGHT] > 0
    assert 0 < kept.sum() < 6
    means = torch.where(batch.mask, batch.logprobs, 0).sum(dim=1) / batch.mask.sum(dim=1)
    loss, metrics = loss_of(Raft(), batch)
    torch.testing.assert_close(loss, -means[kept].mean())
    assert metrics["kept_share"].value == pytest.approx(kept.double().mean().item())


def test_nothing_right_is_no_loss():
    batch = random_tokens(seed=2)
    assert batch.rewards is not None
    batch.rewards[:] = -1
    assert loss_of(Raft(), with_preparation(Raft(), batch))[0].item() == 0


def test_raft_plus_plus_starts_as_raft_and_stops_at_the_bound():
    batch = random_tokens(seed=3, on_policy=True)
    slopes = [
        torch.autograd.grad(loss_of(parameters, with_preparation(parameters, batch))[0], batch.logprobs)[0]
        for parameters in (Raft(), RaftPlusPlus())
    ]
    torch.testing.assert_close(*slopes)
    moved = random_tokens(seed=3)
    assert moved.old_logprobs is not None
    moved.old_logprobs[:] = moved.logprobs.detach() - 0.3
    loss, metrics = loss_of(RaftPlusPlus(), with_preparation(RaftPlusPlus(), moved))
    assert not torch.autograd.grad(loss, moved.logprobs)[0].any()
    assert metrics["clip_share/high"].value == pytest.approx(
        (moved.mask & (moved.rewards > 0)[:, None]).sum().item() / moved.mask.sum().item()
    )


def gradient_of_logits(parameters: WReinforce, policy: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """By enumeration over a bandit's actions, on-policy."""
    logits = policy.log().requires_grad_()
    weight = torch.where(right, parameters.positive_weight, -1.0).double()
    batch = every_action(logits, policy, torch.zeros_like(policy), prepared={WEIGHT: weight})
    (slope,) = torch.autograd.grad(expected_loss(parameters, batch, policy), logits)
    return slope


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_w_reinforce_has_the_gradient_of_its_objective(weight: float):
    """lambda sum_right pi - sum_wrong pi."""
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    right = torch.tensor([False, True, True, False])
    logits = policy.log().requires_grad_()
    now = logits.softmax(0)
    objective = weight * now[right].sum() - now[~right].sum()
    (expected,) = torch.autograd.grad(-objective, logits)
    torch.testing.assert_close(gradient_of_logits(WReinforce(positive_weight=weight), policy, right), expected)


def test_negative_samples_alone_keep_the_right_answers_in_proportion():
    """A step on a wrong action raises every other one by its own probability: the right ones keep their ratio to first
    order, where positive samples favour the likelier one."""
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    wrong = torch.tensor([True, False, False, False])
    step = -gradient_of_logits(WReinforce(positive_weight=0), policy, ~wrong)
    gains = step / policy
    assert gains[1].item() == pytest.approx(gains[2].item()) == pytest.approx(gains[3].item())
    assert step[0] < 0 < step[1]


def test_imitating_right_actions_ends_at_the_policy_restricted_to_them():
    """The fixed point of RAFT on samples of pi: pi conditioned on being right."""
    old = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    right = torch.tensor([False, True, False, True])
    weight = right.double() / old[right].sum()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        batch = every_action(logits, old, torch.zeros(4), prepared={WEIGHT: weight})
        return expected_loss(Raft(), batch, old)

    best = minimize(loss, old.log()).softmax(0)
    assert best.tolist() == pytest.approx([0, 0.75, 0, 0.25], abs=1e-4)
