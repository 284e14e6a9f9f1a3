"""Schedules against their closed forms, optimizers against their published update rules."""

from __future__ import annotations

import math

import pytest
import torch

from plumbline_api.methods.optimization import (
    AdamW,
    Constant,
    Cosine,
    Linear,
    Optimizer,
    Schedule,
    Sgd,
    WarmupStableDecay,
)
from plumbline_trainer.failures import Diverged, ModelError
from plumbline_trainer.optimization.optimizers import OPTIMIZERS, build_optimizer
from plumbline_trainer.optimization.schedules import SCHEDULES, learning_rate_factor
from plumbline_trainer.optimization.update import ParameterUpdate
from plumbline_trainer.registry import Registry


def factors(schedule: Schedule, steps: int) -> list[float]:
    return [learning_rate_factor(schedule, step, steps) for step in range(steps)]


def test_every_method_of_the_api_is_implemented() -> None:
    assert OPTIMIZERS.missing() == []
    assert SCHEDULES.missing() == []


def test_a_method_is_implemented_once_and_in_its_own_family() -> None:
    registry: Registry[object] = Registry(Schedule)
    registry.implements(Linear)(object())
    with pytest.raises(TypeError, match="has an implementation already"):
        registry.implements(Linear)
    with pytest.raises(TypeError, match="no Schedule"):
        registry.implements(Sgd)


def test_warm_up_rises_in_equal_parts_to_the_peak() -> None:
    assert factors(Constant(warmup_fraction=0.4), 10) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])


def test_linear_falls_from_the_peak_to_its_final_fraction_in_the_last_step() -> None:
    assert factors(Linear(final_fraction=0.2), 5) == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_cosine_follows_its_equation() -> None:
    steps, final = 9, 0.1
    expected = [final + (1 - final) * 0.5 * (1 + math.cos(math.pi * step / (steps - 1))) for step in range(steps)]
    assert factors(Cosine(final_fraction=final), steps) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "decay"),
    [
        ("linear", [0.75, 0.5, 0.25, 0]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * time)) for time in (0.25, 0.5, 0.75, 1)]),
        ("sqrt", [1 - math.sqrt(time) for time in (0.25, 0.5, 0.75, 1)]),
    ],
)
def test_warmup_stable_decay_decays_in_the_last_steps_only(shape: str, decay: list[float]) -> None:
    schedule = WarmupStableDecay(warmup_fraction=0.2, decay_fraction=0.4, decay_shape=shape)
    assert factors(schedule, 10) == pytest.approx([0.5, 1, 1, 1, 1, 1, *decay])


@pytest.mark.parametrize("schedule", [Constant(), Linear(), Cosine(), WarmupStableDecay(decay_fraction=1.0)])
@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("warmup", [0.0, 0.001, 0.5, 1.0])
def test_every_factor_is_between_0_and_1(schedule: Schedule, steps: int, warmup: float) -> None:
    if isinstance(schedule, WarmupStableDecay) and warmup:
        schedule = schedule.model_copy(update={"decay_fraction": 1.0 - warmup})
    schedule = schedule.model_copy(update={"warmup_fraction": warmup})
    assert all(0.0 <= factor <= 1.0 for factor in factors(schedule, steps))


def test_a_schedule_of_one_step_trains() -> None:
    assert factors(Linear(), 1) == [1.0]
    assert factors(Cosine(), 1) == [1.0]


class TwoLayers(torch.nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 2, dtype=dtype)


def update_of(model: torch.nn.Module, optimizer: Optimizer, clip: float = 0.0) -> ParameterUpdate:
    return ParameterUpdate(model, optimizer, Constant(), 10, clip)


def test_adamw_takes_the_published_step_and_spares_vectors_from_decay() -> None:
    """Loshchilov & Hutter 2019, algorithm 2: after one step both bias corrections cancel the decay rates."""
    model = TwoLayers()
    weight, bias = model.linear.weight.detach().clone(), model.linear.bias.detach().clone()
    update = update_of(model, AdamW(learning_rate=0.1, weight_decay=0.5, epsilon=1e-8))
    gradient_weight, gradient_bias = torch.randn(2, 3), torch.randn(2)
    model.linear.weight.grad, model.linear.bias.grad = gradient_weight.clone(), gradient_bias.clone()
    update.apply(0, update.gradient_norm())
    expected = weight * (1 - 0.1 * 0.5) - 0.1 * gradient_weight / (gradient_weight.abs() + 1e-8)
    torch.testing.assert_close(model.linear.weight.detach(), expected)
    torch.testing.assert_close(model.linear.bias.detach(), bias - 0.1 * gradient_bias / (gradient_bias.abs() + 1e-8))


