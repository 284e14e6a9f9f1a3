"""An API server in memory, just enough for `decide`: it stores what the steps write and lets pods live and die."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from plumbline_api.contract import StatusReport
from plumbline_operator.decide import decide
from plumbline_operator.decide.draft import read_status
from plumbline_operator.model import (
    Annotate,
    Apply,
    Decision,
    Delete,
    DeleteJob,
    Observed,
    PodEvent,
    PostEvent,
    Refusal,
    ServiceView,
    Step,
    SuspendJob,
    WriteStatus,
)
from plumbline_operator.pods import ContainerView, PodView, read_pod
from tests.operator.job_documents import RUNTIME, preference_job, stored

START = datetime(2030, 1, 1, tzinfo=UTC)
GRACE = timedelta(seconds=120)
MOST_ROUNDS = 12


class World:
    """One job and its children."""

    def __init__(self, job: dict[str, Any] | None = None, runtime: dict[str, Any] | None = RUNTIME) -> None:
        self.now = START
        self.job: dict[str, Any] | None = stored(job or preference_job())
        self.runtime = runtime
        self.snapshot: dict[str, Any] | None = None
        self.services: dict[str, ServiceView] = {}
        self.pods: dict[str, PodView] = {}
        self.departed: dict[str, PodView] = {}
        self.events: list[PostEvent] = []
        self.created: list[str] = []
        self.manifests: dict[str, dict[str, Any]] = {}
        """What every pod that was ever created looked like, by name."""
        self.warnings: tuple[PodEvent, ...] = ()
        self.refusals: tuple[Refusal, ...] = ()
        self.foreign: tuple[str, ...] = ()
        self.annotated: list[str] = []
        self.quota_message = ""
        """With what the API server refuses pods; empty when it does not."""
        self.nodes: dict[str, bool] = {}
        self.report: StatusReport | None = None
        self.silent_seconds = 0.0
        self._uids = 0

    # the operator's side

    def observe(self) -> Observed:
        assert self.job is not None
        return Observed(
            job=copy.deepcopy(self.job),
            snapshot=self.snapshot,
            runtime=self.runtime,
            pods=tuple(self.pods.values()),
            departed=tuple(self.departed.values()),
            services=tuple(self.services.values()),
            foreign=self.foreign,
            warnings=self.warnings,
            refusals=self.refusals,
            report=self.report,
            silent_seconds=self.silent_seconds,
            log_tails={pod.name: f"log of {pod.name}" for pod in self.pods.values() if pod.failed_container},
            nodes=self.nodes,
        )

    def decide(self) -> Decision:
        return decide(self.observe(), self.now)

    def carry_out(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            match step:
                case PostEvent():
                    if step not in self.events:
                        self.events.append(step)
                case WriteStatus():
                    assert self.job is not None
                    self.job["status"] = step.status.to_document()
                case Apply(manifest=manifest):
                    self._apply(manifest)
                case Delete():
                    self._delete(step)
                case Annotate(name=name, uid=uid, annotations=annotations):
                    self._annotate(name, uid, annotations)
                case SuspendJob():
                    self.edit_policy(suspend=True)
                case DeleteJob():
                    self.job = None

    def settle(self) -> Decision:
        """Reconciles until nothing is left to do; returns the last decision."""
        for _ in range(MOST_ROUNDS):
            decision = self.decide()
            self.carry_out(decision.steps)
            if self.job is None or not decision.steps:
                return decision
        raise AssertionError(f"decisions do not settle: {decision}")

    def reconcile(self) -> list[WriteStatus]:
        """One reconciliation with its rounds, as the operator does it; returns the status writes."""
        writes: list[WriteStatus] = []
        for _ in range(MOST_ROUNDS):
            decision = self.decide()
            self.carry_out(decision.steps)
            writes += [step for step in decision.steps if isinstance(step, WriteStatus)]
            asked = [step for step in decision.steps if isinstance(step, Apply) and step.manifest["kind"] == "Pod"]
            if asked and self.quota_message and not self.refusals:
                name = asked[0].manifest["metadata"]["name"]
                self.refusals = (Refusal(f"Pod {name}", 403, self.quota_message),)
            elif not decision.again:
                self.refusals = ()
                return writes
        raise AssertionError(f"decisions do not settle: {decision}")

    def _apply(self, manifest: dict[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "ConfigMap":
            self.snapshot = self.snapshot or manifest
        elif manifest["kind"] == "Service":
            attempt = int(manifest["metadata"]["labels"]["plumbline.dev/attempt"])
            self.services.setdefault(name, ServiceView(name, self._uid(), attempt, "10.0.0.1"))
        elif name not in self.pods and not self.quota_message:
            self.created.append(name)
            self.manifests[name] = manifest
            document = {**manifest, "status": {"phase": "Pending"}}
            created = self.now.isoformat()
            document["metadata"] = {**manifest["metadata"], "uid": self._uid(), "creationTimestamp": created}
            self.pods[name] = read_pod(document)

    def _delete(self, step: Delete) -> None:
        if step.name in self.services and self.services[step.name].uid == step.uid:
            del self.services[step.name]
        pod = self.pods.get(step.name)
        if pod is None or pod.uid != step.uid:
            return
        if pod.finished or step.grace_seconds == 0 or not pod.node:
            del self.pods[step.name]
        else:
            grace = GRACE if step.grace_seconds is None else timedelta(seconds=step.grace_seconds)
            self.pods[step.name] = dataclasses.replace(pod, deletion_time=self.now + grace)

    def _annotate(self, name: str, uid: str, annotations: Mapping[str, str]) -> None:
        if name in self.pods and self.pods[name].uid == uid:
            self.annotated.append(name)
            self._change(name, checkpoint_time=datetime.fromisoformat(annotations["plumbline.dev/checkpoint-time"]))

    def _uid(self) -> str:
        self._uids += 1
        return f"uid-of-child-{self._uids}"

    # everybody else's side

    @property
    def status(self) -> Any:
        assert self.job is not None
        return read_status(self.job)

    def condition(self, type_: str) -> Any:
        return next(condition for condition in self.status.conditions if condition.type == type_)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def set_policy(self, **policy: Any) -> None:
        assert self.job is not None
        self.job["spec"]["runPolicy"] |= policy

    def edit_policy(self, **policy: Any) -> None:
        """An edit as the API server stores it: with a new generation of the spec."""
        assert self.job is not None
        self.set_policy(**policy)
        self.job["metadata"]["generation"] += 1

    def bind_pod(self, name: str, node: str = "node-1") -> None:
        """The scheduler has found a node."""
        self._change(name, node=node, scheduled=True, bound=self.now, gates=())

    def open_gates(self, name: str) -> None:
        """Kueue admits the pod."""
        self._change(name, gates=())

    def run_pod(self, name: str, node: str = "node-1") -> None:
        if not self.pods[name].bound:
            self.bind_pod(name, node)
        container = ContainerView("trainer", running=True, started=self.now)
        self._change(name, phase="Running", ip="10.1.0.1", containers=(container,))

    def lose_node(self, name: str) -> None:
        """The node of a pod stops answering: its controller marks the pods."""
        self.nodes[self.pods[name].node] = False
        self._change(name, not_ready_since=self.now)

    def end_pod(
        self, name: str, exit_code: int, message: str = "", reason: str = "", container: str = "trainer"
    ) -> None:
        ended = ContainerView(
            container, exit_code=exit_code, message=message, reason=reason, started=self.now, finished=self.now
        )
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self._change(name, phase=phase, node=self.pods[name].node or "node-1", containers=(ended,))

    def stop_pod(self, name: str) -> None:
        """Somebody deletes the pod: it gets SIGTERM."""
        self._change(name, deletion_time=self.now + GRACE)

    def remove_pod(self, name: str) -> None:
        """The kubelet has seen the containers end; the watch may tell in which state."""
        pod = self.pods.pop(name)
        if any(container.terminated for container in pod.containers):
            self.departed[name] = pod

    def _change(self, name: str, **changes: Any) -> None:
        self.pods[name] = dataclasses.replace(self.pods[name], **changes)

    def run_all(self) -> None:
        """Reconciles, and every pod that should run does."""
        self.settle()
        for name, pod in list(self.pods.items()):
            if pod.phase == "Pending":
                self.run_pod(name)
        self.settle()
