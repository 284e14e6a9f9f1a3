"""The generated manifests: up to date, structural, bounded, described, small enough for `kubectl apply`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml

from plumbline_api.messages import join
from plumbline_crds.__main__ import stale_files
from plumbline_crds.manifest import KINDS
from tests.api.api_server import Schema, nodes

CRDS = Path(__file__).resolve().parents[2] / "crds"
LARGEST = 250_000
"""Bytes. `kubectl apply` keeps the whole manifest as JSON in an annotation, and annotations end at 256 KiB."""

kinds = pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
job_kinds = pytest.mark.parametrize("kind", ["PreferenceJob", "RLVRJob"])


def fields(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every schema below `spec` and `status`, with its path."""
    for block in ("spec", "status"):
        if block in schema["properties"]:
            yield from ((join(path), node) for path, node in nodes(schema["properties"][block], (block,)))


def test_manifests_and_reference_are_what_the_models_give() -> None:
    assert stale_files() == [], "run `python -m plumbline_crds generate`"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_size(kind: Any) -> None:
    manifest = yaml.safe_load((CRDS / kind.file_name).read_text(encoding="utf-8"))
    assert len(json.dumps(manifest, separators=(",", ":")).encode()) < LARGEST


@kinds
def test_every_field_is_described(kind: str, schemas: Mapping[str, Schema]) -> None:
    missing = [
        path
        for path, node in fields(schemas[kind])
        if "[" not in path and "*" not in path and not node.get("description")
    ]
    inside_lists = [
        f"{path}.{name}"
        for path, node in fields(schemas[kind])
        for name, inner in node.get("properties", {}).items()
        if not inner.get("description")
    ]
    assert missing + inside_lists == []


@kinds
def test_schemas_are_structural(kind: str, schemas: Mapping[str, Schema]) -> None:
    for path, node in nodes(schemas[kind]):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "$defs", "oneOf", "allOf", "not", "const", "title", "propertyNames"} & set(node), path
        assert "anyOf" not in node or node.get("x-kubernetes-int-or-string"), path
        assert not ("properties" in node and "additionalProperties" in node), path


@kinds
def test_everything_that_can_grow_is_bounded(kind: str, schemas: Mapping[str, Schema]) -> None:
    for path, node in fields(schemas[kind]):
        match node.get("type"):
            case "string" if "enum" not in node and node.get("format") != "date-time":
                assert "maxLength" in node, path
            case "array":
                assert "maxItems" in node, path
                assert node["x-kubernetes-list-type"] in ("atomic", "map"), path
            case "object" if "additionalProperties" in node:
                assert "maxProperties" in node, path
            case "integer":
                assert node["format"] in ("int32", "int64"), path


@kinds
def test_old_servers_read_exclusive_maxima_right(kind: str, schemas: Mapping[str, Schema]) -> None:
    """Kubernetes 1.20 cuts a bound to an integer when the value is one: 0 is not below 0.5 there."""
    for path, node in fields(schemas[kind]):
        if node.get("exclusiveMaximum"):
            assert float(node["maximum"]).is_integer(), path


@job_kinds
def test_the_server_invents_no_status(kind: str, schemas: Mapping[str, Schema]) -> None:
    assert all("default" not in node for _, node in nodes(schemas[kind]["properties"]["status"]))


@job_kinds
def test_choices_have_exactly_one_member(kind: str, schemas: Mapping[str, Schema]) -> None:
    spec = schemas[kind]["properties"]["spec"]["properties"]
    for name in ("objective", "optimizer", "schedule", "peft"):
        assert (spec[name]["minProperties"], spec[name]["maxProperties"]) == (1, 1), name
        assert {member["type"] for member in spec[name]["properties"].values()} == {"object"}, name


@kinds
def test_rules_compile_and_point_to_fields_that_exist(kind: str, schemas: Mapping[str, Schema]) -> None:
    for path, node in nodes(schemas[kind]):
        for validation in node.get("x-kubernetes-validations", []):
            cel.compile(validation["rule"])
            assert validation["message"].strip() == validation["message"] != "", path
            target = node
            for name in validation.get("fieldPath", "").split(".")[1:]:
                assert name in target["properties"], f"{join(path)}: {validation['fieldPath']}"
                target = target["properties"][name]


@kinds
def test_messages_name_a_field(kind: str, schemas: Mapping[str, Schema]) -> None:
    for path, node in nodes(schemas[kind]):
        for validation in node.get("x-kubernetes-validations", []):
            words = {word.strip(",:") for word in validation["message"].replace(".", " ").split()}
            known = {part for inner, _ in nodes(node) for part in inner} | {"metadata", str(path[-1]) if path else ""}
            assert words & known, validation["message"]


@job_kinds
def test_names_and_columns(kind: str, manifests: Mapping[str, dict[str, Any]]) -> None:
    spec = manifests[kind]["spec"]
    names = spec["names"]
    assert names["shortNames"] == [{"PreferenceJob": "prefjob", "RLVRJob": "rlvr"}[kind]]
    assert names["categories"] == ["plumbline"]
    (version,) = spec["versions"]
    assert version["subresources"] == {"status": {}}
    columns = version["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert shown == ["PHASE", "STEP", "PROGRESS", "OBJECTIVE", "SCORE", "GPUS", "RESTARTS", "AGE"]
    assert wide == ["ETA", "TOKENS/S", "CHECKPOINT", "QUEUE", "REASON"]


@kinds
def test_columns_show_fields_that_exist(kind: str, manifests: Mapping[str, dict[str, Any]]) -> None:
    (version,) = manifests[kind]["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        node = version["schema"]["openAPIV3Schema"]
        for name in column["jsonPath"].split(".")[1:]:
            if name == "metadata":
                break
            node = node["properties"][name]
        else:
            assert node["type"] == column["type"], column["name"]
