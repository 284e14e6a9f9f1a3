"""Every pod of every kind of job meets the restricted standard, has no credentials, and its root cannot be written."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline_api.scheduling import Scheduling
from plumbline_operator.children import Placement, pod_manifest
from plumbline_operator.decide.acceptance import accept
from plumbline_operator.model import Observed
from plumbline_operator.snapshot import read_snapshot
from tests.operator.job_documents import RUNTIME, preference_job, rlvr_job, stored
from tests.operator.pod_security import violations

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
RICH_RUNTIME: dict[str, Any] = {
    "image": "registry.example/trainer:1",
    "imagePullSecrets": ["registry"],
    "env": [{"name": "HF_TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}}],
    "resources": {"cpu": "2", "memory": "4Gi", "gpus": 2},
    "podLabels": {"plumbline.dev/job-uid": "of-another", "team": "a"},
    "runtimeClassName": "gvisor",
}


def pod_of(job: dict[str, Any], **runtime: Any) -> dict[str, Any]:
    document = {**RUNTIME, "spec": {**RUNTIME["spec"], **runtime}}
    snapshot = read_snapshot(accept(Observed(job=stored(job), runtime=document)))
    return pod_manifest(stored(job), snapshot, Placement(Scheduling()), 1, 0, "10.96.0.7")


def jobs_of(file: Path) -> list[dict[str, Any]]:
    documents = [document for document in yaml.safe_load_all(file.read_text()) if document]
    return [document for document in documents if document["kind"] in ("PreferenceJob", "RLVRJob")]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_pods_of_the_examples_meet_the_restricted_standard(file: Path) -> None:
    for job in jobs_of(file):
        job["metadata"].setdefault("namespace", "team")
        pod = pod_of(job, **RICH_RUNTIME)
        assert violations(pod) == []


@pytest.mark.parametrize("job", [preference_job(), rlvr_job()], ids=["preference", "rlvr"])
def test_pods_have_no_credentials_and_a_root_that_cannot_be_written(job: dict[str, Any]) -> None:
    pod = pod_of(job, **RICH_RUNTIME)
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert "serviceAccountName" not in spec
    assert not any({"secret", "projected", "hostPath"} & set(volume) for volume in spec["volumes"])
    for container in spec["initContainers"] + spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        secrets = [entry for entry in container["env"] if entry["name"] == "HF_TOKEN"]
        assert secrets == [
            {
                "name": "HF_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token", "optional": False}},
            }
        ]
    assert pod["metadata"]["labels"]["plumbline.dev/job-uid"] == "uid-1", "no runtime makes a pod another job's"
    assert pod["metadata"]["labels"]["team"] == "a"


HARM: list[tuple[str, Any, str]] = [
    ("spec.hostNetwork", True, "hostNetwork"),
    ("spec.hostPID", True, "hostPID"),
    ("spec.volumes.0", {"name": "config", "hostPath": {"path": "/"}}, "hostPath"),
    ("spec.securityContext.runAsNonRoot", False, "runAsNonRoot"),
    ("spec.securityContext.runAsUser", 0, "root"),
    ("spec.securityContext.seccompProfile", {"type": "Unconfined"}, "seccomp"),
    ("spec.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctl"),
    ("spec.containers.0.securityContext.privileged", True, "privileged"),
    ("spec.containers.0.securityContext.allowPrivilegeEscalation", True, "allowPrivilegeEscalation"),
    ("spec.containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}, "dropped"),
    ("spec.initContainers.0.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}, "added"),
    ("spec.initContainers.0.securityContext.runAsUser", 0, "root"),
    ("spec.containers.0.securityContext.procMount", "Unmasked", "procMount"),
    ("spec.containers.0.ports.0.hostPort", 80, "host"),
    ("metadata.annotations", {"container.apparmor.security.beta.kubernetes.io/trainer": "unconfined"}, "apparmor"),
]


@pytest.mark.parametrize(("path", "value", "said"), HARM, ids=[path for path, _, _ in HARM])
def test_the_standard_as_it_is_written_down_here_finds_what_breaks_it(path: str, value: Any, said: str) -> None:
    pod = copy.deepcopy(pod_of(preference_job()))
    *parents, last = path.split(".")
    target: Any = pod
    for parent in parents:
        target = target[int(parent)] if isinstance(target, list) else target[parent]
    if isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    assert any(said in line for line in violations(pod))


RUNS_CODE = {"eval", "exec", "compile", "__import__", "breakpoint"}
LOADS_CODE = {
    "importlib.util",
    "runpy",
    "subprocess",
    "pickle",
    "marshal",
    "shelve",
    "ctypes",
    "multiprocessing",
    "code",
}


@pytest.mark.parametrize("file", sorted((ROOT / "operator").rglob("*.py")), ids=lambda file: file.name)
def test_the_operator_has_no_means_to_run_what_users_write(file: Path) -> None:
    """Reward code is a ConfigMap's name for it; neither the trainer nor anything that loads code is imported."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in RUNS_CODE, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = ast.unparse(node.func)
            assert not name.startswith(("os.exec", "os.spawn", "os.system", "os.popen", "yaml.load", "yaml.unsafe"))
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            assert not module.startswith("plumbline_trainer"), f"line {node.lineno}"
            assert module not in LOADS_CODE, f"line {node.lineno}"
