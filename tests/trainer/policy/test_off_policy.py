"""Weights of completions from another sampler: by hand, unbiased without bounds, and in the composed loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.kl import KlInLoss
from plumbline_api.methods.off_policy import Masked, OffPolicyCorrection, StaleMasked, Truncated
from plumbline_api.methods.policy.clipped import Grpo, Ppo
from plumbline_api.methods.policy_aggregation import Constant, PolicyAggregation, SequenceMean, SequenceSum, TokenMean
from plumbline_api.methods.token_selection import TopEntropy
from plumbline_trainer.objectives.policy.off_policy import CORRECTIONS, effective_share
from plumbline_trainer.objectives.policy.token_selection import SELECTED, SELECTORS, top_entropy
from plumbline_trainer.reporting.metrics import merge
from tests.trainer.policy.bandit import every_action, probabilities
from tests.trainer.policy.records import counts, loss_of, random_tokens, tokens

ALL = [
    *(Truncated(level=level, bound=1.1) for level in ("token", "sequence", "geometricMean")),
    *(Masked(level=level, low=0.95, high=1.1) for level in ("token", "sequence", "geometricMean")),
    StaleMasked(threshold=0.01),
]


def weights(correction: OffPolicyCorrection, ratios: list[list[float]], advantages: list[float]) -> list[list[float]]:
    """Of tokens whose probability before the updates is `ratios` times the sampler's."""
    sampled = torch.full((len(ratios), len(ratios[0])), -5.0, dtype=torch.float64)
    old = (sampled + torch.tensor(ratios, dtype=torch.float64).log()).tolist()
    batch = tokens(old, advantages, old=old, sampled_logprobs=sampled)
    found: list[list[float]] = CORRECTIONS.of(correction)(correction, batch)[0].tolist()
    return found


def test_every_correction_and_selection_of_the_api_is_implemented():
    assert CORRECTIONS.missing() == SELECTORS.missing() == []


def test_by_hand():
    ratios, one = [[0.5, 3.0], [1.2, 0.6]], [1.0, 1.0]

    def expect(correction: OffPolicyCorrection, expected: list[list[float]]) -> None:
        assert weights(correction, ratios, one) == [pytest.approx(row) for row in expected]

    expect(Truncated(bound=2), [[0.5, 2], [1.2, 0.6]])
    expect(Truncated(level="sequence", bound=1), [[1, 1], [0.72, 0.72]])
    expect(Truncated(level="geometricMean"), [[math.sqrt(1.5)] * 2, [math.sqrt(0.72)] * 2])
    expect(Masked(low=0.55, high=2), [[0, 0], [1.2, 0.6]])
    expect(Masked(level="sequence", low=0.8, high=2), [[1.5, 1.5], [0, 0]])


def test_stale_completions_with_a_negative_advantage_are_left_out():
    """The policy has made both less likely by 0.25 a token on average."""
    ratios = [[0.5, 1.2], [0.5, 1.2]]
    distance = -(math.log(0.5) + math.log(1.2)) / 2
    assert weights(StaleMasked(threshold=distance - 0.01), ratios, [1.0, -1.0]) == [[1, 1], [0, 0]]
    assert weights(StaleMasked(threshold=distance + 0.01), ratios, [1.0, -1.0]) == [[1, 1], [1, 1]]


@pytest.mark.parametrize("level", ["token", "sequence", "geometricMean"])
def test_where_sampler_and_trainer_agree_nothing_changes(level: str):
    batch = random_tokens(seed=1, on_policy=True)
    correction = Truncated(level=level)
    plain, corrected = loss_of(Grpo(), batch)[0], loss_of(Grpo(), batch, correction=correction)
    torch.testing.assert_close(plain, corrected[0])
    assert effective_share(corrected[1]) == pytest.approx(1)


