"""Rewards that look for where in its thinking a completion finds the answer.

Places are characters of the text, and shares of a text are shares of its characters.
"""

from __future__ import annotations

import torch

from plumbline_api.methods.shaping.thinking import LengthCompression, SolutionEfficiency
from plumbline_trainer.data.solution_rounds import answers, differing, same, solution_rounds
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


def distinct_share(text: str, pattern: str, similarity: float) -> float:
    """The share of a text in solutions whose words differ from those of every solution before it."""
    rounds = solution_rounds(text, pattern)
    kept = differing([text[one.start : one.end] for one in rounds], similarity)
    return sum(one.end - one.start for one, differs in zip(rounds, kept, strict=True) if differs) / len(text)
