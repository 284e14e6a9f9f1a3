"""The probability of everything else, from a log-probability."""

from __future__ import annotations

import math

import torch


def log_complement(logprob: torch.Tensor) -> torch.Tensor:
    """log(1 - e^x) for log-probabilities x <= 0, of any shape, with gradient.

    Exact at both ends: log(-expm1(x)) where e^x is above one half and log1p(-e^x) below (Maechler 2012, "Accurately
    computing log(1 - exp(-|a|))"). A probability of one, which rounding produces, counts as one rounding step below
    one, with that point's gradient, so that value and gradient stay finite and still point away from it.
    """
    below_one = logprob + (logprob.clamp(max=-torch.finfo(logprob.dtype).eps) - logprob).detach()
    likely = below_one > -math.log(2)
    # Each branch gets an argument at which its derivative is finite: `where` multiplies the other's by zero.
    from_likely = torch.log(-torch.expm1(torch.where(likely, below_one, -1.0)))
    from_unlikely = torch.log1p(-torch.exp(torch.where(likely, -1.0, below_one)))
    return torch.where(likely, from_likely, from_unlikely)
