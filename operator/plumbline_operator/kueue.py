"""What Kueue reads on the pods of a job that waits in one of its queues: one plain pod group for each attempt (pure).

Kueue's webhook gates pods that carry the queue's label, its controller makes one Workload of a pod group once as many
pods exist as the group's total count says, and takes the gates away when the Workload is admitted. The group is one
attempt and not the job: pods of a group that is not retriable end it for good, which gives the quota back when an
attempt is over, whatever comes next. To take the quota away Kueue deletes the pods, with the condition
TerminationTarget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plumbline_api.scheduling import Scheduling

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
GROUP_LABEL = "kueue.x-k8s.io/pod-group-name"
TOTAL_COUNT_ANNOTATION = "kueue.x-k8s.io/pod-group-total-count"
RETRIABLE_ANNOTATION = "kueue.x-k8s.io/retriable-in-group"
ADMISSION_GATE = "kueue.x-k8s.io/admission"


def group_name(job: Mapping[str, Any], attempt: int) -> str:
    """Unlike that of an earlier job of the same name: Kueue takes pods of a known group for replacements."""
    metadata = job["metadata"]
    return f"{metadata['name']}-{attempt}-{metadata['uid'][:8]}"


def group_labels(job: Mapping[str, Any], scheduling: Scheduling, attempt: int) -> dict[str, str]:
    """Labels of a pod that waits in a queue; empty without one."""
    if scheduling.queue is None:
        return {}
    labels = {QUEUE_LABEL: scheduling.queue, GROUP_LABEL: group_name(job, attempt)}
    if scheduling.workload_priority_class_name is not None:
        labels[PRIORITY_LABEL] = scheduling.workload_priority_class_name
    return labels


def group_annotations(scheduling: Scheduling, replicas: int) -> dict[str, str]:
    """Annotations of a pod that waits in a queue; empty without one."""
    return {TOTAL_COUNT_ANNOTATION: str(replicas), RETRIABLE_ANNOTATION: "false"} if scheduling.queue else {}


def admission_gates(scheduling: Scheduling) -> list[dict[str, str]]:
    """Scheduling gates of a pod that waits in a queue. Kueue's webhook would add the same one; set by us it holds the
    pod as well while that webhook is away, so that no pod runs outside of its quota."""
    return [{"name": ADMISSION_GATE}] if scheduling.queue else []
