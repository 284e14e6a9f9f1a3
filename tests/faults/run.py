"""Runs faults, several at once, and measures how soon each is told."""

from __future__ import annotations

import copy
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cluster.bare import BareCluster
from scripts.deployment import Cluster, stage_files, wait_until
from tests.chaos.limited_volume import LimitedVolume
from tests.faults.cases import SLOT, SMALL_CLAIM, Fault
from tests.faults.scene import CLAIM, Scene
from tests.faults.timeline import Timeline

SMALL_MEGABYTES = 4
ENDED_BY_THE_OPERATOR = ("Stalled", "DeadlineExceeded")
PATIENCE_SECONDS = 700
"""For one fault, of which most is waiting for room on the nodes."""


@dataclass(frozen=True)
class Verdict:
    """What became of one fault."""

    name: str
    what: str
    expected: str
    reason: str
    message: str
    right: bool
    """Whether reason and message are as they must be."""

    seconds_after_end: float | None
    """From the pod's end to the reason in the job's status; None where no pod ended before."""

    log_tail_characters: int
    """Of the log's last lines in the status."""


@contextmanager
def prepared_scene(cluster: Cluster, bare: BareCluster, image: str, tiny_model: Path) -> Iterator[Scene]:
    """A namespace with model, data and what the faults need; gone afterwards."""
    namespace = f"faults-{uuid.uuid4().hex[:8]}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "faults-important"},
            "value": 1000000,
        }
    )
    capacity = f'{{"status":{{"capacity":{{"{SLOT}":"1"}}}}}}'
    cluster.kubectl("patch", "node", "node1", "--subresource=status", "--type=merge", "-p", capacity)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        _make_inputs(tiny_model, files)
        stage_files(cluster, namespace, CLAIM, files, image, clear="results")
    timeline = Timeline(cluster, namespace)
    timeline.start()
    try:
        with LimitedVolume(cluster, bare, namespace, SMALL_CLAIM, SMALL_MEGABYTES):
            yield Scene(cluster, namespace, image, timeline)
            cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=120s")
    finally:
        timeline.stop()


def _make_inputs(tiny_model: Path, files: Path) -> None:
    """The tiny model and its data, a model of NaN, and a folder with a checkpoint that is damaged."""
    shutil.copytree(tiny_model, files)
    shutil.copytree(files / "model", files / "model-nan")
    weights = files / "model-nan" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    damaged = files / "damaged" / "checkpoints" / "step-00000003"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text('{"formatVersion": 1, "step": 3, "files": {')


def run_faults(scene: Scene, faults: Sequence[Fault]) -> list[Verdict]:
    """Those that leave the nodes alone all at once, as far as the nodes have room; then the others, one by one."""
    with ThreadPoolExecutor(len(faults)) as pool:
        together = list(pool.map(lambda fault: _run(scene, fault), [fault for fault in faults if not fault.shaken]))
    return together + [_run(scene, fault) for fault in faults if fault.shaken]


def _run(scene: Scene, fault: Fault) -> Verdict:
    scene.apply(*fault.needs, fault.job)
    try:
        if fault.injure is not None:
            fault.injure(scene, fault.name)
        if fault.tells == "lastFailure":
            wait_until(
                f"{fault.name} to fail", lambda: scene.timeline.failure_seen(fault.name, 1), PATIENCE_SECONDS, 0.1
            )
        else:
            wait_until(f"{fault.name} to be explained", lambda: _explained(scene, fault), PATIENCE_SECONDS, 0.1)
    except Exception as error:  # one fault that does not come about must not hide what became of the others
        print(f"{fault.name}: {error}", flush=True)
    scene.pods_then[fault.name] = copy.deepcopy(scene.timeline.pods(fault.name))
    verdict = _verdict(scene, fault)
    if fault.shown:
        scene.keep_printed(fault.job)
    after = "" if verdict.seconds_after_end is None else f", {verdict.seconds_after_end:.1f} s after the pod's end"
    print(f"{'ok   ' if verdict.right else 'WRONG'} {fault.name}: {verdict.reason}{after}", flush=True)
    # gives its place on the nodes to the others
    plural = "preferencejob" if fault.job["kind"] == "PreferenceJob" else "rlvrjob"
    scene.kubectl("patch", plural, fault.name, "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":true}}}')
    return verdict


def _explained(scene: Scene, fault: Fault) -> bool:
    conditions = scene.status(fault.name).get("conditions") or []
    return any(entry["type"] == "PodsReady" and entry["reason"] == fault.reason for entry in conditions)


def _verdict(scene: Scene, fault: Fault) -> Verdict:
    status = scene.status(fault.name)
    if fault.tells == "lastFailure":
        found: dict[str, Any] = status.get("lastFailure") or {}
    else:
        conditions = status.get("conditions") or []
        found = next((entry for entry in conditions if entry["type"] == "PodsReady"), {})
    reason, message = found.get("reason", ""), found.get("message", "")
    return Verdict(
        name=fault.name,
        what=fault.what,
        expected=fault.reason,
        reason=reason,
        message=message[:600],
        right=reason == fault.reason and fault.says in message,
        seconds_after_end=None
        if fault.tells == "PodsReady" or reason in ENDED_BY_THE_OPERATOR
        else _delay(scene, fault),
        log_tail_characters=len(found.get("logTail", "")),
    )


def _delay(scene: Scene, fault: Fault) -> float | None:
    """From the end of the first pod to the reason; None where the operator itself ended the pods.

    A container that ended counts from the second in which it did, which the kubelet writes without its fraction; a pod
    that was deleted from the moment in which that was seen.
    """
    told = scene.timeline.failure_seen(fault.name, 1)
    if told is None:
        return None
    ends = []
    for pod in scene.timeline.pods(fault.name):
        if pod["metadata"]["labels"]["plumbline.dev/attempt"] != "1":
            continue
        statuses = pod["status"].get("initContainerStatuses", []) + pod["status"].get("containerStatuses", [])
        states = [entry["state"]["terminated"] for entry in statuses if "terminated" in entry["state"]]
        finished = [datetime.fromisoformat(state["finishedAt"]).timestamp() for state in states if state["exitCode"]]
        seen = scene.timeline.end_seen(pod["metadata"]["name"])
        ends += [time for time in (*finished, seen) if time is not None and time <= told]
    return round(told - min(ends), 2) if ends else None
