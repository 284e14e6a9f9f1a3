"""An estimate of the memory that a run needs, from the model's configuration alone: no weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from plumbline_api.job import JobSpec
from plumbline_api.methods.optimization import Lora, Sgd
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_trainer.data.batches import default_token_budget
from plumbline_trainer.modeling.linear_head import BLOCK, LOGIT_ELEMENTS

SAVED_HIDDEN, SAVED_INTERMEDIATE = 27, 4
"""Numbers of a token that a layer keeps for the backward pass, in units of the hidden size and of the feed-forward
part's inner size: inputs, norms in several steps, queries, keys and values before and after rotation, attention, gates.
Measured on Qwen2 decoders of four shapes, with attention that keeps no matrix of scores."""

ADAPTER_HIDDEN, ADAPTER_INTERMEDIATE = 16, 5
"""The same for what low-rank adapters of all linear layers add: inputs and outputs of their own; measured likewise."""

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


def estimate(
    configuration: PretrainedConfig, spec: JobSpec, dtype: torch.dtype, copies: int, device: torch.device | None = None
) -> MemoryEstimate:
    """Memory of training the model of `configuration` as `spec` says, with weights of `dtype`, on `device` (the CPU).

    `copies` is the number of models held: 2 with a separate reference, else 1. Activations are those of the largest
    pass over rows of full length: layers, logits at completion tokens, and the gradients of the vocabulary's matrices,
    which exist twice while they are added up.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration)
    total = sum(parameter.numel() for parameter in model.parameters())
    adapter = spec.peft.value if spec.peft is not None else None
    trained = _adapter_parameters(model, adapter) if isinstance(adapter, Lora) else total
    itemsize = dtype.itemsize
    # 16-bit parameters are updated through 32-bit copies; adapters are 32-bit from the start
    master = 4 * trained if adapter is not None or itemsize < 4 else 0
    tokens, scored = _largest_pass(spec, device or torch.device("cpu"))
    text = configuration.get_text_config()
    hidden, inner = (0, 0) if adapter is None else (ADAPTER_HIDDEN, ADAPTER_INTERMEDIATE)
    numbers = (SAVED_HIDDEN + hidden) * text.hidden_size + (SAVED_INTERMEDIATE + inner) * _inner_size(text)
    layers = tokens * numbers * text.num_hidden_layers
    if spec.training.activation_checkpointing:
        layers = tokens * (numbers + text.hidden_size * text.num_hidden_layers)
    logits = scored * text.vocab_size
    kept = 4 * logits if logits <= LOGIT_ELEMENTS else 4 * scored * BLOCK
    vocabulary = 2 * text.vocab_size * text.hidden_size if adapter is None else 0
    return MemoryEstimate(
        parameters=copies * itemsize * total,
        gradients=4 * trained,
        optimizer=master + 4 * trained * _moments(spec.optimizer.value),
        activations=itemsize * (layers + vocabulary) + kept,
    )


def _largest_pass(spec: JobSpec, device: torch.device) -> tuple[int, int]:
    """(tokens, completion tokens) of the largest pass with gradients, where every row has full length."""
    training = spec.training
    completions = 2 if isinstance(spec, PreferenceJobSpec) and spec.objective.value.data_shape == "pairs" else 1
    scored = completions * training.max_completion_tokens
    row = training.max_prompt_tokens + scored
    rows = max(1, default_token_budget(device) // row)
    if training.micro_batch_size is not None:
        rows = training.micro_batch_size
    rows = min(rows, -(-training.batch_size // spec.resources.replicas))
    return rows * row, rows * scored


def _inner_size(configuration: PretrainedConfig) -> int:
    """Width of the feed-forward part; four times the hidden size where the configuration does not say."""
    return int(getattr(configuration, "intermediate_size", None) or 4 * configuration.hidden_size)


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
