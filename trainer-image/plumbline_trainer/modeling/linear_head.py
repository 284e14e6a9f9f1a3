"""Log-probabilities of chosen tokens under a linear head, without ever holding all logits.

The vocabulary is worked through in blocks. Each block of logits is made, turned into softmax numerators in place and
summed up while it is still in the processor's cache. For the backward pass the numerators are kept where they fit a
budget, otherwise every block is made again: kept, a step costs the three matrix products that a linear layer costs.
"""

from __future__ import annotations

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
        states, weight, bias, targets, normalizer = ctx.saved_tensors
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        column = ctx.scale * gradient[:, None]
        states_gradient = torch.zeros_like(states, dtype=torch.float32) if wants_states else None
        weight_gradient = torch.empty_like(weight) if wants_weight else None
        bias_gradient = torch.empty_like(bias) if wants_bias else None
        blocks, ctx.blocks = ctx.blocks, []
        for index, start in enumerate(range(0, weight.shape[0], BLOCK)):
            if blocks:
                numerators, peak = blocks[index]
                blocks[index] = None  # so that its memory is free once this block is done
                numerators.mul_(-column * (peak - normalizer).exp())
            else:
                numerators = _logits(states, weight, bias, ctx.scale, start).sub_(normalizer).exp_().mul_(-column)
            part = slice(start, start + BLOCK)
            logit_gradient = numerators.to(weight.dtype)
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
        return states_gradient, weight_gradient, bias_gradient, None, None, None


def _logits(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: float, start: int
) -> torch.Tensor:
    """[N, block] float32: the scaled logits of the vocabulary entries from `start` on."""
    part = slice(start, start + BLOCK)
    product = states @ weight[part].T if bias is None else torch.addmm(bias[part], states, weight[part].T)
    logits = product.float()
    return logits if scale == 1.0 else logits.mul_(scale)