def test_sgd_takes_the_published_steps_with_nesterov_momentum() -> None:
    """Sutskever et al. 2013 in torch's form: v = m v + g, p = p - lr (g + m v)."""
    model = TwoLayers()
    parameter = model.linear.weight.detach().clone()
    update = update_of(model, Sgd(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01))
    velocity = torch.zeros_like(parameter)
    for step in range(3):
        gradient = torch.randn(2, 3)
        model.linear.weight.grad, model.linear.bias.grad = gradient.clone(), torch.zeros(2)
        update.apply(step, update.gradient_norm())
        decayed = gradient + 0.01 * parameter
        velocity = 0.9 * velocity + decayed
        parameter = parameter - 0.1 * (decayed + 0.9 * velocity)
        torch.testing.assert_close(model.linear.weight.detach(), parameter)


def test_clipping_scales_all_gradients_by_their_common_norm() -> None:
    model = TwoLayers()
    before = torch.cat([model.linear.weight.detach().flatten(), model.linear.bias.detach()])
    update = update_of(model, Sgd(learning_rate=1.0), clip=0.5)
    gradient = torch.arange(1.0, 9.0)
    model.linear.weight.grad, model.linear.bias.grad = gradient[:6].view(2, 3).clone(), gradient[6:].clone()
    norm = update.gradient_norm()
    assert norm == pytest.approx(float(gradient.norm()))
    update.apply(0, norm)
    after = torch.cat([model.linear.weight.detach().flatten(), model.linear.bias.detach()])
    torch.testing.assert_close(before - after, gradient * 0.5 / gradient.norm())


def test_a_limit_of_0_clips_nothing() -> None:
    model = TwoLayers()
    before = model.linear.bias.detach().clone()
    update = update_of(model, Sgd(learning_rate=1.0), clip=0.0)
    model.linear.weight.grad, model.linear.bias.grad = torch.zeros(2, 3), torch.full((2,), 1e4)
    update.apply(0, update.gradient_norm())
    torch.testing.assert_close(before - model.linear.bias.detach(), torch.full((2,), 1e4))


def test_a_gradient_below_the_limit_is_not_scaled() -> None:
    model = TwoLayers()
    before = model.linear.bias.detach().clone()
    update = update_of(model, Sgd(learning_rate=1.0), clip=100.0)
    model.linear.weight.grad, model.linear.bias.grad = torch.zeros(2, 3), torch.ones(2)
    update.apply(0, update.gradient_norm())
    torch.testing.assert_close(before - model.linear.bias.detach(), torch.ones(2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_never_applied(value: float) -> None:
    model = TwoLayers()
    before = model.linear.weight.detach().clone()
    update = update_of(model, AdamW())
    model.linear.weight.grad = torch.full((2, 3), value)
    with pytest.raises(Diverged, match="step 4: the gradient norm is"):
        update.apply(3, update.gradient_norm())
    assert torch.equal(model.linear.weight.detach(), before)


def test_steps_below_the_resolution_of_bfloat16_add_up() -> None:
    model = TwoLayers(torch.bfloat16)
    before = model.linear.weight.detach().float().clone()
    update = update_of(model, Sgd(learning_rate=1e-4))
    for step in range(1000):
        (model.linear.weight.sum() + model.linear.bias.sum()).backward()
        assert model.linear.weight.grad is None  # it has moved to the 32-bit copy
        update.apply(step % 10, update.gradient_norm())
    torch.testing.assert_close(
        before - model.linear.weight.detach().float(), torch.full((2, 3), 0.1), atol=4e-3, rtol=0
    )


def test_gradients_of_bfloat16_parameters_are_accumulated_in_32_bits() -> None:
    model = TwoLayers(torch.bfloat16)
    update = update_of(model, Sgd(learning_rate=1.0))
    for _ in range(1000):
        (model.linear.bias.sum() * 1.0).backward()
    assert update.gradient_norm() == pytest.approx(1000 * math.sqrt(2))


def test_a_model_without_trainable_parameters_is_refused() -> None:
    model = TwoLayers().requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameters"):
        update_of(model, AdamW())


def test_only_trainable_parameters_are_in_the_state() -> None:
    model = TwoLayers()
    model.linear.bias.requires_grad_(False)
    update = update_of(model, AdamW())
    model.linear.weight.grad = torch.ones(2, 3)
    update.apply(0, 1.0)
    assert update.parameter_tensors().keys() == {"linear.weight"}
    assert update.optimizer_tensors().keys() == {
        "linear.weight/step",
        "linear.weight/exp_avg",
        "linear.weight/exp_avg_sq",
    }


def test_a_state_of_another_shape_is_refused_by_name() -> None:
    update = update_of(TwoLayers(), AdamW())
    tensors = {**update.parameter_tensors(), "linear.bias": torch.zeros(5)}
    with pytest.raises(ValueError, match=r"linear.bias has shape \[5\], not \[2\]"):
        update.load(tensors, {}, update.optimizer_values())
    del tensors["linear.bias"]
    with pytest.raises(ValueError, match=r"the first is linear\.bias"):
        update.load(tensors, {}, update.optimizer_values())


def test_the_optimizer_is_built_at_its_peak_rate() -> None:
    parameters = [("w", torch.nn.Parameter(torch.zeros(2, 2)))]
    assert build_optimizer(AdamW(learning_rate=0.25), parameters).param_groups[0]["lr"] == 0.25
