"""The constraint files pin exactly what pyproject.toml asks for and everything that it brings."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
DIRECT = {
    "operator": PROJECT["project"]["dependencies"] + EXTRAS["operator"],
    "trainer": PROJECT["project"]["dependencies"] + EXTRAS["trainer"],
    "build": PROJECT["build-system"]["requires"],
}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("name", DIRECT)
def test_every_requirement_of_the_project_is_met(name: str) -> None:
    pinned = pins(name)
    for text in DIRECT[name]:
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"requirements/{name}.txt lacks {requirement.name}: run requirements/refresh.py"
        assert requirement.specifier.contains(version), f"{text}, but requirements/{name}.txt has {version}"


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_the_closure_is_complete_and_agrees_with_what_every_distribution_requires(name: str) -> None:
    pinned = pins(name)
    asked: dict[str, set[str]] = {}
    for text in DIRECT[name]:
        asked.setdefault(canonicalize_name(Requirement(text).name), set()).update(Requirement(text).extras)
    reached, waiting = set(), list(asked)
    while waiting:
        package = waiting.pop()
        if package in reached:
            continue
        reached.add(package)
        for text in distribution(package).requires or []:
            requirement = Requirement(text)
            extras = asked.get(package, set()) | {""}
            if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            needed = canonicalize_name(requirement.name)
            asked.setdefault(needed, set()).update(requirement.extras)
            assert needed in pinned, f"{package} requires {text}: run requirements/refresh.py"
            assert requirement.specifier.contains(pinned[needed], prereleases=True), f"{package} requires {text}"
            waiting.append(needed)
    assert reached == set(pinned)


@pytest.mark.parametrize("name", DIRECT)
def test_files_hold_plain_pins_only(name: str) -> None:
    """No hosts, no options, no builds: one file serves every machine and CPU and CUDA images alike."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()[1:]
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(names)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []


def test_images_share_the_versions_of_what_both_have() -> None:
    operator, trainer = pins("operator"), pins("trainer")
    both = operator.keys() & trainer.keys()
    assert {"pydantic", "pyyaml", "prometheus-client"} <= both
    assert {name: operator[name] for name in both} == {name: trainer[name] for name in both}
