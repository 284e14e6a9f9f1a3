"""Right completions of earlier rollouts that come back with their prompts, for objectives that imitate solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from plumbline_api.methods.policy.own_solutions import OwnSolutions
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.objectives.policy.own_solutions import key_of
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.rollout.requests import Completion
from plumbline_trainer.search.beginnings import begins_one, right_beginning
from plumbline_trainer.search.program_states import ProgramError, State, known_states
from plumbline_trainer.search.solution_buffer import SolutionBuffer
from plumbline_trainer.tasks.judging import Candidate, Judgement
from plumbline_trainer.tasks.rlvr_metrics import correct
from plumbline_trainer.tasks.sampling import Sampler

Found = tuple[int, int, str, list[int]]
"""The candidate's key, its row, the solution's key, its tokens."""


class KeptSolutions:
    """The different right completions of every prompt so far, the same on every rank.

    Those that a rollout did not sample again join their prompt's group as if they had been: they are judged, and an
    objective sees them beside the new ones. Only objectives that imitate solutions keep any; they weigh completions by
    being right and different, not by who sampled them.

    Where the objective asks for partial solutions, beginnings of wrong programs are kept besides, as many again, and
    join the group in every rollout from the one that found them. Their states are those of whole solutions alone. One
    that a whole solution begins with is not imitated by itself, also where that solution is found later.
    """

    def __init__(
        self, spec: RLVRJobSpec, ranks: Ranks, sampler: Sampler, logprobs: Callable[[Sequence[Experience]], None]
    ) -> None:
        """`logprobs` writes the present policy's log-probabilities into experiences."""
        objective = spec.objective.value
        own = objective if isinstance(objective, OwnSolutions) and objective.keep_solutions else None
        self._spec, self._ranks, self._sampler, self._logprobs = spec, ranks, sampler, logprobs
        self._whole = None if own is None else SolutionBuffer(own.keep_solutions)
        self._partial = None if own is None or own.partial_solutions is None else SolutionBuffer(own.keep_solutions)
        self._key = str.strip if own is None else key_of(own)

    @property
    def any(self) -> bool:
        """Whether solutions are kept at all."""
        return self._whole is not None

    def recall(self, judgement: Judgement, rows: Sequence[int]) -> None:
        """Adds to this rank's groups, whose prompts are `rows` by slot, the solutions that they lack, and keeps the new
        ones of all ranks. A collective of the ranks."""
        if self._whole is None:
            return
        right = self._right(judgement)
        present = {(one.slot, self._key(one.text)) for one in judgement.candidates}
        last = {one.slot: one.sample for one in judgement.candidates}
        missing = {
            slot: [tokens for key, tokens in self._whole.of(rows[slot]).items() if (slot, key) not in present]
            for slot in sorted(last)
        }
        self._keep(self._whole, right)
        if self._partial is not None:
            self._keep(self._partial, self._beginnings(judgement))
            for slot, found in missing.items():
                whole = self._whole.of(rows[slot])
                found += [
                    tokens for form, tokens in self._partial.of(rows[slot]).items() if not begins_one(form, whole)
                ]
        self._add(
            judgement,
            [
                Experience(slot, last[slot] + number, rows[slot], tokens, torch.zeros(len(tokens)), torch.zeros(0), 0.0)
                for slot, found in missing.items()
                for number, tokens in enumerate(found, start=1)
            ],
        )

    def metrics(self) -> dict[str, Metric]:
        """How many solutions are kept; the same on every rank."""
        buffers = {"whole": self._whole, "partial": self._partial}
        return {
            f"kept_solutions/{name}": Metric(float(buffer.size), 1.0)
            for name, buffer in buffers.items()
            if buffer is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; later rollouts do not change what was returned."""
        buffers = {"whole": self._whole, "partial": self._partial}
        return {name: buffer.state_dict() for name, buffer in buffers.items() if buffer is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        if self._whole is not None:
            self._whole.load_state_dict(state["whole"])
        if self._partial is not None:
            self._partial.load_state_dict(state["partial"])

    def _keep(self, buffer: SolutionBuffer, found: Sequence[Found]) -> None:
        """Puts what all ranks have found into the buffer of each of them."""
        for _, row, key, tokens in sorted(one for share in self._ranks.gather(list(found)) for one in share):
            buffer.add(row, key, tokens)

    def _right(self, judgement: Judgement) -> list[Found]:
        """The right completions that came to an end."""
        return [
            (one.key, one.row, self._key(one.text), one.completion.tokens)
            for one, is_right in self._verdicts(judgement)
            if is_right and one.completion.finish == "stop"
        ]

    def _beginnings(self, judgement: Judgement) -> list[Found]:
        """What wrong completions begin with and a kept solution has computed as well."""
        assert self._whole is not None
        known: dict[int, set[State]] = {}
        found: list[Found] = []
        for one, is_right in self._verdicts(judgement):
            whole = self._whole.of(one.row)
            if is_right or not whole:
                continue
            if one.row not in known:
                known[one.row] = set().union(*map(_states, whole))
            beginning = right_beginning(one.text, one.completion.tokens, known[one.row], whole, self._text_of)
            if beginning is not None:
                found.append((one.key, one.row, *beginning))
        return found

    def _verdicts(self, judgement: Judgement) -> list[tuple[Candidate, bool]]:
        """The sampled completions on which there is a verdict, and whether they are right."""
        if not judgement.candidates:
            return []
        scores = judgement.scores()
        right, valid = correct(self._spec, scores).tolist(), scores.valid.tolist()
        return [
            (one, is_right)
            for one, is_right, is_valid in zip(judgement.candidates, right, valid, strict=True)
            if is_valid and not one.injected
        ]

    def _text_of(self, tokens: Sequence[int]) -> str:
        [text] = self._sampler.texts_of([tokens])
        return text

    def _add(self, judgement: Judgement, missing: Sequence[Experience]) -> None:
        self._logprobs(missing)
        candidates = []
        for one in missing:
            assert one.old_logprobs is not None
            # a beginning ends where it was cut on purpose, and so is none that the limit cut off
            completion = Completion(one.tokens, one.old_logprobs.tolist(), "stop")
            [text] = self._sampler.texts([completion])
            candidates.append(Candidate(one.slot, one.sample, one.row, completion, text, injected=True))
        # what is shown of rewards is about what the policy sampled now
        scores = self._sampler.score_together([(one.row, one.text) for one in candidates], self._ranks)
        judgement.add(candidates, replace(scores, metrics={}))


def _states(solution: str) -> set[State]:
    """The states of a kept solution; none where its key is a text and no program."""
    try:
        return known_states([solution])
    except ProgramError:
        return set()
