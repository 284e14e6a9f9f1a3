"""Structured output against a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.schema import JsonSchema
from plumbline_trainer.rewards.verifiers.documents import NO_DOCUMENT, read_document
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_column, shown

Score = Callable[[Any], float]
"""A document -> its reward."""


@VERIFIERS.implements(JsonSchema)
def json_schema(parameters: JsonSchema, code: Path | None) -> Verify:
    """Reads the completion as JSON and asks the jsonschema library; a malformed schema is an error."""
    score_of = _share if parameters.reward == "share" else _valid
    fixed = None if parameters.schema_document is None else score_of(_checked(parameters.schema_document))

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        score = fixed or score_of(_checked(_schema_of(row, parameters.schema_column or "")))
        document = read_document(completion, allow_fence=parameters.allow_fence)
        return 0.0 if document is NO_DOCUMENT else score(document)

    return verify


def _valid(schema: Any) -> Score:
    validator = _validator(schema)
    return lambda document: float(validator.is_valid(document))


def _share(schema: Any) -> Score:
    """Of the fields that an object schema declares or requires, and of the whole document, the share that is valid.

    A declared field that is missing and not required is valid. The whole counts as one more, so that 1 means valid
    and what is written beside the fields cannot be ignored. For a schema of anything but objects only the whole counts.
    """
    whole = _validator(schema)
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    required = schema.get("required", []) if isinstance(schema, dict) else []
    names = list(dict.fromkeys([*properties, *required]))
    fields = {name: whole.evolve(schema=properties.get(name, True)) for name in names}

    def score(document: Any) -> float:
        valid = int(whole.is_valid(document))
        if isinstance(document, dict):
            for name in names:
                valid += fields[name].is_valid(document[name]) if name in document else name not in required
        return valid / (len(names) + 1)

    return score


def _validator(schema: Any) -> Any:
    """A validator that follows references within the schema and fetches nothing."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())


def _checked(schema: Any) -> Any:
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        place = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise ValueError(f"the schema{place} is malformed: {error.message}") from None
    return schema


def _schema_of(row: Mapping[str, Any], column: str) -> Any:
    value = required_column(row, column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"the row's {column} {shown(value)} is not JSON: {error}") from None
    if not isinstance(value, (dict, bool)):
        raise ValueError(f"the row's {column} {shown(value)} is not a schema")
    return value
