"""docs/methods.md, the API and the code list the same methods: one row each, with files that implement and test it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from plumbline_api.base import ApiModel, Choice, Family
from plumbline_api.messages import nested_model
from plumbline_api.methods.advantage.choice import AdvantageChoice
from plumbline_api.methods.critic import CriticChoice, ValueLossChoice
from plumbline_api.methods.curriculum.choice import CurriculumChoice
from plumbline_api.methods.exploration.choice import (
    ReplayChoice,
    ResamplingChoice,
    RescueChoice,
    SampleBudgetChoice,
    SampleSelectionChoice,
)
from plumbline_api.methods.kl import KlChoice
from plumbline_api.methods.optimization import OptimizerChoice, PeftChoice, ScheduleChoice
from plumbline_api.methods.policy.choice import PolicyObjectiveChoice
from plumbline_api.methods.policy_aggregation import PolicyAggregationChoice
from plumbline_api.methods.prompt_generator import PromptGeneratorChoice
from plumbline_api.methods.rollout_engine import RolloutEngineChoice, WeightSyncChoice
from plumbline_api.methods.shaping.choice import ShapingChoice
from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_api.preference_job import PreferenceJobSpec
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_api.sources import SourceChoice
from tests.api.paper_titles import PAPERS, Paper
from tests.api.valid_specs import PLACES

ROOT = Path(__file__).resolve().parents[2]
CODE, TESTS = ROOT / "trainer-image" / "plumbline_trainer", ROOT / "tests" / "trainer"
OPTIMIZATION = "Optimizers, schedules, adapters"
EXPLORATION = "Exploration of RLVRJob (`spec.exploration`)"


@dataclass(frozen=True)
class Row:
    """A row of a table, by the column's heading; the first cell is its name."""

    section: str
    name: str
    cells: dict[str, str]

    def files(self, column: str) -> list[str]:
        return re.findall(r"`([\w/]+\.py)`", self.cells[column])


def read_rows(text: str) -> list[Row]:
    """All rows of all tables, in order."""
    rows, section, heading = [], "", []
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if line.startswith("|--"):
            continue
        if not line.startswith("| "):
            heading = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not heading:
            heading = cells
        else:
            assert len(cells) == len(heading), f"{cells[0]} has {len(cells)} cells"
            rows.append(Row(section, cells[0].strip("`"), dict(zip(heading, cells, strict=True))))
    return rows


ROWS = read_rows((ROOT / "docs" / "methods.md").read_text(encoding="utf-8"))
KEY_ROWS = [row for row in ROWS if "key" in row.cells]
RECIPES = [row for row in ROWS if "recipe" in row.cells]
METHOD_ROWS = [row for row in ROWS if {"key", "recipe", "code", "test"} & row.cells.keys()]
"""Without those of tables that only explain something, such as what estimators estimate."""

SECTIONS: dict[type[Choice], tuple[str, str]] = {
    PolicyObjectiveChoice: ("Objectives of RLVRJob (`spec.objective`)", ""),
    PolicyAggregationChoice: ("Aggregation of token losses of RLVRJob (`spec.aggregation`)", ""),
    KlChoice: ("KL penalties of RLVRJob (`spec.kl`)", ""),
    AdvantageChoice: ("Advantages of RLVRJob (`spec.advantage`)", ""),
    CriticChoice: ("Critics of RLVRJob (`spec.critic`)", ""),
    ValueLossChoice: ("Critics of RLVRJob (`spec.critic`)", "loss."),
    ShapingChoice: ("Shaping of rewards of RLVRJob (`spec.shaping`)", ""),
    CurriculumChoice: ("Curricula of RLVRJob (`spec.curriculum`)", ""),
    SampleBudgetChoice: (EXPLORATION, "budget."),
    ResamplingChoice: (EXPLORATION, "resampling."),
    RescueChoice: (EXPLORATION, "rescue."),
    SampleSelectionChoice: (EXPLORATION, "selection."),
    ReplayChoice: (EXPLORATION, "replay."),
    PromptGeneratorChoice: ("Generators of prompts (`spec.data.train.generator`)", "generator."),
    VerifierChoice: ("Verifiers of RLVRJob (`spec.rewards[].verifier`)", ""),
    OptimizerChoice: (OPTIMIZATION, "optimizer."),
    ScheduleChoice: (OPTIMIZATION, "schedule."),
    PeftChoice: (OPTIMIZATION, "peft."),
}
"""Choice -> the section of its rows and what stands before the key; for others both follow from their place."""


