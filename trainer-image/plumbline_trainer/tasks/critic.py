"""The critic beside a policy: its values, its loss, its own updates, its part of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plumbline_api.methods.critic import Critic as CriticParameters
from plumbline_api.methods.critic import FrozenCritic, SeparateCritic, SharedCritic, TrainedCritic
from plumbline_api.methods.optimization import AdamW, Constant
from plumbline_trainer.advantages.recursions import token_rewards
from plumbline_trainer.data.batches import SequenceBatch
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.modeling.logprobs import laid_out, predicting_states
from plumbline_trainer.modeling.scoring import evaluating
from plumbline_trainer.modeling.value_head import load_value_model, new_value_head, value_outputs
from plumbline_trainer.objectives.critic import READINGS, VALUE_LOSSES, check_rewards, outputs_of
from plumbline_trainer.optimization.update import ParameterUpdate
from plumbline_trainer.registry import Registry
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout

_PARAMETERS, _OPTIMIZER = "critic/", "critic-optimizer/"
"""What the names of a checkpoint's tensors begin with."""


@dataclass(frozen=True)
class CriticInputs:
    """What a critic is made of besides its parameters."""

    policy: nn.Module
    location: str
    """Directory or URI of a critic with a model of its own."""

    pad_token_id: int
    seed: int
    dtype: str
    """As in `spec.model.dtype`."""

    device: torch.device
    activation_checkpointing: bool = False


CRITICS: Registry[Callable[[Any, CriticInputs], nn.Module]] = Registry(CriticParameters)
"""(parameters, inputs) -> the module whose outputs are read as values."""


@CRITICS.implements(SharedCritic)
def _head_on_policy(parameters: SharedCritic, inputs: CriticInputs) -> nn.Module:
    return new_value_head(inputs.policy, outputs_of(parameters.loss.value))


@CRITICS.implements(SeparateCritic)
def _own_model(parameters: SeparateCritic, inputs: CriticInputs) -> nn.Module:
    return _loaded(parameters, inputs, frozen=False)


@CRITICS.implements(FrozenCritic)
def _frozen_model(parameters: FrozenCritic, inputs: CriticInputs) -> nn.Module:
    return _loaded(parameters, inputs, frozen=True)


def _loaded(parameters: CriticParameters, inputs: CriticInputs, *, frozen: bool) -> nn.Module:
    return load_value_model(
        inputs.location,
        outputs_of(parameters.loss.value),
        pad_token_id=inputs.pad_token_id,
        seed=inputs.seed,
        dtype=inputs.dtype,
        device=inputs.device,
        frozen=frozen,
        activation_checkpointing=inputs.activation_checkpointing,
    )


