"""Every example runs in real pods: applied as it stands but for its length, it ends with a model."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scripts.deployment import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
NEEDS = {"learned-reward": "reward-model"}
"""Example -> another one whose result it reads."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_completes(path: Any, jobs: Any, example: Any) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if not document["kind"].endswith("Job"):
            jobs.cluster.apply(document, namespace=jobs.namespace)
    shortened = ("spec.training.epochs=null", "spec.training.steps=2", "spec.evaluation.maxRows=16")
    if path.stem in NEEDS:
        needed = jobs.create(example(NEEDS[path.stem], *shortened))
        jobs.wait_for_phase(needed, "Complete", seconds=240)
    resource = jobs.create(example(path.stem, *shortened, rename=f"{path.stem}-short"))
    status = jobs.wait_for_phase(resource, "Complete", seconds=240)
    assert status["progress"]["text"] == "2/2"
    assert status["output"]["digest"]
    assert status["score"]
