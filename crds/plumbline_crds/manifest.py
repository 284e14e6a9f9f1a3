"""The CustomResourceDefinition of each kind: names, scope, printer columns, and the schema from the models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from plumbline_api import GROUP, VERSION
from plumbline_api.base import ApiModel
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob
from plumbline_api.runtime import ClusterTrainerRuntime, TrainerRuntime
from plumbline_api.status import JobStatus
from plumbline_crds.schema import Schema, structural_schema, validation, without_defaults

CATEGORY = "plumbline"
HEADER = "# Generated from the models in crds/plumbline_api by `python -m plumbline_crds generate`; edit those.\n"


def _column(name: str, kind: str, path: str, description: str, *, wide: bool = False) -> dict[str, Any]:
    column = {"name": name, "type": kind, "description": description, "jsonPath": path}
    return {**column, "priority": 1} if wide else column


_AGE = _column("AGE", "date", ".metadata.creationTimestamp", "Time since the object was created.")

JOB_COLUMNS = (
    _column("PHASE", "string", ".status.phase", "One word for the state of the job."),
    _column("STEP", "string", ".status.progress.text", "Optimizer steps done, of all."),
    _column("PROGRESS", "integer", ".status.progress.percent", "Share of the steps done, in percent."),
    _column("OBJECTIVE", "string", ".status.objective", "Method in use."),
    _column("SCORE", "string", ".status.score", "The job's main metric."),
    _column("GPUS", "integer", ".status.gpus", "GPUs of all pods."),
    _column("RESTARTS", "integer", ".status.restarts", "Attempts beyond the first."),
    _AGE,
    _column("ETA", "integer", ".status.progress.etaSeconds", "Expected seconds to the end.", wide=True),
    _column("TOKENS/S", "number", ".status.progress.tokensPerSecond", "Tokens processed a second.", wide=True),
    _column("CHECKPOINT", "integer", ".status.checkpoint.step", "Step of the newest verified checkpoint.", wide=True),
    _column("QUEUE", "string", ".spec.scheduling.queue", "Queue of Kueue in which the job waits.", wide=True),
    _column("REASON", "string", ".status.reason", "Why the job is in this state.", wide=True),
)
RUNTIME_COLUMNS = (
    _column("IMAGE", "string", ".spec.image", "Trainer image."),
    _column("GPUS", "integer", ".spec.resources.gpus", "GPUs of each pod."),
    _AGE,
)


@dataclass(frozen=True)
class Kind:
    """How a kind is called and shown."""

    model: type[ApiModel]
    short_name: str
    scope: str
    columns: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def plural(self) -> str:
        return f"{self.name.lower()}s"

    @property
    def file_name(self) -> str:
        return f"{GROUP}_{self.plural}.yaml"


KINDS = (
    Kind(PreferenceJob, "prefjob", "Namespaced", JOB_COLUMNS),
    Kind(RLVRJob, "rlvr", "Namespaced", JOB_COLUMNS),
    Kind(TrainerRuntime, "truntime", "Namespaced", RUNTIME_COLUMNS),
    Kind(ClusterTrainerRuntime, "ctruntime", "Cluster", RUNTIME_COLUMNS),
)


def custom_resource_definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition as a document."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [dict(column) for column in kind.columns],
    }
    if "status" in kind.model.model_fields:
        version["subresources"] = {"status": {}}
    version["schema"] = {"openAPIV3Schema": root_schema(kind.model)}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short_name],
                "categories": [CATEGORY],
            },
            "versions": [version],
        },
    }


def root_schema(model: type[ApiModel]) -> Schema:
    """The schema of a whole object. The server owns apiVersion, kind and metadata, so they are left to it."""
    spec = model.model_fields["spec"]
    properties: Schema = {
        "apiVersion": {"type": "string", "description": "Version of the object's schema: plumbline.dev/v1alpha1."},
        "kind": {"type": "string", "description": f"Kind of the object: {model.__name__}."},
        "metadata": {"type": "object"},
        "spec": {**_schema_of(spec.annotation), "description": spec.description},
    }
    if status := model.model_fields.get("status"):
        properties["status"] = {**without_defaults(structural_schema(JobStatus)), "description": status.description}
    root: Schema = {
        "description": " ".join((model.__doc__ or "").split()),
        "type": "object",
        "properties": properties,
        "required": ["spec"],
    }
    if model.rules:
        root["x-kubernetes-validations"] = [validation(rule, {}) for rule in model.rules]
    return root


def _schema_of(annotation: Any) -> Schema:
    if not (isinstance(annotation, type) and issubclass(annotation, ApiModel)):
        raise TypeError(f"{annotation} is not a model")
    return structural_schema(annotation)


class _WithoutAnchors(yaml.SafeDumper):
    """Writes equal parts out each time: not every reader of manifests follows YAML anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render(kind: Kind) -> str:
    """The manifest as YAML text."""
    document = custom_resource_definition(kind)
    return HEADER + yaml.dump(document, Dumper=_WithoutAnchors, sort_keys=False, width=120, allow_unicode=True)
