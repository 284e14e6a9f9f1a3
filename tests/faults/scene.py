"""One namespace in which jobs come to grief, and what injuries can do there."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import yaml

from scripts.deployment import ROOT, Cluster, wait_until
from tests.e2e.containers import processes_of
from tests.faults.timeline import Manifest, Timeline

CLAIM = "plumbline-demo"
LONGEST_LINE = 280
"""Characters of a line that the documentation shows."""


@dataclass
class Scene:
    """The cluster, its namespace and what is seen of it."""

    cluster: Cluster
    namespace: str
    image: str
    """The trainer image."""

    timeline: Timeline
    printed: dict[str, str] = field(default_factory=dict)
    """What kubectl printed about some jobs, by job."""
    pods_then: dict[str, list[Manifest]] = field(default_factory=dict)
    """The pods of each job when its fault was told: what the operator did with them afterwards is another matter."""

    def keep_printed(self, job: Manifest) -> None:
        """Keeps what `kubectl get` and `kubectl describe` print about a job now, without its spec."""
        short = "prefjob" if job["kind"] == "PreferenceJob" else "rlvr"
        name = job["metadata"]["name"]
        table = self.kubectl("get", short, name)
        described = self.kubectl("describe", short, name)
        head, _, rest = described.partition("\nSpec:\n")
        lines = rest.partition("\nStatus:\n")[2].splitlines()
        status = "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} [...]" for line in lines)
        kept = "\n".join(line for line in head.splitlines() if line.startswith(("Name:", "Kind:")))
        first, second = f"$ kubectl get {short} {name}\n{table}", f"$ kubectl describe {short} {name}\n{kept}"
        self.printed[name] = f"{first}\n{second}\n[...]\nStatus:\n{status}"

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(*arguments, "-n", self.namespace)

    def apply(self, *manifests: Manifest) -> None:
        self.cluster.apply(*manifests, namespace=self.namespace)

    def status(self, job: str) -> Manifest:
        status: Manifest = self.timeline.job(job).get("status") or {}
        return status

    def until_training(self, job: str, seconds: float = 600) -> list[Manifest]:
        """The pods of a job, by rank, as soon as its trainer says that it trains."""

        def trains() -> bool:
            conditions = self.status(job).get("conditions") or []
            return any(entry["type"] == "Running" and entry["status"] == "True" for entry in conditions)

        wait_until(f"{job} to train", trains, seconds, interval=0.1)
        return self.timeline.pods(job)

    def signal_trainer(self, pod: Manifest, number: signal.Signals) -> None:
        """Sends a signal to every process of the trainer container, from the node."""
        found = processes_of(pod, "trainer")
        if not found:
            raise RuntimeError(f"no process of pod {pod['metadata']['name']} runs on this machine")
        for pid in found:
            os.kill(pid, number)

    def node2(self, command: str) -> None:
        """`node-stop` kills the kubelet of the second node, `node-start` starts it again."""
        subprocess.run([sys.executable, "-m", "cluster", command, "node2"], cwd=ROOT, check=True, capture_output=True)

    def in_network_of(self, pod: Manifest, *command: str) -> None:
        """Runs a command of this machine in the network of a pod."""
        pid = processes_of(pod, "trainer")[0]
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "--", *command], check=True, capture_output=True)


def example(kind: str, name: str, *changes: str) -> Manifest:
    """The job of `examples/<kind>.yaml` under another name, small and never repeated, with some fields changed.

    A change is `path=YAML`; `null` removes the field.
    """
    documents = yaml.safe_load_all((ROOT / "examples" / f"{kind}.yaml").read_text())
    job: Manifest = copy.deepcopy(next(document for document in documents if document["kind"].endswith("Job")))
    job["metadata"]["name"] = name
    always = (
        f"spec.output.volume.path=results/{name}",
        "spec.evaluation={atStart: false}",
        "spec.checkpoint={everySteps: 1000}",
        "spec.runPolicy={backoffLimit: 0, terminationGracePeriodSeconds: 5}",
        "spec.resources={cpu: 900m, memory: 1Gi}",
    )
    for change in (*always, *changes):
        path, _, text = change.partition("=")
        *parents, last = path.split(".")
        target: Any = job
        for parent in parents:
            target = target.setdefault(parent, {})
        value = yaml.safe_load(text)
        if value is None:
            target.pop(last, None)
        else:
            target[last] = value
    return job


def runtime(name: str, image: str, **spec: Any) -> Manifest:
    """A runtime of the namespace."""
    return {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "TrainerRuntime",
        "metadata": {"name": name},
        "spec": {"image": image, **spec},
    }
