"""A reference that follows the policy (trust region DPO, Gorbatovski et al. 2024, arXiv:2404.09656)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


@torch.no_grad()
def mix_parameters(reference: Mapping[str, torch.Tensor], policy: Mapping[str, torch.Tensor], share: float) -> None:
    """Moves `reference` in place to share x policy + (1 - share) x reference, parameter by parameter.

    Both map the same names to tensors of the same shapes, as `named_parameters()` of two copies of a model or of their
    adapters do; a share of 1 copies the policy exactly (the paper's hard update), 0 changes nothing. It is computed in
    the reference's precision and on its device. `policy` is read only. In place, because a second copy of a reference
    is what a GPU has no room for; a float that a bfloat16 reference cannot hold is rounded to nearest.

    Raises `ValueError`, before anything is changed, where names or shapes differ or the share is outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the policy's share must be between 0 and 1, not {share}")
    if reference.keys() != policy.keys():
        differing = sorted(reference.keys() ^ policy.keys())
        raise ValueError(f"policy and reference do not have the same parameters: {', '.join(differing[:3])}")
    for name, tensor in reference.items():
        if tensor.shape != policy[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(policy[name].shape)} in the policy and {tuple(tensor.shape)} in the reference"
            )
    for name, tensor in reference.items():
        tensor.lerp_(policy[name].to(tensor), share)


class MovingReference:
    """A reference that follows the policy: a second copy of what is trained, mixed with it every so many steps."""

    def __init__(self, model: nn.Module, share: float, every_steps: int) -> None:
        self.model = model.requires_grad_(False).eval()
        self._share, self._every_steps = share, every_steps

    def follow(self, policy: nn.Module, step: int) -> None:
        """Mixes the policy in where step `step` (from 0) was the last of a period."""
        if (step + 1) % self._every_steps == 0:
            trained = dict(policy.named_parameters())
            own = self.tensors(policy)
            mix_parameters(own, {name: trained[name] for name in own}, self._share)

    def tensors(self, policy: nn.Module) -> dict[str, torch.Tensor]:
        """The parameters that move: those that are trained, but for a head that the reference does not have."""
        own = self._parameters()
        trained = [name for name, value in policy.named_parameters() if value.requires_grad]
        return {name: own[name].detach() for name in trained if name in own}

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restores `tensors`."""
        for name, value in tensors.items():
            self._parameters()[name].copy_(value)

    def _parameters(self) -> dict[str, torch.Tensor]:
        return dict(self.model.named_parameters())
