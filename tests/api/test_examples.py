"""Every example is a valid job of the API and explains itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline_api.methods.policy import PolicyObjective
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
KINDS: dict[str, type[PreferenceJob] | type[RLVRJob]] = {"PreferenceJob": PreferenceJob, "RLVRJob": RLVRJob}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def job_of(path: Path) -> dict[str, Any]:
    return next(document for document in documents(path) if document["kind"] in KINDS)


@pytest.mark.parametrize("path", [*EXAMPLES, FOLDER / "tiny-model" / "sft.yaml"], ids=lambda path: path.stem)
def test_the_job_is_valid(path: Path) -> None:
    manifest = job_of(path)
    job = KINDS[manifest["kind"]].model_validate(manifest)
    assert job.spec.runtime_ref.name == "torch-cpu"
    assert job.metadata.namespace is None, "the namespace is the user's choice"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_file_is_named_after_its_job_and_begins_with_a_comment(path: Path) -> None:
    assert job_of(path)["metadata"]["name"] == path.stem
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_config_maps_that_a_reward_needs_come_with_it(path: Path) -> None:
    brought = {d["metadata"]["name"]: set(d["data"]) for d in documents(path) if d["kind"] == "ConfigMap"}
    needed = {}
    for reward in job_of(path)["spec"].get("rewards", []):
        python = reward["verifier"].get("python")
        if python:
            needed[python["configMap"]] = python.get("file", "reward.py")
    assert set(brought) == set(needed)
    assert all(file in brought[name] for name, file in needed.items())


def test_every_objective_has_an_example() -> None:
    shown = {key for path in EXAMPLES for key in job_of(path)["spec"]["objective"]}
    every = {member.member_key for family in (PreferenceObjective, PolicyObjective) for member in family.members()}
    assert shown == every


def test_outputs_do_not_overwrite_each_other() -> None:
    outputs = [job_of(path)["spec"]["output"]["volume"]["path"] for path in EXAMPLES]
    assert len(set(outputs)) == len(outputs)
