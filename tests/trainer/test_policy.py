"""Policy objectives against closed forms, their gradients and their independence of how a batch is split."""

import math

import pytest
import torch

from plumbline_api.methods.policy import DrGrpo, Grpo, PolicyObjective, Reinforce
from plumbline_trainer.objectives.policy import PolicyTokens, StepCounts, clipped_ratio, kl_penalty
from plumbline_trainer.objectives.registry import POLICY_OBJECTIVES, implementation_of
from plumbline_trainer.reporting.metrics import merge


def tokens(logprobs, old, advantages, mask, reference=None):
    def tensor(values):
        return None if values is None else torch.tensor(values, dtype=torch.float64)

    return PolicyTokens(
        tensor(logprobs).requires_grad_(), tensor(old), tensor(reference), tensor(advantages), torch.tensor(mask)
    )


def random_tokens(rows=6, width=5, *, on_policy=False, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    logprobs = -draw(rows, width).abs()
    return PolicyTokens(
        logprobs.requires_grad_(),
        None if on_policy else logprobs.detach() + 0.3 * draw(rows, width),
        logprobs.detach() + 0.3 * draw(rows, width),
        draw(rows),
        torch.arange(width) < lengths[:, None],
    )


def part(batch, rows):
    def of(tensor):
        return None if tensor is None else tensor[rows]

    return PolicyTokens(
        batch.logprobs[rows],
        of(batch.old_logprobs),
        of(batch.reference_logprobs),
        batch.advantages[rows],
        batch.mask[rows],
    )


def share(parameters, batch, sequences, max_completion_tokens=8):
    return implementation_of(parameters)(parameters, batch, StepCounts(sequences, max_completion_tokens))


ALL = [Grpo(kl_coefficient=0.1), DrGrpo(kl_coefficient=0.1), Reinforce(kl_coefficient=0.1)]


def test_every_policy_objective_of_the_api_is_implemented():
    assert POLICY_OBJECTIVES.missing() == []
    assert {member.member_key for member in PolicyObjective.members()} >= {"grpo", "drGrpo", "reinforce"}


def test_grpo_by_hand():
    """Two completions. Ratios: 1.5, clipped at 1.2 as A > 0, and 0.9; then 0.5, clipped at 0.8 as A < 0."""
    batch = tokens(
        [[math.log(0.6), math.log(0.45)], [math.log(0.2), 0.0]],
        [[math.log(0.4), math.log(0.5)], [math.log(0.4), 5.0]],
        [2.0, -1.0],
        [[True, True], [True, False]],
    )
    loss, metrics = share(Grpo(), batch, sequences=2)
    first = -(1.2 * 2.0 + 0.9 * 2.0) / 2
    second = 0.8 * 1.0  # min(0.5 * -1, 0.8 * -1) = -0.8
    assert loss.item() == pytest.approx((first + second) / 2)
    assert metrics["clip_share/high"].value == pytest.approx(1 / 3)
    assert metrics["clip_share/low"].value == pytest.approx(1 / 3)
    assert metrics["ratio"].value == pytest.approx((1.5 + 0.9 + 0.5) / 3)


def test_dr_grpo_by_hand():
    batch = tokens([[-1.0, -2.0], [-3.0, 0.0]], None, [2.0, -1.0], [[True, True], [True, False]])
    loss, _ = share(DrGrpo(), batch, sequences=2, max_completion_tokens=8)
    assert loss.item() == pytest.approx((-2.0 - 2.0 + 1.0) / (2 * 8))
    loss, _ = share(DrGrpo(normalization_tokens=5), batch, sequences=2, max_completion_tokens=8)
    assert loss.item() == pytest.approx((-2.0 - 2.0 + 1.0) / (2 * 5))


def test_reinforce_by_hand():
    batch = tokens([[-1.0, -2.0], [-3.0, -9.0]], None, [2.0, -1.0], [[True, True], [True, False]])
    loss, _ = share(Reinforce(), batch, sequences=4)
    assert loss.item() == pytest.approx((2.0 * 3.0 - 1.0 * 3.0) / 4)


def test_clip_higher_moves_only_the_upper_bound():
    batch = tokens([[math.log(0.6)]], [[math.log(0.4)]], [1.0], [[True]])
    loss, metrics = share(Grpo(clip_low=0.2, clip_high=0.28), batch, sequences=1)
    assert loss.item() == pytest.approx(-1.28)
    assert metrics["clip_share/high"].value == 1


def test_clipping_never_lets_a_bad_step_off():
    """The minimum keeps the gradient where the ratio has moved against the advantage."""
    for advantage, ratio in [(1.0, 0.5), (-1.0, 1.5)]:
        batch = tokens([[math.log(0.4 * ratio)]], [[math.log(0.4)]], [advantage], [[True]])
        loss, _ = share(Grpo(), batch, sequences=1)
        loss.backward()
        assert loss.item() == pytest.approx(-ratio * advantage)
        assert batch.logprobs.grad.item() == pytest.approx(-ratio * advantage)


def test_k3_is_zero_at_the_reference_and_its_mean_is_the_kl_divergence():
    policy = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    reference = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    batch = PolicyTokens(
        policy.log()[None], None, reference.log()[None], torch.zeros(1), torch.ones(1, 3, dtype=torch.bool)
    )
    penalty, _ = kl_penalty(2.0, batch)
    expected = (policy * (policy / reference).log()).sum()
    assert (penalty[0] * policy).sum().item() == pytest.approx(2.0 * expected.item())
    same = PolicyTokens(batch.logprobs, None, batch.logprobs, batch.advantages, batch.mask)
    assert kl_penalty(2.0, same)[0].abs().max().item() == 0


def test_a_kl_penalty_without_reference_is_refused():
    batch = tokens([[-1.0]], None, [1.0], [[True]])
    with pytest.raises(ValueError, match="reference"):
        share(Grpo(kl_coefficient=0.1), batch, sequences=1)


def test_on_policy_every_ratio_is_one_and_the_gradient_is_reinforces():
    """GRPO and Dr. GRPO differ from REINFORCE only in what a sequence is divided by."""
    batch = random_tokens(on_policy=True)
    gradients = {}
    for parameters in [Grpo(), DrGrpo(), Reinforce()]:
        loss, metrics = share(parameters, batch, sequences=6)
        (gradients[type(parameters)],) = torch.autograd.grad(loss, batch.logprobs)
        if "ratio" in metrics:
            assert metrics["ratio"].value == 1.0
            assert metrics["clip_share/low"].value == metrics["clip_share/high"].value == 0.0
    lengths = batch.mask.sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradients[Grpo], gradients[Reinforce] / lengths)
    torch.testing.assert_close(gradients[DrGrpo], gradients[Reinforce] / 8)


