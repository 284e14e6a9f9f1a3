"""Seeds that follow from what they are for, and permutations that follow from seeds."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order, such as (seed, "order", epoch).

    Arithmetic on seeds (seed + step) makes different purposes collide; a digest does not.
    """
    digest = hashlib.sha256("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@lru_cache(maxsize=4)
def permutation(size: int, seed: int) -> torch.Tensor:
    """[size] int64: the numbers from 0 in an order that depends on `seed` alone. Do not change it in place."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
