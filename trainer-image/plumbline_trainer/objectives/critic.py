"""Value losses: pure functions of a critic's outputs and the returns that its values should have been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from plumbline_api.methods.critic import Categorical, CrossEntropy, SquaredError, ValueLoss
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.registry import Registry

Reading = Callable[[Any, Tensor], Tensor]
"""(parameters, outputs [..., O]) -> values [...]."""

Loss = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
"""(parameters, outputs [n, O], returns [n], values before the rollout's updates [n] or None) -> losses [n]."""

READINGS: Registry[Reading] = Registry(ValueLoss)
VALUE_LOSSES: Registry[Loss] = Registry(ValueLoss)


@dataclass(frozen=True)
class Bounds:
    """The returns that a value can be."""

    lowest: float = -torch.inf
    highest: float = torch.inf


def outputs_of(parameters: ValueLoss) -> int:
    """Numbers that a critic puts out for each state."""
    return parameters.atoms if isinstance(parameters, Categorical) else 1


def bounds_of(parameters: ValueLoss) -> Bounds:
    """The returns that a value under this loss can be."""
    if isinstance(parameters, Categorical):
        return Bounds(parameters.v_min, parameters.v_max)
    return Bounds(0.0, 1.0) if isinstance(parameters, CrossEntropy) else Bounds()


def check_rewards(parameters: ValueLoss, rewards: Tensor) -> None:
    """Raises `ConfigError` where one of `rewards` [n] is none that a value could be: it would be learnt as another."""
    bounds = bounds_of(parameters)
    outside = rewards[(rewards < bounds.lowest) | (rewards > bounds.highest)]
    if len(outside):
        raise ConfigError(
            f"critic: the loss {parameters.member_key} needs rewards within {bounds.lowest:g} and {bounds.highest:g}, "
            f"but a completion has {float(outside[0]):g}; use mse, or categorical with other bounds"
        )


@READINGS.implements(SquaredError)
def plain_value(parameters: SquaredError, outputs: Tensor) -> Tensor:
    """The output itself."""
    return outputs.squeeze(-1)


@VALUE_LOSSES.implements(SquaredError)
def squared_error(parameters: SquaredError, outputs: Tensor, returns: Tensor, old_values: Tensor | None) -> Tensor:
    """(V - G)^2 / 2, or with a clip c: max((V - G)^2, (V_old + clip(V - V_old, -c, c) - G)^2) / 2.

    PPO's value clipping (Schulman et al. 2017; in the code that accompanies arXiv:1707.06347): a value that has moved
    by more than c towards its return has no gradient. Without old values nothing has moved yet.
    """
    values = plain_value(parameters, outputs)
    losses = (values - returns).square()
    if parameters.clip is not None and old_values is not None:
        near = old_values + (values - old_values).clamp(-parameters.clip, parameters.clip)
        losses = torch.maximum(losses, (near - returns).square())
    return losses / 2


@READINGS.implements(CrossEntropy)
def success_rate(parameters: CrossEntropy, outputs: Tensor) -> Tensor:
    """The logistic function of the output."""
    return torch.sigmoid(outputs.squeeze(-1))


@VALUE_LOSSES.implements(CrossEntropy)
def cross_entropy(parameters: CrossEntropy, outputs: Tensor, returns: Tensor, old_values: Tensor | None) -> Tensor:
    """-[G log V + (1 - G) log(1 - V)] (Ayoub et al. 2024, arXiv:2403.05385), least at V = E[G] as squared error is.

    Its gradient in the log-odds is V - G, without the factor V (1 - V) that slows squared error where V is near 0 or
    1. Returns that bootstrapping moves out of [0, 1] are brought back.
    """
    return binary_cross_entropy_with_logits(outputs.squeeze(-1), returns.clamp(0, 1), reduction="none")


@READINGS.implements(Categorical)
def mean_atom(parameters: Categorical, outputs: Tensor) -> Tensor:
    """sum_i p_i z_i, p the softmax of the outputs."""
    return outputs.softmax(dim=-1) @ support(parameters).to(outputs)


@VALUE_LOSSES.implements(Categorical)
def categorical(parameters: Categorical, outputs: Tensor, returns: Tensor, old_values: Tensor | None) -> Tensor:
    """-sum_i m_i log p_i with m the return spread over the atoms (Bellemare et al. 2017, arXiv:1707.06887).

    With gamma = 1 and the reward at the end the distributional target is that of the return itself, one point of mass:
    spread over its neighbours by C51's projection, or as a histogram of a normal distribution (HL-Gauss).
    """
    atoms = support(parameters).to(returns)
    if parameters.projection == "gaussian":
        spacing = (parameters.v_max - parameters.v_min) / (parameters.atoms - 1)
        masses = gaussian_histogram(returns, atoms, parameters.sigma or 0.75 * spacing)
    else:
        masses = projected(torch.ones_like(returns)[:, None], returns[:, None], atoms)
    return -(masses.to(outputs) * outputs.log_softmax(dim=-1)).sum(dim=-1)


def support(parameters: Categorical) -> Tensor:
    """[A] float64: the atoms z_i, evenly spaced from vMin to vMax."""
    return torch.linspace(parameters.v_min, parameters.v_max, parameters.atoms, dtype=torch.float64)


def projected(masses: Tensor, places: Tensor, atoms: Tensor) -> Tensor:
    """[n, A]: point masses `masses` [n, K] at `places` [n, K], each shared out to the two `atoms` [A] around its place
    in inverse proportion to the distances.

    C51's projection (Bellemare et al. 2017, arXiv:1707.06887, eq. 7). It conserves mass, and the mean for places within
    the atoms; those outside are moved to the nearest atom.
    """
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    position = ((places - atoms[0]) / spacing).clamp(0, len(atoms) - 1)
    lower = position.floor().clamp(max=len(atoms) - 2)
    upper_share = position - lower
    result = torch.zeros(len(places), len(atoms), dtype=masses.dtype, device=masses.device)
    result.scatter_add_(1, lower.long(), masses * (1 - upper_share))
    return result.scatter_add_(1, lower.long() + 1, masses * upper_share)


def gaussian_histogram(places: Tensor, atoms: Tensor, sigma: float) -> Tensor:
    """[n, A]: the mass of a normal distribution around each of `places` [n] in the bins around the `atoms` [A].

    HL-Gauss (Imani & White 2018; Farebrother et al. 2024, arXiv:2403.03950): bins reach half the distance of atoms to
    both sides, and what falls outside of all is left out, so that masses add up to 1. Places outside the atoms are
    moved to the nearest.
    """
    half = (atoms[-1] - atoms[0]) / (2 * (len(atoms) - 1))
    edges = torch.cat([atoms - half, atoms[-1:] + half])
    places = places.clamp(float(atoms[0]), float(atoms[-1]))
    below = torch.special.ndtr((edges - places[:, None]) / sigma)
    inside = below.diff(dim=1)
    return inside / inside.sum(dim=1, keepdim=True)
