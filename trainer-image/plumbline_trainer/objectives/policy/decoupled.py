"""Objectives whose proximal policy, near which an update stays, is not the policy that sampled."""

from __future__ import annotations

from torch import Tensor

from plumbline_api.methods.policy.decoupled import DecoupledPpo, PpoEwma
from plumbline_trainer.objectives.policy.clipped import clipped_surrogate
from plumbline_trainer.objectives.policy.inputs import LARGEST_LOG_RATIO, PolicyTokens, TokenLosses
from plumbline_trainer.objectives.registry import implements
from plumbline_trainer.reporting.metrics import Metric


@implements(DecoupledPpo)
def decoupled_ppo(parameters: DecoupledPpo, tokens: PolicyTokens) -> TokenLosses:
    """-(pi_prox / pi_behav) min(r A, clip(r) A) of every token, r = pi / pi_prox (Hilton et al. 2022, eq. 3).

    pi_behav sampled (`sampled_logprobs`), pi_prox is the policy before the rollout's updates (`old_logprobs`). Averaged
    over tokens of pi_behav, the weight gives the mean of PPO's surrogate over tokens of pi_prox: the clip's centre no
    longer depends on how old the completions are. Where both policies are one, this is PPO, bit by bit. Raises
    `ValueError` without the sampler's log-probabilities.
    """
    return _decoupled(parameters, tokens)


@implements(PpoEwma)
def ppo_ewma(parameters: PpoEwma, tokens: PolicyTokens) -> TokenLosses:
    """The decoupled loss with `old_logprobs` under the moving average of the weights (`modeling.average_weights`)."""
    return _decoupled(parameters, tokens)


def _decoupled(parameters: DecoupledPpo, tokens: PolicyTokens) -> TokenLosses:
    weight = _weight(parameters, tokens)
    losses, metrics = clipped_surrogate(parameters, tokens, tokens.ratio)
    return weight * losses, {**metrics, "staleness_weight": Metric.mean_of(weight, tokens.mask)}


def _weight(parameters: DecoupledPpo, tokens: PolicyTokens) -> Tensor:
    """[B, T] pi_prox / pi_behav, without gradient; 1 outside the mask."""
    if tokens.sampled_logprobs is None:
        raise ValueError(f"{parameters.member_key} needs the sampler's log-probabilities")
    difference = tokens.inside(tokens.proximal_logprobs - tokens.sampled_logprobs)
    weight = difference.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    return weight if parameters.max_weight is None else weight.clamp(max=parameters.max_weight)
