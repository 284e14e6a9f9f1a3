"""The smallest number of arithmetic operations of a DPO step, and where the time of a measured step went. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.measurement import ProfiledOperation
from bench.workload import ModelShape, PairLengths

PASSES = 3
"""Forward, gradient of the inputs, gradient of the weights: each costs what the first one costs."""


@dataclass(frozen=True)
class ForwardOperations:
    """Floating-point operations of one forward pass; a training step has `PASSES` times as many.

    Two operations a parameter and token, which gives the usual 6 in a training step. Prompts are counted once a pair,
    the head at completion tokens only, and attention for the keys that a query may see only.
    """

    layers: float
    head: float
    attention: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.layers + self.head + self.attention


def forward_operations(shape: ModelShape, pairs: Iterable[PairLengths]) -> ForwardOperations:
    """The operations of one forward pass over `pairs`."""
    tokens = scored = seen = 0
    for pair in pairs:
        tokens += pair.prompt + pair.chosen + pair.rejected
        scored += pair.chosen + pair.rejected
        seen += _triangle(pair.prompt)
        seen += sum(part * pair.prompt + _triangle(part) for part in (pair.chosen, pair.rejected))
    # scores and weighted sum: two products of a multiplication and an addition for each feature of each head
    attention = 4.0 * shape.layers * shape.heads * shape.head_size * seen
    return ForwardOperations(2.0 * shape.matrix_parameters * tokens, 2.0 * shape.head_parameters * scored, attention)


def _triangle(length: int) -> int:
    """Keys that the queries of a causal sequence see, summed."""
    return length * (length + 1) // 2


LAYERS = "matrix products of the layers"
HEAD = "matrix products of the head"
SOFTMAX = "rest of the head: softmax"
ATTENTION = "attention"
ELEMENTWISE = "element by element, norms, copies"
OPTIMIZER = "optimizer and clipping"
REST = "Python, autograd, data"
CLASSES = (LAYERS, HEAD, SOFTMAX, ATTENTION, ELEMENTWISE, OPTIMIZER, REST)

_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::matmul", "aten::linear", "mkldnn::_linear_pointwise"})
_BATCHED_PRODUCTS = frozenset({"aten::bmm", "aten::baddbmm"})
_SOFTMAXES = frozenset({"aten::logsumexp", "aten::nll_loss_forward", "aten::nll_loss_backward", "aten::_log_softmax"})


def classify(operation: ProfiledOperation, vocabulary: int) -> str:
    """The class of an operator, by its name, its inputs' shapes and where it was called.

    What has a dimension as large as the vocabulary belongs to the head wherever it was called: its products, or the
    softmax over its result. Products in batches are attention's, as layers and head multiply two matrices.
    """
    name = operation.name
    if not name.startswith(("aten::", "mkldnn::")):
        return OPTIMIZER if "optimizer" in name.lower() else REST
    if "_fused_adam" in name or "_foreach_" in name or "_fused_sgd" in name:
        return OPTIMIZER
    if "attention" in name or name in _BATCHED_PRODUCTS:
        return ATTENTION
    shapes = list(_dimensions(operation.shapes))
    if name in _PRODUCTS:
        wide = any(vocabulary in (shape[0], shape[-1]) for shape in shapes)
        return HEAD if operation.in_head or wide else LAYERS
    if operation.in_head or name in _SOFTMAXES or any(shape[-1] == vocabulary for shape in shapes):
        return SOFTMAX
    return ELEMENTWISE


def breakdown(profile: Sequence[ProfiledOperation], vocabulary: int, step_seconds: float) -> dict[str, float]:
    """Seconds of a profiled step by class; what no operator accounts for is the rest."""
    seconds = dict.fromkeys(CLASSES, 0.0)
    for operation in profile:
        seconds[classify(operation, vocabulary)] += operation.cpu_seconds
    seconds[REST] += max(0.0, step_seconds - sum(seconds.values()))
    return seconds


def _dimensions(shapes: Sequence[Any]) -> Iterable[list[int]]:
    """The shapes of the inputs that are tensors; the profiler gives lists of tensors as nested lists."""
    for shape in shapes:
        if isinstance(shape, list) and shape:
            if isinstance(shape[0], list):
                yield from _dimensions(shape)
            else:
                yield shape
