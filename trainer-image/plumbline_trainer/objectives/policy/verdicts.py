"""Objectives that go by the verdict on a completion, right or wrong, and not by its advantage."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from plumbline_api.methods.policy.clipped import ClippedRatioObjective
from plumbline_api.methods.policy.verdicts import Raft, RaftPlusPlus, WReinforce
from plumbline_trainer.objectives.policy.clipped import clipped_ratio
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout

WEIGHT = "weight"
"""Name of the prepared tensor: [N] float64, the weight of each completion."""


@implements(Raft)
def raft(parameters: Raft, tokens: PolicyTokens) -> TokenLosses:
    """-w log pi(y_t) of every token, w > 0 for completions that are kept and 0 for others (Dong et al. 2023,
    arXiv:2304.06767).

    w is the number of completions over that of the kept ones: under an aggregation that averages over completions the
    loss is the mean over those kept, the loss of supervised fine-tuning on them.
    """
    weight = tokens.prepared_as(WEIGHT)
    return -weight * tokens.inside(tokens.logprobs), {"kept_share": Metric.mean_of((weight != 0).float())}


@implements(RaftPlusPlus)
def raft_plus_plus(parameters: RaftPlusPlus, tokens: PolicyTokens) -> TokenLosses:
    """-w min(r, clip(r, 1 - low, 1 + high)) of every token, w as in `raft` (Xiong et al. 2025, arXiv:2504.11343).

    On-policy its gradient is RAFT's; later updates on a rollout stop where a token has become likelier by `clip_high`.
    """
    losses, metrics = _clipped(parameters, tokens)
    return losses, {**metrics, "kept_share": Metric.mean_of((tokens.prepared_as(WEIGHT) != 0).float())}


@implements(WReinforce)
def w_reinforce(parameters: WReinforce, tokens: PolicyTokens) -> TokenLosses:
    """The clipped surrogate with the advantages `positive_weight` for right and -1 for wrong completions (Zhu et al.
    2025, arXiv:2506.01347).

    On-policy its gradient is that of lambda E[pi(right)] - E[pi(wrong)]: REINFORCE with rewards of 1 and -1, the former
    weighted by lambda. At 0 only wrong completions teach: what they lose goes to the alternatives by their likelihood,
    which keeps the policy's variety.
    """
    return _clipped(parameters, tokens)


@PREPARATIONS.implements(Raft)
def kept(parameters: Raft, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """Equal weights for right completions, or for the best of each prompt; see `raft`."""
    return _equal_weights(rollout, rollout.correct if parameters.keep == "correct" else best_of_each_group(rollout))


@PREPARATIONS.implements(RaftPlusPlus)
def kept_if_right(parameters: RaftPlusPlus, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """Equal weights for right completions; see `raft`."""
    return _equal_weights(rollout, rollout.correct)


@PREPARATIONS.implements(WReinforce)
def signed(parameters: WReinforce, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """`positive_weight` for right completions, -1 for wrong ones, 0 for those without a reward."""
    sign = torch.full_like(rollout.rewards, -1.0).masked_fill(rollout.correct, parameters.positive_weight)
    return {WEIGHT: sign.where(rollout.valid, 0.0)}


def best_of_each_group(rollout: JudgedRollout) -> Tensor:
    """[N] bool: true for one completion of each prompt, the first of those with its highest reward."""
    best = rollout.valid & (rollout.rewards == Groups(rollout.groups, rollout.valid).highest(rollout.rewards))
    place = torch.arange(len(best), dtype=torch.float64)
    first = Groups(rollout.groups, best).lowest(place)
    return best & (place == first)


def _equal_weights(rollout: JudgedRollout, chosen: Tensor) -> dict[str, Tensor]:
    chosen = chosen & rollout.valid
    each = float(rollout.valid.sum()) / max(1, int(chosen.sum()))
    return {WEIGHT: chosen.double() * each}


def _clipped(parameters: ClippedRatioObjective, tokens: PolicyTokens) -> TokenLosses:
    """The clipped surrogate with the prepared weights in place of advantages."""
    weights = tokens.prepared_as(WEIGHT).expand(tokens.mask.shape)
    return clipped_ratio(parameters, replace(tokens, advantages=weights))
