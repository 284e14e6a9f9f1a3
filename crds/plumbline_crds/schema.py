"""Pydantic models as Kubernetes structural schemas.

A structural schema has no references and no unions, spells nullability and exclusive bounds as OpenAPI 3.0 does, and
states types everywhere (Kubernetes documentation, "Extend the Kubernetes API with CustomResourceDefinitions",
section "Specifying a structural schema"). Pydantic's JSON Schema is the starting point; this module inlines it,
rewrites those parts, and adds what JSON Schema cannot say: CEL rules, list types, defaults of nested objects.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from plumbline_api.base import ApiModel, Choice
from plumbline_api.rules import Rule

Schema = dict[str, Any]

INT32_MAX = 2**31 - 1
_MODEL = "plumbline-model"
_KEPT = ("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


class _JsonSchemaWithModels(GenerateJsonSchema):
    """Leaves the model's class in each object, so that the rewriting below can ask it for rules and defaults."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        generated[_MODEL] = schema["cls"]
        return generated


def structural_schema(model: type[ApiModel]) -> Schema:
    """The structural schema of a model, everything inlined."""
    generated = model.model_json_schema(by_alias=True, schema_generator=_JsonSchemaWithModels)
    return _rewrite(generated, generated.get("$defs", {}))


def without_defaults(schema: Schema) -> Schema:
    """The same schema with no default at any depth: for `status`, where the server must not invent values."""
    result = {key: value for key, value in schema.items() if key != "default"}
    if "properties" in schema:
        result["properties"] = {name: without_defaults(inner) for name, inner in schema["properties"].items()}
    for nested in ("items", "additionalProperties"):
        if nested in schema:
            result[nested] = without_defaults(schema[nested])
    return result


def _rewrite(node: Schema, definitions: dict[str, Schema]) -> Schema:
    node = _resolve(node, definitions)
    kind = node["type"]
    result: Schema = {}
    if "description" in node:
        result["description"] = " ".join(node["description"].split())
    if node.get("x-kubernetes-int-or-string"):
        result |= {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    else:
        result["type"] = kind
    if node.get("default") is not None:
        result["default"] = node["default"]
    if "format" in node:
        result["format"] = node["format"]
    result |= {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    if kind in ("integer", "number"):
        result |= _number(node, kind)
    elif kind == "array":
        result["items"] = _rewrite(node["items"], definitions)
        result["x-kubernetes-list-type"] = node.get("x-kubernetes-list-type", "atomic")
        if "x-kubernetes-list-map-keys" in node:
            result["x-kubernetes-list-map-keys"] = node["x-kubernetes-list-map-keys"]
    elif _MODEL in node:
        result |= _object(node, definitions)
    elif node.get("additionalProperties") is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    elif kind == "object":
        result["additionalProperties"] = _rewrite(node["additionalProperties"], definitions)
    return result


def _resolve(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Follows a reference and drops the null branch of an optional; what stands beside either wins."""
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return _resolve({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "anyOf" in node:
        branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        if len(branches) != 1:
            raise ValueError(f"a structural schema has no unions; write a Choice instead: {node}")
        return _resolve({**branches[0], **{key: value for key, value in node.items() if key != "anyOf"}}, definitions)
    return node


def _number(node: Schema, kind: str) -> Schema:
    result: Schema = {}
    if kind == "integer":
        result["format"] = "int32" if node.get("maximum", INT32_MAX + 1) <= INT32_MAX else "int64"
    else:
        result["format"] = "double"
    for bound in ("minimum", "maximum"):
        exclusive = "exclusive" + bound.capitalize()
        if exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
        elif bound in node:
            result[bound] = node[bound]
    return result


def _object(node: Schema, definitions: dict[str, Schema]) -> Schema:
    model: type[ApiModel] = node[_MODEL]
    properties = {name: _rewrite(inner, definitions) for name, inner in node.get("properties", {}).items()}
    for field_name, declared in model.model_fields.items():
        inner = properties[declared.alias or field_name]
        default = declared.get_default(call_default_factory=True) if declared.default_factory else None
        if isinstance(default, ApiModel):
            # next to the description, where a reader looks for it
            ordered: Schema = {key: inner.pop(key) for key in ("description", "type") if key in inner}
            properties[declared.alias or field_name] = {**ordered, "default": _default_document(default), **inner}
    result: Schema = {}
    if properties:
        result["properties"] = properties
    if node.get("required"):
        result["required"] = node["required"]
    if issubclass(model, Choice):
        result |= {"minProperties": 1, "maxProperties": 1}
    present = {*node.get("required", ()), *(name for name, inner in properties.items() if "default" in inner)}
    validations = [validation(rule, properties, present) for rule in model.rules]
    validations += _forbid_changes(model, properties, set(node.get("required", ())))
    if validations:
        result["x-kubernetes-validations"] = validations
    return result


def _default_document(value: ApiModel) -> Schema:
    """The default of a nested object. The server fills in what stands below it, so it can stay empty; only where the
    object has rules are its values written out, because the server evaluates the rules on the default itself."""
    if isinstance(value, Choice):
        return {value.key: _default_document(value.value)}
    return value.to_document() if type(value).rules else {}


def validation(rule: Rule, properties: Schema, present: Set[str] = frozenset()) -> Schema:
    """One entry of `x-kubernetes-validations`.

    The server has checked what is required and filled in what has a default when it comes to a rule: `has` need not
    ask for the properties that are `present` on their way to others, which a long rule does often.
    """
    cel = re.sub(
        r"has\(self\.(\w+)\) && has\(self\.\1\.",
        lambda found: f"has(self.{found[1]}." if found[1] in present else found[0],
        rule.cel,
    )
    result = {"rule": cel, "message": rule.message}
    if rule.path and _is_declared(rule.path, properties):
        result["fieldPath"] = f".{rule.path}"
    return result


def _is_declared(path: str, properties: Schema) -> bool:
    name, _, rest = path.partition(".")
    if name not in properties:
        return False
    return not rest or _is_declared(rest, properties[name].get("properties", {}))


def _forbid_changes(model: type[ApiModel], properties: Schema, required: set[str]) -> list[Schema]:
    """Adds transition rules to the fixed properties; returns those for properties that may be added or removed.

    A rule on a property is not evaluated when the property appears or disappears, so an optional one needs a second
    rule on its parent.
    """
    of_the_parent = []
    for name in model.fixed_fields():
        message = model.fixed_field_message(name)
        inner = properties[name]
        inner.setdefault("x-kubernetes-validations", []).append({"rule": "self == oldSelf", "message": message})
        if name not in required and "default" not in inner:
            of_the_parent.append(
                {"rule": f"has(self.{name}) == has(oldSelf.{name})", "message": message, "fieldPath": f".{name}"}
            )
    return of_the_parent
