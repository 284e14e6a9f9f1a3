"""The completions of one prompt, compared two at a time by a service over HTTP: the reward is the win rate.

Pref-GRPO (Wang et al. 2025, arXiv:2508.20751): a group of G completions has r_i = 1/(G-1) sum_j P(i is preferred to j).
What is compared is decided by the texts alone, so that it is the same in a resumed run and on any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from plumbline_api.methods.verifiers.judges import ANSWER, PROMPT
from plumbline_api.methods.verifiers.pairwise import FIRST, SECOND, PairwiseJudge
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

_PREFERENCES = {"first": 1.0, "second": 0.0, "tie": 0.5}
"""Probability that the first is preferred, by what a service of one's own says."""

_VERDICTS = {
    **dict.fromkeys(("1", "a", "first"), 1.0),
    **dict.fromkeys(("2", "b", "second"), 0.0),
    **dict.fromkeys(("tie", "c", "equal"), 0.5),
}
"""The same by what a language model says, in lower case."""

NO_OPPONENT = "no other completion of its prompt was there to be compared with"


@dataclass
class _Tally:
    """The comparisons of one completion."""

    planned: int = 0
    wins: float = 0.0
    """Sum of the probabilities that it is preferred."""

    decided: int = 0
    lost: list[Reply[float]] = field(default_factory=list)
    """One failed reply of each comparison that has no result."""

    seconds: float = 0.0
    """Time of the requests for its comparisons, of which each of the two has one half."""

    def outcome(self) -> Outcome | None:
        """The win rate over the decided comparisons, once all are; an error as soon as fewer than half can be.

        A judge that fails on one completion so takes it out, and not all those that it would have been compared with.
        """
        if not self.planned:
            return Outcome(None, NO_OPPONENT)
        if 2 * len(self.lost) > self.planned:
            problem = f"{len(self.lost)} of {self.planned} comparisons failed; the last: {self.lost[-1].problem}"
            late = 2 * sum(reply.timed_out for reply in self.lost) > len(self.lost)
            return Outcome(None, problem, timed_out=late, seconds=self.seconds)
        if self.decided + len(self.lost) < self.planned:
            return None
        return Outcome(self.wins / self.decided, seconds=self.seconds)


@dataclass
class _Comparison:
    """Two samples by their places, and the questions that decide between them."""

    left: int
    right: int
    questions: list[tuple[int, bool]]
    """Number of the question, and whether it shows the left one first; without any the texts are equal."""

    open: int = 0
    """Questions without a reply so far."""


