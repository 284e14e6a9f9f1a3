"""The stages of exploration in a job: budgets, resampling, rescue, selection and replay, with what they need of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.exploration.family import SampleSelection
from plumbline_api.methods.exploration.rescue import Demonstration, Gold, Guidance
from plumbline_api.methods.policy.decoupled import DecoupledPpo
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.exploration import (
    BUDGETS,
    REPLAYS,
    Budget,
    Replay,
    ResamplingPlan,
    hinted,
    plan_resampling,
    plan_rescue,
    prompt_weights,
)
from plumbline_trainer.objectives.policy.demonstrations import DEMONSTRATED
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rewards.scoring import Scores
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.rollout.requests import Completion
from plumbline_trainer.tasks.judging import Candidate, Judgement
from plumbline_trainer.tasks.phases import count_as, timed
from plumbline_trainer.tasks.rlvr_columns import rescue_texts
from plumbline_trainer.tasks.rlvr_data import PromptData
from plumbline_trainer.tasks.sampling import Sampler, Wanted


class Explorer:
    """What `spec.exploration` says, and the state of its stages; a stage that is not set does nothing."""

    def __init__(
        self,
        spec: RLVRJobSpec,
        ranks: Ranks,
        train: PromptData,
        renderer: Renderer,
        sampler: Sampler,
        logprobs: Callable[[Sequence[Experience]], None],
    ) -> None:
        """`logprobs` writes the present policy's log-probabilities into experiences. Raises `DataError` where rows
        lack the texts of a rescue."""
        self._ranks, self._train, self._sampler, self._logprobs = ranks, train, sampler, logprobs
        self._objective = spec.objective.value
        self._weighs_by_sampler = isinstance(self._objective, DecoupledPpo)
        stages, limits = spec.exploration, spec.training
        self._resampling = None if stages.resampling is None else stages.resampling.value
        self._rescue = None if stages.rescue is None else stages.rescue.value
        self.selection: SampleSelection | None = None if stages.selection is None else stages.selection.value
        self._budget: Budget | None = None
        if stages.budget is not None:
            self._budget = BUDGETS.of(stages.budget.value)(stages.budget.value, len(train.rows))
        self._replay: Replay | None = None
        if stages.replay is not None:
            self._replay = REPLAYS.of(stages.replay.value)(stages.replay.value, limits.seed)
        self._texts = rescue_texts(spec, train.rows)
        self._prompts = self._hinted_prompts(renderer, limits.max_prompt_tokens)
        self._solutions = self._solution_tokens(renderer, limits.max_completion_tokens)

    def budgets(self, rows: Sequence[int], group_size: int) -> list[int]:
        """Samples of each of the rollout's prompts."""
        if self._budget is None:
            return [group_size] * len(rows)
        return self._budget.budgets(rows, len(rows) * group_size)

    def observe(self, rows: Sequence[int], everyone: JudgedRollout) -> None:
        """Shows a judged rollout, whose groups are indices into `rows`, to the budget."""
        if self._budget is not None:
            self._budget.observe(rows, everyone)

    def resampling(self, everyone: JudgedRollout, attempt: int) -> ResamplingPlan:
        """What is sampled next, after `attempt` rounds of it."""
        return plan_resampling(self._resampling, everyone, attempt)

    def rescue(
        self, judgement: Judgement, everyone: JudgedRollout, rows: Sequence[int], number: int, phases: dict[str, float]
    ) -> tuple[int, ...]:
        """Adds guided completions and reference solutions of failed prompts to `judgement`.

        Returns the slots of which only the demonstration is learnt from.
        """
        if self._rescue is None:
            return ()
        available = {slot for slot, row in enumerate(rows) if self._has_text(row)}
        plan = plan_rescue(self._rescue, everyone, available)
        if plan.hinted:
            self._add_guided(judgement, plan.hinted, rows, number, phases)
        if plan.solved:
            self._put_solutions(judgement, everyone, plan.solved, rows, phases)
        return plan.demonstrated

    def prompt_weights(self, everyone: JudgedRollout) -> Tensor | None:
        """[N] factors on losses under which every prompt weighs the same although their numbers of samples differ; None
        where it does so without them."""
        return prompt_weights(everyone) if self._budget is not None and self._objective.weighs_by_samples else None

    def attributed(self, experience: Experience, candidate: Candidate) -> Experience:
        """The experience of `candidate`, as one of another policy if it is learnt from as such."""
        corrects = isinstance(self._rescue, Guidance) and self._rescue.importance_correction
        if candidate.hinted and corrects:
            return self._of_another_policy(experience, torch.tensor(candidate.completion.logprobs))
        if candidate.injected and isinstance(self._rescue, Gold) and self._rescue.behaviour == "certain":
            return self._of_another_policy(experience, torch.zeros(len(candidate.completion.tokens)))
        return experience

    def demonstrations(self, slots: Sequence[int], rows: Sequence[int]) -> list[Experience]:
        """The demonstrations of this rank's `slots`, called that for the loss; their advantage is their weight."""
        if not isinstance(self._rescue, Demonstration):
            return []
        found = [self._solution(slot, rows[slot], self._rescue.weight) for slot in slots if self._is_mine(slot)]
        for one in found:
            one.prepared = {DEMONSTRATED: torch.tensor(1.0)}
        self._logprobs(found)
        return [replace(one, sampled_logprobs=_given(one.old_logprobs), old_logprobs=None) for one in found]

    def replayed(self, number: int, everyone: JudgedRollout, estimated: Tensor, first_slot: int) -> list[Experience]:
        """This rank's samples of earlier rollouts, in slots from `first_slot`."""
        if self._replay is None:
            return []
        signal = estimated != 0 if estimated.dim() == 1 else (estimated != 0).any(dim=1)
        learnt, silent = int((everyone.valid & signal).sum()), int((everyone.valid & ~signal).sum())
        drawn = self._replay.draw(number, learnt, silent, first_slot)
        return [self._of_another_policy(one, _given(one.old_logprobs)) for one in drawn if self._is_mine(one.slot)]

    def remember(self, number: int, experiences: Sequence[Experience]) -> None:
        """Puts the samples of all ranks into the replay."""
        if self._replay is not None:
            if self._weighs_by_sampler:
                # theirs are the sampler's log-probabilities: the old ones are of the policy that ratios are taken to
                experiences = [replace(one, old_logprobs=None) if one.stale else one for one in experiences]
            everyones = [one for share in self._ranks.gather(list(experiences)) for one in share]
            self._replay.add(number, sorted(everyones, key=lambda one: (one.slot, one.sample)))

    def metrics(self) -> dict[str, Metric]:
        """The same on every rank."""
        return {} if self._replay is None else self._replay.metrics()

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; later rollouts do not change what was returned."""
        stages = {"budget": self._budget, "replay": self._replay}
        return {name: stage.state_dict() for name, stage in stages.items() if stage is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        if self._budget is not None:
            self._budget.load_state_dict(state["budget"])
        if self._replay is not None:
            self._replay.load_state_dict(state["replay"])

    def _add_guided(
        self, judgement: Judgement, plan: Any, rows: Sequence[int], number: int, phases: dict[str, float]
    ) -> None:
        taken = {one.slot: one.sample + 1 for one in judgement.candidates}
        wanted = [
            Wanted(slot, rows[slot], taken[slot], samples, self._prompts[rows[slot]], hinted=True)
            for slot, samples in sorted(plan.items())
            if self._is_mine(slot)
        ]
        with timed(phases, "generate"):
            candidates = self._sampler.sample(wanted, "guidance", number)
        with timed(phases, "verify"):
            scores = self._sampler.score_together([(one.row, one.text) for one in candidates], self._ranks)
        count_as(phases, "score", scores.batch_seconds, within="verify")
        judgement.add(candidates, scores)

    def _put_solutions(
        self,
        judgement: Judgement,
        everyone: JudgedRollout,
        solved: Mapping[int, int],
        rows: Sequence[int],
        phases: dict[str, float],
    ) -> None:
        """Puts the solutions of this rank's slots in the places that `solved` names. A collective of the ranks.

        A solution on which a component fails and so has no value, which shaping may ask for, is left out.
        """
        assert isinstance(self._rescue, Gold)
        slots = [slot for slot in sorted(solved) if self._is_mine(slot)]
        solutions = [self._solution(slot, rows[slot], 0.0) for slot in slots]
        self._logprobs(solutions)
        completions = [Completion(one.tokens, _given(one.old_logprobs).tolist(), "stop") for one in solutions]
        texts = self._sampler.texts(completions)
        asked = [(rows[slot], text) for slot, text in zip(slots, texts, strict=True)]
        with timed(phases, "verify"):
            scores = self._sampler.score_together(asked, self._ranks)
        count_as(phases, "score", scores.batch_seconds, within="verify")
        candidates = []
        for slot, completion, text in zip(slots, completions, texts, strict=True):
            first = int((everyone.groups == slot).nonzero()[0])
            samples = [one.sample for one in judgement.candidates if one.slot == slot]
            replaced = samples[solved[slot] - first]
            candidates.append(Candidate(slot, replaced, rows[slot], completion, text, injected=True))
        judged = torch.nonzero(scores.valid)[:, 0]
        candidates = [candidates[place] for place in judged.tolist()]
        for one in candidates:
            judgement.drop_sample(one.slot, one.sample)
        components = {name: values[judged] for name, values in scores.components.items()}
        totals = torch.full((len(candidates),), self._rescue.reward, dtype=torch.float64)
        judgement.add(candidates, Scores(components, totals, torch.ones(len(candidates), dtype=torch.bool), {}))

    def _of_another_policy(self, experience: Experience, behaviour: Tensor) -> Experience:
        """The experience as one that a policy with the log-probabilities `behaviour` sampled.

        They are the denominator of its importance ratio. An objective that weighs by the sampler itself has them as the
        sampler's instead, and its ratio is to the policy before the updates as it is everywhere.
        """
        if self._weighs_by_sampler:
            return replace(experience, sampled_logprobs=behaviour, old_logprobs=None, stale=True)
        return replace(experience, old_logprobs=behaviour, stale=True)

    def _solution(self, slot: int, row: int, advantage: float) -> Experience:
        tokens = self._solutions[row]
        nothing = torch.zeros(len(tokens))
        return Experience(slot, 0, row, tokens, nothing, torch.full((len(tokens),), advantage), advantage)

    def _is_mine(self, slot: int) -> bool:
        return slot % self._ranks.world_size == self._ranks.rank

    def _has_text(self, row: int) -> bool:
        return row in self._prompts or row in self._solutions

    def _hinted_prompts(self, renderer: Renderer, most: int) -> dict[int, list[int]]:
        """Row -> its prompt with the hint, as token ids; prompts that become too long with it are left out."""
        if not isinstance(self._rescue, Guidance):
            return {}
        rows, template = self._train.rows, self._rescue.template
        prompts = {number: hinted(rows[number].prompt, text, template) for number, text in _present(self._texts)}
        ids = renderer.prompt_ids(list(prompts.values()), [rows[number].place for number in prompts])
        return {number: list(found) for number, found in zip(prompts, ids, strict=True) if len(found) <= most}

    def _solution_tokens(self, renderer: Renderer, most: int) -> dict[int, list[int]]:
        """Row -> its reference solution as token ids; solutions longer than a completion may be are left out."""
        if not isinstance(self._rescue, (Gold, Demonstration)):
            return {}
        numbers = [number for number, _ in _present(self._texts)]
        texts = [text for _, text in _present(self._texts)]
        ids = renderer.completion_ids([self._train.rows[number].prompt for number in numbers], texts)
        return {number: list(found) for number, found in zip(numbers, ids, strict=True) if len(found) <= most}


def _present(texts: Iterable[str | None]) -> list[tuple[int, str]]:
    return [(number, text) for number, text in enumerate(texts) if text is not None]


def _given(values: Tensor | None) -> Tensor:
    assert values is not None
    return values
