"""Optimizers: the API's parameters -> an optimizer of torch over named parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from plumbline_api.methods.optimization import AdamW, Optimizer, Sgd
from plumbline_trainer.registry import Registry

NamedParameters = Sequence[tuple[str, torch.nn.Parameter]]
Builder = Callable[[Any, NamedParameters], torch.optim.Optimizer]

OPTIMIZERS: Registry[Builder] = Registry(Optimizer)


def build_optimizer(choice: Optimizer, parameters: NamedParameters) -> torch.optim.Optimizer:
    """The optimizer over `parameters`, at its peak learning rate; `choice` is the member that is set."""
    return OPTIMIZERS.of(choice)(choice, parameters)


@OPTIMIZERS.implements(AdamW)
def adamw(choice: AdamW, parameters: NamedParameters) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only: biases and the gains of norms are vectors and exempt."""
    matrices = [parameter for _, parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for _, parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": choice.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=choice.learning_rate,
        betas=(choice.beta1, choice.beta2),
        eps=choice.epsilon,
        fused=True,
    )


@OPTIMIZERS.implements(Sgd)
def sgd(choice: Sgd, parameters: NamedParameters) -> torch.optim.Optimizer:
    """SGD; weight decay is added to the gradient of every parameter."""
    return torch.optim.SGD(
        [parameter for _, parameter in parameters],
        lr=choice.learning_rate,
        momentum=choice.momentum,
        nesterov=choice.nesterov,
        weight_decay=choice.weight_decay,
        fused=True,
    )
