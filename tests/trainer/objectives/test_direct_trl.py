"""Our objectives and TRL 1.13.0 on the same logits: equal losses and equal gradients to 1e-6."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from plumbline_api.methods.preference.calibrated import ApoDown, ApoZero, Nca, Sppo
from plumbline_api.methods.preference.direct import Discopop, Dpo, Exo, Hinge, Ipo, Robust, StepDpo, TrDpo
from plumbline_api.methods.preference.length_controlled import LdDpo
from plumbline_api.methods.preference.likelihood_anchored import IterativeRpo
from plumbline_trainer.objectives import preference  # noqa: F401  (registers the objectives)
from tests.trainer.objectives.trl_oracle import PairBatch, assert_same_loss, mean_loss, trl_dpo

# ours, TRL's loss type and settings
SAME: list[tuple[Any, str, dict[str, Any]]] = [
    (Dpo(beta=0.3), "sigmoid", {"beta": 0.3}),
    (Dpo(beta=0.3, divergence="forwardKl"), "sigmoid", {"beta": 0.3, "f_divergence_type": "forward_kl"}),
    (Dpo(beta=0.3, divergence="jensenShannon"), "sigmoid", {"beta": 0.3, "f_divergence_type": "js_divergence"}),
    (Dpo(beta=2.5, length_normalized=True), "sigmoid_norm", {"beta": 2.5}),
    (TrDpo(beta=0.3), "sigmoid", {"beta": 0.3}),
    (StepDpo(beta=0.3), "sigmoid", {"beta": 0.3}),
    (Robust(beta=0.3, flip_rate=0.2), "robust", {"beta": 0.3, "label_smoothing": 0.2}),
    (Ipo(tau=0.3), "ipo", {"beta": 0.3}),
    (Hinge(beta=0.3), "hinge", {"beta": 0.3}),
    (Exo(beta=0.3, label_smoothing=0.01), "exo_pair", {"beta": 0.3, "label_smoothing": 0.01}),
    (Discopop(beta=0.3, temperature=0.1), "discopop", {"beta": 0.3, "discopop_tau": 0.1}),
    (Nca(beta=0.3), "nca_pair", {"beta": 0.3}),
    (ApoZero(beta=0.3), "apo_zero", {"beta": 0.3}),
    (ApoDown(beta=0.3), "apo_down", {"beta": 0.3}),
    (Sppo(beta=0.3), "sppo_hard", {"beta": 0.3}),
    (LdDpo(beta=0.3, alpha=0.4), "sigmoid", {"beta": 0.3, "ld_alpha": 0.4}),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("parameters", "loss_type", "settings"), SAME, ids=lambda value: getattr(value, "member_key", None)
)
def test_same_loss_and_gradient(parameters: Any, loss_type: str, settings: dict[str, Any], seed: int) -> None:
    batch = PairBatch.random(seed)
    assert_same_loss(batch.policy, mean_loss(parameters, batch.pairs()), trl_dpo(batch, loss_type, **settings))


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8])
def test_the_alpha_divergence_is_trl_s_with_one_minus_its_coefficient(alpha: float) -> None:
    """In 32 bits, where TRL computes its powers."""
    batch = PairBatch.random(0, spread=0.5, dtype=torch.float32)
    ours = mean_loss(Dpo(divergence="alpha", divergence_alpha=alpha), batch.pairs())
    theirs = trl_dpo(batch, "sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1 - alpha)
    assert_same_loss(batch.policy, ours, theirs)


def test_label_smoothing_is_trl_s_robust_loss_without_its_correction() -> None:
    """TRL has no conservative DPO of its own: its robust loss L gives it as (1 - 2e) L + 2e (L at e = 0 with labels
    turned), because the sign of the flipped term is the only other difference."""
    batch = PairBatch.random(0)
    turned = PairBatch(batch.policy, batch.reference, batch.rejected, batch.chosen)
    rate, beta = 0.2, 0.3
    theirs = (1 - 2 * rate) * trl_dpo(batch, "robust", beta=beta, label_smoothing=rate) + 2 * rate * trl_dpo(
        turned, "sigmoid", beta=beta
    )
    assert_same_loss(batch.policy, mean_loss(Dpo(beta=beta, label_smoothing=rate), batch.pairs()), theirs)


def test_iterative_rpo_is_trl_s_sum_of_dpo_and_likelihood_for_a_single_pair() -> None:
    """TRL averages the likelihood over the tokens of a batch, the paper over the tokens of each completion: they agree
    where a batch is one pair."""
    for seed in range(3):
        batch = PairBatch.random(seed, rows=1)
        ours = mean_loss(IterativeRpo(beta=0.3, alpha=0.7), batch.pairs())
        assert_same_loss(batch.policy, ours, trl_dpo(batch, "sigmoid", "sft", weights=[1.0, 0.7], beta=0.3))
