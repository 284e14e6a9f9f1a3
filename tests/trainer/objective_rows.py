"""Rows and parameters with which every preference objective can be tried."""

from __future__ import annotations

from typing import Any

from plumbline_api.methods.preference import choice  # noqa: F401  (declares the members)
from plumbline_api.methods.preference.family import PreferenceObjective

PAIRS = [
    {"prompt": f"{a}+{b}=", "chosen": "a" * (1 + a) + "b", "rejected": "c" * (1 + b) + "d"}
    for a in range(4)
    for b in range(3)
]
SCORED = [row | {"score_chosen": 0.9 - 0.02 * i, "score_rejected": 0.1 + 0.02 * i} for i, row in enumerate(PAIRS)]
UNPAIRED = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]
COMPLETIONS = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
LISTS = [
    {
        "prompt": row["prompt"],
        "completions": [row["rejected"], row["chosen"], "ac" * (1 + i % 3)][: 2 + i % 2],
        "scores": [0.2, 0.9, 0.5][: 2 + i % 2],
    }
    for i, row in enumerate(PAIRS)
]
PARAMETERS: dict[str, dict[str, Any]] = {
    "dpo": {"labelSmoothing": 0.1},
    "kto": {"undesirableWeight": 2},
    "rewardModel": {"centeringCoefficient": 0.1},
    "trDpo": {"everySteps": 2},
    "srpo": {"revisionTemplate": "{prompt}{answer}", "revisionRequest": "?"},
    "mixture": {"terms": [{"objective": {"dpo": {}}}, {"weight": 0.5, "objective": {"sft": {}}}]},
}
"""Where a method has no default or the default leaves out a part of it."""

OBJECTIVES: list[dict[str, Any]] = [
    {member.member_key: PARAMETERS.get(member.member_key, {})}
    for member in PreferenceObjective.members()
    if not member.masked_likelihood  # models that look in both directions: test_masked_task
]


def rows_for(key: str) -> list[dict[str, Any]]:
    """Rows of the shape that the objective learns from."""
    member = next(member for member in PreferenceObjective.members() if member.member_key == key)
    shapes = {"pairs": PAIRS, "unpaired": UNPAIRED, "completions": COMPLETIONS, "lists": LISTS}
    rows = SCORED if member.needs_scores and member.data_shape == "pairs" else shapes[member.data_shape]
    return [row | {"prefix": "ab"} for row in rows] if member.needs_prefix else rows
