"""torch.compile for the parts of a transformer that do not depend on how rows are laid out."""

from __future__ import annotations

from torch import nn

from plumbline_trainer.failures import ConfigError
from plumbline_trainer.modeling.adapters import without_adapter


def compile_layers(model: nn.Module) -> None:
    """Compiles every layer's children but its attention, and what follows the layers, for any number of tokens.

    Attention stays as it is: its shapes are those of the rows and change in every pass. Parameters keep their names.
    Raises `ConfigError` where the architecture has no list of layers.
    """
    inner = without_adapter(model)
    body = getattr(inner, inner.base_model_prefix)
    layers = next((child for child in body.children() if isinstance(child, nn.ModuleList)), None)
    if layers is None:
        raise ConfigError(f"training.compile: {type(inner).__name__} has no list of layers to compile")
    for layer in layers:
        for name, child in layer.named_children():
            if "attn" not in name and "attention" not in name:
                child.compile(dynamic=True)
