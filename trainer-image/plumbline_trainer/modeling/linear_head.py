"""Log-probabilities of chosen tokens under a linear head, and entropies, without ever holding all logits.

The vocabulary is worked through in blocks. Each block of logits is made, turned into softmax numerators in place and
summed up while it is still in the processor's cache. For the backward pass the numerators are kept where they fit a
budget, otherwise every block is made again: kept, a step costs the three matrix products that a linear layer costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

BLOCK = 2048
"""Vocabulary entries of one block."""

LOGIT_ELEMENTS = 2**26
"""Logits kept for the backward pass: 256 MiB in float32. Where there are more they are made again."""


class LinearHeadLogprobs(torch.autograd.Function):
    """log softmax(scale (h W^T + b))[target] and its gradients with respect to h, W and b.

    With p = softmax(z) and an incoming gradient g, the gradient of the logits is g (onehot(target) - p); it is formed
    block by block in the memory of the numerators.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: float,
        keep_elements: int,
    ) -> torch.Tensor:
        """`states` [N, H] and `weight` [V, H] of one dtype, `bias` [V] or None, `targets` [N] int64 -> [N] float32.

        At most `keep_elements` numerators are kept for the backward pass; 0 keeps none.
        """
        rows = states.shape[0]
        keep = rows * weight.shape[0] <= keep_elements
        blocks: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        chosen = torch.einsum("nh,nh->n", states.float(), weight[targets].float())
        if bias is not None:
            chosen = chosen + bias[targets].float()
        largest = torch.full((rows, 1), -torch.inf, device=states.device)
        total = torch.zeros((rows, 1), device=states.device)
        for start in range(0, weight.shape[0], BLOCK):
            numerators = _logits(states, weight, bias, scale, start)
            peak = numerators.amax(dim=1, keepdim=True)
            numerators.sub_(peak).exp_()
            higher = torch.maximum(largest, peak)
            total = total * (largest - higher).exp() + numerators.sum(dim=1, keepdim=True) * (peak - higher).exp()
            largest = higher
            if keep:
                blocks.append((numerators, peak))
        normalizer = largest + total.log()
        ctx.save_for_backward(states, weight, bias, targets, normalizer)
        ctx.blocks, ctx.scale = blocks, scale
        return scale * chosen - normalizer.squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        column = ctx.scale * gradient[:, None]
        return (*_input_gradients(ctx, column, _probabilities(ctx, -column)), None, None, None)


