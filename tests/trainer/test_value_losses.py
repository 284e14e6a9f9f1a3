"""Value losses: closed forms, projections that conserve mass and mean, and what is learnt from few samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from plumbline_api.methods.critic import Categorical, CrossEntropy, SquaredError, ValueLoss, ValueLossChoice
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.objectives.critic import (
    READINGS,
    VALUE_LOSSES,
    check_rewards,
    gaussian_histogram,
    outputs_of,
    projected,
    support,
)

LOSSES: list[ValueLoss] = [
    SquaredError(),
    SquaredError(clip=0.2),
    CrossEntropy(),
    Categorical(),
    Categorical(atoms=11, v_min=-0.2, v_max=1.2, projection="gaussian", sigma=0.1),
]
losses_of_all = pytest.mark.parametrize("parameters", LOSSES, ids=lambda parameters: parameters.member_key)


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def read(parameters: ValueLoss, outputs: Tensor) -> Tensor:
    return READINGS.of(parameters)(parameters, outputs)


def loss(parameters: ValueLoss, outputs: Tensor, returns: Tensor, old: Tensor | None = None) -> Tensor:
    return VALUE_LOSSES.of(parameters)(parameters, outputs, returns, old)


def test_every_value_loss_of_the_api_is_implemented() -> None:
    assert READINGS.missing() == VALUE_LOSSES.missing() == []
    assert set(ValueLossChoice.model_fields) == {"mse", "bce", "categorical"}


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_squared_error_by_hand() -> None:
    outputs = double([[0.5], [2.0]])  # type: ignore[list-item]
    assert read(SquaredError(), outputs).tolist() == [0.5, 2.0]
    assert loss(SquaredError(), outputs, double([1.0, 0.0])).tolist() == [0.125, 2.0]


@pytest.mark.parametrize(
    ("value", "old", "target", "expected", "moves"),
    [
        (0.1, 0.0, 1.0, 0.81 / 2, True),  # within the clip
        (0.5, 0.0, 1.0, 0.64 / 2, False),  # moved towards the return by more than the clip: no gradient
        (-0.5, 0.0, 1.0, 2.25 / 2, True),  # moved away: it may come back
        (0.9, 0.0, 0.1, 0.64 / 2, True),  # moved past it
    ],
)
def test_clipped_values_by_hand(value: float, old: float, target: float, expected: float, moves: bool) -> None:
    outputs = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    found = loss(SquaredError(clip=0.2), outputs, double([target]), double([old]))
    found.sum().backward()
    assert found.item() == pytest.approx(expected)
    assert outputs.grad is not None
    assert (outputs.grad.item() != 0) == moves


def test_without_old_values_nothing_is_clipped() -> None:
    outputs, returns = torch.randn(5, 1), torch.randn(5)
    assert torch.equal(loss(SquaredError(clip=0.1), outputs, returns), loss(SquaredError(), outputs, returns))


def test_cross_entropy_by_hand_and_its_gradient_in_the_log_odds() -> None:
    outputs = torch.tensor([[math.log(3.0)], [0.0]], dtype=torch.float64, requires_grad=True)
    values = read(CrossEntropy(), outputs)
    assert values.tolist() == pytest.approx([0.75, 0.5])
    found = loss(CrossEntropy(), outputs, double([1.0, 0.25]))
    assert found.tolist() == pytest.approx([-math.log(0.75), math.log(2.0)])
    (gradient,) = torch.autograd.grad(found.sum(), outputs)
    torch.testing.assert_close(gradient.squeeze(1), (values - double([1.0, 0.25])).detach())


def test_cross_entropy_is_finite_for_certain_outputs_and_brings_returns_back() -> None:
    outputs = double([[1000.0], [-1000.0]])  # type: ignore[list-item]
    assert loss(CrossEntropy(), outputs, double([1.0, 0.0])).tolist() == [0.0, 0.0]
    assert loss(CrossEntropy(), outputs, double([0.0, 1.0])).tolist() == [1000.0, 1000.0]
    same = double([[0.3]])  # type: ignore[list-item]
    assert torch.equal(loss(CrossEntropy(), same, double([1.2])), loss(CrossEntropy(), same, double([1.0])))


def test_the_value_of_a_distribution_is_its_mean() -> None:
    parameters = Categorical(atoms=3, v_min=-1.0, v_max=1.0)
    outputs = double([0.1, 0.2, 0.7]).log()[None]
    assert read(parameters, outputs).item() == pytest.approx(0.6)
    found = loss(parameters, outputs, double([0.5]))
    assert found.item() == pytest.approx(-0.5 * math.log(0.2) - 0.5 * math.log(0.7))


@losses_of_all
def test_gradients_match_finite_differences(parameters: ValueLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, outputs_of(parameters), dtype=torch.float64, generator=generator).requires_grad_()
    returns = torch.rand(4, dtype=torch.float64, generator=generator)
    old = torch.rand(4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda values: loss(parameters, values, returns, old), outputs)


@losses_of_all
def test_the_mean_return_is_learnt(parameters: ValueLoss) -> None:
    """Returns 0 and 1, three of ten 1: the value goes to the success rate under every loss."""
    outputs = torch.zeros(1, outputs_of(parameters), dtype=torch.float64, requires_grad=True)
    returns = double([1.0] * 3 + [0.0] * 7)
    optimizer = torch.optim.Adam([outputs], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss(parameters, outputs.expand(10, -1), returns).mean().backward()
        optimizer.step()
    assert read(parameters, outputs).item() == pytest.approx(0.3, abs=0.01)


def test_atoms_recover_both_modes_of_returns_0_and_1() -> None:
    parameters = Categorical(atoms=21)
    outputs = torch.zeros(1, 21, dtype=torch.float64, requires_grad=True)
    returns = double([1.0] * 3 + [0.0] * 7)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss(parameters, outputs.expand(10, -1), returns).mean().backward()
        optimizer.step()
    masses = outputs.softmax(dim=-1)[0]
    assert masses[0].item() == pytest.approx(0.7, abs=0.01)
    assert masses[-1].item() == pytest.approx(0.3, abs=0.01)
    assert masses[1:-1].sum().item() < 0.01


# --- projections ------------------------------------------------------------------------------------------------------

ATOMS = support(Categorical(atoms=7, v_min=-2.0, v_max=4.0))


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(-2, 4)), min_size=1, max_size=6))
def test_the_projection_conserves_mass_and_mean(points: list[tuple[float, float]]) -> None:
    masses, places = double([mass for mass, _ in points])[None], double([place for _, place in points])[None]
    found = projected(masses, places, ATOMS)
    assert bool((found >= 0).all())
    assert found.sum().item() == pytest.approx(masses.sum().item())
    assert (found @ ATOMS).item() == pytest.approx((masses * places).sum().item(), abs=1e-9)


def test_the_projection_by_hand() -> None:
    found = projected(double([[1.0], [1.0], [1.0]]), double([[0.25], [-2.0], [4.0]]), ATOMS)  # type: ignore[list-item]
    assert found[0].tolist() == pytest.approx([0, 0, 0.75, 0.25, 0, 0, 0])
    assert found[1].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert found[2].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_what_lies_outside_goes_to_the_nearest_atom() -> None:
    found = projected(torch.ones(2, 1), torch.tensor([[-50.0], [50.0]]), ATOMS.float())
    assert found[0, 0].item() == found[1, -1].item() == 1.0


def test_the_projection_of_a_shifted_distribution() -> None:
    """C51's use: a distribution over the atoms, moved by a reward and shrunk by gamma, by a loop over atoms."""
    probabilities = double([0.1, 0.2, 0.05, 0.3, 0.15, 0.1, 0.1])
    places = (0.3 + 0.5 * ATOMS).clamp(-2, 4)
    expected = torch.zeros(7, dtype=torch.float64)
    for probability, place in zip(probabilities.tolist(), places.tolist(), strict=True):
        position = place + 2.0  # atoms are 1 apart
        lower, upper = math.floor(position), math.ceil(position)
        expected[lower] += probability * (1.0 if lower == upper else upper - position)
        if lower != upper:
            expected[upper] += probability * (position - lower)
    torch.testing.assert_close(projected(probabilities[None], places[None], ATOMS)[0], expected)


