"""Jobs that another controller runs, and what stays after a job has finished."""

from __future__ import annotations

import pytest

from plumbline_operator.model import Apply, DeleteJob, WriteStatus
from tests.operator.job_documents import preference_job
from tests.operator.simulated_world import World


def test_a_job_of_another_controller_is_left_alone_in_every_state() -> None:
    world = World(preference_job(managedBy="kueue.x-k8s.io/multikueue"))
    assert not world.decide().steps
    assert world.job
    world.job["spec"]["managedBy"] = "plumbline.dev/operator"
    world.run_all()
    world.job["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    world.end_pod("tune-trainer-1-0", 0)
    assert not world.decide().steps
    world.job["status"]["conditions"] = [
        {
            "type": "Complete",
            "status": "True",
            "reason": "Completed",
            "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }
    ]
    world.job["status"]["completionTime"] = "2030-01-01T00:00:00Z"
    world.set_policy(ttlSecondsAfterFinished=0)
    assert not world.decide().steps, "its deletion is the other controller's affair too"


@pytest.mark.parametrize("code", [0, 72])
def test_nothing_of_a_finished_job_is_made_again(code: int) -> None:
    """Not when its children are gone, not when the operator has never seen it, not while it is being deleted."""
    world = World(preference_job(run_policy={"ttlSecondsAfterFinished": 60}))
    world.run_all()
    world.end_pod("tune-trainer-1-0", code)
    world.settle()
    world.pods.clear()
    world.services.clear()
    world.snapshot = None
    world.departed.clear()
    for _ in range(3):
        steps = world.decide().steps
        assert not [step for step in steps if isinstance(step, Apply | WriteStatus)]
        world.pass_time(30)
    assert DeleteJob("uid-1") in world.decide().steps
    assert world.job
    world.job["metadata"]["deletionTimestamp"] = "2030-01-01T00:02:00Z"
    assert not world.decide().steps
