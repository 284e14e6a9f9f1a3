"""Every method of an RLVR job in a job: its loss does not depend on the split, a resumed run equals a whole one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

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
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from tests.trainer.rlvr_jobs import PARAMETERS, around, frozen, write_job, write_words

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
METHODS = [(place, member) for place, family in FAMILIES.items() for member in family.members()]
methods = pytest.mark.parametrize(
    ("place", "member"), METHODS, ids=[f"{place}-{member.member_key}" for place, member in METHODS]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    size = write_words(directory)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def value_model(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A critic that was trained before: the model with a scalar head."""
    directory = tmp_path_factory.mktemp("values")
    torch.manual_seed(1)
    LlamaForSequenceClassification.from_pretrained(model, num_labels=1, pad_token_id=1).save_pretrained(directory)
    return directory


class Run:
    """A job's steps with the smallest trainer that they need."""

    def __init__(self, config: TrainerConfig) -> None:
        stop = StopRequest()
        self.task: RLVRTask = build(config, Ranks(stop, torch.device("cpu")), stop)
        parameters = [parameter for parameter in self.task.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=3e-3)

    def step(self, number: int) -> float:
        self.optimizer.zero_grad()
        total = 0.0
        for micro_batch in self.task.prepare(number).micro_batches:
            share, _ = self.task.loss(micro_batch)
            share.backward()
            total += float(share.detach())
        self.optimizer.step()
        self.task.step_done(number)
        return total

    def gradient(self) -> torch.Tensor:
        """Of the first step."""
        for micro_batch in self.task.prepare(0).micro_batches:
            self.task.loss(micro_batch)[0].backward()
        return torch.cat(
            [
                torch.zeros(one.numel()) if one.grad is None else one.grad.flatten()
                for one in self.task.model.parameters()
            ]
        )

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.task.model.parameters()]).clone()


Open = Callable[..., Run]


@pytest.fixture
def open_run() -> Iterator[Open]:
    opened: list[Run] = []

    def open_one(config: TrainerConfig) -> Run:
        opened.append(Run(config))
        return opened[-1]

    yield open_one
    for run in opened:
        run.task.close()


@pytest.fixture
def config_of(tmp_path: Path, model: Path, value_model: Path) -> Callable[..., TrainerConfig]:
    """A job in which `member` stands at `place` of the spec, with whatever it needs around it."""

    def make(place: str, member: type[Family], **training: Any) -> TrainerConfig:
        chosen = {member.member_key: PARAMETERS.get((place, member.member_key), {})}
        patch: dict[str, Any] = {place: [chosen] if place == "shaping" else chosen}
        if (place, member.member_key) == ("critic", "frozen"):
            patch[place] = frozen(value_model)
        return write_job(tmp_path, model, around(member, value_model) | patch, training)

    return make


@methods
def test_gradients_do_not_depend_on_the_micro_batches(
    config_of: Callable[..., TrainerConfig], open_run: Open, place: str, member: type[Family]
) -> None:
    found = []
    for size in (1, 16):
        found.append(open_run(config_of(place, member, microBatchSize=size)).gradient())
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[1], found[0], atol=2e-7, rtol=2e-4)


@methods
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    config_of: Callable[..., TrainerConfig], open_run: Open, place: str, member: type[Family]
) -> None:
    config = config_of(place, member)
    whole = open_run(config)
    for step in range(4):
        whole.step(step)
    first = open_run(config)
    first.step(0)
    state = json.loads(json.dumps(first.task.state_dict()))
    tensors = {name: value.clone() for name, value in first.task.tensors().items()}
    second = open_run(config)
    second.task.model.load_state_dict(first.task.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.task.load_state_dict(state)
    second.task.load_tensors(tensors)
    for step in range(1, 4):
        second.step(step)
    assert torch.equal(second.weights(), whole.weights())
