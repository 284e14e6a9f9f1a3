"""The updates that learn from a rollout: its forward passes, what an objective sees of them, and the loss."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.data.batches import Layout, SequenceBatch, TokenSequence
from plumbline_trainer.modeling.linear_head import LOGIT_ELEMENTS
from plumbline_trainer.modeling.logit_gaps import greedy_tokens, logit_gaps, reference_greedy_tokens
from plumbline_trainer.modeling.logprobs import laid_out, predicting_states, token_logprobs
from plumbline_trainer.modeling.reference import Reference
from plumbline_trainer.modeling.scoring import evaluating
from plumbline_trainer.modeling.success_head import success_head
from plumbline_trainer.modeling.token_entropy import token_logprobs_and_entropy
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from plumbline_trainer.objectives.policy.preparation import PROMPT_WEIGHT
from plumbline_trainer.objectives.policy.token_selection import SELECTED
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.experience import Experience, Rollout, padded
from plumbline_trainer.tasks.critic import Critic
from plumbline_trainer.tasks.prompting import TrainingPrompts


@dataclass(frozen=True)
class MicroBatch:
    """Some completions of one step in one forward pass."""

    sequences: SequenceBatch
    experiences: Sequence[Experience]
    fresh: bool
    """Whether the policy is still the one that sampled."""

    counts: StepCounts


class Updates:
    """Forward passes over experiences. Which completions share one follows from their lengths alone."""

    def __init__(
        self,
        spec: RLVRJobSpec,
        model: nn.Module,
        layout: Layout,
        prompts: TrainingPrompts,
        device: torch.device,
        critic: Critic | None,
    ) -> None:
        self._spec, self._model, self._layout, self._device = spec, model, layout, device
        self._prompts = prompts
        self._critic = critic
        self._objective = spec.objective.value
        self._kl = None if spec.kl is None else spec.kl.value
        self._aggregation = None if spec.aggregation is None else spec.aggregation.value
        self._correction = None if spec.off_policy_correction is None else spec.off_policy_correction.value
        self._temperature = spec.rollout.sampling.temperature

    def micro_batches(self, rollout: Rollout, *, fresh: bool) -> list[MicroBatch]:
        """The micro-batches of one update on `rollout`; `fresh` where it is the first one."""
        counts = StepCounts(rollout.sequences, rollout.tokens, self._spec.training.max_completion_tokens)
        return [MicroBatch(self.batch(group), group, fresh, counts) for group in self.passes(rollout.experiences)]

    def loss(
        self, micro_batch: MicroBatch, entropy_coefficient: float | None = None
    ) -> tuple[Tensor, dict[str, Metric]]:
        """The micro-batch's share of the step's loss, the critic's included, and its metrics."""
        if self._objective.guides:
            return self._guidance_loss(micro_batch)
        sequences = micro_batch.sequences
        states = predicting_states(self._model, sequences)
        measures_entropy = self._objective.needs_entropy or entropy_coefficient is not None
        logprobs, entropy = self._logprobs(states, sequences, entropy=measures_entropy)
        tokens = replace(self._tokens(micro_batch, logprobs), entropy=entropy)
        if self._objective.learns_values:
            tokens = self._with_values(tokens, micro_batch, states)
        share, metrics = policy_loss(
            self._objective,
            tokens,
            micro_batch.counts,
            kl=self._kl,
            aggregation=self._aggregation,
            correction=self._correction,
            entropy_coefficient=entropy_coefficient,
        )
        if micro_batch.fresh and tokens.sampled_logprobs is not None:
            gap = (tokens.logprobs.detach() - tokens.sampled_logprobs).abs()
            own = torch.tensor([not experience.stale for experience in micro_batch.experiences], device=self._device)
            metrics["sampler_gap"] = Metric.mean_of(gap, tokens.mask & own[:, None])
        if self._critic is not None and self._critic.learns and not self._objective.learns_values:
            of_critic, about_critic = self._critic_loss(micro_batch, states)
            share, metrics = share + of_critic, metrics | about_critic
        return share, metrics

    def _guidance_loss(self, micro_batch: MicroBatch) -> tuple[Tensor, dict[str, Metric]]:
        """That of the head beside the model, of which only the taken tokens' logits are made."""
        sequences = micro_batch.sequences
        head = success_head(self._model)
        sampled = self._laid([experience.sampled_logprobs for experience in micro_batch.experiences])
        assert head is not None and sampled is not None
        with evaluating(self._model), torch.no_grad():
            states = predicting_states(self._model, sequences)
        logits = laid_out(head(states, sequences.targets[sequences.mask]), sequences.mask)
        tokens = replace(self._tokens(micro_batch, sampled), success_logits=logits)
        return policy_loss(self._objective, tokens, micro_batch.counts, aggregation=self._aggregation)

    def objective_gradient(self, rollout: Rollout) -> Tensor:
        """[P] float32 on the CPU: this rank's share of the gradient of the bare objective for all trained parameters.

        Gradients that have been accumulated stay as they are.
        """
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for micro_batch in self.micro_batches(rollout, fresh=True):
            states = predicting_states(self._model, micro_batch.sequences)
            logprobs, _ = self._logprobs(states, micro_batch.sequences, entropy=False)
            share, _ = policy_loss(
                self._objective, self._tokens(micro_batch, logprobs), micro_batch.counts, aggregation=self._aggregation
            )
            for summed, gradient in zip(total, torch.autograd.grad(share, parameters, allow_unused=True), strict=True):
                if gradient is not None:
                    summed += gradient
        return torch.cat([summed.flatten().float().cpu() for summed in total])

    def entropies(self, experiences: Sequence[Experience], poll: Callable[[], None]) -> list[Tensor]:
        """The present policy's entropy at every token of each completion, float32 [T] each, in order."""
        found: dict[int, Tensor] = {}
        with evaluating(self._model), torch.no_grad():
            for group in self.passes(experiences):
                sequences = self.batch(group)
                states = predicting_states(self._model, sequences)
                _, entropies = self._logprobs(states, sequences, entropy=True)
                assert entropies is not None
                found |= {id(one): row for one, row in zip(group, _rows(entropies, sequences.mask), strict=True)}
                poll()
        return [found[id(experience)] for experience in experiences]

    def reference_logprobs(
        self, reference: Reference, experiences: Sequence[Experience], poll: Callable[[], None]
    ) -> None:
        """Writes `reference_logprobs` into `experiences`. `poll` ends the call by raising."""
        for group in self.passes(experiences):
            found = reference.completion_logprobs(self.batch(group), temperature=self._temperature)
            for experience, values in zip(group, _rows(found.values, found.mask), strict=True):
                experience.reference_logprobs = values
            poll()

    def reference_tokens(
        self, reference: Reference, experiences: Sequence[Experience], poll: Callable[[], None]
    ) -> None:
        """Writes `reference_tokens` into `experiences`."""
        for group in self.passes(experiences):
            sequences = self.batch(group)
            found = reference_greedy_tokens(reference, sequences).to(torch.int32)
            for experience, tokens in zip(group, _rows(found, sequences.mask), strict=True):
                experience.reference_tokens = tokens
            poll()

    def old_logprobs(self, experiences: Sequence[Experience], poll: Callable[[], None]) -> None:
        """Writes the present policy's log-probabilities into `experiences` as the old ones."""
        with evaluating(self._model), torch.no_grad():
            for group in self.passes(experiences):
                sequences = self.batch(group)
                values, _ = self._logprobs(predicting_states(self._model, sequences), sequences, entropy=False)
                for experience, old in zip(group, _rows(values, sequences.mask), strict=True):
                    experience.old_logprobs = old
                poll()

    def values(self, experiences: Sequence[Experience], critic: Critic, poll: Callable[[], None]) -> None:
        """Writes the critic's values into `experiences`."""
        for group in self.passes(experiences):
            sequences = self.batch(group)
            for experience, values in zip(group, _rows(critic.values(sequences), sequences.mask), strict=True):
                experience.values = values
            poll()

    def passes(self, experiences: Sequence[Experience]) -> list[list[Experience]]:
        """The completions of each forward pass: the same ones in every update of a rollout.

        With `microBatchSize` passes are counted in completions, else in tokens, and completions of one prompt, which
        share its computation, stay together as far as they fit. Where the loss compares them they stay together.
        """
        most = self._spec.training.micro_batch_size
        prompts = [list(group) for _, group in groupby(experiences, key=lambda experience: experience.slot)]
        if not self._objective.needs_whole_groups:
            prompts = [part for group in prompts for part in self._parts(group, most)]
        sizes = [self._layout.size([self._sequence(experience) for experience in group]) for group in prompts]
        layout = self._layout if most is None else replace(self._layout, token_budget=sys.maxsize, max_rows=most)
        return [[experience for item in items for experience in prompts[item]] for items in layout.passes(sizes)]

    def batch(self, group: Sequence[Experience]) -> SequenceBatch:
        """The completions of a pass behind their prompts, on the device."""
        prompts = groupby(group, key=lambda experience: experience.slot)
        return self._layout.batch([[self._sequence(one) for one in some] for _, some in prompts]).to(self._device)

    def _parts(self, group: list[Experience], most: int | None) -> list[list[Experience]]:
        """A prompt's completions in runs that fit into a pass."""
        if most is not None:
            return [[experience] for experience in group]
        runs: list[list[Experience]] = [[]]
        for experience in group:
            longer = [self._sequence(one) for one in [*runs[-1], experience]]
            if runs[-1] and self._layout.size(longer).tokens > self._layout.token_budget:
                runs.append([])
            runs[-1].append(experience)
        return runs

    def _sequence(self, experience: Experience) -> TokenSequence:
        return TokenSequence(self._prompts.of(experience), experience.tokens)

    def _logprobs(self, states: Tensor, sequences: SequenceBatch, *, entropy: bool) -> tuple[Tensor, Tensor | None]:
        """[B, T] log-probabilities of completion tokens and, if asked for, the entropies before them."""
        targets = sequences.targets[sequences.mask]
        if entropy:
            found, entropies = token_logprobs_and_entropy(
                self._model, states, targets, self._temperature, LOGIT_ELEMENTS
            )
            return laid_out(found, sequences.mask), laid_out(entropies, sequences.mask)
        found = token_logprobs(self._model, states, targets, self._temperature, LOGIT_ELEMENTS)
        return laid_out(found, sequences.mask), None

    def _tokens(self, micro_batch: MicroBatch, logprobs: Tensor) -> PolicyTokens:
        some = micro_batch.experiences
        advantages = self._laid([experience.advantages for experience in some])
        assert advantages is not None
        return PolicyTokens(
            logprobs,
            micro_batch.sequences.mask,
            advantages,
            old_logprobs=self._old_logprobs(micro_batch, logprobs.detach()),
            sampled_logprobs=self._laid([experience.sampled_logprobs for experience in some]),
            reference_logprobs=self._laid([experience.reference_logprobs for experience in some]),
            rewards=torch.tensor([experience.reward for experience in some], device=self._device),
            groups=torch.tensor([experience.slot for experience in some], device=self._device),
            prepared=self._prepared(some),
        )

    def _with_values(self, tokens: PolicyTokens, micro_batch: MicroBatch, states: Tensor) -> PolicyTokens:
        """Also what an objective that learns values needs of the critic and of the logits."""
        assert self._critic is not None
        sequences, mask = micro_batch.sequences, micro_batch.sequences.mask
        greedy = self._laid([experience.reference_tokens for experience in micro_batch.experiences])
        assert greedy is not None
        largest = greedy_tokens(self._model, states)
        with torch.no_grad():
            below = logit_gaps(self._model, states, greedy[mask].long(), largest)
        return replace(
            tokens,
            values=self._critic.estimates(sequences, states),
            gaps=laid_out(logit_gaps(self._model, states, sequences.targets[mask], largest), mask),
            reference_gaps=laid_out(below, mask),
        )

    def _prepared(self, some: Sequence[Experience]) -> dict[str, Tensor]:
        """What was prepared, [B] or [B, T]. A demonstration keeps all its tokens and its weight; the rest, which its
        loss does not see, is 0, and so is for other completions that they are demonstrations."""
        shapes = {name: values.dim() for experience in some for name, values in experience.prepared.items()}
        found = {}
        for name, dimensions in shapes.items():
            missing = 1.0 if name in (SELECTED, PROMPT_WEIGHT) else 0.0
            values = self._laid(
                [
                    experience.prepared.get(name, torch.full((len(experience.tokens),) * dimensions, missing))
                    for experience in some
                ]
            )
            assert values is not None
            found[name] = values
        return found

    def _old_logprobs(self, micro_batch: MicroBatch, present: Tensor) -> Tensor | None:
        """[B, T]; None where all are the `present` ones, as in a first update on what the policy has just sampled."""
        some = micro_batch.experiences
        if not micro_batch.fresh:
            return self._laid([experience.old_logprobs for experience in some])
        kept = [experience.old_logprobs if experience.stale else None for experience in some]
        if all(one is None for one in kept):
            return None
        old = self._laid(
            [torch.zeros(len(one.tokens)) if found is None else found for one, found in zip(some, kept, strict=True)]
        )
        assert old is not None
        differs = torch.tensor([one is not None for one in kept], device=self._device)
        return torch.where(differs[:, None], old, present)

    def _critic_loss(self, micro_batch: MicroBatch, states: Tensor) -> tuple[Tensor, dict[str, Metric]]:
        assert self._critic is not None
        some = micro_batch.experiences
        returns = self._laid([experience.returns for experience in some])
        assert returns is not None
        return self._critic.loss(
            micro_batch.sequences,
            returns,
            step_tokens=micro_batch.counts.tokens,
            old_values=self._laid([experience.values for experience in some]),
            states=states if self._critic.shares_trunk else None,
        )

    def _laid(self, values: Sequence[Tensor | None]) -> Tensor | None:
        found = padded(values)
        return None if found is None else found.to(self._device, non_blocking=True)


def _rows(values: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Each completion's own values, on the CPU."""
    for row, own in zip(values.cpu(), mask.cpu(), strict=True):
        yield row[own]
