"""Every method of an RLVR job in a job: its loss does not depend on the split, a resumed run equals a whole one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from plumbline_api.base import Family
from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.critic import Critic, ValueLoss
from plumbline_api.methods.curriculum.family import Curriculum
from plumbline_api.methods.entropy import EntropyControl
from plumbline_api.methods.exploration.family import Replay, Resampling, Rescue, SampleBudget, SampleSelection
from plumbline_api.methods.kl import KlPenalty
from plumbline_api.methods.off_policy import OffPolicyCorrection
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.shaping.family import Shaping
from plumbline_api.methods.token_selection import TokenSelection
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.rewards.pool import VerifierPool
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from plumbline_trainer.tasks.rlvr_data import spec_of
from tests.trainer.rlvr_jobs import PARAMETERS, around, frozen, write_job

FAMILIES: dict[str, type[Family]] = {
    "objective": PolicyObjective,
    "kl": KlPenalty,
    "entropy": EntropyControl,
    "tokenSelection": TokenSelection,
    "offPolicyCorrection": OffPolicyCorrection,
    "advantage": Advantage,
    "critic": Critic,
    "shaping": Shaping,
    "curriculum": Curriculum,
    "exploration.budget": SampleBudget,
    "exploration.resampling": Resampling,
    "exploration.rescue": Rescue,
    "exploration.selection": SampleSelection,
    "exploration.replay": Replay,
    "critic.shared.loss": ValueLoss,
}
METHODS = {
    f"{place}-{member.member_key}": (place, member) for place, family in FAMILIES.items() for member in family.members()
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sampling-entropyDescent": {
        "rollout.sampling.entropyDescent": {"floor": 0.5, "learningRate": 2},
        "offPolicyCorrection": {"truncated": {}},
    },
    "reference-follows": {
        "kl": {"loss": {}},
        "reference": {"update": {"mix": 0.5, "everySteps": 1}},
        "exploration.replay": {"selective": {}},
    },
    "reference-of-an-adapter-follows": {
        "kl": {"reward": {}},
        "reference": {"update": {"mix": 0.5, "everySteps": 2}},
        "peft": {"lora": {"rank": 2}},
    },
    "searched-thresholds": {
        "shaping": [
            {
                "constrained": {
                    "constraints": [{"component": "short", "threshold": 0.5}],
                    "thresholdSearch": {"component": "right", "every": 2},
                }
            }
        ]
    },
    "partial-solutions": {
        "objective": {"mleAugmented": {"partialSolutions": "arithmeticPrograms"}},
        "rollout.updatesPerRollout": 2,
    },
    "kept-solutions": {"objective": {"expertIteration": {"keepSolutions": 2}}, "rollout.updatesPerRollout": 2},
    "values-of-replayed-samples": {
        "objective": {"conservativeBellman": {"discount": 0.9}},
        "critic": {"shared": {"trunkCoefficient": 0.5}},
        "kl": {"reward": {}},
        "exploration.rescue": {"gold": {}},
        "exploration.replay": {"selective": {}},
        "rollout.updatesPerRollout": 2,
    },
    **{
        f"demonstrations-{objective}": {
            "objective": {objective: {}},
            "exploration.rescue": {"demonstration": {"threshold": 0.5, "weight": 0.5}},
        }
        for objective in ("copo", "gpg", "gvpo", "mdpo", "raft", "redDrop", "returnConditioned", "sequenceConfidence")
    },
}
"""What is no member of a family: patches of the spec."""

STEPS = 3


@pytest.fixture(scope="module")
def value_model(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A critic that was trained before: the model with a scalar head."""
    directory = tmp_path_factory.mktemp("values")
    torch.manual_seed(1)
    LlamaForSequenceClassification.from_pretrained(model, num_labels=1, pad_token_id=1).save_pretrained(directory)
    return directory


class KeptPool(VerifierPool):
    """Worker processes that many jobs use one after the other: what a verifier says depends on its call alone."""

    def close(self) -> None:
        """Leaves the processes to the next job."""

    def end(self) -> None:
        """Ends the processes."""
        super().close()


