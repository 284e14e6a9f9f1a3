"""Right completions of earlier rollouts that come back with their prompts, for objectives that imitate solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from plumbline_api.methods.policy.own_solutions import OwnSolutions
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.rollout.requests import Completion
from plumbline_trainer.search.solution_buffer import SolutionBuffer
from plumbline_trainer.tasks.judging import Candidate, Judgement
from plumbline_trainer.tasks.rlvr_metrics import correct
from plumbline_trainer.tasks.sampling import Sampler


class KeptSolutions:
    """The different right completions of every prompt so far, the same on every rank.

    Those that a rollout did not sample again join their prompt's group as if they had been: they are judged, and an
    objective sees them beside the new ones. Only objectives that imitate solutions keep any; they weigh completions by
    being right and different, not by who sampled them.
    """

    def __init__(
        self, spec: RLVRJobSpec, ranks: Ranks, sampler: Sampler, logprobs: Callable[[Sequence[Experience]], None]
    ) -> None:
        """`logprobs` writes the present policy's log-probabilities into experiences."""
        objective = spec.objective.value
        capacity = objective.keep_solutions if isinstance(objective, OwnSolutions) else 0
        self._spec, self._ranks, self._sampler, self._logprobs = spec, ranks, sampler, logprobs
        self._buffer = SolutionBuffer(capacity) if capacity else None

    @property
    def any(self) -> bool:
        """Whether solutions are kept at all."""
        return self._buffer is not None

    def recall(self, judgement: Judgement, rows: Sequence[int]) -> None:
        """Adds to this rank's groups, whose prompts are `rows` by slot, the solutions that they lack, then keeps the
        new ones of all ranks. A collective of the ranks."""
        if self._buffer is None:
            return
        found = self._right(judgement)
        present = {(one.slot, one.text.strip()) for one in judgement.candidates}
        last = {one.slot: one.sample for one in judgement.candidates}
        missing = [
            Experience(slot, last[slot] + number, rows[slot], tokens, torch.zeros(len(tokens)), torch.zeros(0), 0.0)
            for slot in sorted(last)
            for number, (text, tokens) in enumerate(self._buffer.of(rows[slot]).items(), start=1)
            if (slot, text) not in present
        ]
        self._add(judgement, missing)
        everyones = [one for share in self._ranks.gather(found) for one in share]
        for _, row, text, tokens in sorted(everyones):
            self._buffer.add(row, text, tokens)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able; later rollouts do not change what was returned."""
        return {} if self._buffer is None else self._buffer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        if self._buffer is not None:
            self._buffer.load_state_dict(state)

    def _right(self, judgement: Judgement) -> list[tuple[int, int, str, list[int]]]:
        """Key, row, text and tokens of the right completions that came to an end."""
        if not judgement.candidates:
            return []
        scores = judgement.scores()
        right = (correct(self._spec, scores) & scores.valid).tolist()
        return [
            (one.key, one.row, one.text.strip(), one.completion.tokens)
            for one, is_right in zip(judgement.candidates, right, strict=True)
            if is_right and one.completion.finish == "stop" and not one.injected
        ]

    def _add(self, judgement: Judgement, missing: Sequence[Experience]) -> None:
        self._logprobs(missing)
        candidates = []
        for one in missing:
            assert one.old_logprobs is not None
            completion = Completion(one.tokens, one.old_logprobs.tolist(), "stop")
            [text] = self._sampler.texts([completion])
            candidates.append(Candidate(one.slot, one.sample, one.row, completion, text, injected=True))
        # what is shown of rewards is about what the policy sampled now
        scores = self._sampler.score_together([(one.row, one.text) for one in candidates], self._ranks)
        judgement.add(candidates, replace(scores, metrics={}))
