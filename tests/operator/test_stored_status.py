"""A status that another version of the operator wrote: what is known of it counts."""

from __future__ import annotations

from typing import Any

import pytest

from plumbline_operator.decide.draft import read_status
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World

STORED: dict[str, Any] = {
    "phase": "Running",
    "attempt": 2,
    "attempts": [{"number": 1, "reason": "Killed"}, {"number": 2, "toStep": 7}],
    "usage": {"activeSeconds": 5.0, "states": [{"state": "queued", "seconds": 1.0, "gpuSeconds": 0.0}]},
}


@pytest.mark.parametrize("value", [None, "x", {"deep": [1]}])
def test_fields_of_a_newer_version_are_left_out_and_nothing_around_them(value: Any) -> None:
    newer = {
        **STORED,
        "invented": value,
        "attempts": [{**STORED["attempts"][0], "invented": value}, {**STORED["attempts"][1], "other": value}],
        "usage": {**STORED["usage"], "states": [{**STORED["usage"]["states"][0], "invented": value}]},
    }
    assert read_status({"status": newer}) == read_status({"status": STORED})
    assert "invented" in newer["attempts"][0], "the object that was read is as it was"


def test_a_block_that_cannot_be_read_is_dropped_and_the_others_count() -> None:
    broken = {**STORED, "usage": {"activeSeconds": "a while", "invented": 1}}
    status = read_status({"status": broken})
    assert status.usage is None
    assert [attempt.number for attempt in status.attempts] == [1, 2]


def test_pods_that_run_are_left_alone_by_an_older_operator() -> None:
    world = World(preference_job())
    world.run_all()
    assert world.job is not None
    world.job["status"]["attempts"][0]["invented"] = "by the newer one"
    world.settle()
    assert (world.status.phase, list(world.pods)) == ("Running", ["tune-trainer-1-0"])
    assert not any(pod.stopping for pod in world.pods.values())
