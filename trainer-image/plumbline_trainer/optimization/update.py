"""The update of the trainable parameters: gradients, clipping, optimizer and schedule, and their exact state.

Parameters of a 16-bit type are updated through 32-bit copies, and their gradients are accumulated in 32 bits: an
update of relative size 1e-5 would vanish in the 8 bits of bfloat16's significand, and a sum of many micro-batches
would depend on their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from plumbline_api.methods.optimization import Optimizer, Schedule
from plumbline_trainer.failures import Diverged, ModelError
from plumbline_trainer.optimization.optimizers import build_optimizer
from plumbline_trainer.optimization.schedules import learning_rate_factor

_SEPARATOR = "/"
"""Between a parameter's name and the optimizer's name of a state tensor; parameter names have none."""


class ParameterUpdate:
    """Applies summed gradients to a model's trainable parameters.

    `masters` are the tensors that the optimizer sees: the parameters themselves, or 32-bit copies of 16-bit ones.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        max_steps: int,
        gradient_clip: float,
    ) -> None:
        trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        if not trainable:
            raise ModelError("the model has no trainable parameters")
        self._schedule = schedule
        self._max_steps = max_steps
        self._clip = gradient_clip
        self._parameters = dict(trainable)
        self._masters = {name: _master_of(parameter) for name, parameter in trainable}
        self._optimizer = build_optimizer(optimizer, list(self._masters.items()))
        self._peaks = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._initial_groups = [dict(group) for group in self._optimizer.param_groups]

    @property
    def masters(self) -> list[torch.nn.Parameter]:
        """The tensors whose `.grad` holds the step's accumulated gradient."""
        return list(self._masters.values())

    def learning_rate(self, step: int) -> float:
        """The learning rate of optimizer step `step` (from 0)."""
        return self._peaks[0] * learning_rate_factor(self._schedule, step, self._max_steps)

    def scale_learning_rate(self, factor: float) -> None:
        """Multiplies the learning rate of all further steps."""
        self._peaks = [peak * factor for peak in self._peaks]

    def drop_gradients(self) -> None:
        """Forgets what was accumulated."""
        for master, parameter in zip(self._masters.values(), self._parameters.values(), strict=True):
            master.grad = parameter.grad = None

    def gradient_norm(self) -> float:
        """Euclidean norm of the accumulated gradient over all parameters, before clipping."""
        gradients = [master.grad for master in self._masters.values() if master.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def apply(self, step: int, gradient_norm: float) -> None:
        """Clips, updates the parameters and drops the gradients. Raises `Diverged` rather than apply a gradient that
        is not finite."""
        if not torch.isfinite(torch.tensor(gradient_norm)):
            raise Diverged(f"step {step + 1}: the gradient norm is {gradient_norm}; nothing was updated")
        if self._clip > 0 and gradient_norm > self._clip:
            scale = self._clip / gradient_norm
            for master in self._masters.values():
                if master.grad is not None:
                    master.grad.mul_(scale)
        factor = learning_rate_factor(self._schedule, step, self._max_steps)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._optimizer.step()
        self._copy_back()
        self.drop_gradients()

    def parameter_tensors(self) -> dict[str, torch.Tensor]:
        """The trainable parameters by name, in full precision."""
        return {name: master.detach() for name, master in self._masters.items()}

    def optimizer_tensors(self) -> dict[str, torch.Tensor]:
        """The optimizer's tensors as `<parameter>/<name>`."""
        return {
            f"{name}{_SEPARATOR}{key}": value
            for name, master in self._masters.items()
            for key, value in self._optimizer.state.get(master, {}).items()
            if isinstance(value, torch.Tensor)
        }

    def optimizer_values(self) -> dict[str, Any]:
        """The optimizer's state besides tensors, JSON-able: `<parameter>/<name>`, and what it changed in its groups;
        the rest of a group follows from the configuration."""
        values = {
            f"{name}{_SEPARATOR}{key}": value
            for name, master in self._masters.items()
            for key, value in self._optimizer.state.get(master, {}).items()
            if not isinstance(value, torch.Tensor)
        }
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "lr") and value != initial.get(key)}
            for group, initial in zip(self._optimizer.param_groups, self._initial_groups, strict=True)
        ]
        return {"values": values, "groups": groups}

    def load(
        self,
        parameters: Mapping[str, torch.Tensor],
        optimizer_tensors: Mapping[str, torch.Tensor],
        optimizer_values: Mapping[str, Any],
    ) -> None:
        """Restores what the three methods above gave. Raises `ValueError` where names or shapes differ."""
        self.load_parameters(parameters)
        for key, tensor in optimizer_tensors.items():
            self._state_of(key)[key.rpartition(_SEPARATOR)[2]] = tensor.to(self._device_of(key), copy=True)
        for key, value in optimizer_values["values"].items():
            self._state_of(key)[key.rpartition(_SEPARATOR)[2]] = value
        for group, stored in zip(self._optimizer.param_groups, optimizer_values["groups"], strict=True):
            group.update(stored)

    def load_parameters(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Overwrites the trainable parameters. Raises `ValueError` where names or shapes differ."""
        if parameters.keys() != self._masters.keys():
            differing = sorted(parameters.keys() ^ self._masters.keys())
            raise ValueError(f"{len(differing)} parameters differ from the model's, the first is {differing[0]}")
        with torch.no_grad():
            for name, master in self._masters.items():
                if parameters[name].shape != master.shape:
                    raise ValueError(f"{name} has shape {list(parameters[name].shape)}, not {list(master.shape)}")
                master.copy_(parameters[name])
        self._copy_back()

    def _state_of(self, key: str) -> dict[str, Any]:
        return self._optimizer.state[self._masters[key.rpartition(_SEPARATOR)[0]]]

    def _device_of(self, key: str) -> torch.device:
        return self._masters[key.rpartition(_SEPARATOR)[0]].device

    @torch.no_grad()
    def _copy_back(self) -> None:
        for name, master in self._masters.items():
            parameter = self._parameters[name]
            if parameter is not master:
                parameter.copy_(master)


def _master_of(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The parameter itself, or its 32-bit copy, which collects the gradients of every backward pass at once."""
    if parameter.dtype not in (torch.bfloat16, torch.float16):
        return parameter
    master = torch.nn.Parameter(parameter.detach().float())

    def move_gradient(source: torch.Tensor) -> None:
        if source.grad is None:
            return
        if master.grad is None:
            master.grad = source.grad.float()
        else:
            master.grad.add_(source.grad)
        source.grad = None

    parameter.register_post_accumulate_grad_hook(move_gradient)
    return master
