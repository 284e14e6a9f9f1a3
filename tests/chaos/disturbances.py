"""What can go wrong with a run, each as a function of the world and of random numbers that returns what it did."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from scripts.deployment import SYSTEM_NAMESPACE, wait_until
from tests.chaos.faulty_proxy import FAULTS
from tests.chaos.world import World
from tests.e2e.containers import kill_container, processes_of

Disturbance = Callable[[World, Random], str]


def operator_deleted(world: World, random: Random) -> str:
    """One of the operator's pods is gone without a goodbye."""
    pod = random.choice(world.operators())["metadata"]["name"]
    _delete(world, SYSTEM_NAMESPACE, pod, "--grace-period=0", "--force")
    return f"deleted {pod} by force"


def leader_killed(world: World, random: Random) -> str:
    """The operator that leads is killed; without a lease, the only one."""
    operators = world.operators()
    holder = _lease_holder(world)
    leader = next((pod for pod in operators if holder.startswith(pod["metadata"]["name"])), operators[0])
    count = kill_container(leader, "operator")
    return f"killed {count} processes of {leader['metadata']['name']}"


def trainer_deleted(world: World, random: Random) -> str:
    """A pod is deleted with its grace period: the trainer saves and leaves."""
    pod = world.running_trainer()["metadata"]["name"]
    _delete(world, world.namespace, pod)
    return f"deleted {pod}"


def trainer_deleted_by_force(world: World, random: Random) -> str:
    """A pod is deleted without grace: nothing is saved."""
    pod = world.running_trainer()["metadata"]["name"]
    _delete(world, world.namespace, pod, "--grace-period=0", "--force")
    return f"deleted {pod} by force"


def trainer_evicted(world: World, random: Random) -> str:
    """A drained node asks by the eviction API."""
    pod = world.running_trainer()["metadata"]["name"]
    path = f"/api/v1/namespaces/{world.namespace}/pods/{pod}/eviction"
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": world.namespace}}
    world.bare.plane.api().request("POST", path, body)
    return f"evicted {pod}"


def trainer_killed(world: World, random: Random) -> str:
    """SIGKILL, as by the kernel."""
    pod = world.running_trainer()
    count = kill_container(pod, "trainer")
    return f"killed {count} processes of {pod['metadata']['name']}"


def verifier_killed(world: World, random: Random) -> str:
    """One of the processes that judge completions is killed; the trainer goes on."""
    pod = world.running_trainer()
    workers = [pid for pid in processes_of(pod, "trainer") if b"plumbline_trainer.rewards.worker" in _command(pid)]
    if not workers:
        return f"no verifier runs in {pod['metadata']['name']} yet"
    with contextlib.suppress(ProcessLookupError):
        os.kill(random.choice(workers), signal.SIGKILL)
    return f"killed a verifier of {pod['metadata']['name']}"


def kubelet_restarted(world: World, random: Random) -> str:
    """A node's kubelet is away for a while; sometimes for long enough that the node counts as lost."""
    node = random.choice(world.bare.nodes)
    seconds = random.choice([1.0, 5.0, 20.0])
    node.stop_kubelet()
    time.sleep(seconds)  # for how long it is away is the disturbance itself
    world.bare.start_node(node.name)
    return f"{node.name} was without its kubelet for {seconds:g} s"


def api_server_restarted(world: World, random: Random) -> str:
    """The API server is killed and started again."""
    processes, seconds = world.bare.processes, random.choice([0.0, 2.0, 6.0])
    record = processes.record("kube-apiserver")
    assert record is not None
    processes.stop("kube-apiserver", hard=True)
    time.sleep(seconds)
    processes.start("kube-apiserver", record.command)
    wait_until("the API server", world.bare.plane.api().ready, 60)
    return f"the API server was away for {seconds:g} s"


def api_faults(world: World, random: Random) -> str:
    """The operator's requests get errors, no answer, or lose their connections."""
    fault, seconds = random.choice(FAULTS), random.uniform(2.0, 8.0)
    before = world.proxy.answered
    world.proxy.arm(fault, seconds)
    if fault == "cut":
        return "cut the operator's connections"
    time.sleep(seconds)
    return f"{world.proxy.answered - before} requests of the operator got {fault} within {seconds:.1f} s"


def disk_full(world: World, random: Random) -> str:
    """The volume has no byte left until the attempt has failed of it."""
    pod = world.running_trainer()["metadata"]["name"]
    taken = world.volume.fill()
    try:
        wait_until(f"{pod} to end", lambda: not _lives(world, pod), 120)
    finally:
        world.volume.free()
    return f"took the last {taken / 2**20:.0f} MiB of the volume until {pod} ended"


def checkpoint_corrupted(world: World, random: Random) -> str:
    """The trainer is killed, and bytes of its newest checkpoint are not what was written."""
    if len(world.checkpoints()) < 2:
        world.wait_for_progress(1)
    pod = world.running_trainer()
    kill_container(pod, "trainer")
    newest = world.checkpoints()[-1]
    file = random.choice(sorted(path for path in newest.iterdir() if path.suffix == ".safetensors"))
    _flip(file, random)
    return f"killed {pod['metadata']['name']} and changed {newest.name}/{file.name}"


DISTURBANCES: dict[str, tuple[int, Disturbance]] = {
    "operator deleted": (8, operator_deleted),
    "leader killed": (6, leader_killed),
    "trainer deleted": (14, trainer_deleted),
    "trainer deleted by force": (10, trainer_deleted_by_force),
    "trainer evicted": (8, trainer_evicted),
    "trainer killed": (14, trainer_killed),
    "verifier killed": (10, verifier_killed),
    "kubelet restarted": (6, kubelet_restarted),
    "API server restarted": (6, api_server_restarted),
    "API faults": (10, api_faults),
    "disk full": (4, disk_full),
    "checkpoint corrupted": (4, checkpoint_corrupted),
}
"""By name: how many of a hundred, and what it does."""


def draw(random: Random, count: int) -> list[str]:
    """Names of `count` disturbances in random order: each kind once where they suffice, the rest by weight."""
    names = list(DISTURBANCES) if count >= len(DISTURBANCES) else []
    weights = [weight for weight, _ in DISTURBANCES.values()]
    names += random.choices(list(DISTURBANCES), weights, k=count - len(names))
    random.shuffle(names)
    return names


def _delete(world: World, namespace: str, pod: str, *options: str) -> None:
    command = ("delete", "pod", pod, "-n", namespace, "--ignore-not-found", "--wait=false", *options)
    world.persistently(lambda: world.cluster.kubectl(*command))


def _lease_holder(world: World) -> str:
    leases = world.persistently(lambda: world.cluster.get("leases", "-n", SYSTEM_NAMESPACE))["items"]
    return next((lease["spec"].get("holderIdentity") or "" for lease in leases), "")


def _lives(world: World, pod: str) -> bool:
    return any(one["metadata"]["name"] == pod and processes_of(one, "trainer") for one in world.pods())


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _flip(file: Path, random: Random) -> None:
    size = file.stat().st_size
    with file.open("r+b") as stream:
        for _ in range(8):
            position = random.randrange(size)
            stream.seek(position)
            byte = stream.read(1)[0]
            stream.seek(position)
            stream.write(bytes([byte ^ 0x55]))
