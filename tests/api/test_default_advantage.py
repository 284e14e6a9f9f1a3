"""The advantage of an RLVRJob that names none."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_api.messages import validate
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.rlvr_job import RLVRJob, RLVRJobSpec
from tests.api.valid_specs import valid

CENTRED = {"groupRelative": {"normalize": "none", "epsilon": 1e-4}}
OWN = {
    "drGrpo": CENTRED,
    "gpg": CENTRED,
    "rec": CENTRED,
    "opmd": CENTRED,
    "asymRe": CENTRED,
    "redDrop": CENTRED,
    "redWeight": CENTRED,
    "reinforce": {"leaveOneOut": {}},
    "qSharp": {"none": {}},
    "conservativeBellman": {"none": {}},
}
"""Objectives whose papers do not divide by the standard deviation of the group."""

WITH_A_CRITIC = {member.member_key for member in PolicyObjective.members() if member.learns_values}


def estimator(patch: dict[str, Any]) -> dict[str, Any]:
    job = validate(RLVRJob, valid("RLVRJob", patch), in_cluster=True)
    assert isinstance(job, RLVRJob)
    return {job.spec.estimator.member_key: job.spec.estimator.to_document()}


@pytest.mark.parametrize("objective", [member.member_key for member in PolicyObjective.members()])
def test_it_is_that_of_the_objectives_paper(objective: str) -> None:
    expected = OWN.get(objective, {"groupRelative": {"normalize": "std", "epsilon": 1e-4}})
    critic = {"spec.critic": {"shared": {}}} if objective in WITH_A_CRITIC else {}
    assert estimator({"spec.objective": {objective: {}}, **critic}) == expected


@pytest.mark.parametrize("objective", ["drGrpo", "grpo"])
def test_one_that_is_named_wins(objective: str) -> None:
    named = {"groupRelative": {"normalize": "std", "epsilon": 1e-4}}
    assert estimator({"spec.objective": {objective: {}}, "spec.advantage": {"groupRelative": {}}}) == named
    assert estimator({"spec.objective": {objective: {}}, "spec.advantage": {"maxRl": {}}}) == {"maxRl": {}}


def test_what_is_stored_does_not_name_it_so_that_it_stays_the_objectives() -> None:
    job = validate(RLVRJob, valid("RLVRJob"), in_cluster=True)
    assert isinstance(job, RLVRJob)
    assert "advantage" not in job.spec.to_document()


def test_the_fields_description_tells_it() -> None:
    description = RLVRJobSpec.model_fields["advantage"].description
    assert description is not None
    centred = ", ".join(objective for objective, advantage in OWN.items() if advantage == CENTRED)
    assert f"groupRelative (normalize none) with {centred};" in description
    without = {f"none with {one}; " for one in ("conservativeBellman, qSharp", "qSharp, conservativeBellman")}
    assert any(one in description for one in without)
    assert "leaveOneOut with reinforce; " in description
    assert description.endswith("else groupRelative).")
