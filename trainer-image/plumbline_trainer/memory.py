"""An estimate of the memory that a run needs, from the model's configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from plumbline_api.job import JobSpec
from plumbline_api.methods.optimization import Lora, Sgd

ACTIVATION_BYTES_PER_HIDDEN = 34
"""Bytes of stored activations for each token, layer and hidden unit at 16 bits with fused attention (Korthikanti et al.
2022, arXiv:2205.05198, eq. 1 without the attention matrix, which fused kernels do not store)."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of cgroup version 2 and 1, as a container sees its own."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def state(self) -> int:
        """What is held throughout, whatever the batch."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.state + self.activations

    def describe(self) -> str:
        """The parts in GiB."""
        parts = ("parameters", "gradients", "optimizer", "activations")
        shown = ", ".join(f"{name} {getattr(self, name) / 2**30:.1f}" for name in parts)
        return f"{self.total / 2**30:.1f} GiB ({shown})"


def estimate(configuration: PretrainedConfig, spec: JobSpec, dtype: torch.dtype, copies: int) -> MemoryEstimate:
    """Memory of training the model of `configuration` as `spec` says, with weights of `dtype`.

    `copies` is the number of models held: 2 with a separate reference, else 1. Activations are those of the smallest
    micro-batch, a single row of full length, since larger ones are a choice.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration)
    total = sum(parameter.numel() for parameter in model.parameters())
    adapter = spec.peft.value if spec.peft is not None else None
    trained = _adapter_parameters(model, adapter) if isinstance(adapter, Lora) else total
    itemsize = dtype.itemsize
    # 16-bit parameters are updated through 32-bit copies; adapters are 32-bit from the start
    master = 4 * trained if adapter is not None or itemsize < 4 else 0
    tokens = spec.training.max_prompt_tokens + spec.training.max_completion_tokens
    layers = 1 if spec.training.activation_checkpointing else configuration.num_hidden_layers
    return MemoryEstimate(
        parameters=copies * itemsize * total,
        gradients=4 * trained,
        optimizer=master + 4 * trained * _moments(spec.optimizer.value),
        activations=ACTIVATION_BYTES_PER_HIDDEN * tokens * layers * configuration.hidden_size * itemsize // 2,
    )


def host_limit() -> int | None:
    """Bytes that this process may use: the cgroup's limit or the machine's memory; None where neither is known."""
    limits = [limit for path in CGROUP_LIMITS if (limit := _limit_in(path)) is not None]
    memory = Path("/proc/meminfo")
    if memory.exists():
        total = next(line for line in memory.read_text().splitlines() if line.startswith("MemTotal:"))
        limits.append(int(total.split()[1]) * 1024)
    return min(limits, default=None)


def _limit_in(path: Path) -> int | None:
    """The number in a cgroup's file; None for no file or no limit (`max`)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _adapter_parameters(model: torch.nn.Module, lora: Lora) -> int:
    """Parameters of rank-r updates of the adapted linear layers: r (inputs + outputs) each."""
    head: Any = getattr(model, "lm_head", None)
    adapted = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (name.rpartition(".")[2] in lora.target_modules if lora.target_modules is not None else module is not head)
    ]
    return sum(lora.rank * (module.in_features + module.out_features) for module in adapted)


def _moments(optimizer: Any) -> int:
    """32-bit numbers that the optimizer keeps for each trained parameter; two, as in Adam, unless known better."""
    if isinstance(optimizer, Sgd):
        return 1 if optimizer.momentum else 0
    return 2
