"""The critic beside a small Llama: one pass with the policy, losses of any split, its own updates, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from plumbline_api.methods.advantage.values import GeneralizedAdvantage
from plumbline_api.methods.critic import Critic as CriticParameters
from plumbline_api.methods.critic import CriticChoice, FrozenCritic, SeparateCritic, SharedCritic
from plumbline_trainer.advantages import advantages, value_targets
from plumbline_trainer.data.batches import SequenceBatch, TokenSequence, pad_sequences, share_prompts
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import ConfigError, Diverged
from plumbline_trainer.modeling.loading import load_policy
from plumbline_trainer.modeling.logprobs import predicting_states
from plumbline_trainer.modeling.value_head import load_value_model
from plumbline_trainer.reporting.metrics import merge
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.tasks.critic import CRITICS, Critic, CriticInputs

CPU = torch.device("cpu")
SEQUENCES = [
    TokenSequence([1, 3, 9, 10], [11, 12, 2]),
    TokenSequence([1, 3, 9, 10], [13, 2]),
    TokenSequence([1, 3, 20], [21, 22, 23, 24, 2]),
    TokenSequence([1, 3, 20], [25, 2]),
]
LOSSES: list[dict[str, Any]] = [{"mse": {}}, {"bce": {}}, {"categorical": {"atoms": 5}}]
KINDS = ["shared", "separate"]


def policy_of(directory: Path) -> nn.Module:
    return load_policy(str(directory), dtype="float32", device=CPU)


def critic_of(
    directory: Path,
    kind: str = "shared",
    *,
    policy: nn.Module | None = None,
    location: Path | None = None,
    **parameters: Any,
) -> Critic:
    choice: CriticParameters = CriticChoice.of(kind, **parameters).value
    inputs = CriticInputs(policy or policy_of(directory), str(location or directory), 0, 3, "float32", CPU)
    return Critic(choice, inputs, max_steps=100, gradient_clip=1.0)


@pytest.fixture
def value_directory(llama_directory: Path, tmp_path: Path) -> Path:
    model = load_value_model(str(llama_directory), 1, pad_token_id=0, seed=5, dtype="float32", device=CPU)
    model.save_pretrained(tmp_path / "value-model")
    return tmp_path / "value-model"


def table(rows: list[list[float]]) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=torch.nan)


RETURNS = table([[1.0, 1.0, 1.0], [0.0, 0.0], [0.5] * 5, [0.2, 0.9]])


def test_every_critic_of_the_api_is_implemented() -> None:
    assert CRITICS.missing() == []
    assert set(CriticChoice.model_fields) == {"shared", "separate", "frozen"}
    assert SharedCritic.model_validate({"lambda": 0.9}).lambda_ == 0.9
    assert SeparateCritic().learning_rate < SharedCritic().learning_rate


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: next(iter(loss)))
def test_values_stand_before_each_token(llama_directory: Path, kind: str, loss: dict[str, Any]) -> None:
    critic = critic_of(llama_directory, kind, loss=loss)
    batch = pad_sequences(SEQUENCES, 0)
    found = critic.values(batch)
    assert found.shape == batch.mask.shape and not found.requires_grad
    assert bool((found[~batch.mask] == 0).all())
    if kind == "shared":
        unknowing = {"mse": 0.0, "bce": 0.5, "categorical": 0.5}[next(iter(loss))]
        torch.testing.assert_close(found[batch.mask], torch.full((12,), unknowing))


def trained(critic: Critic, batch: SequenceBatch, ranks: Ranks, steps: int) -> None:
    for step in range(steps):
        critic.loss(batch, RETURNS, step_tokens=12.0)[0].backward()
        critic.apply(step, ranks)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_may_share_their_prompt(llama_directory: Path, alone: Ranks, kind: str) -> None:
    critic = critic_of(llama_directory, kind)
    apart = pad_sequences(SEQUENCES, 0)
    trained(critic, apart, alone, 3)
    shared = critic.values(share_prompts(SEQUENCES, 0, one_row=True))
    assert bool((shared[apart.mask] != 0).any())
    torch.testing.assert_close(shared, critic.values(apart), rtol=1e-4, atol=1e-5)


def test_a_shared_critic_reads_the_states_of_the_policys_pass(llama_directory: Path, alone: Ranks) -> None:
    """Given the states it runs no pass of its own, and finds the same."""
    policy = policy_of(llama_directory)
    critic = critic_of(llama_directory, policy=policy)
    batch = pad_sequences(SEQUENCES, 0)
    trained(critic, batch, alone, 3)
    states = predicting_states(policy, batch)
    assert critic.shares_trunk
    torch.testing.assert_close(critic.values(batch, states), critic.values(batch))
    passes: list[int] = []
    policy.model.register_forward_hook(lambda *arguments: passes.append(1))  # type: ignore[union-attr,operator]
    critic.values(batch, states)
    critic.loss(batch, RETURNS, step_tokens=12.0, states=states)
    assert passes == []
    critic.values(batch)
    assert passes == [1]


def test_a_frozen_critic_says_what_its_model_says_and_never_changes(
    llama_directory: Path, value_directory: Path, alone: Ranks
) -> None:
    critic = critic_of(llama_directory, "frozen", location=value_directory, source={"path": {"path": "x"}})
    assert isinstance(critic.parameters, FrozenCritic)
    assert not critic.learns and not critic.shares_trunk
    batch = pad_sequences(SEQUENCES, 0)
    before = critic.values(batch)
    assert bool((before[batch.mask] != 0).all())
    assert critic.apply(0, alone) == 0.0
    assert torch.equal(critic.values(batch), before)
    assert critic.tensors() == {} and critic.state_dict() == {}


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: next(iter(loss)))
def test_the_loss_does_not_depend_on_the_split(llama_directory: Path, kind: str, loss: dict[str, Any]) -> None:
    def gradients(parts: list[list[int]]) -> tuple[float, torch.Tensor, dict[str, float]]:
        critic = critic_of(llama_directory, kind, loss=loss)
        assert critic._update is not None
        total, metrics = 0.0, []
        for part in parts:
            batch = pad_sequences([SEQUENCES[index] for index in part], 0)
            share, found = critic.loss(batch, RETURNS[part][:, : batch.mask.shape[1]], step_tokens=12.0)
            share.backward()
            total += share.item()
            metrics.append(found)
        flat = [master.grad.flatten() for master in critic._update.masters if master.grad is not None]
        return total, torch.cat(flat), {name: metric.value for name, metric in merge(metrics).items()}

    whole, split = gradients([[0, 1, 2, 3]]), gradients([[2], [0, 3], [1]])
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(split[1], whole[1], rtol=1e-3, atol=1e-6)
    assert split[2] == pytest.approx(whole[2], rel=1e-5)


def test_the_loss_by_hand(llama_directory: Path) -> None:
    """A new head says 0 everywhere: half the mean of squared returns over the tokens of the step."""
    batch = pad_sequences(SEQUENCES, 0)
    share, metrics = critic_of(llama_directory).loss(batch, RETURNS, step_tokens=24.0)
    squares = 3 * 1.0 + 5 * 0.25 + 0.04 + 0.81
    assert share.item() == pytest.approx(squares / 2 / 24)
    assert metrics["critic/loss"].value == pytest.approx(squares / 2 / 12)
    assert metrics["critic/squared_error"].value == pytest.approx(squares / 12)
    assert metrics["critic/return"].value == pytest.approx((3 + 2.5 + 1.1) / 12)
    assert metrics["critic/value"].value == 0.0


def test_old_values_limit_how_far_a_value_may_gain(llama_directory: Path) -> None:
    critic = critic_of(llama_directory, loss={"mse": {"clip": 0.1}})
    batch = pad_sequences(SEQUENCES, 0)
    # values are 0 now and were 0.5 before, while returns are -1: all have moved further than 0.1
    old, returns = torch.full(RETURNS.shape, 0.5), torch.full(RETURNS.shape, -1.0)
    share, _ = critic.loss(batch, returns, step_tokens=12.0, old_values=old)
    assert share.item() == pytest.approx(1.4**2 / 2)


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 2.0])
def test_the_policys_share_of_the_gradient(llama_directory: Path, alone: Ranks, coefficient: float) -> None:
    """The policy's layers get trunkCoefficient times the gradient, the head always the whole one."""

    def gradients(coefficient: float) -> tuple[torch.Tensor, torch.Tensor]:
        policy = policy_of(llama_directory)
        critic = critic_of(llama_directory, policy=policy, trunkCoefficient=coefficient, learningRate=1e-2)
        batch = pad_sequences(SEQUENCES, 0)
        trained(critic, batch, alone, 2)
        policy.zero_grad()
        critic.loss(batch, RETURNS, step_tokens=12.0)[0].backward()
        embedding = policy.get_input_embeddings().weight  # type: ignore[operator]
        own = critic._update.masters[0].grad  # type: ignore[union-attr]
        assert own is not None
        return torch.zeros(()) if embedding.grad is None else embedding.grad, own

    trunk, own = gradients(coefficient)
    whole_trunk, whole_own = gradients(1.0)
    assert bool((whole_trunk != 0).any())
    torch.testing.assert_close(trunk.expand_as(whole_trunk), coefficient * whole_trunk)
    torch.testing.assert_close(own, whole_own)


