"""Completions scored one by one, or in batches, by a service over HTTP.

Nothing but a number within the judge's scale is ever taken for a score: a request that fails makes its completions
errors of the component.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from plumbline_api.methods.verifiers.judges import ANSWER, COMPLETION, PROMPT, HttpJudge
from plumbline_trainer.rewards.judge_service import (
    JudgeService,
    Reply,
    Unusable,
    as_text,
    chat_body,
    chat_message,
    filled,
    last_match,
    member,
)
from plumbline_trainer.rewards.pool import Outcome
from plumbline_trainer.rewards.scoring import Sample
from plumbline_trainer.service_requests import beginning


class HttpJudgeComponent:
    """One component of the reward that asks a service. Implements `scoring.BatchComponent`."""

    def __init__(self, name: str, parameters: HttpJudge, timeout_seconds: float) -> None:
        """Raises `ConfigError` where the environment lacks the variable with the authorization."""
        self._judge = parameters
        self._service = JudgeService(name, parameters, timeout_seconds)
        chat = parameters.chat_completions
        self._pattern = re.compile(chat.score_pattern, re.DOTALL) if chat else None

    def score(
        self,
        samples: Sequence[Sample],
        poll: Callable[[], None] = lambda: None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> list[Outcome]:
        """The outcome of every sample, in order. `poll` and `on_outcome` end the run by raising."""
        size = self._judge.batch_size
        requests = [samples[start : start + size] for start in range(0, len(samples), size)]
        outcomes: list[list[Outcome]] = [[] for _ in requests]

        def settle(place: int, reply: Reply[Any]) -> None:
            outcomes[place] = self._outcomes(reply, len(requests[place]))
            for outcome in outcomes[place]:
                on_outcome(outcome)

        self._service.ask([self._body(request) for request in requests], self._scores, poll, settle)
        return [outcome for found in outcomes for outcome in found]

    def close(self) -> None:
        """Connections live as long as a call of `score` only."""

    def _body(self, samples: Sequence[Sample]) -> Any:
        chat = self._judge.chat_completions
        if chat is not None:
            [sample] = samples
            return chat_body(chat, shown(chat.template, sample))
        items = [{"prompt": one.prompt, "completion": one.completion, "answer": one.answer} for one in samples]
        return items[0] if self._judge.batch_size == 1 else {"items": items}

    def _scores(self, reply: Any) -> list[Any]:
        """What the reply says of each sample. Raises `Unusable` where it does not have the form of the protocol."""
        if self._pattern is not None:
            return [self._score_in_text(chat_message(reply))]
        if self._judge.batch_size == 1:
            return [member(reply, "score")]
        scores = member(reply, "scores")
        if not isinstance(scores, list):
            raise Unusable("the judge's reply has no list of scores")
        return scores

    def _score_in_text(self, text: str) -> float:
        assert self._pattern is not None
        try:
            return float(last_match(self._pattern, text) or "")
        except ValueError:
            raise Unusable(f"the judge's reply holds no score: {beginning(text)}") from None

    def _outcomes(self, reply: Reply[list[Any]], count: int) -> list[Outcome]:
        if reply.value is None:
            return [Outcome(None, reply.problem, timed_out=reply.timed_out, seconds=reply.seconds)] * count
        if len(reply.value) != count:
            problem = f"the judge's reply has {len(reply.value)} scores for {count} completions"
            return [Outcome(None, problem, seconds=reply.seconds)] * count
        return [self._outcome(score, reply.seconds / count) for score in reply.value]

    def _outcome(self, score: Any, seconds: float) -> Outcome:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            said = self._service.without_secrets(json.dumps(score))
            return Outcome(None, f"the judge's score is {beginning(said)}, not a number", seconds=seconds)
        low, high = self._judge.lowest, self._judge.highest
        if low is None or high is None:
            return Outcome(float(score), seconds=seconds)
        if not low <= score <= high:
            return Outcome(None, f"the judge's score {score:g} is outside of {low:g} to {high:g}", seconds=seconds)
        return Outcome((score - low) / (high - low), seconds=seconds)


def shown(template: str, sample: Sample) -> str:
    """The template with prompt, completion and answer in it."""
    values = {PROMPT: as_text(sample.prompt), COMPLETION: sample.completion, ANSWER: sample.answer or ""}
    return filled(template, values)
