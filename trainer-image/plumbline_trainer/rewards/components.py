"""The components of the reward that score many completions at once, in the trainer's own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.methods.verifiers.judges import HttpJudge
from plumbline_api.methods.verifiers.learned import RewardModelScore
from plumbline_api.methods.verifiers.pairwise import PairwiseJudge
from plumbline_api.sources import Reward
from plumbline_trainer.registry import Registry
from plumbline_trainer.rewards.scoring import BatchComponent

if TYPE_CHECKING:
    import torch

Open = Callable[[Reward, Mapping[str, str], "torch.device"], BatchComponent]
"""(component, locations of reward models by the component's name, device) -> what scores."""

BATCH_COMPONENTS: Registry[Open] = Registry(Verifier)


def open_batch_components(
    rewards: Sequence[Reward], models: Mapping[str, str], device: torch.device
) -> dict[str, BatchComponent]:
    """The components by name. `models` are the locations of reward models by the component's name.

    Raises `ModelError` and `ConfigError` for what cannot be opened.
    """
    return {
        reward.name: BATCH_COMPONENTS.of(reward.verifier.value)(reward, models, device)
        for reward in rewards
        if reward.verifier.value.in_batches
    }


def in_processes(rewards: Sequence[Reward]) -> list[Reward]:
    """The components that the processes of `VerifierPool` score."""
    return [reward for reward in rewards if not reward.verifier.value.in_batches]


@BATCH_COMPONENTS.implements(HttpJudge)
def http_judge(reward: Reward, models: Mapping[str, str], device: torch.device) -> BatchComponent:
    """The judge's HTTP client is loaded for jobs that have one. Raises `ConfigError` without its authorization."""
    from plumbline_trainer.rewards.http_judge import HttpJudgeComponent

    return HttpJudgeComponent(reward.name, reward.verifier.value, reward.timeout_seconds)


@BATCH_COMPONENTS.implements(PairwiseJudge)
def pairwise_judge(reward: Reward, models: Mapping[str, str], device: torch.device) -> BatchComponent:
    """As `http_judge`."""
    from plumbline_trainer.rewards.pairwise_judge import PairwiseJudgeComponent

    return PairwiseJudgeComponent(reward.name, reward.verifier.value, reward.timeout_seconds)


@BATCH_COMPONENTS.implements(RewardModelScore)
def reward_model(reward: Reward, models: Mapping[str, str], device: torch.device) -> BatchComponent:
    """Loads the model onto `device`. Raises `ModelError`."""
    from plumbline_trainer.rewards.reward_model import RewardModelComponent

    return RewardModelComponent(models[reward.name], reward.verifier.value, device)