def test_a_gaussian_histogram_is_the_mass_of_its_bins() -> None:
    found = gaussian_histogram(double([0.4]), ATOMS, 0.8)[0]
    normal = Normal(0.4, 0.8)
    bins = torch.stack([normal.cdf(atom + 0.5) - normal.cdf(atom - 0.5) for atom in ATOMS])
    torch.testing.assert_close(found, bins / bins.sum(), rtol=1e-5, atol=1e-7)
    assert found.sum().item() == pytest.approx(1)


def test_limits_of_the_gaussian_histogram() -> None:
    """Narrow: all mass in the bin of the return, also far outside the others. Wide: the same mass everywhere."""
    narrow = gaussian_histogram(double([0.4, 4.0, -99.0]), ATOMS, 1e-6)
    assert narrow.argmax(dim=1).tolist() == [2, 6, 0]
    assert bool((narrow.max(dim=1).values == 1).all())
    wide = gaussian_histogram(double([0.4]), ATOMS, 1e5)
    torch.testing.assert_close(wide, torch.full((1, 7), 1 / 7, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_the_gaussian_histogram_keeps_means_away_from_the_ends() -> None:
    atoms = support(Categorical(atoms=41, v_min=-1.0, v_max=1.0))
    places = torch.linspace(-0.7, 0.7, 50, dtype=torch.float64)
    means = gaussian_histogram(places, atoms, 0.75 * 0.05) @ atoms
    assert float((means - places).abs().max()) < 1e-3
    at_the_end = gaussian_histogram(double([1.0]), atoms, 0.75 * 0.05) @ atoms
    assert at_the_end.item() < 0.99, "what is left out beyond the last bin pulls the mean inwards"


# --- which rewards, and how fast --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "rewards", "said"),
    [
        (CrossEntropy(), [0.0, 1.5], "bce needs rewards within 0 and 1, but a completion has 1.5"),
        (CrossEntropy(), [-0.1], "has -0.1"),
        (Categorical(v_min=-1.0, v_max=2.0), [2.5], "within -1 and 2"),
    ],
)
def test_rewards_that_no_value_could_be_are_refused(parameters: ValueLoss, rewards: list[float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_rewards(parameters, double(rewards))


def test_rewards_that_values_can_be_pass() -> None:
    check_rewards(CrossEntropy(), double([0.0, 1.0]))
    check_rewards(Categorical(v_min=-1.0), double([-1.0, 1.0]))
    check_rewards(SquaredError(), double([-1e9, 1e9]))


def mean_squared_error_of_a_fit(parameters: ValueLoss, samples: int) -> float:
    """How far fitted values are from the true ones on a chain of eight states, the mean of 300 data sets.

    The chance of success rises along the chain, from 5% to 98%: its log-odds are a line, and a line is fitted to the
    end of its least loss on returns 0 and 1 of random states. Both losses see the same samples and fit the same
    functions; the logistic function is a part of the critic for `bce` and is put before the critic's output for `mse`.
    """
    places, sets = torch.arange(8, dtype=torch.float64), 300
    truth = torch.sigmoid(places - 3)
    generator = torch.Generator().manual_seed(0)
    states = torch.randint(0, 8, (sets, samples), generator=generator)
    drawn = torch.rand(sets, samples, dtype=torch.float64, generator=generator)
    returns = (drawn < truth[states]).double()
    lines = torch.zeros(sets, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([lines], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        odds = (lines[:, :1] + lines[:, 1:] * states).reshape(-1, 1)
        outputs = odds if isinstance(parameters, CrossEntropy) else torch.sigmoid(odds)
        # a trace of decay, for data sets that a step function fits
        total = loss(parameters, outputs, returns.flatten()).sum() + 1e-3 * lines.square().sum()
        total.backward()
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = torch.sigmoid(lines[:, :1] + lines[:, 1:] * places)
    return float((found - truth).square().mean())


def test_cross_entropy_learns_success_rates_from_a_fifth_fewer_samples_than_squared_error() -> None:
    assert mean_squared_error_of_a_fit(CrossEntropy(), 100) < mean_squared_error_of_a_fit(SquaredError(), 125)
