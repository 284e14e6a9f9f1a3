"""One job undisturbed, and the same job while everything around it fails: both must end with the same model."""

from __future__ import annotations

import copy
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from cluster.bare import BareCluster
from cluster.control_plane import free_port
from cluster.network import NODE_ADDRESSES
from scripts.deployment import ROOT, Cluster, install_operator, stage_files, trainer_image, wait_until
from tests.chaos.disturbances import DISTURBANCES, draw
from tests.chaos.faulty_proxy import FaultyProxy
from tests.chaos.limited_volume import LimitedVolume
from tests.chaos.observer import PodObserver
from tests.chaos.world import TERMINAL, JobEnded, World

INPUTS = "plumbline-demo"
RESULTS = "chaos-results"
STEPS_EACH = 20
"""Optimizer steps of the job for each disturbance, so that it does not end before the last of them."""
FEWEST_STEPS = 480
"""With few disturbances chance matters more: half of them let the trainer run on, a kubelet's absence for 20 s."""

LEDGER_TOLERANCE_SECONDS = 5.0


@dataclass
class Outcome:
    """What a job ended with."""

    phase: str
    score: str
    weights: dict[str, str]
    """Digests of the weight files, by name."""

    seconds: float
    restarts: int
    failures: int
    ledger_seconds: float
    """Sum of the states of `status.usage`."""

    clock_seconds: float
    """From creation to completion."""


@dataclass
class Result:
    """A run of chaos."""

    seed: int
    steps: int
    undisturbed: Outcome
    disturbed: Outcome
    disturbances: list[str] = field(default_factory=list)
    attempts: int = 0
    pods: int = 0
    problems: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def job_document(name: str, steps: int) -> dict[str, Any]:
    """The GRPO example with frequent checkpoints on the limited volume, and as many retries as it takes."""
    job: dict[str, Any] = next(
        document
        for document in yaml.safe_load_all((ROOT / "examples" / "grpo.yaml").read_text())
        if document["kind"] == "RLVRJob"
    )
    job["metadata"]["name"] = name
    spec = job["spec"]
    spec["training"]["steps"] = steps
    spec["evaluation"] = {"atStart": False, "batchSize": 300}
    spec["checkpoint"] = {"everySteps": 5, "keep": 3}
    spec["output"]["volume"] = {"claimName": RESULTS, "path": f"results/{name}"}
    spec["runPolicy"] = {
        "backoffLimit": 1000,
        "backoff": {"initialSeconds": 1, "maxSeconds": 1},
        "terminationGracePeriodSeconds": 30,
    }
    return job


@contextmanager
def operator_through(cluster: Cluster, images: dict[str, Any], proxy: FaultyProxy) -> Iterator[None]:
    """Two operators, of which one leads, speak to the API server through the proxy; afterwards one speaks directly."""
    values = copy.deepcopy(images)
    values.setdefault("operator", {})["replicas"] = 2
    values["operator"]["extraEnv"] = [
        {"name": "KUBERNETES_SERVICE_HOST", "value": proxy.address},
        {"name": "KUBERNETES_SERVICE_PORT", "value": str(proxy.port)},
    ]
    install_operator(cluster, values)
    try:
        yield
    finally:
        install_operator(cluster, images)


def run_chaos(
    cluster: Cluster, images: dict[str, Any], tiny_model: Path, *, kills: int, seed: int, say: Any = print
) -> Result:
    """Runs both jobs in a namespace of their own, the second one under `kills` disturbances drawn from `seed`.

    `Result.problems` says what did not hold. Needs the cluster of plain processes, on this machine.
    """
    bare = BareCluster()
    namespace = f"chaos-{uuid.uuid4().hex[:8]}"
    steps = max(FEWEST_STEPS, STEPS_EACH * kills)
    say(f"chaos: seed {seed}, {kills} disturbances, {steps} steps, namespace {namespace}")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    proxy = FaultyProxy(bare.plane, next(iter(NODE_ADDRESSES.values())), free_port())
    with LimitedVolume(cluster, bare, namespace, RESULTS, megabytes=96) as volume, proxy:
        try:
            stage_files(cluster, namespace, INPUTS, tiny_model, trainer_image(images), clear="results")
            with operator_through(cluster, images, proxy):
                undisturbed = _world(cluster, bare, namespace, volume, proxy, "undisturbed", steps)
                expected = _outcome(undisturbed, time.monotonic())
                say(f"undisturbed: {expected.phase} after {expected.seconds:.0f} s, score {expected.score}")
                with PodObserver(cluster, namespace, "disturbed") as observer:
                    world = _world(cluster, bare, namespace, volume, proxy, "disturbed", steps)
                    started = time.monotonic()
                    done = _disturb(world, random.Random(seed), kills, say)
                    found = _outcome(world, started)
            result = Result(seed, steps, expected, found, done, observer.attempts, len(observer.pods))
            result.problems = [*_problems(result, kills), *observer.violations]
        finally:
            cluster.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=180s")
    return result


