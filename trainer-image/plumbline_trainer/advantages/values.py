"""Estimators that know the value of what is written so far."""

from __future__ import annotations

import torch
from torch import Tensor

from plumbline_api.methods.advantage.values import FrozenValue, GeneralizedAdvantage, MonteCarloValue
from plumbline_trainer.advantages.recursions import backward_sums, token_rewards, whitened
from plumbline_trainer.advantages.registry import ESTIMATORS, VALUE_TARGETS
from plumbline_trainer.rollout.judged import JudgedRollout


def values_of(rollout: JudgedRollout) -> Tensor:
    """[N, T] float64: the critic's values before each token; 0 after the end and where not valid.

    Raises `ValueError` without a critic.
    """
    if rollout.values is None:
        raise ValueError("the estimator needs the values of a critic")
    return torch.where(rollout.mask & rollout.valid[:, None], rollout.values.double(), 0.0)


def next_values(values: Tensor) -> Tensor:
    """[N, T]: the value after each token, which is the one before the next; nothing comes after the last."""
    return torch.nn.functional.pad(values[:, 1:], (0, 1))


def temporal_differences(rollout: JudgedRollout, gamma: float) -> Tensor:
    """[N, T]: delta_t = r_t + gamma V_{t+1} - V_t, with value 0 after the last token; 0 outside.

    A completion that was cut off ends as well: its reward is final, so nothing is bootstrapped there.
    """
    values = values_of(rollout)
    return token_rewards(rollout) + gamma * next_values(values) - values


@ESTIMATORS.implements(GeneralizedAdvantage)
def generalized_advantage(parameters: GeneralizedAdvantage, rollout: JudgedRollout) -> Tensor:
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t; GAE (Schulman et al. 2015,
    arXiv:1506.02438, eq. 16). [N, T].

    The completion's reward comes with its last token, rewards of single tokens where they belong. With gamma = lambda
    = 1 it is R - V_t, as in Open-Reasoner-Zero (Hu et al. 2025, arXiv:2503.24290). `normalize: batch` whitens over all
    tokens of the rollout.
    """
    differences = temporal_differences(rollout, parameters.gamma)
    sums = backward_sums(differences, parameters.gamma * parameters.lambda_)
    return normalized(sums, parameters.normalize, rollout)


@VALUE_TARGETS.implements(GeneralizedAdvantage)
def lambda_returns(parameters: GeneralizedAdvantage, lambda_: float, rollout: JudgedRollout) -> Tensor:
    """V_t + sum_l (gamma lambda)^l delta_{t+l} [N, T]: with lambda = 1 the discounted return itself."""
    differences = temporal_differences(rollout, parameters.gamma)
    return values_of(rollout) + backward_sums(differences, parameters.gamma * lambda_)


@ESTIMATORS.implements(FrozenValue)
def frozen_value(parameters: FrozenValue, rollout: JudgedRollout) -> Tensor:
    """Q_t whitened over all tokens [N, T], Q_t = V_{t+1} before the last token and the reward at the last one; after
    DVPO (Huang et al. 2025, arXiv:2502.16944).

    What is written after token t is all there is to the state, so the value of having chosen the token is the frozen
    model's value of the text that ends with it. The paper has no rewards in the second stage and asks the model at the
    last token too; a verifier's reward is there, exact, and takes its place. With `baseline: value` it is Q_t - V_t,
    GAE with lambda = 0. The publication's exact normalisation is not known to us: this one is that of PPO.
    """
    mask = rollout.mask & rollout.valid[:, None]
    values = values_of(rollout)
    quality = torch.where(mask, token_rewards(rollout) + next_values(values), 0.0)
    return whitened(quality - values if parameters.baseline == "value" else quality, mask)


@ESTIMATORS.implements(MonteCarloValue)
def monte_carlo_value(parameters: MonteCarloValue, rollout: JudgedRollout) -> Tensor:
    """A_t = V(end of t's step) - V(start of t's step), after the last step R instead of V; VinePPO (Kazemnejad et al.
    2024, arXiv:2410.01679). [N, T].

    V are `prefix_values`: means of rewards of completions that start there. Places without one are inside a step, so
    a value that could not be judged merges two steps, and a completion whose prompt has none has advantage 0. The
    advantages of the steps add up to R - V(prompt). Raises `ValueError` without such values.
    """
    if rollout.prefix_values is None:
        raise ValueError("Monte-Carlo values need rewards of continuations")
    mask = rollout.mask & rollout.valid[:, None] & ~rollout.prefix_values[:, :1].isnan()
    known = mask & ~rollout.prefix_values.isnan()
    values = torch.where(known, rollout.prefix_values.double(), 0.0)
    width = values.shape[1]
    places = torch.arange(width).expand(values.shape)
    # the start of the step that a token is in, and the start of the one after it: `width` stands for the end
    start = torch.where(known, places, 0).cummax(dim=1).values
    following = torch.where(known, places, width).flip(1).cummin(dim=1).values.flip(1)
    following = torch.nn.functional.pad(following[:, 1:], (0, 1), value=width)
    after = torch.cat([values, rollout.rewards[:, None].double()], dim=1).gather(1, following)
    return torch.where(mask, after - values.gather(1, start), 0.0)


def normalized(advantages: Tensor, how: str, rollout: JudgedRollout) -> Tensor:
    """[N, T]: `advantages` as they are, or whitened over all tokens of the rollout where `how` is batch."""
    mask = rollout.mask & rollout.valid[:, None]
    return whitened(advantages, mask) if how == "batch" else torch.where(mask, advantages, 0.0)