def test_without_bound_the_gradient_from_another_sampler_is_unbiased():
    """By enumeration: actions from the sampler, weighted, give the policy gradient of the trainer's policy."""
    policy, sampler = probabilities(0.2, 0.5, 0.3), probabilities(0.3, 0.3, 0.4)
    rewards = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    logits = policy.log().requires_grad_()
    (expected,) = torch.autograd.grad(-(logits.softmax(0) * rewards).sum(), logits)

    def gradient(correction: OffPolicyCorrection | None) -> torch.Tensor:
        batch = every_action(logits, policy, rewards)
        batch = replace(batch, sampled_logprobs=sampler.log()[:, None])
        losses = [loss_of(Ppo(), batch.rows(torch.tensor([action])), correction=correction)[0] for action in range(3)]
        return torch.autograd.grad((sampler * torch.stack(losses)).sum(), logits)[0]

    torch.testing.assert_close(gradient(Truncated(bound=1e6)), expected)
    assert (gradient(None) - expected).abs().max() > 0.01


def test_the_effective_share_by_hand():
    """Weights 1, 1, 2: (4/3)^2 / 2. It is taken from merged sums, so it does not depend on the split."""
    batch = tokens([[-1.0, -1.0 + math.log(2)], [-1.0, 0.0]], [1.0, 1.0], [[True, True], [True, False]])
    batch = replace(batch, sampled_logprobs=torch.full((2, 2), -1.0, dtype=torch.float64))
    parts = [loss_of(Ppo(), batch.rows(torch.tensor([row])), correction=Truncated())[1] for row in (0, 1)]
    assert effective_share(merge(parts)) == pytest.approx((4 / 3) ** 2 / 2)
    assert math.isnan(effective_share({}))


def test_a_correction_without_the_samplers_logprobs_is_refused():
    with pytest.raises(ValueError, match="sampler"):
        loss_of(Grpo(), tokens([[-1.0]], [1.0]), correction=Truncated())


def test_top_entropy_by_hand():
    entropies = torch.tensor([[3.0, 1.0, 9.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert top_entropy(TopEntropy(share=0.4), entropies, mask).tolist() == [[1, 0, 0], [0, 0, 0]]
    assert top_entropy(TopEntropy(share=0.5), entropies, mask).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert not top_entropy(TopEntropy(), entropies, torch.zeros_like(mask)).any()


def test_a_selection_takes_the_objectives_loss_and_leaves_penalties():
    batch = random_tokens(seed=2)
    nothing = replace(batch, prepared={SELECTED: torch.zeros_like(batch.mask, dtype=torch.float32)})
    assert loss_of(Grpo(), nothing)[0].item() == 0
    assert loss_of(Grpo(), nothing, kl=KlInLoss())[0].item() > 0


@pytest.mark.parametrize("aggregation", [SequenceMean(), TokenMean(), SequenceSum(), Constant(tokens=5)], ids=repr)
@pytest.mark.parametrize("correction", ALL, ids=repr)
def test_everything_together_adds_up_over_micro_batches(
    correction: OffPolicyCorrection, aggregation: PolicyAggregation
):
    """Value, gradient with respect to log-probabilities and entropies, and metrics; padding holds NaN."""
    whole = random_tokens(seed=3)
    assert whole.entropy is not None
    selected = top_entropy(TopEntropy(share=0.6), whole.entropy.detach(), whole.mask)
    batch = replace(whole, prepared={SELECTED: selected.masked_fill(~whole.mask, float("nan"))})
    for values in (batch.advantages, batch.old_logprobs, batch.sampled_logprobs, batch.reference_logprobs):
        assert values is not None
        values[~batch.mask] = float("nan")
    parts = {
        "kl": KlInLoss(coefficient=0.1, importance_weighted=True),
        "correction": correction,
        "entropy_coefficient": 0.05,
        "aggregation": aggregation,
    }
    leaves = [batch.logprobs, whole.entropy]
    loss, metrics = loss_of(Grpo(), batch, **parts)
    expected = torch.autograd.grad(loss, leaves, retain_graph=True)
    shares = [loss_of(Grpo(), batch.rows(rows), counts(batch), **parts) for rows in torch.arange(6).split([1, 3, 2])]
    total = torch.stack([share for share, _ in shares]).sum()
    torch.testing.assert_close(total, loss)
    torch.testing.assert_close(torch.autograd.grad(total, leaves), expected)
    assert all(slope[batch.mask].abs().max() > 0 and slope.isfinite().all() for slope in expected)
    merged = merge(part for _, part in shares)
    assert {name: metric.value for name, metric in merged.items()} == pytest.approx(
        {name: metric.value for name, metric in metrics.items()}
    )
