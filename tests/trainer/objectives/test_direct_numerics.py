"""What every objective on pairs with a reference must keep: exact gradients, finite values, rows on their own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from plumbline_api.methods.preference.calibrated import ApoDown, ApoZero, Nca, Sppo
from plumbline_api.methods.preference.direct import Discopop, Dpo, Exo, Hinge, Ipo, Robust, StepDpo, TrDpo
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.methods.preference.length_controlled import Erpo, LdDpo, Rdpo
from plumbline_api.methods.preference.likelihood_anchored import IterativeRpo, Rpo
from plumbline_api.methods.preference.scored import Odpo, ScoreDpo
from plumbline_trainer.objectives import preference  # noqa: F401  (registers the objectives)
from plumbline_trainer.objectives.preference.inputs import Completions, Pairs, TokenLogprobs
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import vector

ALL: list[Any] = [
    Dpo(),
    Dpo(label_smoothing=0.2),
    Dpo(length_normalized=True),
    Dpo(divergence="forwardKl"),
    Dpo(divergence="jensenShannon"),
    Dpo(divergence="alpha", divergence_alpha=0.4),
    TrDpo(),
    StepDpo(),
    Robust(),
    Ipo(),
    Ipo(length_normalized=False),
    Hinge(beta=0.3),
    Exo(),
    Discopop(),
    Discopop(temperature=1),
    Nca(),
    ApoZero(),
    ApoDown(),
    Sppo(beta=0.1),
    Rdpo(alpha=0.2),
    LdDpo(),
    Erpo(),
    Odpo(),
    Odpo(offset="identity"),
    ScoreDpo(),
    Rpo(),
    IterativeRpo(),
]
NAMES = [f"{parameters.member_key}-{index}" for index, parameters in enumerate(ALL)]

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])


def side(policy: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, score: torch.Tensor) -> Completions:
    """Completions from log-probabilities of tokens `[B, T]`, with scores `[B]`."""
    policy, reference = policy * mask, reference * mask
    return Completions(
        policy.sum(dim=1),
        mask.sum(dim=1).to(policy.dtype),
        reference.sum(dim=1),
        score,
        TokenLogprobs(policy, mask, reference),
    )


def random_pairs(rows: int = 4, spread: float = 1.0) -> tuple[list[torch.Tensor], Any]:
    """Leaves with gradient, and what makes pairs of them."""
    random = torch.Generator().manual_seed(5)
    values = [-spread * torch.rand(rows, 3, generator=random, dtype=torch.float64) for _ in range(4)]
    leaves = [value.requires_grad_() for value in values[:2]]
    scores = vector(0.9, 0.8, 0.5, 1.0), vector(0.2, 0.3, 0.4, 0.1)

    def make(chosen: torch.Tensor, rejected: torch.Tensor) -> Pairs:
        return Pairs(
            side(chosen, values[2], MASK[:rows], scores[0][:rows]),
            side(rejected, values[3], MASK.flip(0)[:rows], scores[1][:rows]),
        )

    return leaves, make


def test_every_objective_of_these_modules_is_here() -> None:
    modules = {"direct", "calibrated", "length_controlled", "scored", "likelihood_anchored"}
    declared = {m.member_key for m in PreferenceObjective.members() if m.__module__.rsplit(".", 1)[-1] in modules}
    assert {parameters.member_key for parameters in ALL} == declared


@pytest.mark.parametrize("parameters", ALL, ids=NAMES)
def test_gradients_equal_finite_differences(parameters: Any) -> None:
    leaves, make = random_pairs()
    assert torch.autograd.gradcheck(lambda *both: implementation_of(parameters)(parameters, make(*both))[0], leaves)


@pytest.mark.parametrize("parameters", ALL, ids=NAMES)
def test_a_row_s_loss_does_not_depend_on_the_other_rows(parameters: Any) -> None:
    leaves, make = random_pairs()
    function = implementation_of(parameters)
    together = function(parameters, make(*leaves))[0]
    assert together.shape == (4,)
    pairs = make(*leaves)
    for row in range(4):
        alone = Pairs(*(row_of(completions, row) for completions in (pairs.chosen, pairs.rejected)))
        torch.testing.assert_close(function(parameters, alone)[0], together[row : row + 1])


def row_of(completions: Completions, row: int) -> Completions:
    one = slice(row, row + 1)
    tokens = completions.by_token
    assert tokens is not None and tokens.reference is not None
    assert completions.reference is not None and completions.score is not None
    return Completions(
        completions.logprob[one],
        completions.tokens[one],
        completions.reference[one],
        completions.score[one],
        TokenLogprobs(tokens.policy[one], tokens.mask[one], tokens.reference[one]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
@pytest.mark.parametrize("moved", ["chosen", "rejected", "both"])
@pytest.mark.parametrize("parameters", ALL, ids=NAMES)
def test_losses_and_gradients_are_finite_at_extreme_log_ratios(
    parameters: Any, moved: str, log_ratio: float, dtype: torch.dtype
) -> None:
    """One-token completions whose log-ratio is +-10,000 on either or both sides, scored 1 and 0."""
    far, near = torch.tensor([[log_ratio]], dtype=dtype), torch.tensor([[-1.0]], dtype=dtype)
    chosen = (near if moved == "rejected" else far).clone().requires_grad_()
    rejected = (near if moved == "chosen" else far).clone().requires_grad_()
    mask, reference = torch.tensor([[True]]), torch.zeros(1, 1, dtype=dtype)
    scores = torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)
    pairs = Pairs(side(chosen, reference, mask, scores[0]), side(rejected, reference, mask, scores[1]))
    losses, metrics = implementation_of(parameters)(parameters, pairs)
    gradients = torch.autograd.grad(losses.sum(), [chosen, rejected])
    assert losses.dtype == dtype and losses.isfinite().all()
    for gradient in gradients:
        assert gradient.isfinite().all() and gradient.square().isfinite().all(), "the gradient's norm is finite too"
    assert all(math.isfinite(metric.value) for metric in metrics.values())


@pytest.mark.parametrize("parameters", ALL, ids=NAMES)
def test_metrics_hold_on_to_no_graph(parameters: Any) -> None:
    leaves, make = random_pairs()
    _, metrics = implementation_of(parameters)(parameters, make(*leaves))
    assert not any(torch.as_tensor(part).requires_grad for metric in metrics.values() for part in vars(metric).values())


def test_without_a_reference_they_say_what_is_missing() -> None:
    ones = torch.ones(1, dtype=torch.float64)
    bare = Pairs(Completions(-ones, ones), Completions(-ones, ones))
    for parameters in ALL:
        if not type(parameters).needs_tokens:
            with pytest.raises(ValueError, match=r"needs (reference log-probabilities|scores)"):
                implementation_of(parameters)(parameters, bare)
    with pytest.raises(ValueError, match="each token's log-probability"):
        implementation_of(LdDpo())(LdDpo(), bare)
