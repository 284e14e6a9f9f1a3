"""The demo: from nothing to a preference job and an RLVR job that ran to the end on a real Kubernetes.

Every step can be repeated, so the demo may be interrupted and started again at any time. The cluster stays up.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.deployment import Cluster, CommandFailed, build_images, install_operator, stage_files, trainer_image  # noqa: E402

NAMESPACE = "plumbline-demo"
CLAIM = "plumbline-demo"
EXAMPLES = ("examples/dpo.yaml", "examples/grpo.yaml")
WATCHED = "preferencejobs.plumbline.dev,rlvrjobs.plumbline.dev"
TERMINAL = ("Complete", "Failed")
DEADLINE_SECONDS = 1800
SECONDS_BETWEEN_TABLES = 15


def step(number: int, text: str, started: float) -> None:
    """A line that says what begins now."""
    print(f"\n[{time.monotonic() - started:4.0f} s] {number}/7 {text}", flush=True)


def build_tiny_model(target: Path) -> None:
    """Trains the tiny model, or takes the one that was trained before."""
    python = ROOT / ".venv" / "bin" / "python"
    subprocess.run(
        [str(python), str(ROOT / "examples" / "tiny-model" / "build.py"), "--output", str(target)], cwd=ROOT, check=True
    )


def jobs(cluster: Cluster) -> list[dict[str, Any]]:
    """The demo's jobs as the API server has them."""
    return cluster.get(WATCHED, "-n", NAMESPACE)["items"]


def watch(cluster: Cluster) -> list[dict[str, Any]]:
    """Shows `kubectl get` while the jobs run, at every change of phase and else every few steps; returns the jobs."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    shown: list[str] = []
    shown_at = 0.0
    while True:
        current = jobs(cluster)
        phases = [job.get("status", {}).get("phase", "") for job in current]
        if phases != shown or time.monotonic() - shown_at > SECONDS_BETWEEN_TABLES:
            table = cluster.kubectl("get", WATCHED, "-n", NAMESPACE).rstrip()
            print(f"\n$ kubectl get prefjob,rlvr          {time.strftime('%H:%M:%S')}\n{table}", flush=True)
            shown, shown_at = phases, time.monotonic()
        if all(phase in TERMINAL for phase in phases):
            return current
        if time.monotonic() > deadline:
            raise SystemExit(f"the jobs did not end within {DEADLINE_SECONDS} s; see kubectl describe")
        time.sleep(2)


def report(job: dict[str, Any]) -> bool:
    """Prints what one job achieved; tells whether it completed."""
    status = job.get("status", {})
    print(f"\n{job['kind']} {job['metadata']['name']}: {status.get('phase')}")
    if status.get("phase") != "Complete":
        failure = status.get("lastFailure", {})
        print(f"  {failure.get('reason')}: {failure.get('message')}\n{failure.get('logTail', '')}")
        return False
    for metric in status.get("metrics", []):
        if metric["name"].endswith("accuracy") and metric.get("first") is not None:
            print(f"  held-out accuracy  {metric['first']:.3f} before, {metric['value']:.3f} after")
    progress, usage, output = status["progress"], status.get("usage", {}), status["output"]
    print(f"  steps              {progress['step']} of {progress['maxSteps']}, {status.get('restarts', 0)} restarts")
    print(f"  model              {output['uri']}\n                     {output['digest']}")
    price = f", {usage['cost']:.4f} at the runtime's prices" if usage.get("cost") is not None else ""
    print(f"  cost               {usage.get('podSeconds', 0):.0f} pod-seconds{price}")
    return True


def prepare_jobs(cluster: Cluster, tiny_model: Path, images: dict[str, Any]) -> None:
    """A clean namespace's worth of inputs: earlier jobs gone, model and data on the claim."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.kubectl("delete", WATCHED, "--all", "-n", NAMESPACE, "--wait=true")
    stage_files(cluster, NAMESPACE, CLAIM, tiny_model, trainer_image(images), clear="results")


def main() -> None:
    """Runs the seven steps."""
    started = time.monotonic()
    step(1, "environment: Python packages", started)
    subprocess.run([sys.executable, str(ROOT / "scripts" / "environment.py")], check=True)
    tiny_model = ROOT / ".tiny-model"
    step(2, "tiny model: a small Llama, trained until it is right about a third of the time", started)
    trouble: list[BaseException] = []

    def train() -> None:
        try:
            build_tiny_model(tiny_model)
        except BaseException as error:  # re-raised in the main thread
            trouble.append(error)

    # one thread of arithmetic: leaves the second core to the compiler and the package installer
    training = threading.Thread(target=train, daemon=True)
    training.start()
    step(3, "cluster: a real Kubernetes (compiled once, some minutes the first time)", started)
    subprocess.run([sys.executable, "-m", "cluster", "up"], cwd=ROOT, check=True)
    step(4, "images: operator and trainer", started)
    images = build_images()
    step(5, "operator: helm install", started)
    cluster = Cluster.local()
    install_operator(cluster, images)
    print(cluster.kubectl("get", "pods", "-n", "plumbline-system").rstrip())
    step(6, "jobs: kubectl apply -f examples/dpo.yaml -f examples/grpo.yaml", started)
    training.join()
    if trouble:
        raise trouble[0]
    prepare_jobs(cluster, tiny_model, images)
    for example in EXAMPLES:
        print(cluster.kubectl("apply", "-n", NAMESPACE, "-f", str(ROOT / example)).rstrip())
    finished = watch(cluster)
    step(7, "results", started)
    completed = [report(job) for job in finished]
    print(
        f"\nThe cluster is still up. Look around:\n"
        f"  export KUBECONFIG={cluster.kubeconfig}\n"
        f"  {cluster.kubectl_path} -n {NAMESPACE} get prefjob,rlvr,pods\n"
        f"  {cluster.kubectl_path} -n {NAMESPACE} describe rlvr\n"
        f"Tear down:\n  make cluster-down"
    )
    if not all(completed):
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; `make demo` goes on from here") from None
    except (CommandFailed, subprocess.CalledProcessError, TimeoutError) as error:
        raise SystemExit(f"\nthe demo stopped: {error}") from None
