"""The manifests on a real API server of the oldest Kubernetes in use here (1.20): accepted, defaulted, bounds enforced.

That server drops CEL rules; `crd_conformance.py` checks those on a current one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiException

from cluster.control_plane import ControlPlane
from tests.api import api_server
from tests.api.bad_spec_rows import BadSpec
from tests.api.bad_specs import BAD_SPECS
from tests.api.live_server import LiveServer, refusal
from tests.api.valid_specs import every_method, valid

pytestmark = pytest.mark.control_plane

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, manifests: Mapping[str, dict[str, Any]]) -> Iterator[LiveServer]:
    directory: Path = tmp_path_factory.mktemp("control-plane")
    with ControlPlane(directory, controller_manager=False) as plane:
        live = LiveServer(plane.kubeconfig)
        live.install(list(manifests.values()))
        yield live


@pytest.mark.parametrize("case", [case for case in BAD_SPECS if case.judge == "bounds"], ids=lambda case: case.name)
def test_bounds_are_enforced(case: BadSpec, server: LiveServer) -> None:
    with pytest.raises(ApiException) as refused:
        server.create(valid(case.kind, case.patch), dry_run="All")
    assert refused.value.status == 422
    path_as_written_there = re.sub(r"\[\d+\]", "", case.path)  # this server leaves out the index of an item
    assert path_as_written_there in re.sub(r"\[\d+\]", "", refusal(refused.value))


@pytest.mark.parametrize("document", every_method().values(), ids=every_method())
def test_the_server_fills_in_the_defaults(
    document: dict[str, Any], server: LiveServer, schemas: Mapping[str, api_server.Schema]
) -> None:
    stored = server.create(document, dry_run="All")
    expected = api_server.defaulted(schemas[document["kind"]], document)
    assert stored["spec"] == expected["spec"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_accepted(path: Path, server: LiveServer) -> None:
    jobs = [document for document in yaml.safe_load_all(path.read_text()) if document["kind"].endswith("Job")]
    assert jobs
    for job in jobs:
        job["metadata"]["namespace"] = "default"
        assert server.create(job, dry_run="All")["metadata"]["name"] == path.stem


def test_status_is_a_subresource_and_fills_the_columns(server: LiveServer) -> None:
    document = valid("RLVRJob", {"metadata.name": "shown", "spec.scheduling": {"queue": "team-a"}})
    status = {
        "phase": "Running",
        "objective": "grpo",
        "score": "0.42",
        "gpus": 2,
        "restarts": 1,
        "reason": "Training",
        "progress": {
            "step": 4,
            "maxSteps": 10,
            "percent": 40,
            "text": "4/10",
            "etaSeconds": 60,
            "tokensPerSecond": 9.5,
        },
        "checkpoint": {
            "step": 4,
            "time": "2030-01-31T12:00:00Z",
            "uri": "pvc://results/shown/checkpoints",
            "digest": "sha256:0",
            "verified": True,
        },
    }
    stored = server.create({**document, "status": status})
    assert "status" not in stored, "whoever creates a job must not be able to give it a status"
    server.write_status(document, status)
    shown, wide = server.columns(document)
    assert {name: shown[name] for name in list(shown)[1:-1]} == {
        "PHASE": "Running",
        "STEP": "4/10",
        "PROGRESS": 40,
        "OBJECTIVE": "grpo",
        "SCORE": "0.42",
        "GPUS": 2,
        "RESTARTS": 1,
    }
    assert wide == {"ETA": 60, "TOKENS/S": 9.5, "CHECKPOINT": 4, "QUEUE": "team-a", "REASON": "Training"}
    server.delete(document)


def test_a_status_out_of_bounds_is_refused(server: LiveServer) -> None:
    document = valid("PreferenceJob", {"metadata.name": "bounded"})
    server.create(document)
    with pytest.raises(ApiException) as refused:
        server.write_status(document, {"progress": {"step": 4, "maxSteps": 10, "percent": 101}})
    assert "status.progress.percent" in refusal(refused.value)
    server.delete(document)