def _world(
    cluster: Cluster,
    bare: BareCluster,
    namespace: str,
    volume: LimitedVolume,
    proxy: FaultyProxy,
    name: str,
    steps: int,
) -> World:
    """The world around a new job."""
    cluster.apply(job_document(name, steps), namespace=namespace)
    return World(cluster, bare, namespace, f"rlvrjob/{name}", volume, proxy)


def _disturb(world: World, numbers: random.Random, kills: int, say: Any) -> list[str]:
    """Disturbs the job, mostly after some progress, sometimes at once again; returns what was done."""
    done: list[str] = []
    started = time.monotonic()
    try:
        world.wait_for_progress(1)
        for name in draw(numbers, kills):
            text = DISTURBANCES[name][1](world, numbers)
            done.append(f"{name}: {text}")
            step = world.newest_step()
            say(f"[{time.monotonic() - started:6.0f} s, step {step}] {len(done)}/{kills} {done[-1]}")
            if numbers.random() < 0.75:
                world.wait_for_progress(numbers.choice([1, 5]))
    except JobEnded as end:
        say(f"the job is {end} after {len(done)} of {kills} disturbances")
    return done


def _outcome(world: World, started: float) -> Outcome:
    """Waits for the job's end."""

    def ended() -> bool:
        return world.status().get("phase") in TERMINAL

    wait_until(f"{world.resource} to end", ended, 1200)
    job = world.job()
    status = job["status"]
    record = world.volume.directory / "results" / world.name / "plumbline.json"
    files = json.loads(record.read_text())["files"] if record.exists() else {}
    states = status.get("usage", {}).get("states", [])
    clock = _time(status["completionTime"]) - _time(job["metadata"]["creationTimestamp"])
    return Outcome(
        phase=status["phase"],
        score=status.get("score", ""),
        weights={name: digest for name, digest in files.items() if name.endswith(".safetensors")},
        seconds=time.monotonic() - started,
        restarts=status.get("restarts", 0),
        failures=status.get("failures", 0),
        ledger_seconds=sum(state["seconds"] for state in states),
        clock_seconds=clock.total_seconds(),
    )


def _problems(result: Result, kills: int) -> list[str]:
    """What does not hold of what was promised."""
    expected, found = result.undisturbed, result.disturbed
    problems = [f"the {name} job is {one.phase}" for name, one in (("undisturbed", expected), ("disturbed", found))
                if one.phase != "Complete"]  # fmt: skip
    if result.pods <= found.restarts:
        problems.append(f"only {result.pods} pods were seen, with {found.restarts} restarts")
    if len(result.disturbances) < kills:
        problems.append(f"only {len(result.disturbances)} of {kills} disturbances took place")
    if not expected.weights or found.weights != expected.weights:
        problems.append("the weights differ")
    if found.score != expected.score:
        problems.append(f"the score is {found.score} and not {expected.score}")
    for name, one in (("undisturbed", expected), ("disturbed", found)):
        if abs(one.ledger_seconds - one.clock_seconds) > LEDGER_TOLERANCE_SECONDS:
            problems.append(
                f"the ledger of the {name} job has {one.ledger_seconds:.0f} s, the clock {one.clock_seconds:.0f} s"
            )
    return problems


def summary(result: Result) -> str:
    """A few lines for people."""
    kinds = Counter(text.split(":")[0] for text in result.disturbances)
    lines = [
        f"seed {result.seed}: {len(result.disturbances)} disturbances, {result.attempts} attempts, {result.pods} pods",
        ", ".join(f"{name} {count}" for name, count in sorted(kinds.items())),
        f"undisturbed: {result.undisturbed.phase} in {result.undisturbed.seconds:.0f} s, "
        f"score {result.undisturbed.score}",
        f"disturbed:   {result.disturbed.phase} in {result.disturbed.seconds:.0f} s, score {result.disturbed.score}, "
        f"{result.disturbed.restarts} restarts, {result.disturbed.failures} failures",
        *(f"PROBLEM: {problem}" for problem in result.problems),
    ]
    return "\n".join(lines)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
