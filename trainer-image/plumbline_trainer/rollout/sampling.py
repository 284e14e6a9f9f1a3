"""From logits to the next token, with random numbers that belong to a row and not to a batch.

The random number of a token is a pure function of (seed, purpose, step, prompt, sample, position), computed by
Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").
Nothing is drawn from a stream that rows share: a completion is the same whichever rows are generated beside it, in
whatever order, on however many ranks, and after any interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from plumbline_api.methods.sampling import EntropyDescent, Sampling
from plumbline_trainer.rollout.entropy_descent import lower_entropy

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

_BLOCKS = (*range(160, 257), *range(159, 63, -1), *range(257, 513))
"""Sizes of a block of the vocabulary in the order in which they are tried: near the square root of its size."""

_NUCLEUS_TRIES = (64, 1024)
"""So many of the most likely tokens are sorted first, in the hope that they hold the nucleus."""


@dataclass(frozen=True)
class Stream:
    """The random numbers of one completion. Every part is an unsigned 32-bit number, `purpose` a name."""

    seed: int
    purpose: str
    step: int
    prompt: int
    sample: int


def uniforms(streams: Sequence[Stream], positions: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) with 52 bits: float64 [rows, columns] for int positions [rows, columns].

    One below 1 is never rounded up to it: `u * total < total` holds for every positive float64 `total`, which
    `draw` needs.
    """
    key = (
        _column([stream.seed for stream in streams]),
        _column([crc32(stream.purpose.encode()) for stream in streams]),
    )
    counter = np.broadcast_arrays(
        positions.astype(np.uint64),
        _column([stream.sample for stream in streams]),
        _column([stream.prompt for stream in streams]),
        _column([stream.step for stream in streams]),
    )
    words = philox(counter, key)
    bits = (words[0] << np.uint64(20)) | (words[1] >> np.uint64(12))
    return bits.astype(np.float64) * 2.0**-52


def philox(counter: Sequence[np.ndarray], key: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Philox4x32-10: four counter words and two key words (uint64 arrays of 32-bit values) -> four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for round_number in range(_ROUNDS):
        bump0 = np.uint64(_KEY_INCREMENTS[0] * round_number & 0xFFFFFFFF)
        bump1 = np.uint64(_KEY_INCREMENTS[1] * round_number & 0xFFFFFFFF)
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _32) ^ c1 ^ ((k0 + bump0) & _LOW_32),
            product1 & _LOW_32,
            (product0 >> _32) ^ c3 ^ ((k1 + bump1) & _LOW_32),
            product0 & _LOW_32,
        )
    return [c0, c1, c2, c3]


def _column(values: Sequence[int]) -> np.ndarray:
    return np.asarray(values, dtype=np.uint64)[:, None]


