"""Rewards that look for where in its thinking a completion finds the answer.

Places are characters of the text, and shares of a text are shares of its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

import torch

from plumbline_api.methods.shaping.thinking import LengthCompression, SolutionEfficiency
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Credit, Evidence, Shaped, State


@SHAPINGS.implements(LengthCompression)
def length_compression(
    parameters: LengthCompression, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """R + lengthWeight (1 - |y| / longest) for right completions, and a reward for one of their tokens.

    LC-R1 (Cheng et al. 2025, arXiv:2506.14755); the longest is the group's longest right completion. Of a thinking of
    t characters in which the first right answer ends after a, the token at a gets compressWeight (a / t - 1): that is
    where the policy could have ended its thinking and did not. Where the answer never comes up, the end of thinking
    gets -compressWeight. Completions without an end of thinking get neither.

    The paper cuts the trace after a, trains on the cut trace and gives its end of thinking 1 - a / t. Completions stay
    as they were sampled here; at the same place, raising the end of thinking and lowering what came instead turn the
    policy's distribution the same way.
    """
    right = rollout.correct & rollout.valid
    lengths = rollout.lengths.double()
    longest = Groups(rollout.groups, right).highest(lengths)
    brevity = torch.where(right, 1 - lengths / longest.clamp(min=1), 0.0)
    credits = []
    found = kept = thoughts = 0.0
    for index, text in enumerate(rollout.texts):
        end = text.find(parameters.end_of_thinking)
        if not right[index] or end < 1:
            continue
        answer = str(rollout.columns[index].get(parameters.answer_column))
        first = next((stop for stop, value in answers(text[:end], parameters.pattern) if same(value, answer)), None)
        thoughts += 1
        found += first is not None
        kept += 0.0 if first is None else first / end
        place, value = (end, -1.0) if first is None else (first, first / end - 1)
        credits.append(Credit(index, place, place + 1, parameters.compress_weight * value))
    return Shaped(
        rollout.rewards + parameters.length_weight * brevity,
        metrics={"answer_found": Metric(found, thoughts), "valid_thinking": Metric(kept, found)},
        credits=credits,
    )


@SHAPINGS.implements(SolutionEfficiency)
def solution_efficiency(
    parameters: SolutionEfficiency, rollout: JudgedRollout, state: State, evidence: Evidence
) -> Shaped:
    """R + weight e for right completions with their outcome efficiency e, and both efficiencies as metrics.

    Chen et al. 2024, arXiv:2412.21187: outcome efficiency is the share of the text up to the end of the first right
    answer, 0 for wrong completions; process efficiency is the share in solutions that differ from all before. A
    solution reaches from the end of one answer to the end of the next, the last one to the end of the text. The
    authors let a language model tell which solutions differ; here it is the words that two have in common.
    """
    outcome = torch.zeros_like(rollout.rewards)
    process = torch.zeros_like(rollout.rewards)
    for index, text in enumerate(rollout.texts):
        if not text or not rollout.valid[index]:
            continue
        process[index] = distinct_share(text, parameters.pattern, parameters.similarity)
        if rollout.correct[index]:
            answer = str(rollout.columns[index].get(parameters.answer_column))
            ends = (stop for stop, value in answers(text, parameters.pattern) if same(value, answer))
            outcome[index] = next(ends, len(text)) / len(text)
    return Shaped(
        rollout.rewards + parameters.weight * outcome,
        metrics={
            "outcome": Metric.mean_of(outcome, rollout.valid),
            "process": Metric.mean_of(process, rollout.valid),
        },
    )


def answers(text: str, pattern: str) -> Iterator[tuple[int, str]]:
    """The answers in a text: where each match ends, and its first group or else the whole match."""
    for match in re.finditer(pattern, text):
        if match.end() > match.start():
            yield match.end(), match.group(1 if match.re.groups else 0) or ""


def same(found: str, answer: str) -> bool:
    """Whether two answers are equal, as text or as decimal numbers; commas and white space do not count."""
    found, answer = ("".join(value.replace(",", "").split()) for value in (found, answer))
    if found == answer:
        return True
    try:
        return Decimal(found) == Decimal(answer)
    except InvalidOperation:
        return False


def distinct_share(text: str, pattern: str, similarity: float) -> float:
    """The share of a text in solutions whose words differ from those of every solution before it."""
    ends = [stop for stop, _ in answers(text, pattern)][:-1]
    starts = [0, *ends]
    known: list[frozenset[str]] = []
    distinct = 0
    for start, end in zip(starts, [*ends, len(text)], strict=True):
        words = frozenset(re.findall(r"\w+", text[start:end].lower()))
        if all(_jaccard(words, before) < similarity for before in known):
            distinct += end - start
            known.append(words)
    return distinct / len(text)


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    union = len(first | second)
    return len(first & second) / union if union else 1.0
