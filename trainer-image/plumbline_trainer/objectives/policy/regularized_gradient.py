"""Gradients of an expected advantage less a divergence, estimated from samples of an older policy.

With samples y of mu (the policy before the rollout's updates), w = pi(y) / mu(y), a reference nu and u = nu(y) / mu(y),
each objective J(pi) = E_pi[A] - beta D and its gradient as an expectation under mu are

    reverse KL          D = sum pi log(pi/nu)             grad J = E_mu[ w (A - beta log(pi/nu) - beta) grad log pi ]
    unnormalized        D = sum pi log(pi/nu) - pi + nu   grad J = E_mu[ w (A - beta log(pi/nu)) grad log pi ]
    forward KL          D = sum nu log(nu/pi)             grad J = E_mu[ (w A + beta u) grad log pi ]
    unnormalized        D = sum nu log(nu/pi) - nu + pi   grad J = E_mu[ (w A - beta (w - u)) grad log pi ]

since grad pi = pi grad log pi, E_pi[f] = E_mu[w f] and E_nu[f] = E_mu[u f]. The two forms of a direction differ by a
multiple of E_mu[w grad log pi] = grad sum pi = 0, a control variate. For nu = mu the ratio u is 1 and the unnormalized
forward divergence is the mean of w - 1 - log w, Schulman's k3. Differentiable losses whose gradients are the same,
sample by sample:

    reverse  -w A + beta w log(pi/nu)             unnormalized  -w A + beta (w log(pi/nu) - w + u)
    forward  -w A - beta u log(pi/nu)             unnormalized  -w A + beta (w - u - u log(pi/nu))

GRPO's k3 term lacks the factor w, so its gradient is that of no divergence once the policy has moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.regularized_gradient import RegularizedGradient, Rpg, RpgReference
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric

_MOST_LOG_RATIO = 20.0
"""Ratios are cut off at e^20: beyond it 32-bit products of them overflow, and the gradient is noise long before."""


@implements(Rpg)
def rpg(parameters: Rpg, tokens: PolicyTokens) -> TokenLosses:
    """The forms of the module's table with nu = mu (Zhang et al. 2025, arXiv:2505.17508, tables 1 and 2)."""
    return _regularized(parameters, tokens, tokens.log_ratio, torch.zeros_like(tokens.log_ratio))


@implements(RpgReference)
def rpg_reference(parameters: RpgReference, tokens: PolicyTokens) -> TokenLosses:
    """The forms of the module's table with the frozen reference as nu. Raises `ValueError` without its likelihoods."""
    if tokens.reference_logprobs is None:
        raise ValueError("rpgReference needs log-probabilities of the reference")
    old = tokens.logprobs.detach() if tokens.old_logprobs is None else tokens.old_logprobs
    to_reference = torch.where(tokens.mask, tokens.logprobs - tokens.reference_logprobs, 0.0)
    return _regularized(
        parameters, tokens, to_reference, torch.where(tokens.mask, tokens.reference_logprobs - old, 0.0)
    )


def _regularized(
    parameters: RegularizedGradient, tokens: PolicyTokens, to_reference: Tensor, log_u: Tensor
) -> TokenLosses:
    """`to_reference` is log(pi/nu) and `log_u` log(nu/mu), [B, T], both 0 outside the mask."""
    mask, log_w = tokens.mask, tokens.log_ratio
    logprobs, advantages = torch.where(mask, tokens.logprobs, 0.0), torch.where(mask, tokens.advantages, 0.0)
    if parameters.level == "sequence":
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
        advantages = (advantages.sum(dim=1, keepdim=True) / lengths).expand(mask.shape)
        log_w, log_u, to_reference, logprobs = (
            values.sum(dim=1, keepdim=True).expand(mask.shape) for values in (log_w, log_u, to_reference, logprobs)
        )
    w, u = log_w.clamp(max=_MOST_LOG_RATIO).exp(), log_u.clamp(max=_MOST_LOG_RATIO).exp()
    if parameters.estimator == "reinforce":
        losses = -_weight(parameters, w.detach(), u, to_reference.detach(), advantages) * logprobs
    else:
        losses = parameters.coefficient * _divergence(parameters, w, u, to_reference) - w * advantages
    estimate = _divergence(parameters, w, u, to_reference)
    metrics = {
        "ratio": Metric.mean_of(w, mask),
        "divergence": Metric.mean_of(torch.where(mask, estimate, 0.0), mask),
    }
    return torch.where(mask, losses, 0.0), metrics


def _divergence(parameters: RegularizedGradient, w: Tensor, u: Tensor, to_reference: Tensor) -> Tensor:
    """The divergence's differentiable estimate from each sample of mu."""
    if parameters.divergence == "reverse":
        return w * to_reference - (0.0 if parameters.normalized else w - u)
    return (0.0 if parameters.normalized else w - u) - u * to_reference


def _weight(parameters: RegularizedGradient, w: Tensor, u: Tensor, to_reference: Tensor, advantages: Tensor) -> Tensor:
    """What log-likelihoods are weighted with, without gradient; the ratio is clipped first where that is asked for."""
    low = None if parameters.clip_low is None else 1 - parameters.clip_low
    high = None if parameters.clip_high is None else 1 + parameters.clip_high
    w = w if low is None and high is None else w.clamp(low, high)
    beta = parameters.coefficient
    if parameters.divergence == "reverse":
        return w * (advantages - beta * to_reference - (beta if parameters.normalized else 0.0))
    return w * advantages + beta * (u if parameters.normalized else u - w)
