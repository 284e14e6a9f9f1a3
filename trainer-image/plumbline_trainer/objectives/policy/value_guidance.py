"""The loss of the head that guides a frozen model, see `objectives.guided_policy`."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.value_guidance import QSharp
from plumbline_trainer.objectives.guided_policy import outcome_loss
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout

UNGUIDED = "unguided"
"""Name of the prepared tensor: [N, T], 1 at the tokens that the model wrote without guidance, else 0."""


@PREPARATIONS.implements(QSharp)
def unguided(parameters: QSharp, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """The tokens behind which the reference wrote all of the rest, so that the outcome is one of the reference."""
    positions = torch.arange(rollout.logprobs.shape[1])
    return {UNGUIDED: (rollout.mask & (positions >= rollout.guided_lengths[:, None])).double()}


@implements(QSharp)
def q_sharp(parameters: QSharp, tokens: PolicyTokens) -> TokenLosses:
    """-log p(outcome) of every token [B, T] that the reference wrote, p = sigmoid(success logit after that token).

    The outcome is whether the completion's reward is at least the threshold. Metrics: the mean of the stated chances,
    of the outcomes and of their squared difference (Brier 1950), over these tokens.
    """
    if tokens.success_logits is None or tokens.rewards is None:
        raise ValueError("qSharp needs logits of success and rewards")
    learnt = tokens.mask & (tokens.prepared_as(UNGUIDED) > 0)
    outcomes = tokens.rewards >= parameters.threshold
    losses = outcome_loss(tokens.success_logits, outcomes, learnt)
    stated = tokens.inside(tokens.success_logits.detach()).sigmoid()
    happened = outcomes.to(stated)[:, None].expand(stated.shape)
    metrics = {
        "success/predicted": Metric.mean_of(stated, learnt),
        "success/observed": Metric.mean_of(happened, learnt),
        "success/brier": Metric.mean_of((stated - happened).square(), learnt),
    }
    return losses, metrics
