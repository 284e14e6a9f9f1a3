"""A Secret is planted wherever a job can use one, and then looked for everywhere.

It is the job's environment variable, its hub token and its judge's key. The judge repeats it in errors, as services do
that refuse a key; one job gets through, another fails because of the judge.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from scripts.deployment import SYSTEM_NAMESPACE, Cluster, loader_pod, trainer_image

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECRET = "planted-9f3c51d7a2e84b06"
ENCODED = base64.b64encode(SECRET.encode()).decode().rstrip("=")
JUDGE = """
import http.server, json

class Judge(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers.get("Authorization", "")
        kind = self.path.strip("/")
        right = key == open("/secret/key").read()
        status, answer = (200, {"score": 1.0}) if kind == "friendly" and right else (
            401, {"error": f"Incorrect API key provided: {key}"})
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", 8000), Judge).serve_forever()
"""


@pytest.fixture(scope="module")
def judge(installed: Cluster, staged: str, images: dict[str, Any]) -> str:
    """The address of a judge that knows the key."""
    secret = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "planted"},
        "stringData": {"token": SECRET, "key": f"Bearer {SECRET}"},
    }  # fmt: skip
    container = {
        "name": "judge",
        "image": trainer_image(images),
        "command": ["python", "-c", JUDGE],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "volumeMounts": [{"name": "secret", "mountPath": "/secret"}],
    }
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "judge"},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "secret", "secret": {"secretName": "planted"}}],
        },
    }  # fmt: skip
    installed.apply(secret, pod, namespace=staged)
    installed.kubectl("wait", "pod/judge", "-n", staged, "--for=condition=Ready", "--timeout=120s")
    return str(installed.get("pod", "judge", "-n", staged)["status"]["podIP"])


@pytest.fixture(scope="module")
def runtime(installed: Cluster, staged: str) -> dict[str, str]:
    """The platform's runtime with the Secret in three variables."""
    platform = installed.get("clustertrainerruntime", "torch-cpu")
    references = {"ANY_VARIABLE": "token", "HF_TOKEN": "token", "JUDGE_KEY": "key"}
    env = [{"name": name, "secretKeyRef": {"name": "planted", "key": key}} for name, key in references.items()]
    document = {
        "apiVersion": platform["apiVersion"], "kind": "TrainerRuntime", "metadata": {"name": "with-secrets"},
        "spec": {**platform["spec"], "env": env},
    }  # fmt: skip
    installed.apply(document, namespace=staged)
    return {"kind": "TrainerRuntime", "name": "with-secrets"}


def test_a_planted_secret_is_found_nowhere(
    jobs: Any, example: Any, judge: str, runtime: dict[str, str], images: dict[str, Any]
) -> None:
    resources = []
    for kind in ("friendly", "hostile"):
        verifier = {"httpJudge": {"url": f"http://{judge}:8000/{kind}", "authorizationVariable": "JUDGE_KEY"}}
        job = example(
            "grpo",
            "spec.training.steps=3",
            "spec.checkpoint.everySteps=1",
            f"spec.runtimeRef={json.dumps(runtime)}",
            f"spec.rewards={json.dumps([{'name': 'judged', 'verifier': verifier}])}",
            rename=kind,
        )
        resources.append(jobs.create(job))
    friendly, hostile = resources
    jobs.wait_for_phase(friendly, "Complete", seconds=300)
    failed = jobs.wait_for_phase(hostile, "Failed", seconds=300)
    assert "Incorrect API key provided: ***" in json.dumps(failed), "the judge's words are told, without the key"
    assert "Incorrect API key" in trainer_logs(jobs, "hostile"), "the log that is searched is the right one"

    cluster, namespace = jobs.cluster, jobs.namespace
    kinds = "pods,services,configmaps,events,preferencejobs,rlvrjobs,trainerruntimes,networkpolicies,leases"
    places = {
        "objects": cluster.kubectl("get", kinds, "-n", namespace, "-o", "json"),
        "descriptions": cluster.kubectl("describe", "rlvrjobs,pods", "-n", namespace),
        "objects of the operator": cluster.kubectl(
            "get", "pods,configmaps,events", "-n", SYSTEM_NAMESPACE, "-o", "json"
        ),
        "operator log": cluster.kubectl("logs", "-n", SYSTEM_NAMESPACE, "deployment/plumbline-operator", "--tail=-1"),
        "log of the friendly job": trainer_logs(jobs, "friendly"),
        "log of the hostile job": trainer_logs(jobs, "hostile"),
    }
    assert '"kind": "ConfigMap"' in places["objects"]
    for where, text in places.items():
        assert len(text) > 100, f"{where} could not be read"
        assert SECRET not in text and ENCODED not in text, where
    assert files_with_secret(jobs, images) == ""


def trainer_logs(jobs: Any, job: str) -> str:
    """Of all containers that ran; where pre-flight failed, the trainer itself never did."""
    which = ("-l", f"plumbline.dev/job-name={job}", "--all-containers", "--ignore-errors", "--tail=-1")
    return str(jobs.cluster.kubectl("logs", "-n", jobs.namespace, *which))


def files_with_secret(jobs: Any, images: dict[str, Any]) -> str:
    """Names of the files of both jobs that hold it; their checkpoints lie below their outputs."""
    with loader_pod(jobs.cluster, jobs.namespace, "plumbline-demo", trainer_image(images)) as inside:
        folders = ("/volume/results/friendly", "/volume/results/hostile")
        listed = jobs.cluster.kubectl("exec", *inside, "find", folders[0], "-type", "f")
        assert "checkpoints" in listed and "safetensors" in listed
        search = f"grep -rlaE '{SECRET}|{ENCODED}' {' '.join(folders)} || true"
        return str(jobs.cluster.kubectl("exec", *inside, "sh", "-c", search)).strip()
