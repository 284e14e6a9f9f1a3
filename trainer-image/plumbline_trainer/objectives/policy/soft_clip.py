"""Objectives that bound the weight of a token's gradient without taking the gradient away."""

from __future__ import annotations

import torch

from plumbline_api.methods.policy.soft_clip import Cispo, Sapo
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(Cispo)
def cispo(parameters: Cispo, tokens: PolicyTokens) -> TokenLosses:
    """-sg(clip(r, lower, upper)) A log pi of every token (MiniMax-M1 2025, arXiv:2506.13585).

    sg is the stop-gradient. PPO's clipping drops tokens whose ratio has left the bounds, among them the rare ones that
    matter ("however", "wait"); here they keep a gradient of bounded weight. Conventions for the bounds differ: TRL
    takes an absolute upper one and no lower one, verl 1 - low and 1 + high. These are absolute.
    """
    weight = tokens.ratio.detach().clamp(parameters.lower, parameters.upper)
    losses = -weight * tokens.inside(tokens.advantages) * tokens.inside(tokens.logprobs)
    outside = (tokens.ratio < parameters.lower) | (tokens.ratio > parameters.upper)
    return losses, {
        "importance_weight": Metric.mean_of(weight, tokens.mask),
        "clip_share": Metric.mean_of(outside.float(), tokens.mask),
    }


@implements(Sapo)
def sapo(parameters: Sapo, tokens: PolicyTokens) -> TokenLosses:
    """-A (4 / tau) s(tau (r - 1)) of every token, s the logistic function (arXiv:2511.20347).

    tau is `tau_positive` where A > 0, else `tau_negative`. The factor 4 / tau makes the gradient at r = 1 that of -r A:
    s' there is 1/4. Away from 1 it fades as s (1 - s), to both sides and never to exactly 0.
    """
    advantages = tokens.inside(tokens.advantages)
    tau = torch.where(advantages > 0, parameters.tau_positive, parameters.tau_negative)
    gate = torch.sigmoid(tau * (tokens.ratio - 1))
    metrics = {
        "ratio": Metric.mean_of(tokens.ratio, tokens.mask),
        "gate": Metric.mean_of(4 * gate * (1 - gate), tokens.mask),
    }
    return tokens.inside(-advantages * gate * 4 / tau), metrics