def choose(
    logits: Tensor, sampling: Sampling | None, uniform: Tensor | None, scores: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The next token of every row and its log-probability.

    `logits` is [B, V], `uniform` float64 [B] in [0, 1). Without `sampling` the most likely token is taken (greedy).
    `scores` [B, V] are what to choose by where something was changed about the logits: a penalty, tokens that are not
    allowed (-inf).

    The log-probability [B] (float32) is that of the model's own distribution at the sampling temperature, with nothing
    changed about the logits and not renormalised after truncation: it is what the trainer computes for the same token,
    so the importance ratio of a fresh completion is 1. Truncation order is top-k, then top-p within it, then min-p, as
    in `transformers`; of tokens that are equally likely all are kept or none.

    Only the descent of entropy, which leaves every token possible, is part of the log-probability: with it the ratio of
    policy to sampler is what an off-policy correction needs.
    """
    logits = logits.float()
    if sampling is None:
        tokens = (logits if scores is None else scores).argmax(dim=-1)
        return tokens, _log_probability(logits, tokens)
    assert uniform is not None, "sampling needs a uniform number for every row"
    if sampling.temperature != 1.0:
        logits = logits / sampling.temperature
    logits = _surer(logits, sampling.entropy_descent)
    if scores is None:
        probabilities = logits.softmax(dim=-1)
        tokens = draw(truncated(probabilities, sampling), uniform)
        # a token that was drawn from them has a probability above 0, so its logarithm is as good as any
        return tokens, probabilities.gather(-1, tokens[:, None]).squeeze(-1).log()
    changed = _surer(scores.float() / sampling.temperature, sampling.entropy_descent).softmax(dim=-1)
    tokens = draw(truncated(changed, sampling), uniform)
    return tokens, _log_probability(logits, tokens)


def _surer(logits: Tensor, descent: EntropyDescent | None) -> Tensor:
    if descent is None:
        return logits
    return lower_entropy(logits, descent.floor, rate=descent.learning_rate, most_steps=descent.max_steps)


def truncated(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """`probabilities` [B, V] with 0 in place of those that top-k, top-p and min-p leave out; not renormalised.

    Each of the three keeps the tokens above a bound that depends on the row alone.
    """
    bounds: list[Tensor] = []
    size = probabilities.shape[-1]
    kept = None if sampling.top_k is None or sampling.top_k >= size else sampling.top_k
    if kept is not None:
        highest = probabilities.topk(kept, dim=-1).values
        bounds.append(highest[:, -1:])
        if sampling.top_p < 1.0:
            bounds.append(_nucleus_bound(highest, highest.sum(-1, dtype=torch.float64), sampling.top_p))
    elif sampling.top_p < 1.0:
        bounds.append(_whole_nucleus_bound(probabilities, sampling.top_p))
    if sampling.min_p > 0.0:
        bounds.append(sampling.min_p * probabilities.amax(dim=-1, keepdim=True))
    if not bounds:
        return probabilities
    bound = bounds[0]
    for other in bounds[1:]:
        bound = torch.maximum(bound, other)
    return probabilities.masked_fill(probabilities < bound, 0.0)


def _whole_nucleus_bound(probabilities: Tensor, top_p: float) -> Tensor:
    """Lowest probability [B, 1] within the nucleus of each row.

    Most rows need only their most likely tokens sorted; the others are sorted as a whole.
    """
    total = probabilities.sum(-1, dtype=torch.float64)
    bound = torch.empty_like(probabilities[:, :1])
    rows = torch.arange(len(probabilities), device=probabilities.device)
    for count in (*(some for some in _NUCLEUS_TRIES if some < probabilities.shape[-1]), probabilities.shape[-1]):
        highest = probabilities[rows].topk(count, dim=-1).values
        bound[rows] = _nucleus_bound(highest, total[rows], top_p)
        rows = rows[highest.sum(-1, dtype=torch.float64) < top_p * total[rows]]
        if not len(rows):
            break
    return bound


def _nucleus_bound(highest: Tensor, total: Tensor, top_p: float) -> Tensor:
    """The same [B, 1] from probabilities in falling order [B, K] and the mass [B] that `top_p` is a share of."""
    before = highest.cumsum(dim=-1, dtype=torch.float64) - highest
    inside = (before < top_p * total[:, None]).sum(dim=-1, keepdim=True).clamp(min=1)
    return highest.gather(-1, inside - 1)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: float32 [B, V], float64 [B] in [0, 1) -> token [B], never of weight 0.

    Weights need not sum to 1. The vocabulary is summed block by block, and only one block a row is looked into: a
    cumulative sum over all of it would cost several times what the softmax does. The probability of a token is its
    weight's share up to float32 rounding.

    Where weights are NaN the search finds nothing; some index then stands in, and the token's log-probability, NaN
    itself, tells of it.
    """
    block = _block_size(weights.shape[-1])
    missing = -weights.shape[-1] % block
    blocks = (pad(weights, (0, missing)) if missing else weights).unflatten(-1, (-1, block))
    sums = blocks.sum(dim=-1).double()
    cumulative = sums.cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    chosen = _first_above(cumulative, target)
    inside = blocks.gather(1, chosen[:, :, None].expand(-1, 1, block)).squeeze(1).cumsum(dim=-1, dtype=torch.float64)
    before = cumulative.gather(-1, chosen) - sums.gather(-1, chosen)
    # the float32 sum of the block and the float64 one differ in their last bits
    rest = (target - before) * (inside[:, -1:] / sums.gather(-1, chosen))
    return (chosen * block + _first_above(inside, rest)).squeeze(-1)


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """First index [B, 1] at which `cumulative` [B, N] exceeds `target` [B, 1]; at most the last one where it grows."""
    found = torch.searchsorted(cumulative, target, right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return torch.minimum(found, last).clamp(max=cumulative.shape[-1] - 1)


@cache
def _block_size(size: int) -> int:
    """Entries of a block: a divisor of `size` where there is one of a good size, else 256."""
    if size <= _BLOCKS[-1]:
        return size
    return next((block for block in _BLOCKS if size % block == 0), 256)


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)
