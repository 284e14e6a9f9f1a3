"""What some advantages and shapings need besides the rewards of the completions: more samples, or gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from plumbline_api.methods.advantage.values import MonteCarloValue
from plumbline_api.methods.shaping.progress import Progress
from plumbline_api.methods.shaping.weights import GradientWeighting
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.advantages import advantages
from plumbline_trainer.advantages.steps import step_starts
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.objectives.policy.preparation import prepared, prepared_for
from plumbline_trainer.rollout.experience import Experience, Rollout, padded
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping import Evidence, token_ends
from plumbline_trainer.shaping.progress import segment_ends
from plumbline_trainer.tasks.judging import Candidate
from plumbline_trainer.tasks.sampling import Sampler, Wanted
from plumbline_trainer.tasks.updating import Updates

T = TypeVar("T")


class EvidenceCollector:
    """Gathers what the job's advantage and shaping declare to need; each method is a collective of the ranks."""

    def __init__(
        self,
        spec: RLVRJobSpec,
        ranks: Ranks,
        sampler: Sampler,
        updates: Updates,
        prompt_ids: Sequence[Sequence[int]],
    ) -> None:
        """`prompt_ids` are those of all rows of the training set."""
        self._spec, self._ranks, self._sampler, self._updates = spec, ranks, sampler, updates
        self._prompt_ids = prompt_ids
        self._advantage, self._objective = spec.estimator, spec.objective.value
        self._shaping = [choice.value for choice in spec.shaping]

    @property
    def needed(self) -> bool:
        """Whether anything is gathered."""
        advantage = self._advantage
        of_advantage = advantage.needs_greedy or advantage.needs_continuations or advantage.needs_policy_logprobs
        return of_advantage or any(
            step.needs_token_positions or step.needs_prefix_values or step.needs_component_gradients
            for step in self._shaping
        )

    def for_advantages(
        self, everyone: JudgedRollout, candidates: Sequence[Candidate], own: Sequence[Experience], number: int
    ) -> JudgedRollout:
        """The rollout with what the advantage estimator asks for; `candidates`, and `own` of them, are this rank's."""
        if self._advantage.needs_greedy:
            everyone = replace(everyone, greedy_rewards=self._greedy_rewards(everyone, candidates, number))
        if self._advantage.needs_policy_logprobs:
            # the sampler may be another implementation of the policy, or one that is some updates behind
            present = [replace(experience) for experience in own]
            self._updates.old_logprobs(present, self._ranks.stop.raise_if_requested)
            table = self.table(candidates, [one.old_logprobs for one in present], everyone)
            everyone = replace(everyone, policy_logprobs=table.float())
        if isinstance(self._advantage, MonteCarloValue):
            values = self._step_values(candidates, number, self._advantage)
            everyone = replace(everyone, prefix_values=self.table(candidates, values, everyone))
        return everyone

    def for_shaping(self, everyone: JudgedRollout, candidates: Sequence[Candidate], number: int) -> Evidence:
        """What the steps of shaping ask for."""
        ends_of_tokens = gradient_products = prefix_values = None
        if any(step.needs_token_positions for step in self._shaping):
            ends = {one.key: token_ends(self._text, one.completion.tokens) for one in candidates}
            ends_of_tokens = self._in_order(ends)
        for step in self._shaping:
            if isinstance(step, Progress):
                prefix_values = self._in_order(self._forced_answers(candidates, number, step))
            if isinstance(step, GradientWeighting):
                gradient_products = self._gradient_products(everyone, candidates, step.components)
        return Evidence(ends_of_tokens, gradient_products, prefix_values)

    def table(
        self, candidates: Sequence[Candidate], values: Sequence[Tensor | None], everyone: JudgedRollout
    ) -> Tensor:
        """[N, T] float64, 0 outside, from this rank's values of tokens [T] of each candidate."""
        own = {one.key: found for one, found in zip(candidates, values, strict=True)}
        found = padded(self._in_order(own))
        assert found is not None
        return pad(found, (0, everyone.logprobs.shape[1] - found.shape[1])).double()

    def _in_order(self, own: dict[int, T]) -> list[T]:
        """Values of the completions of all ranks in the order of their keys."""
        everyones = {key: value for share in self._ranks.gather(own) for key, value in share.items()}
        return [everyones[key] for key in sorted(everyones)]

    def _greedy_rewards(self, everyone: JudgedRollout, candidates: Sequence[Candidate], number: int) -> Tensor:
        rows = {candidate.slot: candidate.row for candidate in candidates}
        wanted = [Wanted(slot, row, 0, 1, self._prompt_ids[row]) for slot, row in sorted(rows.items())]
        greedy = self._sampler.sample(wanted, "greedy", number, greedy=True)
        scores = self._sampler.score_together([(one.row, one.text) for one in greedy], self._ranks)
        totals = torch.where(scores.valid, scores.totals, torch.nan).tolist()
        own = {candidate.slot: total for candidate, total in zip(greedy, totals, strict=True)}
        rewards = {slot: total for share in self._ranks.gather(own) for slot, total in share.items()}
        return torch.tensor([rewards[slot] for slot in everyone.groups.tolist()], dtype=torch.float64)

    def _step_values(self, candidates: Sequence[Candidate], number: int, how: MonteCarloValue) -> list[Tensor]:
        """For each candidate [T]: the mean reward of completions from the beginning of each step, else NaN.

        All samples of a prompt begin with the prompt alone, whose value is estimated once.
        """
        starts = [
            step_starts(self._sampler.pieces(one.completion.tokens), how.separator, how.max_steps) for one in candidates
        ]
        firsts: dict[int, int] = {}
        places: list[tuple[int, int]] = []
        for index, (candidate, found) in enumerate(zip(candidates, starts, strict=True)):
            places += [(index, start) for start in found if start or firsts.setdefault(candidate.slot, index) == index]
        prefixes = [(candidates[index], candidates[index].completion.tokens[:start]) for index, start in places]
        means = dict(zip(places, self._mean_rewards(prefixes, how.continuations, "steps", number), strict=True))
        values = []
        for index, (candidate, found) in enumerate(zip(candidates, starts, strict=True)):
            own = torch.full((len(candidate.completion.tokens),), torch.nan, dtype=torch.float64)
            for start in found:
                own[start] = means[(index, start) if start else (firsts[candidate.slot], 0)]
            values.append(own)
        return values

    def _forced_answers(self, candidates: Sequence[Candidate], number: int, how: Progress) -> dict[int, list[float]]:
        """Key -> success rates of answers that are forced after each prefix, the empty one first."""
        texts = {
            candidate.key: [
                candidate.text[:end] for end in (0, *segment_ends(candidate.text, how.segment_end, how.max_segments))
            ]
            for candidate in candidates
        }
        prefixes = [
            (candidate, self._sampler.token_ids(text + how.forced_answer))
            for candidate in candidates
            for text in texts[candidate.key]
        ]
        means = self._mean_rewards(prefixes, how.probes, "progress", number, how.max_probe_tokens)
        ends = [0, *accumulate(len(texts[candidate.key]) for candidate in candidates)]
        return {
            candidate.key: means[start:end] for candidate, start, end in zip(candidates, ends, ends[1:], strict=False)
        }

    def _mean_rewards(
        self,
        prefixes: Sequence[tuple[Candidate, Sequence[int]]],
        samples: int,
        purpose: str,
        number: int,
        max_tokens: int | None = None,
    ) -> list[float]:
        """The mean reward of `samples` completions that go on from each prefix of tokens; NaN where none is judged.

        What is written anew has at most `max_tokens` tokens; without it the whole is as long as a completion may be.
        """
        most = self._spec.training.max_completion_tokens
        wanted = [
            Wanted(
                place,
                candidate.row,
                0,
                samples,
                [*self._prompt_ids[candidate.row], *tokens],
                max_tokens=max_tokens or max(1, most - len(tokens)),
            )
            for place, (candidate, tokens) in enumerate(prefixes)
        ]
        # random numbers must be the same on however many ranks: they belong to the candidate and the prefix's length
        streams = [candidate.key * (most + 1) + len(tokens) for candidate, tokens in prefixes]
        continued = self._sampler.sample(wanted, purpose, number, numbers=streams)
        texts = self._sampler.texts_of([[*prefixes[one.slot][1], *one.completion.tokens] for one in continued])
        rows = [one.row for one in continued]
        scores = self._sampler.score_together(list(zip(rows, texts, strict=True)), self._ranks)
        totals = torch.where(scores.valid, scores.totals, torch.nan).view(len(prefixes), samples)
        return [float(mean) for mean in totals.nanmean(dim=1)]

    def _text(self, tokens: Sequence[int]) -> str:
        return self._sampler.texts_of([tokens])[0]

    def _gradient_products(
        self, everyone: JudgedRollout, candidates: Sequence[Candidate], names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Inner products of the gradients that the policy would have by each component alone.

        They are those of a job with this component for its reward, without shaping, in the first update on the rollout.
        """
        places = {key: place for place, key in enumerate(self._in_order({one.key: one.key for one in candidates}))}
        gradients = {}
        for name in names:
            valid = everyone.valid & ~everyone.components[name].isnan()
            alone = replace(everyone, rewards=torch.where(valid, everyone.components[name], 0.0), valid=valid)
            estimated = advantages(self._advantage, alone)
            needed = prepared(self._objective, alone, estimated)
            by_token = estimated if estimated.dim() == 2 else estimated[:, None].expand(everyone.logprobs.shape)
            experiences = []
            for candidate in candidates:
                place, completion = places[candidate.key], candidate.completion
                own = by_token[place, : len(completion.tokens)].float()
                if not valid[place] or not (self._objective.uses_zero_advantages or bool((own != 0).any())):
                    continue
                logprobs = torch.tensor(completion.logprobs)
                key = (candidate.slot, candidate.sample, candidate.row)
                experience = Experience(*key, completion.tokens, logprobs, own, float(alone.rewards[place]))
                experience.prepared = prepared_for(needed, place, len(completion.tokens))
                experiences.append(experience)
            tokens = float(everyone.lengths[valid].sum())
            rollout = Rollout(0, experiences, float(valid.sum()), tokens, {})
            gradients[name] = self._ranks.sum(self._updates.objective_gradient(rollout))
        return {a: {b: float(gradients[a] @ gradients[b]) for b in names} for a in names}
