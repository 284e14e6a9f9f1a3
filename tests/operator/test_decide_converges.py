"""Whatever happens in whatever order, wherever the operator dies: decisions settle and the rules of the life hold."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plumbline_api.contract import StatusReport
from plumbline_api.status import CheckpointStatus
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World

EXIT_CODES = st.sampled_from([1, 64, 70, 71, 72, 75, 85, 86, 137])
RULES = [
    {"match": {"exitCodes": [71]}, "action": "Suspend"},
    {"match": {"exitCodes": [137]}, "action": "Ignore"},
    {"match": {"exitCodes": [1], "roles": ["trainer"]}, "action": "RestartRole", "countsTowardsLimit": False},
    {"match": {"exitCodes": [70], "messages": ["log*trainer-1-"]}, "action": "Fail"},
]
POLICY = {
    "backoffLimit": 2,
    "activeDeadlineSeconds": 5000,
    "restartRules": RULES,
    "pendingTimeoutSeconds": 300,
    "firstStepDeadlineSeconds": 900,
    "nodeLostTimeoutSeconds": 30,
    "nodeExclusion": {"mode": "Required", "seconds": 600},
}
NODES = st.sampled_from(["node-1", "node-2", "node-3"])


class JobLife(RuleBasedStateMachine):
    """Random lives of one job of two pods."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(preference_job(replicas=2, run_policy=POLICY, scheduling={"queue": "research"}))
        self.last_attempt = 0
        self.verdict = ""

    def pods(self, phase: str) -> list[str]:
        return [name for name, pod in self.world.pods.items() if pod.phase == phase]

    @rule(steps=st.integers(0, 6))
    def the_operator_dies_after_some_steps(self, steps: int) -> None:
        self.world.carry_out(self.world.decide().steps[:steps])

    @rule()
    def the_operator_settles(self) -> None:
        self.world.settle()
        assert not self.world.decide().steps, "a settled job needs nothing"
        status = self.world.status
        if status.phase in ("Queued", "Starting", "Running"):
            assert {pod.attempt for pod in self.world.pods.values()} <= {status.attempt}, "earlier pods are cleared"

    @rule(seconds=st.integers(1, 400))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.pods("Pending"))
    @rule(data=st.data())
    def a_pod_gets_a_node(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.pods("Pending")))
        if not self.world.pods[name].bound:
            self.world.bind_pod(name, data.draw(NODES))

    @precondition(lambda self: self.pods("Pending"))
    @rule(data=st.data())
    def a_pod_starts(self, data: st.DataObject) -> None:
        self.world.run_pod(data.draw(st.sampled_from(self.pods("Pending"))), data.draw(NODES))

    @precondition(lambda self: self.pods("Running"))
    @rule(data=st.data())
    def a_node_stops_answering(self, data: st.DataObject) -> None:
        self.world.lose_node(data.draw(st.sampled_from(self.pods("Running"))))

    @rule(node=NODES)
    def a_node_comes_back(self, node: str) -> None:
        self.world.nodes[node] = True

    @rule(seconds=st.integers(1, 300), save_seconds=st.floats(0.1, 500))
    def the_trainer_saves(self, seconds: int, save_seconds: float) -> None:
        world = self.world
        if world.status.attempt and self.pods("Running"):
            world.pass_time(seconds)
            step = world.status.attempt * 100
            world.report = StatusReport(
                state="training",
                attempt=world.status.attempt,
                step=step,
                max_steps=10_000,
                checkpoint=CheckpointStatus(
                    step=step, time=world.now, uri="u", digest="d", verified=True, save_seconds=save_seconds
                ),
            )

    @precondition(lambda self: self.pods("Running"))
    @rule(data=st.data())
    def a_pod_succeeds(self, data: st.DataObject) -> None:
        self.world.end_pod(data.draw(st.sampled_from(self.pods("Running"))), 0)

    @precondition(lambda self: self.pods("Running"))
    @rule(data=st.data(), code=EXIT_CODES)
    def a_pod_fails(self, data: st.DataObject, code: int) -> None:
        self.world.end_pod(data.draw(st.sampled_from(self.pods("Running"))), code)

    @precondition(lambda self: self.pods("Running"))
    @rule(data=st.data())
    def somebody_deletes_a_pod(self, data: st.DataObject) -> None:
        self.world.stop_pod(data.draw(st.sampled_from(self.pods("Running"))))

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def a_pod_vanishes(self, data: st.DataObject) -> None:
        self.world.remove_pod(data.draw(st.sampled_from(sorted(self.world.pods))))

    @rule(suspend=st.booleans())
    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.world.edit_policy(suspend=suspend)

    @invariant()
    def never_two_gangs_at_once(self) -> None:
        running = {pod.attempt for pod in self.world.pods.values() if not pod.finished}
        assert len(running) <= 1

    @invariant()
    def attempts_only_grow(self) -> None:
        assert self.last_attempt <= self.world.status.attempt
        self.last_attempt = self.world.status.attempt

    @invariant()
    def a_verdict_is_final(self) -> None:
        phase = self.world.status.phase
        if self.verdict:
            assert phase == self.verdict
        elif phase in ("Complete", "Failed"):
            self.verdict = phase

    @invariant()
    def failures_stay_within_the_limit(self) -> None:
        status = self.world.status
        assert status.failures <= 3
        assert status.failures < 3 or status.phase == "Failed"

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        status = self.world.status
        assert len(status.excluded_nodes) <= 3
        assert len({node.name for node in status.excluded_nodes}) == len(status.excluded_nodes)
        assert len(status.attempts) <= 5

    def teardown(self) -> None:
        """Left in peace, every job comes to an end."""
        self.world.nodes = {"node-1": True, "node-2": True, "node-3": True}
        for _ in range(12):
            self.world.settle()
            if self.world.status.phase == "Suspended":
                self.world.edit_policy(suspend=False)
                self.world.settle()
            self.world.pass_time(200)
            for name, pod in list(self.world.pods.items()):
                if pod.stopping:
                    self.world.remove_pod(name)
                elif pod.phase == "Pending":
                    self.world.run_pod(name)
                elif pod.phase == "Running":
                    self.world.end_pod(name, 0)
        self.world.settle()
        assert self.world.status.phase in ("Complete", "Failed")


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
