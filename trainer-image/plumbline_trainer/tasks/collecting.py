"""How a rollout comes about: prompts, completions, rewards, shaping, advantages, experiences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.critic import TrainedCritic
from plumbline_api.methods.kl import KlInReward
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.advantages import advantages, value_targets
from plumbline_trainer.curriculum import Curriculum, Probe
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.exploration import select, without_groups
from plumbline_trainer.modeling.reference import Reference
from plumbline_trainer.objectives.policy.kl import kl_rewards, next_kl_coefficient
from plumbline_trainer.objectives.policy.preparation import PROMPT_WEIGHT, prepared, prepared_for
from plumbline_trainer.objectives.policy.token_selection import SELECTED, SELECTORS
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.experience import Experience, Rollout
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping import apply_shaping, credited
from plumbline_trainer.tasks.critic import Critic
from plumbline_trainer.tasks.evidence import EvidenceCollector
from plumbline_trainer.tasks.exploring import Explorer
from plumbline_trainer.tasks.guidance import GuidedRounds, learnt_tokens
from plumbline_trainer.tasks.judging import Candidate, Judgement, gathered
from plumbline_trainer.tasks.kept_solutions import KeptSolutions
from plumbline_trainer.tasks.phases import count_as, timed
from plumbline_trainer.tasks.rlvr_data import PromptData
from plumbline_trainer.tasks.rlvr_metrics import (
    entropy,
    generation_metrics,
    length_metrics,
    score_metrics,
    signal_metrics,
)
from plumbline_trainer.tasks.sampling import Sampler, Wanted
from plumbline_trainer.tasks.updating import Updates


class Collector:
    """Makes one rollout after the other.

    Every rank samples and judges the prompts of its own slots. What is decided about a rollout (more samples, shaped
    rewards, advantages, what an objective prepares) is computed from the completions of all ranks, on each of them.
    """

    def __init__(
        self,
        spec: RLVRJobSpec,
        ranks: Ranks,
        train: PromptData,
        sampler: Sampler,
        updates: Updates,
        curriculum: Curriculum,
        explorer: Explorer,
        kept: KeptSolutions,
        rounds: GuidedRounds,
        *,
        reference: Reference | None,
        critic: Critic | None,
        max_steps: int,
    ) -> None:
        self._spec, self._ranks, self._train = spec, ranks, train
        self._sampler, self._updates = sampler, updates
        self._curriculum, self._explorer, self._kept, self._rounds = curriculum, explorer, kept, rounds
        self._reference, self._critic, self._max_steps = reference, critic, max_steps
        self._objective = spec.objective.value
        self._advantage = spec.estimator
        self._reference_moves = spec.reference is not None and spec.reference.update is not None
        self._kl = None if spec.kl is None else spec.kl.value
        self._compares_likelihoods = self._kl is not None or not self._objective.learns_values
        """Whether something asks for log-probabilities under the reference where there is one."""

        self._kl_coefficient = self._kl.coefficient if isinstance(self._kl, KlInReward) else 0.0
        self._selection = None if spec.token_selection is None else spec.token_selection.value
        self._evidence = EvidenceCollector(spec, ranks, sampler, updates, train.prompt_ids)
        self._columns = [row.columns for row in train.rows]
        self._shaping = [choice.value for choice in spec.shaping]
        self._shaping_states: dict[str, Any] = {}
        penalised = reference is not None or critic is not None or spec.entropy is not None
        self._keeps_all = penalised or self._objective.uses_zero_advantages
        """Whether a completion without advantage has a gradient, by a penalty, a critic or the objective itself."""

    def collect(self, number: int, phases: dict[str, float]) -> tuple[Rollout, int]:
        """Rollout `number`, and the tokens that this rank read and wrote for it; adds seconds to `phases`."""
        if self._curriculum.probe_samples:
            self._probe(phases)
        rows = self._curriculum.choose(number, self._spec.training.batch_size // self._spec.rollout.group_size)
        judgement = Judgement()
        self._sampler.begin_step()
        tokens = self._sample(judgement, rows, number, phases)
        sampled, _ = self._everyone(judgement, number)
        self._explorer.observe(rows, sampled)
        demonstrated = self._explorer.rescue(judgement, sampled, rows, number, phases)
        if self._kept.any:
            self._kept.recall(judgement, rows)
        everyone, mine = self._everyone(judgement, number)
        candidates = judgement.candidates
        own = [_bare(candidate) for candidate in candidates]
        evidence = None
        if self._evidence.needed:
            with timed(phases, "evidence"):
                everyone = self._evidence.for_advantages(everyone, candidates, own, number)
                evidence = self._evidence.for_shaping(everyone, candidates, number)
        everyone, self._shaping_states, about_shaping = apply_shaping(
            self._shaping, everyone, self._shaping_states, evidence
        )
        everyone, about_kl = self._with_frozen_values(own, candidates, everyone, phases)
        everyone = select(self._explorer.selection, without_groups(everyone, demonstrated))
        estimated = self._advantages(everyone)
        self._curriculum.observe(number, rows, everyone, estimated)
        experiences = self._experiences(own, candidates, everyone, mine, estimated)
        added = self._explorer.demonstrations(demonstrated, rows)
        added += self._explorer.replayed(number, everyone, estimated, len(rows))
        added += self._rounds.earlier(len(rows))
        if self._reference_moves:  # what an earlier rollout compared with is not the reference any more
            added = [replace(one, reference_logprobs=None, reference_tokens=None) for one in added]
        extra = [share for shares in self._ranks.gather([learnt_tokens(one) for one in added]) for share in shares]
        metrics = {
            **self._metrics(judgement, everyone, mine, estimated),
            **self._once({**about_kl, **about_shaping, **self._curriculum.metrics(), **self._explorer.metrics()}),
            **self._once(self._kept.metrics()),
        }
        rollout = Rollout(
            number,
            experiences + added,
            float(everyone.valid.sum()) + len(extra),
            float((everyone.lengths - everyone.guided_lengths)[everyone.valid].sum()) + sum(extra),
            metrics,
        )
        self._add_frozen_logprobs(rollout, phases)
        self._explorer.remember(number, experiences)
        self._rounds.remember(number, experiences, everyone)
        return rollout, tokens

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; later rollouts do not change what was returned."""
        return {
            "curriculum": self._curriculum.state_dict(),
            "shaping": dict(self._shaping_states),
            "kl_coefficient": self._kl_coefficient,
            "exploration": self._explorer.state_dict(),
            "solutions": self._kept.state_dict(),
            "guidance": self._rounds.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self._curriculum.load_state_dict(state["curriculum"])
        self._shaping_states = dict(state["shaping"])
        self._kl_coefficient = state["kl_coefficient"]
        self._explorer.load_state_dict(state["exploration"])
        self._kept.load_state_dict(state["solutions"])
        self._rounds.load_state_dict(state.get("guidance", {}))

    def _sample(self, judgement: Judgement, rows: list[int], number: int, phases: dict[str, float]) -> int:
        """Fills `judgement` with this rank's share of first and further samples; replaces `rows` that give way.

        Returns the tokens that were read and written.
        """
        budgets = self._explorer.budgets(rows, self._spec.rollout.group_size)
        wanted = [self._wanted(slot, row, 0, budgets[slot]) for slot, row in self._of_this_rank(enumerate(rows))]
        tokens = self._judge(judgement, wanted, "rollout", number, phases)
        attempt = 0
        while plan := self._explorer.resampling(self._everyone(judgement, number)[0], attempt):
            attempt += 1
            samples = {**plan.extra}
            first = self._samples_by_slot(judgement, number)
            if plan.replaced:
                others = self._curriculum.choose(number, len(plan.replaced), attempt, exclude=rows)
                given_up = plan.replaced[: len(others)]
                if not given_up and not samples:
                    break
                for slot, row in zip(given_up, others, strict=True):
                    rows[slot] = row
                    first[slot], samples[slot] = 0, budgets[slot]
                judgement.drop(given_up)
            wanted = [
                self._wanted(slot, rows[slot], first[slot], count)
                for slot, count in self._of_this_rank(sorted(samples.items()))
            ]
            tokens += self._judge(judgement, wanted, f"resampling {attempt}", number, phases)
        return tokens

    def _judge(
        self, judgement: Judgement, wanted: Sequence[Wanted], purpose: str, number: int, phases: dict[str, float]
    ) -> int:
        """Samples and scores `wanted`; returns the tokens that were read and written. A collective of the ranks."""
        with timed(phases, "generate"):
            candidates = self._sampler.sample(wanted, purpose, number, guided_within=self._rounds.within)
        with timed(phases, "verify"):
            scores = self._sampler.score_together(
                [(one.row, one.text) for one in candidates], self._ranks, [one.slot for one in candidates]
            )
        count_as(phases, "score", scores.batch_seconds, within="verify")
        judgement.add(candidates, scores)
        read = sum(len(one.prompt_ids) * one.samples for one in wanted)
        return read + sum(len(candidate.completion.tokens) for candidate in candidates)

    def _everyone(self, judgement: Judgement, number: int) -> tuple[JudgedRollout, Tensor]:
        step = number * self._spec.rollout.updates_per_rollout
        own = judgement.rollout(self._spec, self._columns, step, self._max_steps)
        return gathered(self._ranks, own, [candidate.key for candidate in judgement.candidates])

    def _probe(self, phases: dict[str, float]) -> None:
        """Shows the curriculum, and the budget, what the start model makes of every prompt."""
        samples, count = self._curriculum.probe_samples, len(self._train.rows)
        judgement = Judgement()
        wanted = [self._wanted(row, row, 0, samples) for row in self._of_this_rank(range(count))]
        self._judge(judgement, wanted, "probe", 0, phases)
        everyone, _ = self._everyone(judgement, 0)
        probe = Probe.empty(count)
        probe.add(everyone)
        self._curriculum.probed(probe)
        self._explorer.observe(range(count), everyone)

    def _with_frozen_values(
        self,
        own: list[Experience],
        candidates: Sequence[Candidate],
        everyone: JudgedRollout,
        phases: dict[str, float],
    ) -> tuple[JudgedRollout, dict[str, Metric]]:
        """The rollout with the critic's values, and with the KL penalty where it is part of the reward."""
        poll = self._ranks.stop.raise_if_requested
        if self._critic is not None and not self._objective.learns_values:
            with timed(phases, "values"):
                self._updates.values(own, self._critic, poll)
            table = self._evidence.table(candidates, [one.values for one in own], everyone)
            everyone = replace(everyone, values=table)
        if not isinstance(self._kl, KlInReward):
            return everyone, {}
        assert self._reference is not None
        with timed(phases, "reference"):
            self._updates.reference_logprobs(self._reference, own, poll)
        table = self._evidence.table(candidates, [one.reference_logprobs for one in own], everyone)
        mask = everyone.mask & everyone.valid[:, None]
        coefficient = self._kl_coefficient
        penalties, divergence = kl_rewards(self._kl, coefficient, everyone.logprobs, table, mask)
        self._kl_coefficient = next_kl_coefficient(self._kl, coefficient, divergence.value, float(everyone.valid.sum()))
        shown = {"kl": divergence, "kl_coefficient": Metric(coefficient, 1.0)}
        if not self._advantage.uses_token_rewards:
            totals = everyone.rewards + penalties.sum(dim=1)
            return replace(everyone, rewards=torch.where(everyone.valid, totals, 0.0)), shown
        present = everyone.token_rewards
        return replace(everyone, token_rewards=penalties if present is None else present + penalties), shown

    def _advantages(self, everyone: JudgedRollout) -> Tensor:
        """[N] or [N, T]; rewards of parts of a text are added to their tokens where the estimator ignores them."""
        estimated = advantages(self._advantage, everyone)
        if self._advantage.uses_token_rewards or everyone.token_credits is None:
            return estimated
        return credited(estimated, everyone)

    def _experiences(
        self,
        own: list[Experience],
        candidates: Sequence[Candidate],
        everyone: JudgedRollout,
        mine: Tensor,
        estimated: Tensor,
    ) -> list[Experience]:
        """This rank's completions that can move the policy or the critic, with what an update needs of them."""
        by_token = estimated if estimated.dim() == 2 else estimated[:, None].expand(everyone.logprobs.shape)
        needed = prepared(self._objective, everyone, estimated)
        weights = self._explorer.prompt_weights(everyone)
        if weights is not None:
            needed[PROMPT_WEIGHT] = weights
        if self._selection is not None:
            entropies = self._updates.entropies(own, self._ranks.stop.raise_if_requested)
            table = self._evidence.table(candidates, entropies, everyone)
            mask = everyone.mask & everyone.valid[:, None]
            needed[SELECTED] = SELECTORS.of(self._selection)(self._selection, table, mask)
        targets = None
        if self._critic is not None and isinstance(self._critic.parameters, TrainedCritic):
            self._critic.check(everyone)
            if not self._objective.learns_values:
                targets = value_targets(self._advantage, self._critic.parameters.lambda_, everyone)
        experiences = []
        for experience, candidate, place in zip(own, candidates, mine.tolist(), strict=True):
            length = len(experience.tokens)
            advantages_of_tokens = by_token[place, :length]
            if not everyone.valid[place] or not (self._keeps_all or bool((advantages_of_tokens != 0).any())):
                continue
            if everyone.guided_lengths[place] == length:
                continue
            experience.advantages = advantages_of_tokens.float().clone()
            experience.reward = float(everyone.rewards[place])
            experience.prepared = prepared_for(needed, place, length)
            if targets is not None:
                experience.returns = targets[place, :length].float().clone()
            experiences.append(self._explorer.attributed(experience, candidate))
        return experiences

    def _add_frozen_logprobs(self, rollout: Rollout, phases: dict[str, float]) -> None:
        """What updates compare with: what the reference says, and present log-probabilities for later updates."""
        poll = self._ranks.stop.raise_if_requested
        if self._reference is not None:
            with timed(phases, "reference"):
                if self._compares_likelihoods:
                    missing = [one for one in rollout.experiences if one.reference_logprobs is None]
                    self._updates.reference_logprobs(self._reference, missing, poll)
                if self._objective.learns_values:
                    missing = [one for one in rollout.experiences if one.reference_tokens is None]
                    self._updates.reference_tokens(self._reference, missing, poll)
        if self._spec.rollout.updates_per_rollout > 1 and not self._objective.guides:
            with timed(phases, "old_logprobs"):
                missing = [one for one in rollout.experiences if one.old_logprobs is None]
                self._updates.old_logprobs(missing, poll)

    def _metrics(
        self, judgement: Judgement, everyone: JudgedRollout, mine: Tensor, estimated: Tensor
    ) -> dict[str, Metric]:
        """This rank's share of what is shown about the rollout."""
        completions = [candidate.completion for candidate in judgement.candidates if not candidate.injected]
        return {
            **score_metrics(self._spec, judgement.sampled_scores()),
            **length_metrics(completions),
            **signal_metrics(estimated[mine], everyone.valid[mine], everyone.groups[mine]),
            "entropy": entropy(completions),
            **generation_metrics(self._sampler.take_figures(), self._ranks.world_size),
        }

    def _once(self, metrics: dict[str, Metric]) -> dict[str, Metric]:
        """Metrics that are the same on every rank, on one of them."""
        return metrics if self._ranks.is_main else {}

    def _wanted(self, slot: int, row: int, first: int, samples: int) -> Wanted:
        return Wanted(slot, row, first, samples, self._train.prompt_ids[row])

    def _of_this_rank(self, slots: Any) -> list[Any]:
        """Those whose slot, the item or its first part, falls to this rank."""
        return [
            item
            for item in slots
            if (item[0] if isinstance(item, tuple) else item) % self._ranks.world_size == self._ranks.rank
        ]

    def _samples_by_slot(self, judgement: Judgement, number: int) -> dict[int, int]:
        """The number that the next sample of each slot has."""
        next_sample: dict[int, int] = {}
        for candidate in judgement.candidates:
            next_sample[candidate.slot] = max(next_sample.get(candidate.slot, 0), candidate.sample + 1)
        return next_sample


def _bare(candidate: Candidate) -> Experience:
    """The completion without what the rollout says about it."""
    logprobs = torch.tensor(candidate.completion.logprobs)
    key = (candidate.slot, candidate.sample, candidate.row)
    return Experience(*key, candidate.completion.tokens, logprobs, torch.zeros_like(logprobs), 0.0)
