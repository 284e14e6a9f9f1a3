"""Rewards for single parts of a completion by how much nearer they bring the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

from plumbline_api.methods.shaping.progress import Progress
from plumbline_trainer.reporting.metrics import Metric
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.shaping.registry import SHAPINGS, Credit, Evidence, Shaped, State


@SHAPINGS.implements(Progress)
def progress(parameters: Progress, rollout: JudgedRollout, state: State, evidence: Evidence) -> Shaped:
    """R, and coefficient (v_j - v_(j-1)) for segment j: its tokens share the reward, or each has it as an advantage.

    MRT (Qu et al. 2025, arXiv:2503.07572): v_j is the success rate of an answer that is forced after the segments 1 to
    j. The rewards of a completion sum to the coefficient times the success rate of the whole less that of nothing, and
    a segment that does not change the rate gets none. Where a rate is NaN, because no forced answer could be judged, it
    counts as unchanged, and what is gained shows at the next rate that is known. Raises `ValueError` unless
    `prefix_values` has one number more than the completion has segments.
    """
    if evidence.prefix_values is None:
        raise ValueError("progress needs the success rates of prefixes")
    credits = []
    total = segments = 0.0
    for index, text in enumerate(rollout.texts):
        if not rollout.valid[index]:
            continue
        ends = segment_ends(text, parameters.segment_end, parameters.max_segments)
        values = evidence.prefix_values[index]
        if len(values) != len(ends) + 1:
            raise ValueError(f"completion {index} has {len(ends)} segments and {len(values)} success rates")
        gains = [after - before for before, after in pairwise(_without_gaps(values))]
        total += sum(gains)
        segments += len(ends)
        credits += [
            Credit(index, start, end, parameters.coefficient * gain)
            for start, end, gain in zip([0, *ends], ends, gains, strict=False)
            if parameters.coefficient * gain
        ]
    counted = float(rollout.valid.sum())
    return Shaped(
        rollout.rewards,
        metrics={"gain": Metric(total, counted), "segments": Metric(segments, counted)},
        credits=credits,
    )


def segment_ends(text: str, pattern: str, most: int) -> list[int]:
    """Where the segments of a text end, in characters: behind each match, at most `most`, the last at the text's end.

    An empty text has no segment.
    """
    ends = [match.end() for match in re.finditer(pattern, text) if 0 < match.end() < len(text)]
    distinct = list(dict.fromkeys(ends))[: most - 1]
    return [*distinct, len(text)] if text else []


def _without_gaps(values: Sequence[float]) -> list[float]:
    """The values, each NaN replaced by the last number before it, else by the first number, else by 0."""
    last = next((value for value in values if not math.isnan(value)), 0.0)
    filled = []
    for value in values:
        last = last if math.isnan(value) else value
        filled.append(last)
    return filled
