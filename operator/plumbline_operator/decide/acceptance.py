"""Whether a job can run at all: its spec, its runtime, and the snapshot that fixes both (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from plumbline_api import API_VERSION
from plumbline_api.base import ApiModel
from plumbline_api.conditions import Reason
from plumbline_api.job import MANAGED_BY_OPERATOR
from plumbline_api.messages import InvalidSpec, changed_fixed_fields, validate
from plumbline_api.run_policy import RunPolicy
from plumbline_api.runtime import TrainerRuntimeSpec
from plumbline_api.scheduling import Scheduling
from plumbline_operator.children import snapshot_manifest
from plumbline_operator.model import Manifest, Observed
from plumbline_operator.resources import JOB_MODELS, RUNTIME_MODELS
from plumbline_operator.snapshot import Snapshot, Spec, build_snapshot_data

ERRORS_SHOWN = 8

Parsed = TypeVar("Parsed", bound=ApiModel)


class NotAccepted(Exception):
    """The job cannot start as it is; `reason` and the text go into the condition Accepted."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def accept(observed: Observed) -> Manifest:
    """The snapshot to store for a job that has none; raises NotAccepted."""
    job = observed.job
    spec = parse_spec(job)
    runtime = _runtime(observed, spec)
    metadata = job["metadata"]
    data, annotations = build_snapshot_data(
        job["kind"], metadata["name"], metadata["namespace"], metadata["uid"], spec, runtime
    )
    return snapshot_manifest(job, data, annotations)


def parse_spec(job: Mapping[str, Any]) -> Spec:
    """The validated spec of a job; raises NotAccepted naming the fields."""
    metadata = job["metadata"]
    document = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": job.get("spec"),
    }
    return _validated(JOB_MODELS[job["kind"]], document, "", in_cluster=True).spec


def spec_change(job: Mapping[str, Any], snapshot: Snapshot) -> str:
    """What to tell about an edit of the fixed part of the spec; empty if there was none."""
    if job["metadata"].get("generation") == 1:
        return ""  # the API server counts every edit of a spec
    goes_on = "the run goes on with the spec it started with"
    try:
        changed = changed_fixed_fields(snapshot.accepted_spec, parse_spec(job))
    except NotAccepted as error:
        return f"spec was edited and is not valid now ({error.message}); {goes_on}"
    if changed:
        return f"{', '.join(error.path for error in changed[:ERRORS_SHOWN])} changed after the start; {goes_on}"
    return ""


def managed_elsewhere(job: Mapping[str, Any]) -> bool:
    """Whether the job names another controller than this operator."""
    return ((job.get("spec") or {}).get("managedBy") or MANAGED_BY_OPERATOR) != MANAGED_BY_OPERATOR


def live_policy(job: Mapping[str, Any], snapshot: Snapshot) -> RunPolicy:
    """The run policy as it is now; where the present one is not valid, that of the start with the present switch.

    A job that is suspended must not start because another field of the policy cannot be read.
    """
    given = (job.get("spec") or {}).get("runPolicy") or {}
    try:
        return RunPolicy.model_validate(given)
    except ValueError:
        at_start: RunPolicy = snapshot.config.spec.run_policy
        return at_start.model_copy(update={"suspend": given.get("suspend") is True})


def live_scheduling(job: Mapping[str, Any], snapshot: Snapshot) -> Scheduling:
    """Scheduling as it is now, for the next pods; that of the start where the present one is not valid."""
    try:
        return Scheduling.model_validate((job.get("spec") or {}).get("scheduling") or {})
    except ValueError:
        return snapshot.config.spec.scheduling


def runtime_reference(job: Mapping[str, Any]) -> tuple[str, str] | None:
    """Kind and name of the runtime that a raw, perhaps invalid spec names; None if it names none."""
    reference = (job.get("spec") or {}).get("runtimeRef")
    if not isinstance(reference, Mapping) or not isinstance(reference.get("name"), str):
        return None
    return reference.get("kind", "ClusterTrainerRuntime"), reference["name"]


def _runtime(observed: Observed, spec: Spec) -> TrainerRuntimeSpec:
    reference = spec.runtime_ref
    if observed.runtime is None:
        where = (
            ""
            if reference.kind == "ClusterTrainerRuntime"
            else f" in namespace {observed.job['metadata']['namespace']}"
        )
        raise NotAccepted(
            Reason.RUNTIME_NOT_FOUND, f"spec.runtimeRef: there is no {reference.kind} named {reference.name}{where}"
        )
    document = {
        "apiVersion": API_VERSION,
        "kind": reference.kind,
        "metadata": {"name": reference.name},
        "spec": observed.runtime.get("spec"),
    }
    about = f"spec.runtimeRef: {reference.kind} {reference.name} is not valid: "
    return _validated(RUNTIME_MODELS[reference.kind], document, about).spec


def _validated(model: type[Parsed], document: Any, about: str, *, in_cluster: bool = False) -> Parsed:
    try:
        return validate(model, document, in_cluster=in_cluster)
    except InvalidSpec as invalid:
        shown = [str(error) for error in invalid.errors[:ERRORS_SHOWN]]
        more = len(invalid.errors) - len(shown)
        raise NotAccepted(
            Reason.SPEC_INVALID, about + "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
        ) from invalid