class LinearHeadEntropy(torch.autograd.Function):
    """As `LinearHeadLogprobs`, and with it the entropy -sum_v p_v log p_v of every distribution, in nats.

    A second output for the price of the first: both come from the same blocks. With incoming gradients g of the
    log-probability and e of the entropy H, the gradient of the logits is g (onehot(target) - p) - e p (log p + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        scale: float,
        keep_elements: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Arguments as in `LinearHeadLogprobs`; gives log-probabilities and entropies, both [N] float32.

        With z' = z - max z, S = sum e^z' and W = sum z' e^z': H = log S - W / S, two terms that are never negative.
        """
        rows = states.shape[0]
        keep = rows * weight.shape[0] <= keep_elements
        blocks: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        chosen = torch.einsum("nh,nh->n", states.float(), weight[targets].float())
        if bias is not None:
            chosen = chosen + bias[targets].float()
        least = torch.finfo(torch.float32).min
        largest = torch.full((rows, 1), least, device=states.device)
        total, weighted = torch.zeros((2, rows, 1), device=states.device)
        for start in range(0, weight.shape[0], BLOCK):
            below = _logits(states, weight, bias, scale, start)
            peak = below.amax(dim=1, keepdim=True)
            below.sub_(peak)
            numerators = below.exp()
            block_total = numerators.sum(dim=1, keepdim=True)
            block_weighted = torch.einsum("nv,nv->n", numerators, below)[:, None]
            higher = torch.maximum(largest, peak)
            weighted = _lowered(weighted, total, largest - higher) + _lowered(
                block_weighted, block_total, peak - higher
            )
            total = total * (largest - higher).exp() + block_total * (peak - higher).exp()
            largest = higher
            if keep:
                blocks.append((numerators, peak))
        normalizer = largest + total.log()
        entropy = total.log() - weighted / total
        ctx.save_for_backward(states, weight, bias, targets, normalizer, entropy)
        ctx.blocks, ctx.scale = blocks, scale
        return scale * chosen - normalizer.squeeze(1), entropy.squeeze(1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, entropy_gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        entropy = ctx.saved_tensors[5]
        column, of_entropy = ctx.scale * gradient[:, None], ctx.scale * entropy_gradient[:, None]
        shared = column + of_entropy * entropy
        ones = torch.ones_like(entropy)
        dense = (torch.xlogy(p, p).mul_(-of_entropy).addcmul_(p, shared, value=-1.0) for p in _probabilities(ctx, ones))
        return (*_input_gradients(ctx, column, dense), None, None, None)


def _lowered(weighted: torch.Tensor, total: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """sum (z + step) e^(z + step) from sum z e^z and sum e^z, for a `step` that is not positive; [N, 1] each.

    0 where the step is so far down that nothing is left.
    """
    factor = step.exp()
    return torch.where(factor > 0, factor * (weighted + step * total), 0.0)


def _probabilities(ctx: Any, factor: torch.Tensor) -> Iterator[torch.Tensor]:
    """[N, block] float32, block by block: the softmax times `factor` [N, 1], in memory that is the receiver's."""
    states, weight, bias, _, normalizer = ctx.saved_tensors[:5]
    blocks, ctx.blocks = ctx.blocks, []
    for index, start in enumerate(range(0, weight.shape[0], BLOCK)):
        if blocks:
            numerators, peak = blocks[index]
            blocks[index] = None  # so that its memory is free once this block is done
            yield numerators.mul_(factor * (peak - normalizer).exp())
        else:
            yield _logits(states, weight, bias, ctx.scale, start).sub_(normalizer).exp_().mul_(factor)


def _input_gradients(
    ctx: Any, column: torch.Tensor, dense: Iterator[torch.Tensor]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of states, weight and bias where the gradient of the unscaled logits is `dense`, block by block, plus
    `column` [N, 1] at the targets."""
    states, weight, bias, targets = ctx.saved_tensors[:4]
    wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    states_gradient = torch.zeros_like(states, dtype=torch.float32) if wants_states else None
    weight_gradient = torch.empty_like(weight) if wants_weight else None
    bias_gradient = torch.empty_like(bias) if wants_bias else None
    for start, block in zip(range(0, weight.shape[0], BLOCK), dense, strict=True):
        part = slice(start, start + BLOCK)
        logit_gradient = block.to(weight.dtype)
        if states_gradient is not None:
            states_gradient.add_(logit_gradient @ weight[part])
        if weight_gradient is not None:
            torch.mm(logit_gradient.T, states, out=weight_gradient[part])
        if bias_gradient is not None:
            bias_gradient[part] = logit_gradient.sum(dim=0)
    if states_gradient is not None:
        states_gradient.addcmul_(column, weight[targets].float())
        states_gradient = states_gradient.to(states.dtype)
    column = column.to(weight.dtype)
    if weight_gradient is not None:
        weight_gradient.index_add_(0, targets, column * states)
    if bias_gradient is not None:
        bias_gradient.index_add_(0, targets, column.squeeze(1))
    return states_gradient, weight_gradient, bias_gradient


def _logits(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: float, start: int
) -> torch.Tensor:
    """[N, block] float32: the scaled logits of the vocabulary entries from `start` on."""
    part = slice(start, start + BLOCK)
    product = states @ weight[part].T if bias is None else torch.addmm(bias[part], states, weight[part].T)
    logits = product.float()
    return logits if scale == 1.0 else logits.mul_(scale)
