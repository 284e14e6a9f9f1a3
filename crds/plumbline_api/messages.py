"""Validation errors as people read them: the field's path as it is written in YAML, and what is wrong with it.

spec.training.batchSize: 0 is below the minimum of 1
spec.training.batchsize: unknown field; did you mean batchSize?
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from plumbline_api.base import IN_CLUSTER, ApiModel, Choice, Refused

AnyModel = TypeVar("AnyModel", bound=ApiModel)

_TYPE_NAMES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "an integer of 64 bits",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "datetime_type": "a time",
    "datetime_parsing": "a time such as 2030-01-31T12:00:00Z",
    "datetime_from_date_parsing": "a time such as 2030-01-31T12:00:00Z",
}
_LONGEST_VALUE = 80


class FieldError(NamedTuple):
    """One thing wrong with a document: the camelCase path from its root, and a sentence."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidSpec(ValueError):
    """A document that a model refuses. Its text has one line for each error."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


def validate(model: type[AnyModel], document: Any, *, in_cluster: bool = False) -> AnyModel:
    """Parses a document in its wire form: camelCase keys, JSON types, nothing converted.

    `in_cluster` also applies the rules that hold only for objects in a cluster. Raises `InvalidSpec` with every error
    that can be told at once.
    """
    try:
        return model.model_validate_json(
            json.dumps(document, default=str),
            strict=True,
            by_alias=True,
            by_name=False,
            context={IN_CLUSTER: in_cluster},
        )
    except ValidationError as error:
        raise InvalidSpec(field_errors(model, error)) from error


def field_errors(model: type[ApiModel], error: ValidationError) -> list[FieldError]:
    """The lines that a user reads for pydantic's error about a document of this model."""
    return [line for details in error.errors() for line in _explain(model, details)]


def changed_fixed_fields(old: ApiModel, new: ApiModel, path: str = "spec") -> list[FieldError]:
    """The fields that differ between two versions of an object although they cannot change once it is created."""
    errors = []
    before, after = old.to_document(), new.to_document()
    fixed = type(new).fixed_fields()
    for name, declared in type(new).model_fields.items():
        wire_name = declared.alias or name
        here = f"{path}.{wire_name}"
        if wire_name in fixed:
            if before.get(wire_name) != after.get(wire_name):
                errors.append(FieldError(here, new.fixed_field_message(wire_name)))
        elif isinstance(getattr(old, name), ApiModel) and isinstance(getattr(new, name), ApiModel):
            errors += changed_fixed_fields(getattr(old, name), getattr(new, name), here)
    return errors


def _explain(model: type[ApiModel], details: ErrorDetails) -> list[FieldError]:
    location, context = details["loc"], details.get("ctx", {})
    refused = context.get("error")
    if isinstance(refused, Refused):
        return [
            FieldError(join(location, relative), _with_choice_hint(message, details["input"]))
            for relative, message in refused.findings
        ]
    return [FieldError(join(location), _sentence(model, details, context))]


def _sentence(model: type[ApiModel], details: ErrorDetails, context: Mapping[str, Any]) -> str:
    kind, value = details["type"], details["input"]
    shown = _shorten(json.dumps(value, ensure_ascii=False, default=str))
    if kind in _TYPE_NAMES:
        return f"must be {_TYPE_NAMES[kind]}, not {_called(value)}"
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "unknown field" + _closest(model, details["loc"])
        case "greater_than_equal":
            return f"{shown} is below the minimum of {_plain(context['ge'])}"
        case "less_than_equal":
            return f"{shown} is above the maximum of {_plain(context['le'])}"
        case "greater_than":
            return f"{shown} must be above {_plain(context['gt'])}"
        case "less_than":
            return f"{shown} must be below {_plain(context['lt'])}"
        case "literal_error":
            return f"{shown} is not one of {context['expected'].replace(chr(39), '').replace(' or ', ', ')}"
        case "string_pattern_mismatch":
            return f"{shown} does not match {context['pattern']}"
        case "string_too_short":
            return "must not be empty" if not value else f"{shown} is shorter than {context['min_length']} characters"
        case "string_too_long":
            return f"has {len(value)} characters, more than the maximum of {context['max_length']}"
        case "too_short":
            return f"needs at least {_counted(context['min_length'], 'item')}"
        case "too_long":
            return f"has {context['actual_length']} items, more than the maximum of {context['max_length']}"
        case "finite_number":
            return "must be a finite number"
        case "value_error":
            return str(context["error"])
        case _:
            return details["msg"]


def join(location: tuple[int | str, ...], relative: str = "") -> str:
    """`("spec", "rewards", 0, "weight")` as `spec.rewards[0].weight`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    if relative:
        path += f".{relative}"
    return path.removeprefix(".")


def _with_choice_hint(message: str, value: Any) -> str:
    if message.startswith("exactly one of") and isinstance(value, Mapping):
        empty = [key for key, inner in value.items() if inner is None]
        if len(value) == 1 and empty:
            return f"{message} (to take the defaults of {empty[0]}, write {empty[0]}: {{}})"
    return message


def _called(value: Any) -> str:
    """A wrong value with the name of its type where that is what the reader needs to see."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the string {_shorten(json.dumps(value, ensure_ascii=False))}"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return json.dumps(value)


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _closest(model: type[ApiModel], location: tuple[int | str, ...]) -> str:
    """A hint at the known field nearest to an unknown one; for a choice, the members there are."""
    parent = _model_at(model, location[:-1])
    if parent is None:
        return ""
    known = [declared.alias or name for name, declared in parent.model_fields.items()]
    lowered = {name.lower(): name for name in known}
    if issubclass(parent, Choice):
        return f"; known are {', '.join(known)}"
    near = difflib.get_close_matches(str(location[-1]).lower().replace("_", ""), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def _model_at(model: type[ApiModel], location: tuple[int | str, ...]) -> type[ApiModel] | None:
    current: type[ApiModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        fields = {declared.alias or name: declared for name, declared in current.model_fields.items()}
        current = nested_model(fields[part].annotation) if part in fields else None
    return current


def nested_model(annotation: Any) -> type[ApiModel] | None:
    """The model inside an annotation such as `list[Reward]` or `Lora | None`; None for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        return annotation
    if get_origin(annotation) is Literal:
        return None
    return next((found for part in get_args(annotation) if (found := nested_model(part))), None)
