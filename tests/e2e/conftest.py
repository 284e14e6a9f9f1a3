"""Fixtures of the end-to-end tests: the local cluster with Plumbline installed, and files on its volumes."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.deployment import (
    ROOT,
    Cluster,
    build_images,
    install_operator,
    read_file,
    stage_files,
    trainer_image,
    wait_until,
)

CLAIM = "plumbline-demo"
Manifest = dict[str, Any]


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that runs; `make test` starts one."""
    status = subprocess.run([sys.executable, "-m", "cluster", "status"], cwd=ROOT, capture_output=True, check=False)
    if status.returncode:
        pytest.fail("no cluster runs; start one with `make cluster-up`")
    return Cluster.local()


@pytest.fixture(scope="session")
def images(cluster: Cluster) -> dict[str, Any]:
    """The chart's values that name the images, which the cluster knows."""
    return build_images()


@pytest.fixture(scope="session")
def installed(cluster: Cluster, images: dict[str, Any]) -> Cluster:
    """The cluster with the chart installed as a user would, the operator ready."""
    install_operator(cluster, images)
    return cluster


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The tiny real model with its data; trained once and cached."""
    output = ROOT / ".tiny-model"
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "tiny-model" / "build.py"), "--output", str(output)],
        cwd=ROOT,
        check=True,
    )
    return output


@pytest.fixture(scope="module")
def namespace(installed: Cluster) -> Iterator[str]:
    """A fresh namespace, deleted afterwards."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    installed.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def staged(installed: Cluster, namespace: str, tiny_model: Path, images: dict[str, Any]) -> str:
    """A namespace whose claim holds the tiny model and its data."""
    stage_files(installed, namespace, CLAIM, tiny_model, trainer_image(images), clear="results")
    return namespace


@pytest.fixture(scope="session")
def example() -> Callable[..., Manifest]:
    """`example("dpo", "spec.training.steps=3")`: the job of an example file with some fields changed.

    A value is YAML; `null` removes the field. A renamed job writes to a folder of its own.
    """

    def load(name: str, *changes: str, rename: str | None = None) -> Manifest:
        documents = yaml.safe_load_all((ROOT / "examples" / f"{name}.yaml").read_text())
        job = copy.deepcopy(next(document for document in documents if document["kind"].endswith("Job")))
        if rename:
            job["metadata"]["name"] = rename
            job["spec"]["output"]["volume"]["path"] = f"results/{rename}"
        for change in changes:
            path, _, text = change.partition("=")
            *parents, last = path.split(".")
            target = job
            for parent in parents:
                target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
            value = yaml.safe_load(text)
            if value is None:
                target.pop(last, None)
            else:
                target[last] = value
        return job

    return load


class Jobs:
    """Creates jobs in one namespace and waits for what becomes of them."""

    def __init__(self, cluster: Cluster, namespace: str, image: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._image = image

    def create(self, job: Manifest) -> str:
        """Creates the job and returns its resource, such as `preferencejob/dpo`."""
        self.cluster.apply(job, namespace=self.namespace)
        return f"{job['kind'].lower()}/{job['metadata']['name']}"

    def status(self, resource: str) -> dict[str, Any]:
        return self.cluster.get(resource, "-n", self.namespace).get("status", {})

    def condition(self, resource: str, kind: str) -> dict[str, Any]:
        """The condition of that type, or an empty one."""
        conditions = self.status(resource).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def wait_for_phase(self, resource: str, *phases: str, seconds: float = 300) -> dict[str, Any]:
        """The status as soon as its phase is one of these; a job that ended otherwise fails the test at once."""

        def reached() -> dict[str, Any] | None:
            status = self.status(resource)
            if status.get("phase") in phases:
                return status
            if status.get("phase") in ("Complete", "Failed"):
                pytest.fail(f"{resource} is {status['phase']}: {status.get('lastFailure')}")
            return None

        return wait_until(f"{resource} to be {' or '.join(phases)}", reached, seconds)

    def wait_for_condition(
        self, resource: str, kind: str, status: str, reason: str, seconds: float = 120
    ) -> dict[str, Any]:
        """The condition as soon as it has this status and reason."""

        def reached() -> dict[str, Any] | None:
            condition = self.condition(resource, kind)
            return condition if (condition.get("status"), condition.get("reason")) == (status, reason) else None

        return wait_until(f"{resource} to have {kind}={status} because of {reason}", reached, seconds)

    def weights(self, resource: str) -> dict[str, str]:
        """Digests of the weight files of the job's model, by file name."""
        name = resource.split("/")[1]
        record = read_file(self.cluster, self.namespace, CLAIM, f"results/{name}/plumbline.json", self._image)
        return {file: digest for file, digest in json.loads(record)["files"].items() if file.endswith(".safetensors")}

    def pods(self, resource: str) -> list[dict[str, Any]]:
        name = resource.split("/")[1]
        return self.cluster.get("pods", "-n", self.namespace, "-l", f"plumbline.dev/job-name={name}")["items"]


@pytest.fixture(scope="module")
def jobs(installed: Cluster, staged: str, images: dict[str, Any]) -> Jobs:
    """Creates jobs in the staged namespace."""
    return Jobs(installed, staged, trainer_image(images))
