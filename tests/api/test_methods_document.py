"""Every method of the API has its row in docs/methods.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plumbline_api.base import Family
from plumbline_api.methods import aggregation, optimization, pairing_choice, policy, verifiers, weighting
from plumbline_api.methods.preference import choice, family  # noqa: F401  (choice declares the members)

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text()

FAMILIES: list[type[Family]] = [
    family.PreferenceObjective,
    weighting.PairWeighting,
    aggregation.LossAggregation,
    pairing_choice.Pairing,
    policy.PolicyObjective,
    policy.Advantage,
    verifiers.Verifier,
    optimization.Optimizer,
    optimization.Schedule,
    optimization.Peft,
]


@pytest.mark.parametrize("method", [m for family in FAMILIES for m in family.members()], ids=lambda m: m.member_key)
def test_method_has_a_row(method: type[Family]) -> None:
    assert re.search(rf"^\| `(\w+\.)?{method.member_key}` \|", DOCUMENT, re.MULTILINE)


def test_rows_name_files_that_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    named = set(re.findall(r"`([\w/]+\.py)`", DOCUMENT))
    folders = (root / "trainer-image" / "plumbline_trainer", root / "tests" / "trainer")
    assert named
    assert [path for path in named if not any((folder / path).is_file() for folder in folders)] == []
