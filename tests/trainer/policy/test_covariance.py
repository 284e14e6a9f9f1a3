"""Which tokens Clip-Cov and KL-Cov restrain, what that does to their loss, and why it keeps entropy up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.policy.clipped import Ppo
from plumbline_api.methods.policy.covariance import ClipCov, KlCov
from plumbline_trainer.objectives.policy.covariance import RESTRAINED, token_covariance
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.rollout.judged import JudgedRollout, judged
from tests.trainer.policy.records import counts, loss_of, random_tokens, rollout_of, with_preparation


def rollout(logprobs: list[list[float]], lengths: list[int], valid: list[bool] | None = None) -> JudgedRollout:
    count = len(lengths)
    return judged([0.0] * count, range(count), valid, lengths, logprobs=torch.tensor(logprobs))


LOGPROBS = [[-1.0, -3.0], [-2.0, 99.0], [-6.0, -4.0]]
ADVANTAGES = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)


def test_the_covariance_by_hand():
    """Five tokens: mean log-probability -3.2, mean advantage (2 + 2 - 1) / 5 = 0.6."""
    covariance, mask = token_covariance(rollout(LOGPROBS, [2, 1, 2]), ADVANTAGES[:, None].expand(3, 2))
    expected = [[1.4 * 2.2, 1.4 * 0.2], [-1.6 * 1.2, 0], [-0.6 * -2.8, -0.6 * -0.8]]
    torch.testing.assert_close(covariance, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert mask.tolist() == [[True, True], [True, False], [True, True]]
    assert covariance.sum() / 5 == pytest.approx(
        torch.cov(torch.tensor([[2.0, 2, -1, 0, 0], [-1, -3, -2, -6, -4]], dtype=torch.float64), correction=0)[
            0, 1
        ].item()
    )


def test_a_completion_without_reward_counts_nowhere():
    covariance, mask = token_covariance(
        rollout(LOGPROBS, [2, 1, 2], [True, True, False]), ADVANTAGES[:, None].expand(3, 2)
    )
    alone, _ = token_covariance(rollout(LOGPROBS[:2], [2, 1]), ADVANTAGES[:2, None].expand(2, 2))
    torch.testing.assert_close(covariance[:2], alone)
    assert not mask[2].any() and not covariance[2].any()


def test_kl_cov_takes_the_highest_and_clip_cov_draws_between_bounds():
    chosen = prepared(KlCov(share=0.4), rollout(LOGPROBS, [2, 1, 2]), ADVANTAGES)[RESTRAINED]
    assert chosen.tolist() == [[1, 0], [0, 0], [1, 0]]
    one = prepared(KlCov(), rollout(LOGPROBS, [2, 1, 2]), ADVANTAGES)[RESTRAINED]
    assert one.tolist() == [[1, 0], [0, 0], [0, 0]]
    between = ClipCov(share=1.0, covariance_low=0.2, covariance_high=2.0)
    drawn = prepared(between, rollout(LOGPROBS, [2, 1, 2]), ADVANTAGES)[RESTRAINED]
    assert drawn.tolist() == [[0, 1], [0, 0], [1, 1]]
    one = prepared(replace_share(between, 0.3), rollout(LOGPROBS, [2, 1, 2]), ADVANTAGES)[RESTRAINED]
    assert one.sum() == 1 and (one <= drawn).all()


def replace_share(parameters: ClipCov, share: float) -> ClipCov:
    return parameters.model_copy(update={"share": share})


def test_the_draw_depends_on_the_step_alone():
    wide = ClipCov(share=0.1, covariance_low=-100, covariance_high=100)
    batch = random_tokens(rows=40, seed=1)
    first, again = (prepared(wide, rollout_of(batch), batch.advantages)[RESTRAINED] for _ in range(2))
    later = prepared(wide, replace(rollout_of(batch), step=7), batch.advantages)[RESTRAINED]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert first.sum() == later.sum() == int(0.1 * batch.mask.sum())
    assert not first[~batch.mask].any()


def test_clip_cov_is_ppo_without_the_restrained_tokens():
    batch = random_tokens(seed=2)
    parameters = ClipCov(share=0.5, covariance_low=-100, covariance_high=100)
    ready = with_preparation(parameters, batch)
    restrained = ready.prepared[RESTRAINED] == 1
    assert 0 < restrained.sum() < batch.mask.sum()
    loss, metrics = loss_of(parameters, ready)
    (slope,) = torch.autograd.grad(loss, batch.logprobs)
    assert not slope[restrained].any()
    (of_ppo,) = torch.autograd.grad(loss_of(Ppo(), batch)[0], batch.logprobs)
    torch.testing.assert_close(slope[~restrained], of_ppo[~restrained])
    assert metrics["restrained_share"].value == pytest.approx(restrained.sum().item() / batch.mask.sum().item())


def test_kl_cov_by_hand():
    batch = random_tokens(seed=3)
    assert batch.old_logprobs is not None
    parameters = KlCov(share=0.3, coefficient=2.0)
    ready = with_preparation(parameters, batch)
    restrained = ready.prepared[RESTRAINED] == 1
    ratio = (batch.logprobs - batch.old_logprobs).exp()
    distance = (batch.logprobs - batch.old_logprobs).abs()
    expected = (-ratio * batch.advantages + 2 * distance * restrained)[batch.mask].sum() / counts(batch).tokens
    torch.testing.assert_close(loss_of(parameters, ready)[0], expected)


def test_the_tokens_restrained_are_those_that_cost_entropy():
    """One softmax step of size e along the advantage changes entropy by -e Cov(log pi, A), weighted by pi.

    On a distribution where the likeliest action has the highest advantage, leaving out the action of the highest
    covariance makes the fall of entropy smaller.
    """
    logits = torch.tensor([2.0, 0.5, 0.0, -1.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, 0.2, -0.5, -0.7], dtype=torch.float64)
    policy = logits.softmax(0)

    def entropy_after(weights: torch.Tensor, size: float = 1e-4) -> float:
        step = size * policy * weights * (advantages - (policy * advantages).sum())
        return torch.distributions.Categorical(logits=logits + step).entropy().item()

    before = torch.distributions.Categorical(logits=logits).entropy().item()
    covariance = (policy.log() - (policy * policy.log()).sum()) * (advantages - (policy * advantages).sum())
    kept = torch.ones(4, dtype=torch.float64)
    kept[covariance.argmax()] = 0
    assert entropy_after(torch.ones(4)) < before
    assert entropy_after(kept) > entropy_after(torch.ones(4))
