"""The generated manifests, as the tests of the API read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = Path(__file__).resolve().parents[2] / "crds"


@pytest.fixture(scope="session")
def manifests() -> Mapping[str, dict[str, Any]]:
    """The checked-in CustomResourceDefinitions by kind."""
    documents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CRDS.glob("*.yaml"))]
    return {document["spec"]["names"]["kind"]: document for document in documents}


@pytest.fixture(scope="session")
def schemas(manifests: Mapping[str, dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    """The structural schema of each kind."""
    return {kind: manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for kind, manifest in manifests.items()}
