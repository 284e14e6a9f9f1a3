"""From logits to the next token, with random numbers that belong to a row and not to a batch.

The random number of a token is a pure function of (seed, purpose, step, prompt, sample, position), computed by
Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").
Nothing is drawn from a stream that rows share: a completion is the same whichever rows are generated beside it, in
whatever order, on however many ranks, and after any interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from plumbline_api.methods.sampling import Sampling

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


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
    `choose` needs.
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


def choose(logits: Tensor, sampling: Sampling | None, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next token of every row and its log-probability.

    `logits` is [B, V], `uniform` float64 [B] in [0, 1). Without `sampling` the most likely token is taken (greedy).
    The log-probability [B] (float32) is that of the whole distribution at the sampling temperature, not renormalised
    after top-k and top-p: it is what the trainer computes for the same token, so the importance ratio of a fresh
    completion is 1. Truncation order is top-k, then top-p within it, as in `transformers`.
    """
    logits = logits.float()
    if sampling is None:
        tokens = logits.argmax(dim=-1)
        return tokens, _log_probability(logits, tokens)
    assert uniform is not None, "sampling needs a uniform number for every row"
    logits = logits / sampling.temperature
    if sampling.top_k is None and sampling.top_p == 1.0:
        tokens = _invert(logits.softmax(dim=-1, dtype=torch.float64), uniform)
        return tokens, _log_probability(logits, tokens)
    kept = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    top_logits, top_tokens = logits.topk(kept, dim=-1, sorted=True)
    probabilities = top_logits.softmax(dim=-1, dtype=torch.float64)
    before = probabilities.cumsum(dim=-1) - probabilities
    nucleus = before < sampling.top_p
    nucleus[:, 0] = True
    rank = _invert(probabilities * nucleus, uniform)
    tokens = top_tokens.gather(-1, rank[:, None]).squeeze(-1)
    return tokens, _log_probability(logits, tokens)


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: [B, V] float64, [B] -> index [B]; never one of probability 0.

    Where probabilities are NaN the search finds nothing; the last index then stands in, and the token's
    log-probability, NaN itself, tells of it.
    """
    cumulative = probabilities.cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return found.clamp(max=probabilities.shape[-1] - 1)


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(dim=-1)
