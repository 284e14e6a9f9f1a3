"""GPG: REINFORCE on token means, with the share of groups without signal taken back."""

from __future__ import annotations

import pytest
import torch

from plumbline_api.methods.policy.likelihood import Gpg, Reinforce
from plumbline_api.methods.policy_aggregation import TokenMean
from plumbline_trainer.objectives.policy.likelihood import SCALE
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.rollout.judged import judged
from tests.trainer.policy.records import counts, loss_of, random_tokens, with_preparation


def alpha(advantages: list[float], groups: list[int], valid: list[bool] | None = None) -> list[float]:
    rollout = judged([0.0] * len(groups), groups, valid)
    scale: list[float] = prepared(Gpg(), rollout, torch.tensor(advantages, dtype=torch.float64))[SCALE].tolist()
    return scale


def test_alpha_by_hand():
    """Of three groups of two one has no signal: 6 completions over 4. Advantage 0 in a group with signal counts."""
    assert alpha([1, -1, 0, 0, 0.5, 0], [0, 0, 1, 1, 2, 2]) == [pytest.approx(1.5)] * 6
    assert alpha([0, 0], [0, 0]) == [1, 1]
    assert alpha([1, -1, 0, 0, 3, 0], [0, 0, 1, 1, 2, 2], [True] * 4 + [False] * 2) == [pytest.approx(2.0)] * 6


def test_groups_without_signal_do_not_dilute_the_mean():
    """Lengths being equal, the gradient is that of the groups with signal alone."""
    batch = random_tokens(rows=8, width=1, on_policy=True, seed=1)
    batch.advantages[4:] = 0
    ours, _ = loss_of(Gpg(), with_preparation(Gpg(), batch))
    some = batch.rows(torch.arange(4))
    alone, _ = loss_of(Reinforce(), some, counts(some), aggregation=TokenMean())
    torch.testing.assert_close(ours, alone)
    torch.testing.assert_close(*(torch.autograd.grad(loss, batch.logprobs)[0] for loss in (ours, alone)))


def test_what_was_not_prepared_is_asked_for():
    with pytest.raises(ValueError, match="'scale' was not prepared"):
        loss_of(Gpg(), random_tokens(on_policy=True))
