"""Every example is a valid job of the API and explains itself."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline_api.methods.auxiliary import AuxiliaryLoss
from plumbline_api.methods.pairing import Pairing
from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob
from tests.api.valid_specs import PLACES

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
KINDS: dict[str, type[PreferenceJob] | type[RLVRJob]] = {"PreferenceJob": PreferenceJob, "RLVRJob": RLVRJob}
DOCUMENTS = [FOLDER.parent / "docs" / name for name in ("data.md", "rollouts.md")]
WITHOUT_EXAMPLE = {
    "diffusion",
    "data.train.generator: prompt_generator",
    "rewards.verifier: reasoningGym",
    "rewards.verifier: httpJudge",
    "rewards.verifier: pairwiseJudge",
    "rollout.engine: rollout_engine",
    "rollout.engine.vllm.weightSync: rollout_engine",
}
"""Families that cannot be shown with what comes along: the tiny model is no masked diffusion model (docs/methods.md has
a job for one), the library reasoning-gym is not in the image, and judges and rollout servers are services of one's
own."""

SHOWN_BY = {"prompt_generator": "reasoningGym", "rollout_engine": "vllm"}
"""Module of a family without example -> the field that shows it in the documentation; others are fields themselves."""


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


def objectives_shown() -> dict[str, list[str]]:
    """Key of an objective -> the examples that use it."""
    shown: dict[str, list[str]] = {}
    for path in EXAMPLES:
        for key in job_of(path)["spec"]["objective"]:
            shown.setdefault(key, []).append(path.stem)
    return shown


@pytest.mark.parametrize("module", sorted({member.__module__ for member in PreferenceObjective.members()}))
def test_every_family_of_preference_objectives_has_an_example(module: str) -> None:
    """Objectives that stand in one module of the API are one family."""
    family = module.rsplit(".", 1)[-1]
    keys = {member.member_key for member in PreferenceObjective.members() if member.__module__ == module}
    assert bool(keys & set(objectives_shown())) == (family not in WITHOUT_EXAMPLE)


def families_of_rlvr_jobs() -> dict[str, set[str]]:
    """Family -> the fields that show it: the members of one module at one place of the spec; each verifier is one."""
    families: dict[str, set[str]] = {}
    for kind, place, choice in PLACES:
        if kind == "RLVRJob":
            path = re.sub(r"\.\d+", "", place.removeprefix("spec."))
            for member in choice.family.members():
                one = member.member_key if choice is VerifierChoice else member.__module__.rsplit(".", 1)[-1]
                families.setdefault(f"{path}: {one}", set()).add(f"{path}.{member.member_key}")
    return families


FAMILIES = families_of_rlvr_jobs()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_rlvr_jobs_has_an_example(family: str) -> None:
    shown = any(FAMILIES[family] & fields_of(job_of(path)["spec"]) for path in EXAMPLES)
    assert shown != (family in WITHOUT_EXAMPLE)


@pytest.mark.parametrize("family", sorted(WITHOUT_EXAMPLE - {"diffusion"}))
def test_what_has_no_example_has_a_job_in_the_documentation(family: str) -> None:
    name = family.rsplit(" ", 1)[-1]
    assert any(f"{SHOWN_BY.get(name, name)}:" in document.read_text() for document in DOCUMENTS)


@pytest.mark.parametrize(
    "field",
    [
        *(f"data.pairing.{reads}" for reads in sorted({pairing.reads for pairing in Pairing.members()})),
        "data.mixture",
        "data.filters",
        "data.lengthInstruction",
        "weighting.wpo",
        "aggregation.resilientFeasible",
        *(f"auxiliary.{member.member_key}" for member in AuxiliaryLoss.members()),
        "checkpoint.best",
        "peft.lora",
    ],
)
def test_every_block_beside_the_objective_has_an_example(field: str) -> None:
    assert any(field in fields_of(job_of(path)["spec"]) for path in EXAMPLES)


def fields_of(spec: dict[str, Any]) -> set[str]:
    """Dotted paths of the fields of a spec, without numbers of items; a pairing counts by the rows that it reads."""
    found: set[str] = set()
    waiting: list[tuple[str, Any]] = [("", spec)]
    while waiting:
        before, value = waiting.pop()
        for name, inner in value.items():
            found.add(before + name)
            below = inner if isinstance(inner, list) else [inner]
            waiting += [(f"{before}{name}.", item) for item in below if isinstance(item, dict)]
    reads = {pairing.member_key: pairing.reads for pairing in Pairing.members()}
    return found | {f"data.pairing.{reads[key]}" for key in spec["data"].get("pairing", {})}


def test_examples_read_what_comes_with_the_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER / "tiny-model")
    brought = runpy.run_path(str(FOLDER / "tiny-model" / "make_data.py"))["make_rows"](0)
    for path in EXAMPLES:
        data = job_of(path)["spec"]["data"]
        for block in (data.get("train"), data.get("evaluation"), *data.get("mixture", ())):
            if block:
                assert Path(block["source"]["volume"]["path"]).stem in brought, path.stem


def test_examples_read_models_that_come_with_the_tiny_model_or_from_another_example() -> None:
    outputs = {job_of(path)["spec"]["output"]["volume"]["path"] for path in EXAMPLES}
    for path in EXAMPLES:
        spec = job_of(path)["spec"]
        learned = [reward["verifier"].get("rewardModel") for reward in spec.get("rewards", ())]
        for block in (spec["model"], *filter(None, learned)):
            assert block["source"]["volume"]["path"] in {"model", *outputs} - {spec["output"]["volume"]["path"]}


def test_the_readme_lists_every_example_once() -> None:
    listed = re.findall(r"^\| \[([\w-]+\.yaml)\]\(\1\) \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in EXAMPLES]


def test_outputs_do_not_overwrite_each_other() -> None:
    outputs = [job_of(path)["spec"]["output"]["volume"]["path"] for path in EXAMPLES]
    assert len(set(outputs)) == len(outputs)
