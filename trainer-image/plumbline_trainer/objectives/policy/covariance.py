"""Objectives that keep entropy up by restraining the tokens that lower it most.

To first order, a step of policy gradient changes the policy's entropy by minus the covariance of log-probability and
advantage (Cui et al. 2025, arXiv:2505.22617): likely tokens with a high advantage cost entropy. Both objectives
pick such tokens by (A - mean A) (l - mean l), over all tokens of the rollout and with the sampler's log-probabilities,
so that the choice depends neither on the split nor on the rank. The paper picks anew in every micro-batch, by the
log-probabilities of the update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.covariance import ClipCov, KlCov
from plumbline_trainer.data.seeds import derive_seed
from plumbline_trainer.objectives.policy.clipped import clipped_ratio
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout

RESTRAINED = "restrained"
"""Name of the prepared tensor: [N, T] float32, 1 at the tokens picked."""


@implements(ClipCov)
def clip_cov(parameters: ClipCov, tokens: PolicyTokens) -> TokenLosses:
    """The clipped surrogate, 0 and without gradient at the tokens picked (Clip-Cov)."""
    losses, metrics = clipped_ratio(parameters, tokens)
    restrained = tokens.prepared_as(RESTRAINED)
    return losses * (1 - restrained), {**metrics, "restrained_share": Metric.mean_of(restrained, tokens.mask)}


@implements(KlCov)
def kl_cov(parameters: KlCov, tokens: PolicyTokens) -> TokenLosses:
    """-r A, plus coefficient |log r| at the tokens picked (KL-Cov).

    The absolute log-ratio stands for the divergence from the policy before the updates; it has no gradient in the first
    of them, where every ratio is 1.
    """
    restrained = tokens.prepared_as(RESTRAINED)
    log_ratio = tokens.log_ratio
    losses = -tokens.ratio * tokens.inside(tokens.advantages) + parameters.coefficient * restrained * log_ratio.abs()
    return tokens.inside(losses), {
        "ratio": Metric.mean_of(tokens.ratio, tokens.mask),
        "restrained_share": Metric.mean_of(restrained, tokens.mask),
    }


@PREPARATIONS.implements(ClipCov)
def drawn_between(parameters: ClipCov, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """As many tokens as `share` says, drawn without replacement from those with a covariance between the bounds.

    All of them where there are fewer. The draw depends on the rollout's step and on nothing else.
    """
    covariance, mask = token_covariance(rollout, advantages)
    between = mask & (covariance > parameters.covariance_low) & (covariance < parameters.covariance_high)
    candidates = between.flatten().nonzero().squeeze(1)
    seed = derive_seed("tokens without gradient", rollout.step)
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    return {RESTRAINED: _at(candidates[order[: _count(parameters.share, mask)]], mask)}


@PREPARATIONS.implements(KlCov)
def highest(parameters: KlCov, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """As many tokens as `share` says, those of the highest covariance; of equal ones the first."""
    covariance, mask = token_covariance(rollout, advantages)
    ranked = covariance.where(mask, -torch.inf).flatten().argsort(descending=True, stable=True)
    return {RESTRAINED: _at(ranked[: _count(parameters.share, mask)], mask)}


def token_covariance(rollout: JudgedRollout, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """(A - mean A) (l - mean l) of every token, float64 [N, T], and the mask of tokens with a reward, bool [N, T].

    `advantages` are [N, T]; means are over the tokens of the mask.
    """
    mask = rollout.mask & rollout.valid[:, None]
    tokens = mask.sum().clamp(min=1)

    def centred(values: Tensor) -> Tensor:
        inside = values.double().where(mask, 0.0)
        return (inside - inside.sum() / tokens).where(mask, 0.0)

    return centred(advantages) * centred(rollout.logprobs), mask


def _count(share: float, mask: Tensor) -> int:
    tokens = int(mask.sum())
    return min(tokens, max(1, int(share * tokens)))


def _at(places: Tensor, mask: Tensor) -> Tensor:
    """float32 of the shape of `mask`: 1 at the `places` of its flat form."""
    chosen = torch.zeros(mask.numel(), dtype=torch.float32)
    chosen[places] = 1.0
    return chosen.view(mask.shape)
