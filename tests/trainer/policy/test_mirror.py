"""Mirror descent's inner optimum, and the discovered drift against PPO's clip."""

from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.policy.clipped import Grpo
from plumbline_api.methods.policy.mirror import Discovered, Mdpo
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.rollout.judged import judged
from tests.trainer.policy.bandit import every_action, expected_loss, minimize, tilted
from tests.trainer.policy.records import loss_of, tokens

torch.manual_seed(0)
OLD = torch.randn(10, dtype=torch.float64).softmax(0)
GAINS = torch.randn(10, dtype=torch.float64)


def solved(step_size: float) -> torch.Tensor:
    """The inner problem's minimum on ten arms."""
    parameters = Mdpo(step_size=step_size, anneal="constant")
    weight = torch.full((10,), 1 / step_size, dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        batch = replace(every_action(logits, OLD, GAINS), prepared={"divergence_weight": weight})
        return expected_loss(parameters, batch, OLD)

    return minimize(loss, OLD.log()).softmax(0)


@pytest.mark.parametrize("step_size", [0.1, 1.0, 3.0])
def test_the_inner_problem_is_solved_by_the_mirror_step(step_size):
    torch.testing.assert_close(solved(step_size), tilted(OLD, step_size * GAINS), rtol=0, atol=1e-3)


def test_a_smaller_step_stays_nearer():
    divergences = [(found * (found / OLD).log()).sum() for found in map(solved, [0.05, 0.2, 1.0, 3.0])]
    assert divergences == sorted(divergences) and divergences[0] < 0.01


def test_the_step_size_falls_over_the_job():
    for step, expected in [(0, 0.5), (5, 1.0), (9, 5.0)]:
        rollout = judged([1.0, 0.0], [0, 0], step=step, steps=10)
        found = prepared(Mdpo(step_size=2.0), rollout, torch.zeros(2))["divergence_weight"]
        assert found.tolist() == pytest.approx([expected] * 2)
        constant = prepared(Mdpo(step_size=2.0, anneal="constant"), rollout, torch.zeros(2))["divergence_weight"]
        assert constant.tolist() == [0.5] * 2


def drift(ratio: float, advantage: float, parameters: Discovered | None = None) -> tuple[float, float]:
    """f(r, A) and df/dr."""
    batch = tokens([[0.0]], [advantage], old=[[0.0]])
    value = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    losses, _ = loss_of(parameters or Discovered(), replace(batch, logprobs=value.log()[None, None]))
    found = losses + value * advantage
    return found.item(), torch.autograd.grad(found, value)[0].item()


@pytest.mark.parametrize("advantage", [1.7, -1.7, 0.0])
def test_the_drift_and_its_slope_are_zero_at_the_old_policy(advantage):
    assert drift(1.0, advantage) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_the_drift_by_hand():
    """A = 1, r = 4: 3 - 2 tanh(1.5). A = -1, r = 1/4: log 4 - 0.6 tanh(log 4 / 0.6). None against the advantage."""
    assert drift(4.0, 1.0)[0] == pytest.approx(3 - 2 * 0.9051482536448664)
    logarithm = torch.tensor(4.0, dtype=torch.float64).log()
    assert drift(0.25, -1.0)[0] == pytest.approx((logarithm - 0.6 * (logarithm / 0.6).tanh()).item())
    assert drift(0.5, 1.0) == (0.0, 0.0) and drift(2.0, -1.0) == (0.0, 0.0)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (0.6, -1.0)])
def test_a_gradient_is_left_where_the_clip_has_none(ratio, advantage):
    gradients = []
    for parameters in [Grpo(), Discovered()]:
        batch = tokens([[torch.tensor(ratio).log().item()]], [advantage], old=[[0.0]])
        gradients.append(torch.autograd.grad(loss_of(parameters, batch)[0], batch.logprobs)[0].item())
    assert gradients[0] == 0
    assert gradients[1] * -advantage > 0.01
