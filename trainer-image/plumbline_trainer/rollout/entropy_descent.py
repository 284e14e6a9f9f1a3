"""Logits of the next token made surer before a token is drawn, without any change of the model.

EM-INF (Agarwal et al. 2025, arXiv:2505.15134) moves the logits z down the gradient of H(softmax(z)) until the entropy
is at a floor. With p = softmax(z): dH/dz_i = -p_i (log p_i + H).
"""

from __future__ import annotations

import torch
from torch import Tensor

_BISECTIONS = 20


def lower_entropy(logits: Tensor, floor: float, *, rate: float = 0.1, most_steps: int = 10) -> Tensor:
    """Logits [R, V] whose rows have less entropy than before, but at least `floor` nats, where theirs was above that.

    At most `most_steps` steps of gradient descent with the learning rate `rate`; a row ends at `floor` (to 2^-20 of its
    last step) once a step crosses it. Rows at or below the floor stay as they are. The likeliest token stays the
    likeliest: its log p + H is not negative, and where x (log x + H) is not negative it rises with x, so no token gains
    more. Computed in float32. Raises `ValueError` for a negative floor, a rate that is not positive, or fewer than one
    step.
    """
    if floor < 0 or rate <= 0 or most_steps < 1:
        raise ValueError("the floor must not be negative, the rate must be positive, and there must be a step")
    present = logits.float().clone()
    open_rows = entropy_of(present) > floor
    for _ in range(most_steps):
        rows = open_rows.nonzero()[:, 0]
        if not len(rows):
            break
        before = present[rows]
        after = before - rate * entropy_gradient(before)
        crossed = entropy_of(after) <= floor
        after[crossed] = _at_floor(before[crossed], after[crossed], floor)
        present[rows] = after
        open_rows[rows[crossed]] = False
    return present.to(logits.dtype)


def entropy_of(logits: Tensor) -> Tensor:
    """[R] entropy in nats of softmax(`logits` [R, V]); tokens at minus infinity add nothing."""
    logprobs = logits.log_softmax(dim=-1)
    return -torch.where(logprobs.isneginf(), 0.0, logprobs.exp() * logprobs).sum(dim=-1)


def entropy_gradient(logits: Tensor) -> Tensor:
    """[R, V] derivative of the entropy by the logits; 0 at minus infinity."""
    logprobs = logits.log_softmax(dim=-1)
    inner = logprobs.exp() * (logprobs + entropy_of(logits)[:, None])
    return -torch.where(logprobs.isneginf(), 0.0, inner)


def _at_floor(above: Tensor, below: Tensor, floor: float) -> Tensor:
    """The point between `above` and `below` whose entropy is `floor`, on the side of `above`."""
    # masked tokens are minus infinity in both, and infinity times 0 is no number
    difference = torch.where(above.isneginf(), 0.0, below - above)
    low, high = torch.zeros(len(above), 1), torch.ones(len(above), 1)
    low, high = low.to(above), high.to(above)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        over = (entropy_of(above + middle * difference) >= floor)[:, None]
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return above + low * difference
