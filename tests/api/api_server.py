"""What an API server does to a custom resource, in the order in which it does it, from the CRD manifest alone.

Unknown fields are found, nulls and defaults filled in, bounds checked (JSON Schema draft 4, which OpenAPI 3.0 follows
for exclusive bounds), list keys compared, and CEL rules evaluated with a real CEL implementation. It stands in for a
server in fast tests; `crd_conformance.py` asks a real one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import cel
import jsonschema

from plumbline_api.messages import FieldError, join

Schema = dict[str, Any]


def refusals(schema: Schema, document: Any, old: Any = None) -> list[FieldError]:
    """Why the server would refuse to create the document, or to replace `old` by it; empty if it would not."""
    unknown = [FieldError(join(path), "unknown field") for path in _unknown_fields(schema, document, ())]
    document = defaulted(schema, document)
    errors = unknown + _broken_bounds(schema, document) + list(_duplicates(schema, document, ()))
    # as the real server does, rules are evaluated on what has the right shape
    return errors or list(_broken_rules(schema, document, None if old is None else defaulted(schema, old), ()))


def defaulted(schema: Schema, document: Any) -> Any:
    """A copy of the document with nulls dropped and defaults filled in."""
    if isinstance(document, list):
        return [defaulted(schema.get("items", {}), item) for item in document]
    if not isinstance(document, dict):
        return document
    result = {name: value for name, value in document.items() if value is not None}
    for name, inner in schema.get("properties", {}).items():
        if name not in result and "default" in inner:
            result[name] = copy.deepcopy(inner["default"])
    return {name: defaulted(_schema_of(schema, name), value) for name, value in result.items()}


def typed_for_cel(schema: Schema, document: Any) -> Any:
    """The document with every `number` as a float: the server's CEL takes the type from the schema, not the value."""
    if isinstance(document, list):
        return [typed_for_cel(schema.get("items", {}), item) for item in document]
    if isinstance(document, dict):
        return {name: typed_for_cel(_schema_of(schema, name), value) for name, value in document.items()}
    return float(document) if schema.get("type") == "number" else document


def evaluate(rule: str, schema: Schema, document: Any, old: Any = None) -> bool:
    """Whether a CEL rule holds on a document."""
    variables = {"self": typed_for_cel(schema, document)}
    if old is not None:
        variables["oldSelf"] = typed_for_cel(schema, old)
    result = cel.evaluate(rule, variables)
    assert isinstance(result, bool), f"{rule} gives {result!r}"
    return result


def nodes(schema: Schema, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], Schema]]:
    """Every schema within a schema, with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, (*path, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*path, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], (*path, "*"))


def _schema_of(schema: Schema, name: str) -> Schema:
    found: Schema = schema.get("properties", {}).get(name) or schema.get("additionalProperties") or {}
    return found


def _unknown_fields(schema: Schema, document: Any, path: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    if isinstance(document, list):
        for index, item in enumerate(document):
            yield from _unknown_fields(schema.get("items", {}), item, (*path, index))
    elif isinstance(document, dict) and path != ("metadata",):
        for name, value in document.items():
            if name not in schema.get("properties", {}) and "additionalProperties" not in schema:
                if not schema.get("x-kubernetes-preserve-unknown-fields"):
                    yield (*path, name)
            else:
                yield from _unknown_fields(_schema_of(schema, name), value, (*path, name))


def _broken_bounds(schema: Schema, document: Any) -> list[FieldError]:
    return [
        FieldError(_path_of(error), error.message) for error in jsonschema.Draft4Validator(schema).iter_errors(document)
    ]


def _path_of(error: jsonschema.ValidationError) -> str:
    location = tuple(error.absolute_path)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return join((*location, missing))
    return join(location)


def _duplicates(schema: Schema, document: Any, path: tuple[int | str, ...]) -> Iterator[FieldError]:
    if isinstance(document, dict):
        for name, value in document.items():
            yield from _duplicates(_schema_of(schema, name), value, (*path, name))
    if not isinstance(document, list):
        return
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen = []
    for index, item in enumerate(document):
        yield from _duplicates(schema.get("items", {}), item, (*path, index))
        if keys and isinstance(item, dict):
            value = [item.get(key) for key in keys]
            if value in seen:
                yield FieldError(join((*path, index)), "Duplicate value")
            seen.append(value)


def _broken_rules(schema: Schema, document: Any, old: Any, path: tuple[int | str, ...]) -> Iterator[FieldError]:
    for validation in schema.get("x-kubernetes-validations", []):
        about_change = "oldSelf" in validation["rule"]
        if about_change and old is None:
            continue
        if not evaluate(validation["rule"], schema, document, old if about_change else None):
            yield FieldError(join(path) + validation.get("fieldPath", ""), validation["message"])
    if isinstance(document, dict):
        for name, value in document.items():
            before = old.get(name) if isinstance(old, dict) else None
            yield from _broken_rules(_schema_of(schema, name), value, before, (*path, name))
    elif isinstance(document, list):
        for index, item in enumerate(document):
            # an atomic list has no correlation between old and new items
            yield from _broken_rules(schema.get("items", {}), item, None, (*path, index))
