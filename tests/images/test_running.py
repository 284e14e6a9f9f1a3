"""Both images run in the local cluster as the chart and the operator run them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from scripts.deployment import Cluster, build_images, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    values = build_images()
    return {name: "{repository}:{tag}".format(**value["image"]) for name, value in values.items()}


def restricted_pod(name: str, image: str, *command: str) -> dict[str, Any]:
    """A pod under the restricted Pod Security Standard with a read-only root filesystem."""
    container: dict[str, Any] = {
        "name": "main",
        "image": image,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    container |= {"args": list(command[1:])} if command[0] == "ENTRYPOINT" else {"command": list(command)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


TRAINER = """
import os, pathlib, tempfile
import huggingface_hub, math_verify, peft, pyarrow.parquet, torch, transformers
import plumbline_trainer, plumbline_api
assert os.getuid() == 65532 and os.environ["HOME"] == "/tmp"
assert huggingface_hub.constants.HF_HUB_OFFLINE
assert math_verify.verify(math_verify.parse("$\\\\frac{1}{2}$"), math_verify.parse("0.5"))
assert torch.ones(2, 2).mm(torch.ones(2, 2)).sum() == 8
tempfile.NamedTemporaryFile().close()
try:
    pathlib.Path("/opt/plumbline/probe").touch()
except OSError as error:
    print("fine:", error.strerror)
"""


@pytest.mark.parametrize(
    ("image", "command", "said"),
    [
        ("operator", ("ENTRYPOINT", "--help"), "usage:"),
        ("trainer", ("ENTRYPOINT", "--help"), "usage:"),
        ("trainer", ("python", "-c", TRAINER), "fine: Read-only file system"),
    ],
)
def test_an_image_runs_unprivileged(images: dict[str, str], image: str, command: tuple[str, ...], said: str) -> None:
    cluster, name = Cluster.local(), f"image-{uuid.uuid4().hex[:8]}"
    cluster.apply(restricted_pod(name, images[image], *command))
    try:
        ended = ("Succeeded", "Failed")
        phase = wait_until(
            f"the end of pod {name}",
            lambda: (now := cluster.get("pod", name)["status"]["phase"]) in ended and now,
            seconds=180,
        )
        log = cluster.kubectl("logs", name)
        assert phase == "Succeeded", log
        assert said in log
    finally:
        cluster.kubectl("delete", "pod", name, "--wait=false")