@pytest.mark.parametrize("parameters", ALL, ids=lambda parameters: parameters.member_key)
def test_gradients_match_finite_differences(parameters):
    batch = random_tokens(seed=3)

    def loss(logprobs):
        return share(
            parameters,
            PolicyTokens(logprobs, batch.old_logprobs, batch.reference_logprobs, batch.advantages, batch.mask),
            sequences=6,
        )[0]

    assert torch.autograd.gradcheck(loss, (batch.logprobs,))


@pytest.mark.parametrize("parameters", ALL, ids=lambda parameters: parameters.member_key)
@pytest.mark.parametrize("split", [[6], [1, 5], [2, 2, 2], [1] * 6])
def test_loss_gradient_and_metrics_do_not_depend_on_the_split(parameters, split):
    batch = random_tokens(seed=1)
    whole, whole_metrics = share(parameters, batch, sequences=6)
    (expected,) = torch.autograd.grad(whole, batch.logprobs)
    pieces = [part(batch, rows) for rows in torch.arange(6).split(split)]
    shares = [share(parameters, piece, sequences=6) for piece in pieces]
    total = sum(loss for loss, _ in shares)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(torch.autograd.grad(total, batch.logprobs)[0], expected)
    merged = merge(metrics for _, metrics in shares)
    assert {name: metric.value for name, metric in merged.items()} == pytest.approx(
        {name: metric.value for name, metric in whole_metrics.items()}
    )


@pytest.mark.parametrize("parameters", ALL, ids=lambda parameters: parameters.member_key)
def test_padding_may_hold_anything(parameters):
    batch = random_tokens(seed=2)
    loss, _ = share(parameters, batch, sequences=6)
    spoiled = PolicyTokens(
        *(
            torch.where(batch.mask, tensor, float("nan"))
            for tensor in (batch.logprobs, batch.old_logprobs, batch.reference_logprobs)
        ),
        batch.advantages,
        batch.mask,
    )
    again, _ = share(parameters, spoiled, sequences=6)
    assert again.item() == loss.item()
    (gradient,) = torch.autograd.grad(again, batch.logprobs)
    assert gradient.isfinite().all()


def test_completions_without_signal_still_count():
    """A completion with advantage 0 adds nothing and is still one of the sequences that the loss is divided by."""
    batch = random_tokens(seed=4, on_policy=True)
    batch.advantages[3:] = 0
    every, _ = share(Grpo(), batch, sequences=6)
    some, _ = share(Grpo(), part(batch, torch.arange(3)), sequences=6)
    torch.testing.assert_close(every, some)


def test_per_token_losses_are_zero_outside_the_mask():
    batch = random_tokens(seed=5)
    losses, _ = clipped_ratio(Grpo(kl_coefficient=0.5), batch)
    assert (losses[~batch.mask] == 0).all()