def test_rewards_that_the_loss_cannot_represent_are_refused(llama_directory: Path) -> None:
    """Rewards of tokens count: a penalty can take a return below 0."""
    within = judged([1.0, 0.0, 9.0], [0, 0, 0], [True, True, False], lengths=[2, 1, 1])
    penalties = torch.tensor([[-0.1, -0.2], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    critic = critic_of(llama_directory, loss={"bce": {}})
    critic.check(within)
    critic.check(replace(within, token_rewards=penalties))
    with pytest.raises(ConfigError, match=r"bce needs rewards within 0 and 1, but a completion has -0\.3"):
        critic.check(replace(within, rewards=within.rewards * 0, token_rewards=penalties))
    critic_of(llama_directory).check(replace(within, rewards=within.rewards - 5))


# --- learning and checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rate", "most"), [("shared", 0.05, 0.02), ("separate", 0.01, 0.005)])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: next(iter(loss)))
def test_it_learns_returns_and_leaves_the_policy_alone(
    llama_directory: Path, alone: Ranks, kind: str, rate: float, most: float, loss: dict[str, Any]
) -> None:
    policy = policy_of(llama_directory)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    critic = critic_of(llama_directory, kind, policy=policy, loss=loss, learningRate=rate)
    batch = pad_sequences(SEQUENCES, 0)
    trained(critic, batch, alone, 80)
    error = critic.loss(batch, RETURNS, step_tokens=12.0)[1]["critic/squared_error"].value
    # the first states of each prompt are one state with two returns, 1 and 0, 0.5 and 0.2: at best their means
    unavoidable = (2 * 0.25 + 2 * 0.0225) / 12
    assert error < unavoidable + most
    values = critic.values(batch)
    assert values[0, 0].item() == pytest.approx(0.5, abs=0.15)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_restores_it_exactly(llama_directory: Path, alone: Ranks, kind: str) -> None:
    batch = pad_sequences(SEQUENCES, 0)
    whole, first, second = (critic_of(llama_directory, kind) for _ in range(3))
    trained(whole, batch, alone, 4)
    trained(first, batch, alone, 2)
    tensors = {name: value.clone() for name, value in first.tensors().items()}
    assert all(name.startswith(("critic/", "critic-optimizer/")) for name in tensors)
    second.load({**tensors, "reference/weight": torch.zeros(1)}, first.state_dict())
    for step in (2, 3):
        second.loss(batch, RETURNS, step_tokens=12.0)[0].backward()
        second.apply(step, alone)
    assert torch.equal(second.values(batch), whole.values(batch))


def test_a_checkpoint_of_another_critic_is_refused(llama_directory: Path, alone: Ranks) -> None:
    critic = critic_of(llama_directory, loss={"categorical": {"atoms": 5}})
    scalar = critic_of(llama_directory)
    with pytest.raises(ValueError, match="shape"):
        scalar.load(critic.tensors(), critic.state_dict())


def test_a_step_without_anything_to_learn_from_changes_nothing(llama_directory: Path, alone: Ranks) -> None:
    critic = critic_of(llama_directory, learningRate=0.1)
    batch = pad_sequences(SEQUENCES, 0)
    trained(critic, batch, alone, 3)
    before = critic.values(batch)
    assert critic.apply(3, alone) == 0.0
    assert torch.equal(critic.values(batch), before), "the optimizer's momentum alone moves nothing"


def test_a_gradient_that_is_not_finite_changes_nothing(llama_directory: Path, alone: Ranks) -> None:
    critic = critic_of(llama_directory)
    batch = pad_sequences(SEQUENCES, 0)
    critic.loss(batch, torch.full(RETURNS.shape, torch.inf), step_tokens=12.0)[0].backward()
    with pytest.raises(Diverged):
        critic.apply(0, alone)
    assert bool((critic.values(batch) == 0).all())


def test_values_serve_advantages_of_the_same_completions(llama_directory: Path, alone: Ranks) -> None:
    """From values to targets and back: a critic fitted to its targets has advantages near 0 for what it has seen."""
    critic = critic_of(llama_directory, "separate", learningRate=1e-2)
    sequences = [SEQUENCES[0], SEQUENCES[2]]
    batch = pad_sequences(sequences, 0)
    lengths = [len(sequence.completion_ids) for sequence in sequences]
    parameters = GeneralizedAdvantage(normalize="none")
    for step in range(60):
        values = critic.values(batch).double()
        rollout = judged([1.0, -0.5], [0, 1], lengths=lengths, values=values)
        targets = value_targets(parameters, 1.0, rollout)
        critic.loss(batch, targets.float(), step_tokens=8.0)[0].backward()
        critic.apply(step, alone)
    final = judged([1.0, -0.5], [0, 1], lengths=lengths, values=critic.values(batch).double())
    assert advantages(parameters, final).abs().max().item() < 0.1
