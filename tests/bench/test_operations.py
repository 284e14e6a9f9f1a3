"""Operations of a step by counting, and operators of a profile by class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.floor import Products, floor_of
from bench.measurement import ProfiledOperation
from bench.operations import (
    ATTENTION,
    ELEMENTWISE,
    HEAD,
    LAYERS,
    OPTIMIZER,
    REST,
    SOFTMAX,
    breakdown,
    classify,
    forward_operations,
)
from bench.workload import ModelShape, PairLengths

SHAPE = ModelShape(layers=3, hidden=8, intermediate=16, heads=2, key_value_heads=1, vocabulary=100)


def test_a_forward_pass_by_counting() -> None:
    pair = PairLengths(prompt=5, chosen=2, rejected=3)
    counted = forward_operations(SHAPE, [pair])
    layer = 8 * 8 * 2 + 8 * 4 * 2 + 8 * 16 * 3
    assert counted.layers == 2 * 3 * layer * 10
    assert counted.head == 2 * 100 * 8 * 5
    # one row [prompt, chosen, rejected]: a query sees what is before it in its own branch, and the prompt
    branch = torch.tensor([0] * 5 + [1] * 2 + [2] * 3)
    causal = torch.ones(10, 10, dtype=torch.bool).tril()
    seen = int((causal & ((branch[:, None] == branch) | (branch == 0))).sum())
    assert counted.attention == 3 * 2 * (2 * 2 * 4) * seen


def test_pairs_add_up() -> None:
    pairs = [PairLengths(5, 2, 3), PairLengths(4, 1, 7)]
    whole, parts = forward_operations(SHAPE, pairs), [forward_operations(SHAPE, [pair]) for pair in pairs]
    assert whole.total == sum(part.total for part in parts)


def test_the_floor_has_every_product_once_and_attention_at_the_best_rate() -> None:
    products = Products(forward=1.0, backward=2.0, operations=9e9, best_rate=4e9)
    floor = floor_of(products, attention=2e9)
    assert floor.update == 1.0 + 2.0 + 3 * 0.5
    assert floor.reference == 1.0 + 0.5
    assert products.rate == 3e9


def operation(name: str, *shapes: Any, seconds: float = 1.0, in_head: bool = False) -> ProfiledOperation:
    return ProfiledOperation(name, list(shapes), 1, seconds, in_head)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (operation("aten::mm", [50, 8], [8, 16]), LAYERS),
        (operation("aten::addmm", [8], [50, 8], [8, 8]), LAYERS),
        (operation("aten::mm", [50, 8], [8, 100]), HEAD),
        (operation("aten::mm", [100, 50], [50, 8]), HEAD),
        (operation("aten::mm", [50, 100], [100, 8]), HEAD),
        (operation("aten::mm", [50, 8], [8, 16], in_head=True), HEAD),
        (operation("aten::exp_", [50, 16], in_head=True), SOFTMAX),
        (operation("aten::_log_softmax", [50, 100]), SOFTMAX),
        (operation("aten::exp", [50, 100]), SOFTMAX),
        (operation("aten::logsumexp", [50, 100], [], []), SOFTMAX),
        (operation("aten::bmm", [4, 10, 4], [4, 4, 10]), ATTENTION),
        (operation("aten::_scaled_dot_product_flash_attention_for_cpu_backward", [1, 2, 10, 4]), ATTENTION),
        (operation("aten::mul", [1, 10, 8], [8]), ELEMENTWISE),
        (operation("aten::cat", [[1, 10, 8], [1, 10, 8]], []), ELEMENTWISE),
        (operation("aten::_fused_adamw_", [[100, 8]], [[100, 8]]), OPTIMIZER),
        (operation("aten::_foreach_norm", [[100, 8]]), OPTIMIZER),
        (operation("Optimizer.step#AdamW.step"), OPTIMIZER),
        (operation("autograd::engine::evaluate_function: MmBackward0"), REST),
    ],
)
def test_operators_by_class(found: ProfiledOperation, expected: str) -> None:
    assert classify(found, vocabulary=100) == expected


def test_a_breakdown_accounts_for_the_whole_step() -> None:
    profile = [operation("aten::mm", [50, 8], [8, 16], seconds=2.0), operation("aten::mul", [9], seconds=1.0)]
    parts = breakdown(profile, 100, step_seconds=5.0)
    assert (parts[LAYERS], parts[ELEMENTWISE], parts[REST]) == (2.0, 1.0, 2.0)
    assert sum(parts.values()) == 5.0
