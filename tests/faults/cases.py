"""The faults: how each is brought about with real means, and the one reason that it must get."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scripts.deployment import wait_until
from tests.faults.scene import Scene, example, runtime
from tests.faults.timeline import Manifest

SLOT = "plumbline.dev/slot"
"""An extended resource of which one node has one, so that two pods that want it cannot both run."""
SMALL_CLAIM = "small"
ON_NODE_2 = "spec.scheduling={nodeSelector: {kubernetes.io/hostname: node2}}"
LONG = "spec.training.epochs=null", "spec.training.steps=100000"
PAIR = (*LONG, "spec.resources={replicas: 2, cpu: 450m, memory: 1Gi}")

Injury = Callable[[Scene, str], None]


@dataclass(frozen=True)
class Fault:
    """One fault and what must be said about it."""

    name: str
    """Also the name of the job."""

    what: str
    """What is done, for people."""

    reason: str
    job: Manifest
    injure: Injury | None = None
    """Done as soon as the job exists; waits by itself for what it needs. None where the job carries its fault."""

    tells: Literal["lastFailure", "PodsReady"] = "lastFailure"
    """Where the reason stands: of an attempt that ended, or of pods that do not start."""

    needs: Sequence[Manifest] = field(default_factory=tuple)
    """Objects that must exist before the job."""

    says: str = ""
    """Words that the message must have."""

    shown: bool = False
    """Whether the documentation shows what kubectl prints."""

    shaken: bool = False
    """Whether it disturbs a whole node, so that nothing else may run meanwhile."""


def _code(name: str, text: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"reward.py": text}}


def _rewarded(name: str, seconds: int) -> str:
    return f"spec.rewards=[{{name: mine, timeoutSeconds: {seconds}, verifier: {{python: {{configMap: {name}}}}}}}]"


RAISES = """def verify(prompt, completion, answer, row):
    raise KeyError("no such thing")
"""
NEVER_RETURNS = """def verify(prompt, completion, answer, row):
    while True:
        pass
"""
HANGS_LATER = """import time
calls = 0


def verify(prompt, completion, answer, row):
    global calls
    calls += 1
    if calls > 1500:
        time.sleep(3600)
    return float(completion.strip() == answer)
