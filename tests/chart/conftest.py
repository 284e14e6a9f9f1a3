"""Renders the chart with the real helm."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.tools import helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "plumbline"

Documents = list[dict[str, Any]]
Render = Callable[..., Documents]


class _Loader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 and Kubernetes do: 1e-05 is one, with or without a dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def documents(text: str) -> Documents:
    return [document for document in yaml.load_all(text, _Loader) if document]


@pytest.fixture(scope="session")
def helm_program() -> str:
    return helm()


@pytest.fixture(scope="session")
def template(helm_program: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `helm template` with values, a Kubernetes version and what else the cluster serves."""

    def run(
        values: dict[str, Any] | None = None, version: str = "1.20.2", served: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = [helm_program, "template", "plumbline", str(CHART), "--namespace", "plumbline-system"]
        command += ["--kube-version", version, "--values", "-"]
        command += [part for kind in served for part in ("--api-versions", kind)]
        return subprocess.run(command, input=json.dumps(values or {}), text=True, capture_output=True, check=False)

    return run


@pytest.fixture(scope="session")
def render(template: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """Return the documents that the chart renders to."""

    def rendered(
        values: dict[str, Any] | None = None, version: str = "1.20.2", served: Sequence[str] = ()
    ) -> Documents:
        result = template(values, version, served)
        assert result.returncode == 0, result.stderr
        return documents(result.stdout)

    return rendered


@pytest.fixture(scope="session")
def image_values() -> dict[str, Any]:
    """The values that `images/build.py --print-tags` prints for the chart."""
    command = [sys.executable, str(ROOT / "images" / "build.py"), "--print-tags", "--registry", "localhost:5000"]
    values: dict[str, Any] = json.loads(subprocess.run(command, text=True, capture_output=True, check=True).stdout)
    return values


@pytest.fixture(scope="session")
def generated_crds() -> dict[str, dict[str, Any]]:
    """The CRDs of the API, by name."""
    found = [document for file in sorted((ROOT / "crds").glob("*.yaml")) for document in documents(file.read_text())]
    return {crd["metadata"]["name"]: crd for crd in found}
