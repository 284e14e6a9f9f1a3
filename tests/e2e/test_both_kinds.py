"""A preference job and an RLVR job go from `kubectl apply` to `Complete` in real pods, and the models really learn."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.deployment import ROOT

pytestmark = pytest.mark.e2e


def accuracy(status: dict[str, Any]) -> tuple[float, float]:
    """Held-out accuracy before and after the run, as the status has it."""
    metric = next(m for m in status["metrics"] if m["name"].endswith("accuracy") and "first" in m)
    return metric["first"], metric["value"]


def test_a_preference_job_and_an_rlvr_job_complete_side_by_side_and_learn(jobs: Any, staged: str) -> None:
    for name in ("dpo", "grpo"):
        jobs.cluster.kubectl("apply", "-n", staged, "-f", str(ROOT / "examples" / f"{name}.yaml"))

    preference = jobs.wait_for_phase("preferencejob/dpo", "Complete", seconds=900)
    _, learnt = accuracy(preference)
    assert learnt >= 0.9, "held-out pairs are ranked rightly"

    rlvr = jobs.wait_for_phase("rlvrjob/grpo", "Complete", seconds=900)
    before, after = accuracy(rlvr)
    assert after - before >= 0.30, "held-out problems are solved far more often than at the start"

    for status in (preference, rlvr):
        assert status["progress"]["percent"] == 100
        assert status["output"]["digest"]
        assert status["checkpoint"]["verified"]
        assert status["restarts"] == 0
        assert status["usage"]["podSeconds"] > 0
        assert {c["type"] for c in status["conditions"] if c["status"] == "True"} >= {"Accepted", "Complete"}


def test_kubectl_get_shows_the_run_at_a_glance(jobs: Any, staged: str) -> None:
    table = jobs.cluster.kubectl("get", "prefjob,rlvr", "-n", staged)
    for column in ("PHASE", "STEP", "PROGRESS", "OBJECTIVE", "SCORE", "GPUS", "RESTARTS", "AGE"):
        assert column in table
    assert "Complete" in table and "100" in table
    jobs.cluster.kubectl("wait", "--for=condition=Complete", "prefjob/dpo", "-n", staged, "--timeout=5s")


def test_deleting_a_job_deletes_its_children_and_keeps_its_output(jobs: Any, staged: str) -> None:
    jobs.cluster.kubectl("delete", "prefjob/dpo", "-n", staged, "--wait=true")
    jobs.cluster.kubectl(
        "wait", "--for=delete", "pod", "-l", "plumbline.dev/job-name=dpo", "-n", staged, "--timeout=60s"
    )
