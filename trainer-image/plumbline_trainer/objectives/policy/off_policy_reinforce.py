"""Group-relative REINFORCE on completions of any older policy.

Why no importance weight is needed: for completions y_1..y_n of a prompt from any distribution, the pairwise consistency
conditions of the KL-regularized optimum around pi_old, r_i - tau log(pi/pi_old)(y_i) equal for all i, have the squared
loss sum_{i<j} (a_i - a_j)^2 with a_i = r_i - tau log(pi/pi_old)(y_i). One gradient step from pi = pi_old moves along
sum_i (r_i - mean r) grad log pi(y_i), whatever the y_i were drawn from. Further steps need something that keeps pi near
pi_old (clipping, a squared log-ratio, a lower baseline) or a better choice of data. Derivation and names after "Group-
Relative REINFORCE Is Secretly an Off-Policy Algorithm" (Yao et al. 2025, arXiv:2509.24203).
"""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.policy.off_policy_reinforce import AsymRe, Opmd, Rec, RedDrop, RedWeight
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, TokenLosses
from plumbline_trainer.objectives.policy.preparation import PREPARATIONS
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout


@implements(Rec)
def rec(parameters: Rec, tokens: PolicyTokens) -> TokenLosses:
    """-A log pi of every token inside the range, times sg(r) with importance sampling; 0 outside the range.

    r is the token's ratio to the policy before the rollout's updates. With `oneSide` and importance sampling the
    gradient is that of PPO's clipped surrogate.
    """
    ratio = tokens.ratio.detach()
    advantages, logprobs = _inside(tokens)
    inside = _in_range(parameters, ratio, advantages)
    weight = advantages * ratio if parameters.importance_sampling else advantages
    metrics = {
        "ratio": Metric.mean_of(ratio, tokens.mask),
        "clip_share": Metric.mean_of((~inside).float(), tokens.mask),
    }
    return torch.where(inside, -weight * logprobs, 0.0), metrics


def _in_range(parameters: Rec, ratio: Tensor, advantages: Tensor) -> Tensor:
    """[B, T] bool: the tokens that keep their gradient."""
    above, below = ratio > 1 + parameters.clip_high, ratio < 1 - parameters.clip_low
    if parameters.clip == "none":
        return torch.ones_like(above)
    if parameters.clip == "oneSide":
        return ~(above & (advantages > 0)) & ~(below & (advantages < 0))
    inner = ~above & ~below
    if parameters.clip == "twoSide":
        return inner
    far_below = (ratio <= 1 - parameters.outer_low) & (advantages >= 0)
    far_above = (ratio >= 1 + parameters.outer_high) & (advantages <= 0)
    return inner | far_below | far_above


@implements(Opmd)
def opmd(parameters: Opmd, tokens: PolicyTokens) -> TokenLosses:
    """-A log pi + (tau / 2) (log pi - log pi_old)^2 of every completion, or of every token (arXiv:2501.12599, eq. 3).

    With the advantage r - mean r and whole completions this is Kimi k1.5's surrogate; its gradient vanishes where
    tau log(pi/pi_old) = A, the mirror-descent step with the prompt's log-normalizer estimated by the mean reward.
    """
    log_ratio = tokens.log_ratio
    advantages, logprobs = _inside(tokens)
    gain = advantages * logprobs
    if parameters.level == "sequence":
        gain, log_ratio = gain.sum(dim=1, keepdim=True), log_ratio.sum(dim=1, keepdim=True)
    losses = parameters.tau / 2 * log_ratio.square() - gain
    metrics = {"log_ratio": Metric.mean_of(tokens.log_ratio, tokens.mask)}
    return torch.where(tokens.mask, losses.expand(tokens.mask.shape), 0.0), metrics


@implements(AsymRe)
def asym_re(parameters: AsymRe, tokens: PolicyTokens) -> TokenLosses:
    """-(A - shift) log pi(y_t) of every token, summed over each completion (Arnal et al. 2025, arXiv:2506.20520).

    With A = r - mean r the baseline is mean r + shift. A negative shift adds -shift log pi of every completion, the
    likelihood of what the older policy did: a forward KL to it, which keeps the policy near.
    """
    advantages, logprobs = _inside(tokens)
    return (parameters.baseline_shift - advantages) * logprobs, {}


@PREPARATIONS.implements(RedDrop)
def kept_completions(parameters: RedDrop, rollout: JudgedRollout, advantages: Tensor) -> dict[str, Tensor]:
    """`kept` [N]: 1 for the completions that are used, 0 for bad ones beyond their group's share.

    A completion is bad if its mean advantage is negative. A group without good ones keeps all: there is nothing to
    balance, and its advantages are 0 under a group baseline.
    """
    mean = advantages.sum(dim=1) / rollout.lengths.clamp(min=1)
    generator = torch.Generator().manual_seed(parameters.seed * 1_000_003 + rollout.step)
    draw = torch.rand(len(mean), generator=generator)
    kept = rollout.valid.clone()
    for group in rollout.groups.unique():
        members = rollout.valid & (rollout.groups == group)
        bad = (members & (mean < 0)).nonzero()[:, 0]
        most = int(parameters.negatives_per_positive * int((members & (mean > 0)).sum()))
        if 0 < most < len(bad):
            kept[bad[draw[bad].argsort()[most:]]] = False
    return {"kept": kept.to(advantages.dtype)}


@implements(RedDrop)
def red_drop(parameters: RedDrop, tokens: PolicyTokens) -> TokenLosses:
    """-A log pi of every token of the completions that are kept.

    The advantage stays the one of the whole group; that the paper centres it anew within what is kept is unsettled.
    """
    advantages, logprobs = _inside(tokens)
    kept = tokens.prepared["kept"].to(logprobs)[:, None]
    return -kept * advantages * logprobs, {"kept_share": Metric.mean_of(kept)}


@implements(RedWeight)
def red_weight(parameters: RedWeight, tokens: PolicyTokens) -> TokenLosses:
    """-exp(A / temperature) A log pi of every token.

    Advantages above 20 temperatures weigh as much as those at it, so that 32-bit weights stay finite.
    """
    advantages, logprobs = _inside(tokens)
    weight = (advantages / parameters.temperature).clamp(max=20.0).exp()
    return -weight * advantages * logprobs, {"weight": Metric.mean_of(weight, tokens.mask)}


def _inside(tokens: PolicyTokens) -> tuple[Tensor, Tensor]:
    """Advantages and log-probabilities [B, T] with 0 outside the completions, where they may hold anything."""
    return torch.where(tokens.mask, tokens.advantages, 0.0), torch.where(tokens.mask, tokens.logprobs, 0.0)
