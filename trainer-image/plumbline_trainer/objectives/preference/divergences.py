"""Implicit rewards under divergences other than the reverse KL (Wang et al. 2023, arXiv:2309.16240).

A policy that maximises E[r] - beta D_f(pi || pi_ref), D_f = E_ref[f(u)] with u = pi / pi_ref, satisfies
r(x, y) = beta f'(u(y)) + c(x) wherever pi > 0. In a pair c(x) cancels, so f'(u) takes the place of log u in DPO.
Constants that cancel are chosen so that f'(1) = 0. Near pi = pi_ref each reward is then f''(1) h with the log-ratio h:
f''(1) is 1, and 1/2 for Jensen-Shannon, where the same beta holds the policy half as strongly.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

LARGEST_EXPONENT = 30.0
"""Where an exponential is continued by its tangent. e^30 = 1e13 belongs to a completion whose probability fell to
1e-13 of the reference's; its square, which the gradient's norm needs, is still far from the limit of 32-bit floats."""


def reverse_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """f = u log u, f' = log u + 1: the log-ratio itself, of the same shape."""
    return log_ratio


def forward_kl(log_ratio: torch.Tensor) -> torch.Tensor:
    """f = -log u, f' = -1/u: 1 - e^-h."""
    return alpha_divergence(log_ratio, 1.0)


def jensen_shannon(log_ratio: torch.Tensor) -> torch.Tensor:
    """f = u log u - (u + 1) log((u + 1) / 2), f' = log(2u / (1 + u)): log 2 + log sigma(h), at most log 2."""
    return math.log(2) + logsigmoid(log_ratio)


def alpha_divergence(log_ratio: torch.Tensor, alpha: float) -> torch.Tensor:
    """f = (u^(1-a) - (1-a) u - a) / (a (a-1)), f' = (1 - u^-a) / a: (1 - e^(-a h)) / a, for 0 < a <= 1.

    TRL's coefficient for the same divergence is 1 - a.
    """
    exponent = -alpha * log_ratio
    return -_expm1(exponent) / alpha


def _expm1(exponent: torch.Tensor) -> torch.Tensor:
    """e^x - 1, and beyond `LARGEST_EXPONENT` its tangent there: convex, and its gradient does not vanish."""
    excess = torch.relu(exponent - LARGEST_EXPONENT)  # its slope at 0 is 0; that of a clamp is 1
    slope = torch.exp(exponent.new_tensor(LARGEST_EXPONENT))
    return torch.expm1(exponent.clamp(max=LARGEST_EXPONENT)) + slope * excess