"""


def _kill(scene: Scene, job: str) -> None:
    scene.signal_trainer(scene.until_training(job)[0], signal.SIGKILL)


def _freeze(scene: Scene, job: str) -> None:
    scene.signal_trainer(scene.until_training(job)[-1], signal.SIGSTOP)


def _cut_connection(scene: Scene, job: str) -> None:
    # in both directions: of a pair that one reset has closed on one side only, gloo may let both ranks wait
    first, second = scene.until_training(job)[:2]
    for here, there in ((first, second), (second, first)):
        all_but_resets = ("-p", "tcp", "!", "--tcp-flags", "RST", "RST", "-s", there["status"]["podIP"])
        rule = ["iptables", "-A", "INPUT", *all_but_resets, "-j", "REJECT", "--reject-with", "tcp-reset"]
        scene.in_network_of(here, *rule)


def _delete(scene: Scene, job: str) -> None:
    pod = scene.until_training(job)[0]
    scene.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")


def _preempt(scene: Scene, job: str) -> None:
    scene.until_training(job)
    scene.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "important"},
            "spec": {
                "priorityClassName": "faults-important",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "sleep",
                        "image": scene.image,
                        "command": ["sleep", "600"],
                        "resources": {"requests": {SLOT: "1"}, "limits": {SLOT: "1"}},
                    }
                ],
            },
        }
    )


def _taint(scene: Scene, job: str) -> None:
    scene.until_training(job)
    scene.cluster.kubectl("taint", "node", "node2", "faults=now:NoExecute")
    wait_until("the failure to be told", lambda: scene.timeline.failure_seen(job, 1), 60, interval=0.1)
    scene.cluster.kubectl("taint", "node", "node2", "faults-")


def _lose_node(scene: Scene, job: str) -> None:
    scene.until_training(job)
    scene.node2("node-stop")
    wait_until("the failure to be told", lambda: scene.timeline.failure_seen(job, 1), 120, interval=0.1)
    scene.node2("node-start")


def faults(image: str) -> list[Fault]:
    """All faults; `image` is the trainer's."""
    return [
        Fault(
            "no-such-token",
            "the job stops at a token that the tokenizer does not have",
            "ConfigError",
            example("grpo", "no-such-token", "spec.rollout.sampling.stopTokens=['<nowhere>']"),
            says="stopTokens",
        ),
        Fault(
            "no-data",
            "the file with the training rows does not exist",
            "DataError",
            example("dpo", "no-data", "spec.data.train.source.volume.path=data/no.jsonl"),
            says="no.jsonl",
        ),
        Fault(
            "no-model",
            "the directory of the model holds something else",
            "ModelError",
            example("dpo", "no-model", "spec.model.source.volume.path=data"),
        ),
        Fault(
            "verifier-raises",
            "the reward function raises",
            "RewardFunctionError",
            example("grpo", "verifier-raises", _rewarded("raises", 5)),
            needs=[_code("raises", RAISES)],
            says="no such thing",
        ),
        Fault(
            "verifier-slow",
            "the reward function does not return within its timeoutSeconds",
            "RewardFunctionTimeout",
            example("grpo", "verifier-slow", _rewarded("slow", 1)),
            needs=[_code("slow", NEVER_RETURNS)],
            says="did not return within 1 s",
            shown=True,
        ),
        Fault(
            "little-memory",
            "the memory limit is below what the trainer needs",
            "HostOutOfMemory",
            example("dpo", "little-memory", "spec.resources.memory=200Mi"),
            says="200Mi",
        ),
        Fault(
            "not-a-number",
            "the model's weights hold NaN",
            "Diverged",
            example("dpo", "not-a-number", "spec.model.source.volume.path=model-nan", "spec.data.evaluation=null"),
        ),
        Fault(
            "damaged-checkpoint",
            "the only checkpoint of the job is damaged",
            "CheckpointUnreadable",
            example("dpo", "damaged-checkpoint", "spec.output.volume.path=damaged"),
        ),
        Fault(
            "full-disk",
            "the volume of the output is smaller than one checkpoint",
            "DiskFull",
            example(
                "dpo", "full-disk", "spec.checkpoint={everySteps: 1}",
                f"spec.output.volume={{claimName: {SMALL_CLAIM}, path: full-disk}}",
            ),
        ),
        Fault(
            "wrong-command",
            "a library refuses its environment while it is imported",
            "UnknownExit",
            example("dpo", "wrong-command", "spec.runtimeRef={kind: TrainerRuntime, name: wrong-log-settings}"),
            needs=[runtime("wrong-log-settings", image, env=[{"name": "TORCH_LOGS", "value": "nonsense"}])],
        ),
        Fault(
            "killed",
            "SIGKILL to the trainer's process",
            "Killed",
            example("dpo", "killed", *LONG),
            _kill,
        ),
        Fault(
            "late-peer",
            "rank 1 of two is frozen (SIGSTOP); COLLECTIVE_TIMEOUT_SECONDS is 40",
            "CollectiveTimeout",
            example("dpo", "late-peer", *PAIR, "spec.runtimeRef={kind: TrainerRuntime, name: impatient}"),
            _freeze,
            needs=[runtime("impatient", image, env=[{"name": "COLLECTIVE_TIMEOUT_SECONDS", "value": "40"}])],
        ),
        Fault(
            "lost-peer",
            "a packet filter resets the connection between two ranks",
            "LostPeer",
            example("dpo", "lost-peer", *PAIR),
            _cut_connection,
        ),
        Fault(
            "killed-peer",
            "SIGKILL to rank 1 of two; rank 0 loses its peer",
            "Killed",
            example("dpo", "killed-peer", *PAIR),
            lambda scene, job: scene.signal_trainer(scene.until_training(job)[1], signal.SIGKILL),
        ),
        Fault(
            "out-of-time",
            "activeDeadlineSeconds is 3",
            "DeadlineExceeded",
            example("dpo", "out-of-time", *LONG, "spec.runPolicy.activeDeadlineSeconds=3"),
        ),
        Fault(
            "hangs",
            "the reward function hangs within its time limit; progressDeadlineSeconds is 30",
            "Stalled",
            example(
                "grpo", "hangs", *LONG, _rewarded("hangs-later", 3600), "spec.runPolicy.progressDeadlineSeconds=30",
                "spec.runPolicy.backoffLimit=1",
            ),
            needs=[_code("hangs-later", HANGS_LATER)],
            says="the main thread is in",
            shown=True,
        ),
        Fault(
            "frozen",
            "SIGSTOP to the trainer: it answers no more; progressDeadlineSeconds is 10",
            "Stalled",
            example("dpo", "frozen", *LONG, "spec.runPolicy.progressDeadlineSeconds=10"),
            _freeze,
            says="has not answered",
        ),
        Fault(
            "deleted",
            "somebody deletes the pod",
            "PodDeleted",
            example("dpo", "deleted", *LONG),
            _delete,
        ),
        Fault(
            "preempted",
            "a pod of higher priority wants the same device",
            "Preempted",
            example("dpo", "preempted", *LONG, "spec.runtimeRef={kind: TrainerRuntime, name: slots}"),
            _preempt,
            needs=[runtime("slots", image, resources={"gpus": 1, "gpuResourceName": SLOT})],
        ),
        Fault(
            "no-image",
            "the image does not exist",
            "ImagePullFailed",
            example("dpo", "no-image", "spec.runtimeRef={kind: TrainerRuntime, name: no-image}"),
            tells="PodsReady",
            needs=[runtime("no-image", "localhost:5000/plumbline/absent:1")],
            says="absent",
        ),
        Fault(
            "too-big",
            "the job asks for more memory than any node has",
            "Unschedulable",
            example("dpo", "too-big", "spec.resources.memory=512Gi"),
            tells="PodsReady",
            says="it asks for 512Gi of memory, and the largest node",
            shown=True,
        ),
        Fault(
            "no-claim",
            "a claim does not exist",
            "VolumeFailed",
            example("dpo", "no-claim", "spec.model.source={volume: {claimName: nowhere}}"),
            tells="PodsReady",
            says="nowhere",
        ),
        Fault(
            "no-secret",
            "a Secret that the runtime's environment names does not exist",
            "ContainerConfigError",
            example("dpo", "no-secret", "spec.runtimeRef={kind: TrainerRuntime, name: no-secret}"),
            tells="PodsReady",
            needs=[
                runtime(
                    "no-secret",
                    image,
                    env=[{"name": "TOKEN", "secretKeyRef": {"name": "nowhere", "key": "token"}}],
                )
            ],
            says="nowhere",
        ),
        Fault(
            "tainted",
            "the node gets a taint that evicts",
            "PodEvicted",
            example("dpo", "tainted", *LONG, ON_NODE_2),
            _taint,
            shaken=True,
        ),
        Fault(
            "lost-node",
            "kill -9 to the node's kubelet; nodeLostTimeoutSeconds is 5",
            "NodeLost",
            example("dpo", "lost-node", *LONG, ON_NODE_2, "spec.runPolicy.nodeLostTimeoutSeconds=5"),
            _lose_node,
            shaken=True,
        ),
    ]  # fmt: skip