class Critic:
    """Values of the states before each token, and how they are learnt.

    It is no part of the policy: its parameters have an optimizer of their own, whose steps follow those of the policy,
    and the exported model never holds them. A shared critic is a head on hidden states that the policy's own pass
    makes, so `values` and `loss` take these `states` from whoever has them and run no second pass.
    """

    def __init__(
        self, parameters: CriticParameters, inputs: CriticInputs, *, max_steps: int, gradient_clip: float
    ) -> None:
        """Loads a critic with a model of its own from `inputs.location`; raises `ModelError`."""
        self.parameters = parameters
        self._loss = parameters.loss.value
        self._policy = inputs.policy
        self._model = CRITICS.of(parameters)(parameters, inputs)
        self._update: ParameterUpdate | None = None
        if isinstance(parameters, TrainedCritic):
            rule = AdamW(learning_rate=parameters.learning_rate)
            self._update = ParameterUpdate(self._model, rule, Constant(), max_steps, gradient_clip)

    @property
    def shares_trunk(self) -> bool:
        """Whether `values` and `loss` can use the policy's `states`."""
        return isinstance(self.parameters, SharedCritic)

    @property
    def learns(self) -> bool:
        """Whether it is trained."""
        return self._update is not None

    def check(self, rollout: JudgedRollout) -> None:
        """Raises `ConfigError` where a completion's reward, those of its tokens added, is none that a value can be.

        To be called before values are fitted to the rollout: a return out of bounds would be learnt as another one.
        """
        if self.learns:
            check_rewards(self._loss, token_rewards(rollout).sum(dim=1)[rollout.valid & (rollout.lengths > 0)])

    @torch.no_grad()
    def values(self, sequences: SequenceBatch, states: Tensor | None = None) -> Tensor:
        """[B, T] float32: the value before each completion token, 0 where there is none.

        `states` [N, H] are those of `modeling.logprobs.predicting_states`; a shared critic makes them itself where
        they are not given.
        """
        with evaluating(self._model):
            if states is None and self.shares_trunk:
                with evaluating(self._policy):
                    states = predicting_states(self._policy, sequences)
            return self.estimates(sequences, states)

    def estimates(self, sequences: SequenceBatch, states: Tensor | None = None) -> Tensor:
        """As `values`, with the gradient that `loss` has: for losses of values that are not regression to returns."""
        outputs = self._outputs(sequences, states)
        return laid_out(READINGS.of(self._loss)(self._loss, outputs), sequences.mask)

    def loss(
        self,
        sequences: SequenceBatch,
        returns: Tensor,
        *,
        step_tokens: float,
        old_values: Tensor | None = None,
        states: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Metric]]:
        """The micro-batch's share of the mean loss over all `step_tokens` tokens of the step, and its metrics.

        `returns` [B, T] are what the values should have been, `old_values` [B, T] those before the rollout's updates;
        both are read at completion tokens only. Shares of all micro-batches and ranks add up to the loss of the step.
        The gradient goes to the critic's parameters and, through `states`, by `trunkCoefficient` to the policy's.
        """
        mask = sequences.mask
        outputs = self._outputs(sequences, states)
        target = returns[mask].to(outputs)
        before = None if old_values is None else old_values[mask].to(outputs)
        losses = VALUE_LOSSES.of(self._loss)(self._loss, outputs, target, before)
        found = READINGS.of(self._loss)(self._loss, outputs.detach())
        metrics = {
            "critic/loss": Metric.mean_of(losses),
            "critic/value": Metric.mean_of(found),
            "critic/return": Metric.mean_of(target),
            "critic/squared_error": Metric.mean_of((found - target).square()),
        }
        return losses.sum() / step_tokens, metrics

    def apply(self, step: int, ranks: Ranks) -> float:
        """Updates the critic by the gradients of all ranks' losses; returns their norm. A collective of `ranks`.

        For optimizer step `step` (from 0), after the policy's own update. Without any gradient nothing changes, as
        with the policy in a step that is empty on all ranks. Raises `Diverged`.
        """
        if self._update is None:
            return 0.0
        ranks.sum_gradients(self._update.masters)
        norm = self._update.gradient_norm()
        if norm == 0.0:
            self._update.drop_gradients()
        else:
            self._update.apply(step, norm)
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and optimizer state for a checkpoint, by name; empty for a frozen critic."""
        if self._update is None:
            return {}
        return {
            **{f"{_PARAMETERS}{name}": value for name, value in self._update.parameter_tensors().items()},
            **{f"{_OPTIMIZER}{name}": value for name, value in self._update.optimizer_tensors().items()},
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state of the optimizer besides tensors."""
        return {} if self._update is None else self._update.optimizer_values()

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restores `tensors` and `state_dict`. Other names among `tensors` are left alone. Raises `ValueError` where
        names or shapes differ from the critic's."""
        if self._update is None:
            return

        def below(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self._update.load(below(_PARAMETERS), below(_OPTIMIZER), state)

    def _outputs(self, sequences: SequenceBatch, states: Tensor | None) -> Tensor:
        """[N, O] float32 with gradient: the critic's outputs before each completion token."""
        if not isinstance(self.parameters, SharedCritic):
            return value_outputs(self._model, sequences)
        if states is None:
            states = predicting_states(self._policy, sequences)
        states = states.float()
        coefficient = self.parameters.trunk_coefficient
        # the same numbers, of which only a share carries a gradient to the policy: the head's own is whole
        seen = states.detach() + coefficient * (states - states.detach()) if coefficient else states.detach()
        outputs: Tensor = self._model(seen)
        return outputs