@pytest.fixture(scope="module", autouse=True)
def kept_pools() -> Iterator[None]:
    """Jobs with the same components of the reward share their processes, whose start takes longer than a job."""
    pools: dict[str, KeptPool] = {}

    def open_kept(config: TrainerConfig) -> VerifierPool:
        rewards = spec_of(config).rewards
        key = json.dumps([reward.to_document() for reward in rewards])
        if key not in pools:
            pools[key] = KeptPool(rewards, {})
        return pools[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plumbline_trainer.tasks.rlvr.open_pool", open_kept)
        yield
    for pool in pools.values():
        pool.end()


class Run:
    """A job's steps with the smallest trainer that they need."""

    def __init__(self, config: TrainerConfig) -> None:
        stop = StopRequest()
        self.task: RLVRTask = build(config, Ranks(stop, torch.device("cpu")), stop)
        parameters = [parameter for parameter in self.task.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=3e-3)

    def step(self, number: int) -> None:
        self.accumulate(number)
        self.optimizer.step()
        self.task.step_done(number)

    def accumulate(self, number: int) -> None:
        self.optimizer.zero_grad()
        for micro_batch in self.task.prepare(number).micro_batches:
            self.task.loss(micro_batch)[0].backward()

    def gradient(self) -> torch.Tensor:
        return torch.cat(
            [
                torch.zeros(one.numel()) if one.grad is None else one.grad.flatten()
                for one in self.task.model.parameters()
            ]
        )

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.task.model.parameters()]).clone()

    def checkpoint(self) -> Checkpoint:
        state = json.loads(json.dumps(self.task.state_dict()))
        tensors = {name: value.clone() for name, value in self.task.tensors().items()}
        model, optimizer = (copy.deepcopy(owner.state_dict()) for owner in (self.task.model, self.optimizer))
        return Checkpoint(state, tensors, model, optimizer)

    def close(self) -> None:
        self.task.close()

    def resume(self, saved: Checkpoint) -> None:
        self.task.model.load_state_dict(saved.model)
        self.optimizer.load_state_dict(copy.deepcopy(saved.optimizer))
        self.task.load_state_dict(saved.state)
        self.task.load_tensors(saved.tensors)


@dataclass(frozen=True)
class Checkpoint:
    """What a run leaves after a step, in the types that a checkpoint keeps."""

    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class WholeRun:
    """A run from the first step to the last, and how to make the same job again."""

    config: Callable[..., TrainerConfig]
    gradient: torch.Tensor
    """Of the first step."""

    saved: Checkpoint
    """After the first step; the run went on."""

    weights: torch.Tensor
    """After the last step."""


def patch_of(name: str, values: Path) -> dict[str, Any]:
    """A method at its place of the spec, with whatever it needs around it; `values` is a trained critic."""
    if name in SETTINGS:
        return SETTINGS[name]
    place, member = METHODS[name]
    chosen = {member.member_key: PARAMETERS.get((place, member.member_key), {})}
    patch: dict[str, Any] = {place: [chosen] if place == "shaping" else chosen}
    if (place, member.member_key) == ("critic", "frozen"):
        patch[place] = frozen(values)
    return around(member, values) | patch


@pytest.fixture(scope="module", params=[*METHODS, *SETTINGS])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model: Path, value_model: Path
) -> WholeRun:
    """A job with one method, run from its first step to its last."""
    patch = patch_of(request.param, value_model)
    folder = tmp_path_factory.mktemp("job")

    def config(**training: Any) -> TrainerConfig:
        return write_job(folder, model, patch, {"steps": STEPS, **training})

    with closing(Run(config())) as run:
        run.step(0)
        gradient, saved = run.gradient(), run.checkpoint()
        for step in range(1, STEPS):
            run.step(step)
        return WholeRun(config, gradient, saved, run.weights())


def test_gradients_do_not_depend_on_the_micro_batches(whole: WholeRun) -> None:
    with closing(Run(whole.config(microBatchSize=1))) as run:
        run.accumulate(0)
        one_by_one = run.gradient()
    assert whole.gradient.isfinite().all()
    torch.testing.assert_close(one_by_one, whole.gradient, atol=2e-7, rtol=2e-4)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole: WholeRun) -> None:
    with closing(Run(whole.config())) as run:
        run.resume(whole.saved)
        for step in range(1, STEPS):
            run.step(step)
        assert torch.equal(run.weights(), whole.weights)