def section_and_prefix(choice: type[Choice], path: str) -> tuple[str, str]:
    if choice in SECTIONS:
        return SECTIONS[choice]
    (section,) = {row.section for row in KEY_ROWS if f"(`{path}`)" in row.section and "RLVRJob" not in row.section}
    return section, "" if path == "spec.objective" else f"{path.split('.')[-1]}."


NO_METHODS = (SourceChoice, RolloutEngineChoice, WeightSyncChoice)
"""Where files lie and where completions are computed is no method; docs/rollouts.md is about the latter."""

METHODS: dict[tuple[str, str], type[Family]] = {
    (section, prefix + member.member_key): member
    for _, path, choice in PLACES
    if choice not in NO_METHODS
    for section, prefix in (section_and_prefix(choice, path),)
    for member in choice.family.members()
}
"""Section and name of the row -> the method."""

methods = pytest.mark.parametrize(
    ("place", "method"),
    METHODS.items(),
    ids=[f"{method.__module__.split('.')[-1]}-{name}" for (_, name), method in METHODS.items()],
)


def choices_in(model: type[ApiModel], seen: set[type[ApiModel]]) -> set[type[Choice]]:
    """Every one-of that is part of a model."""
    if model in seen:
        return set()
    seen.add(model)
    found: set[type[Choice]] = {model} if issubclass(model, Choice) else set()
    for declared in model.model_fields.values():
        inner = nested_model(declared.annotation)
        found |= choices_in(inner, seen) if inner is not None else set()
    return found


def test_no_family_of_a_job_is_left_out() -> None:
    families = {choice.family for spec in (PreferenceJobSpec, RLVRJobSpec) for choice in choices_in(spec, set())}
    assert families == {choice.family for _, _, choice in PLACES}


def row_of(place: tuple[str, str]) -> Row:
    (row,) = [row for row in KEY_ROWS if (row.section, row.name) == place]
    return row


@methods
def test_a_method_has_exactly_one_row(place: tuple[str, str], method: type[Family]) -> None:
    assert [(row.section, row.name) for row in KEY_ROWS].count(place) == 1


def test_every_row_is_of_a_method() -> None:
    assert [row.name for row in KEY_ROWS if (row.section, row.name) not in METHODS] == []


@methods
def test_the_row_names_the_file_that_implements_the_method(place: tuple[str, str], method: type[Family]) -> None:
    name = method.__name__
    # an adapter is in no registry: its code takes the parameters as an argument
    said = rf"\w: {name}\b" if place[1].startswith("peft.") else rf"^@(\w+\.)?implements\({name}\)$"
    texts = [(CODE / file).read_text(encoding="utf-8") for file in row_of(place).files("code")]
    assert any(re.search(said, text, re.MULTILINE) for text in texts)


@methods
def test_the_row_names_a_test_that_knows_the_method(place: tuple[str, str], method: type[Family]) -> None:
    texts = [(TESTS / file).read_text(encoding="utf-8") for file in row_of(place).files("test")]
    assert any(re.search(rf"\b{method.__name__}\b|\"{method.member_key}\"", text) for text in texts)


@pytest.mark.parametrize("row", METHOD_ROWS, ids=lambda row: row.name)
def test_a_row_names_files_that_exist(row: Row) -> None:
    for column, folder in (("code", CODE), ("test", TESTS)):
        assert row.files(column), f"no {column}"
        assert [file for file in row.files(column) if not (folder / file).is_file()] == []


@pytest.mark.parametrize("row", RECIPES, ids=lambda row: row.name)
def test_the_keys_of_a_recipe_are_fields_of_a_job(row: Row) -> None:
    keys = re.findall(r"`([\w.]+)`", row.cells["keys"])
    assert keys
    spec = RLVRJobSpec if "RLVRJob" in row.section else PreferenceJobSpec
    for key in keys:
        assert is_field(spec, key) or is_field(spec, f"objective.{key}"), key


def is_field(model: type[ApiModel], path: str) -> bool:
    """Whether the wire path leads to a field of the model."""
    name, _, rest = path.partition(".")
    for declared_name, declared in model.model_fields.items():
        if name == (declared.alias or declared_name):
            inner = nested_model(declared.annotation)
            return not rest or (inner is not None and is_field(inner, rest))
    return False


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.rows[0])
def test_a_paper_is_named_by_its_full_title_in_its_rows(paper: Paper) -> None:
    for name in paper.rows:
        found = [row for row in ROWS if row.name == name]
        assert found, f"no row {name}"
        assert all(any(paper.title in cell for cell in row.cells.values()) for row in found), name


def test_recipes_have_names_of_their_own() -> None:
    names = [row.name for row in RECIPES]
    assert len(set(names)) == len(names) >= 10
