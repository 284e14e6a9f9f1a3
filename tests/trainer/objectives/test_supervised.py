"""Objectives on tokens: by hand, from their convex conjugates, and where they lead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.preference.supervised import Sft, SftDivergence, Unlikelihood
from plumbline_trainer.objectives.preference.inputs import Completions, Demonstrations, Pairs
from plumbline_trainer.objectives.preference.supervised import sft, sft_divergence, unlikelihood
from plumbline_trainer.objectives.registry import implementation_of
from tests.trainer.objectives.records import completions_by_token, vector

TWO_OF_THREE = torch.tensor([[True, True, False]])


def demonstrations(*tokens: float, reference: tuple[float, ...] | None = None) -> Demonstrations:
    """One completion from log-probabilities of all its tokens."""
    mask = torch.ones(1, len(tokens), dtype=torch.bool)
    given_reference = None if reference is None else vector(*reference)[None]
    return Demonstrations(completions_by_token(vector(*tokens)[None], mask, given_reference))


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_sft_by_hand() -> None:
    tokens = completions_by_token(vector(-1, -2, -9).view(1, 3), TWO_OF_THREE)
    losses, metrics = sft(Sft(), Demonstrations(tokens))
    assert losses[0, :2].tolist() == [1, 2]
    assert metrics["logprobs/token"].value == -1.5


def test_sft_divergence_by_hand() -> None:
    """h = (1, -2, 4), beta = 0.5, so r = (0.5, -1, 2).

    pearson: (r^2/4 - r)/0.5: (-0.4375, 1.25, -1)/0.5, the last at its end. hellinger: -r/(1 + r)/0.5: -1/3/0.5; the
    tangent 1 - 4 (-1 + 0.5) = 3, /0.5; -2/3/0.5."""
    rows = demonstrations(-2, -4, -1, reference=(-3, -2, -5))
    expected = {
        "kl": [-1, 2, -4],
        "pearson": [-0.875, 2.5, -2],
        "hellinger": [-2 / 3, 6, -4 / 3],
    }
    for divergence, values in expected.items():
        losses, metrics = sft_divergence(SftDivergence(divergence=divergence, beta=0.5), rows)
        assert losses[0].tolist() == pytest.approx(values), divergence
        assert metrics["log_ratio/token"].value == pytest.approx(1)


def test_unlikelihood_by_hand() -> None:
    """Chosen: (1 + 2)/2 = 1.5. Rejected with p = 1/4 and 1/2: -(log 3/4 + log 1/2)/2, times 0.5. Padding is ignored."""
    chosen = completions_by_token(vector(-1, -2, -9).view(1, 3), TWO_OF_THREE)
    rejected = completions_by_token(vector(math.log(0.25), math.log(0.5), 0).view(1, 3), TWO_OF_THREE)
    losses, metrics = unlikelihood(Unlikelihood(alpha=0.5), Pairs(chosen, rejected))
    assert losses.tolist() == pytest.approx([1.5 - 0.25 * (math.log(0.75) + math.log(0.5))])
    assert metrics["loss/likelihood"].value == 1.5


# --- the same objective derived another way ---------------------------------------------------------------------------


GENERATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "pearson": lambda t: (t - 1).square(),
    "hellinger": lambda t: (t.sqrt() - 1).square(),
}


@pytest.mark.parametrize("divergence", ["pearson", "hellinger"])
@given(st.floats(-0.45, 5), st.floats(0.1, 3))
def test_losses_are_the_convex_conjugates_of_their_divergences(divergence: Any, reward: float, beta: float) -> None:
    """f*(u) = sup over t >= 0 of u t - f(t), by search over a grid that is refined around its best point."""
    u, low, high = -reward, 0.0, 40.0
    for _ in range(12):
        grid = torch.linspace(low, high, 2001, dtype=torch.float64)
        values = u * grid - GENERATORS[divergence](grid)
        best, width = grid[int(values.argmax())].item(), (high - low) / 1000
        low, high = max(0.0, best - width), best + width
    losses, _ = sft_divergence(
        SftDivergence(divergence=divergence, beta=beta), demonstrations(reward / beta - 9, reference=(-9,))
    )
    assert losses.item() == pytest.approx(values.max().item() / beta, rel=1e-6, abs=1e-8)


def test_kl_is_likelihood_up_to_the_reference_s_own() -> None:
    policy = vector(-1, -2.5, -0.1).requires_grad_()
    rows = Demonstrations(
        completions_by_token(policy[None], torch.ones(1, 3, dtype=torch.bool), vector(-3, -1, -2)[None])
    )
    ours = sft_divergence(SftDivergence(divergence="kl", beta=7), rows)[0]
    likelihood = sft(Sft(), rows)[0]
    assert (ours - likelihood).tolist() == [[-3, -1, -2]]
    gradients = [torch.autograd.grad(losses.sum(), policy)[0] for losses in (ours, likelihood)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("divergence", ["pearson", "hellinger"])
def test_every_divergence_starts_with_the_gradient_of_likelihood_and_slows_down(divergence: Any) -> None:
    log_ratios = vector(-30, -1, -0.3, 0, 0.5, 1, 1.9, 3, 30).requires_grad_()
    reference = torch.full_like(log_ratios, -40).detach()
    mask = torch.ones(1, 9, dtype=torch.bool)
    rows = Demonstrations(completions_by_token((log_ratios + reference)[None], mask, reference[None]))
    losses, _ = sft_divergence(SftDivergence(divergence=divergence), rows)
    (gradient,) = torch.autograd.grad(losses.sum(), log_ratios)
    weights = (-gradient).tolist()
    assert weights[3] == 1
    assert weights == sorted(weights, reverse=True) and weights[-1] >= 0
    assert weights[-1] == (0 if divergence == "pearson" else pytest.approx(1 / 31**2))


def test_unlikelihood_is_maximum_likelihood_of_not_saying_the_rejected_token() -> None:
    """A table of one token: at alpha = 1 the gradient is that of log p_w + log(p_w + p_third)."""
    logits = vector(0.3, -0.2, 0.9).requires_grad_()
    logprobs = logits.log_softmax(dim=0)
    sides = [completions_by_token(logprobs[i].view(1, 1), torch.tensor([[True]])) for i in (0, 1)]
    losses, _ = unlikelihood(Unlikelihood(), Pairs(*sides))
    expected = -logprobs[0] - (logprobs[0].exp() + logprobs[2].exp()).log()
    assert losses.item() == pytest.approx(expected.item())
    ours, theirs = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (losses.sum(), expected))
    torch.testing.assert_close(ours, theirs)


@given(st.lists(st.floats(-6, -0.01), min_size=1, max_size=6))
def test_without_weight_unlikelihood_is_fine_tuning_on_the_chosen_completion(tokens: list[float]) -> None:
    rows = demonstrations(*tokens)
    pairs = Pairs(rows.completion, demonstrations(-0.5).completion)
    expected = sft(Sft(), rows)[0].mean().item()
    assert unlikelihood(Unlikelihood(alpha=0), pairs)[0].item() == pytest.approx(expected)


# --- where training leads ---------------------------------------------------------------------------------------------


def trained_table(divergence: Any, data: torch.Tensor, reference: torch.Tensor, steps: int = 300) -> torch.Tensor:
    """The distribution over one token that minimises the expected loss under `data`; log-probabilities `[V]`."""
    logits = reference.clone().requires_grad_()
    mask = torch.ones(len(data), 1, dtype=torch.bool)
    for _ in range(steps):
        rows = Demonstrations(completions_by_token(logits.log_softmax(dim=0)[:, None], mask, reference[:, None]))
        losses, _ = sft_divergence(SftDivergence(divergence=divergence, beta=0.5), rows)
        (gradient,) = torch.autograd.grad((data[:, None] * losses).sum(), logits)
        logits = (logits.detach() - 3 * gradient).requires_grad_()
    return logits.detach().log_softmax(dim=0)


def test_divergences_end_between_the_reference_and_the_data() -> None:
    """Stationary where p is proportional to data x weight(p): found here by iterating that map, not the loss.

    Likelihood forgets the reference and ends at the data; the others stay closer to the reference in KL.
    """
    data = vector(0.7, 0.2, 0.1)
    reference = vector(0.1, 0.3, 0.6).log()
    weights = {"pearson": lambda r: (1 - r / 2).clamp(min=0), "hellinger": lambda r: (1 + r.clamp(min=-0.5)) ** -2}
    distance = {"kl": kl(data.log(), reference)}
    torch.testing.assert_close(trained_table("kl", data, reference).exp(), data, atol=1e-6, rtol=0)
    for divergence, weight in weights.items():
        fixed = reference
        for _ in range(200):
            pull = data * weight(0.5 * (fixed - reference))
            fixed = ((fixed.exp() + pull / pull.sum()) / 2).log()
        trained = trained_table(divergence, data, reference)
        torch.testing.assert_close(trained.exp(), fixed.exp(), atol=1e-6, rtol=0)
        distance[divergence] = kl(trained, reference)
    assert 0.05 < distance["hellinger"] < distance["kl"] and 0.05 < distance["pearson"] < distance["kl"]


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.exp() * (p - q)).sum())


# --- splits of a batch, numbers at the edge, inputs that are missing --------------------------------------------------


@pytest.mark.parametrize("parameters", [Sft(), SftDivergence(), SftDivergence(divergence="hellinger"), Unlikelihood()])
def test_rows_and_padding_do_not_change_a_row(parameters: Any) -> None:
    policy, reference = vector(-1, -2, -9, -3, -0.5, -4).view(2, 3), vector(-2, -1, -5, -4, -1, -3).view(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def of(rows: slice, width: int) -> torch.Tensor:
        side = completions_by_token(policy[rows, :width], mask[rows, :width], reference[rows, :width])
        inputs = Pairs(side, side) if parameters.data_shape == "pairs" else Demonstrations(side)
        losses: torch.Tensor = implementation_of(parameters)(parameters, inputs)[0]
        return losses

    together, alone = of(slice(0, 2), 3)[0], of(slice(0, 1), 2)[0]
    torch.testing.assert_close(together[..., :2] if together.ndim else together, alone, atol=0, rtol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", ["kl", "pearson", "hellinger"])
def test_extreme_log_ratios_stay_finite(divergence: Any, dtype: torch.dtype) -> None:
    policy = torch.tensor([[0.0, -1e4, -1e4]], dtype=dtype, requires_grad=True)
    reference = torch.tensor([[-1e4, 0.0, -1e4]], dtype=dtype)
    rows = Demonstrations(completions_by_token(policy, torch.ones(1, 3, dtype=torch.bool), reference))
    losses, _ = sft_divergence(SftDivergence(divergence=divergence, beta=100), rows)
    (gradient,) = torch.autograd.grad(losses.sum(), policy)
    assert losses.isfinite().all() and gradient.isfinite().all()


def test_unlikelihood_of_a_certain_token_reaches_its_logit_undiminished() -> None:
    """In 32 bits p rounds to one. The derivative -1/(1 - p) is then huge, and the model's own factor (1 - p) tiny:
    what arrives at the logits must still be of order one, and not zero or infinite."""
    logits = torch.tensor([16.0, 0.0], requires_grad=True)
    logprob = logits.log_softmax(dim=0)[0].view(1, 1)
    assert logprob.item() == pytest.approx(0, abs=2e-7)
    certain = completions_by_token(logprob, torch.tensor([[True]]))
    losses, _ = unlikelihood(Unlikelihood(), Pairs(demonstrations(-1.0).completion, certain))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.isfinite().all() and 0.3 < gradient[0].item() < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unlikelihood_stays_finite(dtype: torch.dtype) -> None:
    tokens = torch.tensor([[0.0, -1e4, 5.0]], dtype=dtype, requires_grad=True)
    side = completions_by_token(tokens, TWO_OF_THREE)
    losses, _ = unlikelihood(Unlikelihood(), Pairs(side, side))
    (gradient,) = torch.autograd.grad(losses.sum(), tokens)
    assert losses.isfinite().all() and gradient.isfinite().all()
    assert gradient[0, 2] == 0, "padding has no gradient, whatever it holds"


def test_missing_inputs_are_named() -> None:
    bare = Completions(vector(-1), vector(1))
    for call in (lambda: sft(Sft(), Demonstrations(bare)), lambda: unlikelihood(Unlikelihood(), Pairs(bare, bare))):
        with pytest.raises(ValueError, match="log-probability of every token"):
            call()
    with pytest.raises(ValueError, match="reference"):
        sft_divergence(SftDivergence(), demonstrations(-1.0))


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["kl", "pearson", "hellinger"])
def test_gradients_of_divergences_equal_finite_differences(divergence: Any) -> None:
    """With tokens on both sides of each loss's end: log-ratios -1.5, 0.5 and 3."""
    reference, mask = vector(-1, -2, -4)[None], torch.ones(1, 3, dtype=torch.bool)
    parameters = SftDivergence(divergence=divergence)

    def losses(policy: torch.Tensor) -> torch.Tensor:
        rows = Demonstrations(completions_by_token(policy, mask, reference))
        result: torch.Tensor = implementation_of(parameters)(parameters, rows)[0]
        return result

    torch.autograd.gradcheck(losses, [vector(-2.5, -1.5, -1)[None].requires_grad_()])


def test_gradients_of_sft_and_unlikelihood_equal_finite_differences() -> None:
    tokens = vector(-2.5, -0.4, -1)[None].requires_grad_()
    others = vector(-0.2, -0.9, -3)[None].requires_grad_()

    def of_pairs(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        sides = completions_by_token(chosen, TWO_OF_THREE), completions_by_token(rejected, TWO_OF_THREE)
        return unlikelihood(Unlikelihood(alpha=0.7), Pairs(*sides))[0]

    torch.autograd.gradcheck(of_pairs, [tokens, others])
    torch.autograd.gradcheck(lambda t: sft(Sft(), Demonstrations(completions_by_token(t, TWO_OF_THREE)))[0], [tokens])
