"""Low-rank adapters through peft: added to a model, switched off for the reference, merged for the result.

peft takes a second to import, so it is imported by the first job that needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from plumbline_api.methods.optimization import Lora
from plumbline_trainer.data.order import derive_seed
from plumbline_trainer.failures import ModelError

if TYPE_CHECKING:
    import peft
    from transformers import PreTrainedModel


def has_adapter(model: nn.Module) -> bool:
    """Whether `model` is wrapped by peft, which nothing has imported where no job needs it."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def without_adapter(model: Any) -> Any:
    """The transformers model inside a peft wrapper, or the model itself; adapted layers stay adapted."""
    return model.get_base_model() if has_adapter(model) else model


def merged(model: Any) -> Any:
    """The model with its adapter added to its own weights; the wrapper is used up by that."""
    return model.merge_and_unload() if has_adapter(model) else model


def add_lora(model: PreTrainedModel, lora: Lora, *, seed: int, scalar_head: str | None = None) -> peft.PeftModel:
    """Wraps `model` so that only low-rank updates are trained; they start at zero effect and depend on `seed` alone.

    `scalar_head` names the module of a reward model's head, which is trained in full and saved with the adapter.
    Adapter weights are float32 whatever the model's dtype: their updates would be lost in bfloat16's 8 bits.
    Raises `ModelError` when `targetModules` matches no linear layer.
    """
    import peft

    options: dict[str, Any] = {}
    if scalar_head is not None:
        options = {"modules_to_save": [scalar_head], "task_type": peft.TaskType.SEQ_CLS}
    elif model.can_generate():
        options = {"task_type": peft.TaskType.CAUSAL_LM}
    configuration = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilized,
        target_modules=lora.target_modules or "all-linear",
        **options,
    )
    devices = [next(model.parameters()).device]
    with torch.random.fork_rng(devices=[device for device in devices if device.type == "cuda"]):
        torch.manual_seed(derive_seed(seed, "adapter"))
        try:
            return peft.get_peft_model(model, configuration, autocast_adapter_dtype=True)
        except ValueError as error:
            names = ", ".join(lora.target_modules or ["all linear layers"])
            raise ModelError(
                f"peft.lora.targetModules ({names}) does not fit {type(model).__name__}: {error}"
            ) from error


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within it the model computes what it computed before the adapter was added."""
    if not has_adapter(model):
        raise TypeError(f"{type(model).__name__} has no adapter")
    adapted: Any = model
    with adapted.disable_adapter():
        yield