class PairwiseJudgeComponent:
    """One component of the reward that has a service compare. Implements `scoring.BatchComponent`."""

    def __init__(self, name: str, parameters: PairwiseJudge, timeout_seconds: float) -> None:
        """Raises `ConfigError` where the environment lacks the variable with the authorization."""
        self._judge = parameters
        self._service = JudgeService(name, parameters, timeout_seconds)
        chat = parameters.chat_completions
        self._pattern = re.compile(chat.verdict_pattern, re.DOTALL) if chat else None

    def score(
        self,
        samples: Sequence[Sample],
        poll: Callable[[], None] = lambda: None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> list[Outcome]:
        """The win rate of every sample among those of its group, in order; `poll` and `on_outcome` end the run.

        A sample fails when more than half of its comparisons do; fewer are left out of its mean, and of those of its
        opponents.
        """
        comparisons, questions = self._plan(samples)
        tallies = [_Tally() for _ in samples]
        for comparison in comparisons:
            for place in (comparison.left, comparison.right):
                tallies[place].planned += 1
        outcomes: list[Outcome | None] = [None] * len(samples)
        waiting: dict[int, list[_Comparison]] = defaultdict(list)
        for comparison in comparisons:
            for number, _ in comparison.questions:
                waiting[number].append(comparison)
        replies: dict[int, Reply[float]] = {}

        def settle(place: int) -> None:
            if outcomes[place] is None and (found := tallies[place].outcome()) is not None:
                outcomes[place] = found
                on_outcome(found)

        def decide(comparison: _Comparison) -> None:
            _count(comparison, replies, tallies)
            settle(comparison.left)
            settle(comparison.right)

        def note(number: int, reply: Reply[float]) -> None:
            replies[number] = reply
            for comparison in waiting[number]:
                comparison.open -= 1
                if not comparison.open:
                    decide(comparison)

        for comparison in comparisons:
            if not comparison.questions:
                decide(comparison)
        for place, tally in enumerate(tallies):
            if not tally.planned:
                settle(place)
        self._service.ask([self._body(*question) for question in questions], self._preference, poll, note)
        return [_with_counts(outcome, tally) for outcome, tally in zip(outcomes, tallies, strict=True)]

    def close(self) -> None:
        """Connections live as long as a call of `score` only."""

    def _plan(self, samples: Sequence[Sample]) -> tuple[list[_Comparison], list[tuple[Sample, str, str]]]:
        """The comparisons, and the distinct questions to the judge: (sample with the prompt, first, second)."""
        groups: dict[int | None, list[int]] = defaultdict(list)
        for place, sample in enumerate(samples):
            groups[sample.group].append(place)
        comparisons: list[_Comparison] = []
        questions: list[tuple[Sample, str, str]] = []
        for places in groups.values():
            known: dict[tuple[str, str], int] = {}
            drawn = sorted(places, key=lambda place: _digest(samples[place].prompt, samples[place].completion))
            for one, other in pairs(len(drawn), self._judge.opponents):
                left, right = drawn[one], drawn[other]
                comparison = _Comparison(left, right, [])
                for left_first in self._orders(samples[left], samples[right]):
                    texts = (samples[left].completion, samples[right].completion)
                    shown = texts if left_first else texts[::-1]
                    if shown not in known:
                        known[shown] = len(questions)
                        questions.append((samples[left], *shown))
                    comparison.questions.append((known[shown], left_first))
                comparison.open = len(comparison.questions)
                comparisons.append(comparison)
        return comparisons, questions

    def _orders(self, left: Sample, right: Sample) -> list[bool]:
        """For each question about a pair, whether it shows the left one first."""
        if left.completion == right.completion:
            return []
        if self._judge.order == "both":
            return [True, False]
        texts = sorted((left.completion, right.completion))
        smaller_first = _digest(left.prompt, *texts)[0] % 2 == 0
        return [smaller_first == (left.completion == texts[0])]

    def _body(self, sample: Sample, first: str, second: str) -> Any:
        chat = self._judge.chat_completions
        if chat is None:
            return {"prompt": sample.prompt, "first": first, "second": second, "answer": sample.answer}
        values = {PROMPT: as_text(sample.prompt), FIRST: first, SECOND: second, ANSWER: sample.answer or ""}
        return chat_body(chat, filled(chat.template, values))

    def _preference(self, reply: Any) -> float:
        """The probability that the first is preferred. Raises `Unusable` where the reply does not say."""
        if self._pattern is not None:
            text = chat_message(reply)
            found = (last_match(self._pattern, text) or "").lower()
            if found not in _VERDICTS:
                raise Unusable(f"the judge's reply holds no verdict: {beginning(text)}")
            return _VERDICTS[found]
        if isinstance(reply, dict) and "probability" in reply:
            probability = reply["probability"]
            if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
                raise Unusable(f"the judge's probability is {beginning(json.dumps(probability))}, not one from 0 to 1")
            return float(probability)
        preferred = member(reply, "preferred")
        if not isinstance(preferred, str) or preferred not in _PREFERENCES:
            raise Unusable(f"the judge prefers {beginning(json.dumps(preferred))}, neither first nor second nor tie")
        return _PREFERENCES[preferred]


def pairs(count: int, opponents: int | None) -> list[tuple[int, int]]:
    """Which of `count` completions are compared: all pairs, or those with which each has `opponents` of them.

    A circle in which each meets its next neighbours, and, for an odd number of opponents, the one across. With an odd
    number of both that cannot be: then each has one opponent more.
    """
    if opponents is None or opponents >= count - 1:
        return list(combinations(range(count), 2))
    steps = (opponents + 1) // 2 if count % 2 else opponents // 2
    found = [(one, (one + step) % count) for step in range(1, steps + 1) for one in range(count)]
    if opponents % 2 and count % 2 == 0:
        found += [(one, one + count // 2) for one in range(count // 2)]
    return found


def _count(comparison: _Comparison, replies: dict[int, Reply[float]], tallies: list[_Tally]) -> None:
    """Adds the result of a comparison whose replies are there; without both orders it has none."""
    answered = [(replies[number], left_first) for number, left_first in comparison.questions]
    failed = [reply for reply, _ in answered if reply.value is None]
    given = [
        reply.value if left_first else 1 - reply.value for reply, left_first in answered if reply.value is not None
    ]
    won = sum(given) / len(given) if given else 0.5
    for place, share in ((comparison.left, won), (comparison.right, 1 - won)):
        tally = tallies[place]
        tally.seconds += sum(reply.seconds for reply, _ in answered) / 2
        if failed:
            tally.lost.append(failed[-1])
        else:
            tally.wins += share
            tally.decided += 1


def _with_counts(outcome: Outcome | None, tally: _Tally) -> Outcome:
    assert outcome is not None, "every comparison has come to an end"
    return replace(outcome, seconds=tally.seconds, comparisons=tally.planned, failed_comparisons=len(tally.lost))


def _digest(prompt: Any, *texts: str) -> bytes:
    return hashlib.sha256(json.dumps([prompt, *texts]).encode()).digest()
