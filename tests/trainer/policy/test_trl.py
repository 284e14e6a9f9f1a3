"""Losses and gradients equal those of TRL's GRPO trainers, on the same completions and the same four policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from plumbline_api.methods.kl import KlInLoss
from plumbline_api.methods.off_policy import Masked, OffPolicyCorrection, StaleMasked, Truncated
from plumbline_api.methods.policy.clipped import Dapo, DrGrpo, Grpo, Ppo
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.policy.sequence_ratio import Gmpo, Gspo, GspoToken, Luspo, Vespo
from plumbline_api.methods.policy.soft_clip import Cispo, Sapo
from plumbline_api.methods.token_selection import TopEntropy
from plumbline_trainer.objectives.policy.token_selection import SELECTED, top_entropy
from tests.trainer.objectives.trl_oracle import assert_same_loss
from tests.trainer.policy.grpo_oracle import PolicyBatch, trl_gmpo, trl_grpo, trl_gspo_token
from tests.trainer.policy.records import loss_of

Oracle = Callable[[PolicyBatch], torch.Tensor]
EPSILONS = {"epsilon_low": 0.05, "epsilon_high": 0.1}
"""Bounds that the ratios of these batches leave on both sides."""


def trl(**settings: Any) -> Oracle:
    return lambda batch: trl_grpo(batch, **settings)


OBJECTIVES: dict[str, tuple[PolicyObjective, Oracle]] = {
    "grpo": (Grpo(), trl()),
    "grpo, clip-higher": (Grpo(clip_high=0.28), trl(epsilon_high=0.28)),
    "grpo, two-sided": (Grpo(dual_clip=1.3), trl(delta=1.3)),
    "grpo, two-sided at the upper bound": (Grpo(dual_clip=1.2), trl(delta=1.2)),
    "drGrpo": (DrGrpo(), trl(loss_type="dr_grpo")),
    "dapo": (Dapo(), trl(loss_type="dapo", epsilon_high=0.28)),
    "ppo": (Ppo(), trl(loss_type="bnpo")),
    "cispo": (Cispo(upper=1.1), trl(loss_type="cispo", epsilon_high=1.1)),
    "sapo": (
        Sapo(tau_positive=1.5, tau_negative=3),
        trl(loss_type="sapo", sapo_temperature_pos=1.5, sapo_temperature_neg=3.0),
    ),
    "gspo": (Gspo(clip_low=0.05, clip_high=0.1), trl(importance_sampling_level="sequence", **EPSILONS)),
    "gspoToken": (GspoToken(clip_low=0.05, clip_high=0.1), lambda batch: trl_gspo_token(batch, **EPSILONS)),
    "luspo": (
        Luspo(clip_low=0.05, clip_high=0.1),
        trl(loss_type="luspo", importance_sampling_level="sequence", **EPSILONS),
    ),
    "vespo": (Vespo(), trl(loss_type="vespo")),
    "vespo, other parameters": (
        Vespo(k_positive=1, lambda_positive=2, k_negative=4, lambda_negative=5),
        trl(loss_type="vespo", vespo_k_pos=1.0, vespo_lambda_pos=2.0, vespo_k_neg=4.0, vespo_lambda_neg=5.0),
    ),
    "gmpo": (Gmpo(clip_low=0.05, clip_high=0.1), lambda batch: trl_gmpo(batch, **EPSILONS)),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str, seed: int) -> None:
    ours, theirs = OBJECTIVES[name]
    batch = PolicyBatch.random(seed)
    assert_same_loss(batch.policy, loss_of(ours, batch.tokens())[0], theirs(batch), 1e-9, 1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_compared_batches_clip(name: str) -> None:
    """Otherwise equality would say nothing about the bounds."""
    ours, _ = OBJECTIVES[name]
    merged = [loss_of(ours, PolicyBatch.random(seed).tokens())[1] for seed in range(4)]
    shares = {key for metrics in merged for key, metric in metrics.items() if "clip_share" in key and metric.value > 0}
    expected = {key for key in merged[0] if "clip_share" in key}
    assert shares == expected


@pytest.mark.parametrize("weighted", [False, True])
def test_the_penalty_on_divergence(weighted: bool) -> None:
    batch = PolicyBatch.random(seed=4)
    penalty = KlInLoss(coefficient=0.3, estimator="k3", importance_weighted=weighted)
    ours, metrics = loss_of(Grpo(), batch.tokens(), kl=penalty)
    assert_same_loss(batch.policy, ours, trl_grpo(batch, beta=0.3, use_bias_correction_kl=weighted), 1e-9, 1e-9)
    assert metrics["kl"].value > 0


CORRECTIONS: dict[str, tuple[OffPolicyCorrection, Callable[[torch.Tensor], torch.Tensor]]] = {
    "token, truncated": (Truncated(bound=1.2), lambda gap: gap.exp().clamp(max=1.2)),
    "token, masked": (
        Masked(low=0.9, high=1.2),
        lambda gap: gap.exp().masked_fill((gap.exp() < 0.9) | (gap.exp() > 1.2), 0.0),
    ),
    "sequence, truncated": (
        Truncated(level="sequence", bound=1.2),
        lambda gap: gap.sum(-1, keepdim=True).exp().clamp(max=1.2),
    ),
}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_corrections_for_the_sampler(name: str) -> None:
    batch = PolicyBatch.random(seed=5)
    ours, weights_of = CORRECTIONS[name]
    gap = (batch.logprobs(batch.old) - batch.logprobs(batch.sampler)) * batch.mask
    loss, metrics = loss_of(Dapo(), batch.tokens(), correction=ours)
    expected = trl_grpo(batch, loss_type="dapo", epsilon_high=0.28, importance_weights=weights_of(gap))
    assert_same_loss(batch.policy, loss, expected, 1e-9, 1e-9)
    assert 0 < metrics["off_policy/bounded_share"].value < 1


def test_masked_stale_completions() -> None:
    """The threshold leaves out some of the completions with a negative advantage."""
    batch = PolicyBatch.random(seed=11)
    loss, metrics = loss_of(Grpo(), batch.tokens(), correction=StaleMasked(threshold=0.05))
    assert_same_loss(batch.policy, loss, trl_grpo(batch, off_policy_mask_threshold=0.05), 1e-9, 1e-9)
    negative = batch.mask & (batch.advantages < 0)[:, None]
    assert 0 < metrics["off_policy/bounded_share"].value < negative.sum() / batch.mask.sum()


def test_the_entropy_bonus() -> None:
    batch = PolicyBatch.random(seed=7)
    loss, _ = loss_of(Ppo(), batch.tokens(), entropy_coefficient=0.2)
    expected = trl_grpo(batch, loss_type="bnpo", entropy_coef=0.2, _entropy_bonus_enabled=True)
    assert_same_loss(batch.policy, loss, expected, 1e-9, 1e-9)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.75])
def test_the_tokens_of_highest_entropy(share: float) -> None:
    """In float32, in which TRL takes the quantile."""
    batch = PolicyBatch.random(seed=8, vocabulary=23, dtype=torch.float32)
    selected = top_entropy(TopEntropy(share=share), batch.entropies().detach(), batch.mask)
    loss, _ = loss_of(Ppo(), batch.tokens(prepared={SELECTED: selected}))
    expected = trl_grpo(batch, loss_type="bnpo", top_entropy_quantile=share)
    assert_same_loss(batch.policy, loss, expected)
    assert 0 < selected.sum() < batch.mask.sum()
