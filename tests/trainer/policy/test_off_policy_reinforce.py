"""REINFORCE on older completions: gradients by hand, the clip's cases, and a stale sampler on a bandit."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy.clipped import Grpo
from plumbline_api.methods.policy.off_policy_reinforce import AsymRe, Opmd, Rec, RedDrop, RedWeight
from plumbline_api.methods.policy_aggregation import TokenMean
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.rollout.judged import judged
from tests.trainer.policy.bandit import every_action, expected_loss, minimize, probabilities, tilted
from tests.trainer.policy.records import loss_of, random_tokens, tokens, with_preparation

OLD = probabilities(0.5, 0.3, 0.2)
REWARDS = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)


def test_without_clip_and_weights_the_gradient_is_reinforces():
    batch = random_tokens(seed=2)
    loss, _ = loss_of(Rec(clip="none"), batch)
    (gradient,) = torch.autograd.grad(loss, batch.logprobs)
    torch.testing.assert_close(gradient, torch.where(batch.mask, -batch.advantages, 0.0) / batch.mask.sum())


def test_one_side_with_weights_has_the_gradient_of_the_clipped_surrogate():
    batch = random_tokens(seed=4)
    found = torch.autograd.grad(loss_of(Rec(importance_sampling=True), batch)[0], batch.logprobs)[0]
    clipped = loss_of(Grpo(), batch, aggregation=TokenMean())[0]
    torch.testing.assert_close(found, torch.autograd.grad(clipped, batch.logprobs)[0])


@pytest.mark.parametrize("clip", ["none", "oneSide", "twoSide", "ring"])
def test_tokens_far_more_likely_than_before_leave_loss_and_gradient_finite(clip):
    """exp(100) is no float32, and what is outside the range has no gradient, not an undefined one."""
    logprobs = torch.tensor([[-1.0, -1.0], [-1.0, -2.0]], requires_grad=True)
    far = tokens([[-1.0, -1.0], [-1.0, -2.0]], [1.0, -1.0])
    far = replace(far, logprobs=logprobs, advantages=far.advantages.float(), old_logprobs=logprobs.detach() - 100)
    loss, _ = loss_of(Rec(clip=clip, importance_sampling=True), far)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize(
    ("clip", "kept"),
    [
        ("none", [1, 1, 1, 1, 1, 1]),
        ("oneSide", [1, 0, 1, 0, 1, 1]),
        ("twoSide", [1, 0, 0, 0, 0, 1]),
        ("ring", [1, 0, 1, 0, 1, 1]),
    ],
)
def test_which_tokens_keep_their_gradient(clip, kept):
    """Ratios 1, 1.5, 0.3 for a good completion and 0.7, 4, 1.1 for a bad one."""
    batch = tokens(
        [[math.log(ratio) for ratio in row] for row in [[1.0, 1.5, 0.3], [0.7, 4.0, 1.1]]],
        [1.0, -1.0],
        old=[[0.0] * 3] * 2,
    )
    loss, metrics = loss_of(Rec(clip=clip), batch)
    gradient = torch.autograd.grad(loss, batch.logprobs)[0].flatten() * 6
    assert gradient.tolist() == [-sign * keep + 0.0 for sign, keep in zip([1, 1, 1, -1, -1, -1], kept, strict=True)]
    assert metrics["clip_share"].value == pytest.approx(1 - sum(kept) / 6)


def test_the_ring_between_the_ranges_is_dropped():
    batch = tokens([[math.log(0.6)], [math.log(2.0)]], [1.0, -1.0], old=[[0.0], [0.0]])
    assert loss_of(Rec(clip="ring"), batch)[1]["clip_share"].value == 1
    assert loss_of(Rec(clip="oneSide"), batch)[1]["clip_share"].value == 0


def test_the_ring_lies_around_the_range():
    with pytest.raises(ValidationError, match="ring lies around"):
        PolicyObjectiveChoice.of("rec", clip="ring", clipHigh=3.0)


def stale_run(parameters, steps: int = 10, rate: float = 4.0) -> torch.Tensor:
    """Policy after gradient steps on the expected loss under one old sampler."""
    logits = OLD.log().clone().requires_grad_()
    advantages = REWARDS - (OLD * REWARDS).sum()
    for _ in range(steps):
        loss = expected_loss(parameters, every_action(logits, OLD, advantages), OLD)
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - rate * gradient).detach().requires_grad_()
    return logits.detach().log_softmax(0)


def test_a_stale_sampler_drives_plain_reinforce_away_and_not_the_regularized_ones():
    """Ten steps on the same samples: unbounded likelihoods of bad actions fall without end, unless kept near."""
    plain = stale_run(Rec(clip="none"), steps=10)
    longer = stale_run(Rec(clip="none"), steps=40)
    assert (longer - plain).abs().max() > 5
    for parameters in [Rec(), Rec(clip="twoSide"), Opmd(tau=1.0)]:
        first, second = stale_run(parameters, 10, 0.5), stale_run(parameters, 400, 0.5)
        assert (second - OLD.log()).abs().max() < 4
        assert (second - stale_run(parameters, 401, 0.5)).abs().max() < 0.3
        assert first.exp()[2] > OLD[2]


def test_opmd_is_at_rest_near_the_mirror_step():
    """Its stationary point over the simplex: pi = old exp(A / tau) up to the normalizer, which is exact for small A."""
    advantages = REWARDS - (OLD * REWARDS).sum()
    found = minimize(
        lambda logits: expected_loss(Opmd(tau=50.0), every_action(logits, OLD, advantages), OLD), OLD.log()
    )
    torch.testing.assert_close(found.softmax(0), tilted(OLD, advantages / 50.0), rtol=0, atol=1e-4)


def test_opmd_by_hand():
    batch = tokens([[-1.0, -2.0]], [0.5], old=[[-1.5, -1.9]])
    assert loss_of(Opmd(tau=2.0), batch)[0].item() == pytest.approx(0.4**2 + 1.5)
    token = loss_of(Opmd(tau=2.0, level="token"), batch)[0].item()
    assert token == pytest.approx((0.5**2 + 0.1**2 + 1.5) / 2)


def test_asym_re_adds_the_likelihood_of_what_was_done():
    batch = random_tokens(seed=5)
    shifted, plain = loss_of(AsymRe(baseline_shift=-0.3), batch)[0], loss_of(AsymRe(baseline_shift=0.0), batch)[0]
    likelihood = torch.where(batch.mask, batch.logprobs, 0.0).sum() / 6
    assert (shifted - plain).item() == pytest.approx(-0.3 * likelihood.item())


def test_red_drop_keeps_a_share_of_bad_completions():
    rewards = torch.tensor([1.0, 0, 0, 0, 0, 0, 1, 1, 0, 0])
    rollout = judged(rewards, torch.tensor([0] * 6 + [1] * 4))
    advantages = torch.where(rewards > 0, 1.0, -1.0)
    kept = prepared(RedDrop(negatives_per_positive=2.0), rollout, advantages)["kept"]
    assert kept[0] == 1 and kept[:6].sum() == 3
    assert kept[6:].tolist() == [1, 1, 1, 1]
    assert torch.equal(kept, prepared(RedDrop(negatives_per_positive=2.0), rollout, advantages)["kept"])
    others = [
        prepared(RedDrop(negatives_per_positive=2.0, seed=seed), rollout, advantages)["kept"] for seed in range(9)
    ]
    assert any(not torch.equal(kept, other) for other in others)


def test_red_drop_leaves_what_it_keeps_as_it_was():
    batch = random_tokens(seed=6)
    prepared_batch = with_preparation(RedDrop(negatives_per_positive=0.5), batch)
    everything = replace(batch, prepared={"kept": torch.ones(6)})
    kept = prepared_batch.prepared["kept"].bool()
    some, every = (
        torch.autograd.grad(loss_of(RedDrop(), one)[0], batch.logprobs)[0] for one in (prepared_batch, everything)
    )
    torch.testing.assert_close(some[kept], every[kept])
    assert (some[~kept] == 0).all()


def test_red_weight_by_hand_and_its_limit():
    batch = tokens([[-1.0], [-2.0]], [1.0, -1.0])
    loss, _ = loss_of(RedWeight(temperature=2.0), batch)
    assert loss.item() == pytest.approx((math.exp(0.5) * 1.0 - math.exp(-0.5) * 2.0) / 2)
    plain, _ = loss_of(Rec(clip="none"), batch)
    assert loss_of(RedWeight(temperature=1000.0), batch)[0].item() == pytest.approx(plain.item(), abs=5e-3)
