"""Each cross-field rule means the same in Python and in CEL, on any object that the schema allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbline_api import contract
from plumbline_api.base import ApiModel
from plumbline_api.messages import nested_model
from plumbline_api.rules import Rule, any_of, every_has, field, has, some, some_has
from plumbline_crds.schema import structural_schema
from tests.api.api_server import Schema, defaulted, evaluate
from tests.api.bad_specs import BAD_SPECS
from tests.api.valid_specs import MODELS


def models_with_rules() -> list[type[ApiModel]]:
    """Every model that is part of a kind's spec and has rules, once."""
    found: dict[str, type[ApiModel]] = {}
    waiting: list[type[ApiModel]] = list(MODELS.values())
    seen = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        if model.rules and "metadata" not in model.model_fields:
            found[model.__name__] = model
        waiting += [inner for declared in model.model_fields.values() if (inner := nested_model(declared.annotation))]
    return [found[name] for name in sorted(found)]


def documents(schema: Schema) -> st.SearchStrategy[Any]:
    """Objects that the schema allows, with few distinct values so that fields meet as equals often."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema.get("type", "string"):
        case "boolean":
            return st.booleans()
        case "integer":
            low = schema.get("minimum", 0)
            return st.integers(low, min(schema.get("maximum", low + 12), max(low, 12)))
        case "number":
            low, high = schema.get("minimum", 0), schema.get("maximum", 1)
            values = [value for value in (-1, 0, 0.2, 0.3, 0.5, 0.7, 1, 2.5) if low <= value <= high]
            exclusive = {low} if schema.get("exclusiveMinimum") else set()
            exclusive |= {high} if schema.get("exclusiveMaximum") else set()
            return st.sampled_from([value for value in values if value not in exclusive])
        case "string":
            return st.sampled_from(["a", "b", "RANK", "PLUMBLINE_X"])
        case "array":
            return st.lists(documents(schema["items"]), min_size=schema.get("minItems", 0), max_size=2)
    if "properties" not in schema:
        return st.just({})
    properties = {name: documents(inner) for name, inner in schema["properties"].items()}
    if "minProperties" in schema:
        return st.one_of([st.fixed_dictionaries({name: inner}) for name, inner in properties.items()])
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: inner for name, inner in properties.items() if name in required},
        optional={name: inner for name, inner in properties.items() if name not in required},
    )


@pytest.mark.parametrize("model", models_with_rules(), ids=lambda model: model.__name__)
def test_python_and_cel_agree(model: type[ApiModel]) -> None:
    schema = structural_schema(model)
    kept: set[str] = set()

    @settings(
        max_examples=60,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
    )
    @given(documents(schema))
    def agree(document: dict[str, Any]) -> None:
        complete = defaulted(schema, document)
        for rule in model.rules:
            holds = rule.holds(complete)
            assert evaluate(rule.cel, schema, complete) == holds, (rule.message, complete)
            if holds:
                kept.add(rule.cel)

    agree()
    assert kept == {rule.cel for rule in model.rules}, "no generated object keeps these rules"


def test_every_rule_has_a_row_in_the_table_of_bad_specs() -> None:
    shown = {case.message for case in BAD_SPECS if case.judge == "rule"}
    rules = {rule.message for model in models_with_rules() for rule in model.rules}
    assert sorted(rules - shown) == []


DOCUMENT = {
    "a": 3,
    "b": {"c": 0.5},
    "name": "job-1",
    "items": [{"w": 0.0, "b": {}}, {"w": 2.0, "b": {"x": 1}}],
    "flag": True,
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (field("a") > 2, True),
        (field("a") >= 4, False),
        (field("a") < 3, False),
        (field("a") <= 3, True),
        ((field("a") + 1).equals(4), True),
        ((field("a") * 2).equals(6), True),
        ((field("a") % 2).equals(1), True),
        (field("b.c").differs(0.5), False),
        (field("name").length() <= 5, True),
        (field("name").matches("^[a-z]+$"), False),
        (field("name").starts_with("job"), True),
        (field("name").is_in(["job-1", "x"]), True),
        (has("b.c"), True),
        (has("b.d"), False),
        (has("z.c"), False),
        (has("b.c") & ~has("z"), True),
        (has("z") | has("y"), False),
        (any_of([]), False),
        ((field("z") > 1).when(has("z")), True),
        ((field("a") > 5).when(has("a")), False),
        ((field("a") > 5).unless(has("a")), True),
        (some("items", "i", lambda item: item("w") > 1.0), True),
        (some("items", "i", lambda item: item("w") > 2.0), False),
        (some_has("items", "i", "w"), True),
        (some_has("items", "i", "z"), False),
        (some_has("items", "i", "b.x"), True),
        (some_has("items", "i", "b.y"), False),
        (every_has("items", "i", "w"), True),
        (every_has("items", "i", "b.x"), False),
        (has("z") & some_has("z", "i", "w"), False),
    ],
    ids=lambda part: part.cel if hasattr(part, "cel") else None,
)
def test_each_operator_means_the_same(expression: Any, value: bool) -> None:
    rule = Rule(expression, "message")
    assert rule.holds(DOCUMENT) is value
    assert evaluate(rule.cel, {}, DOCUMENT) is value


def test_a_missing_guard_is_an_error() -> None:
    with pytest.raises(KeyError):
        Rule(field("z") > 1, "message").holds(DOCUMENT)


def test_every_exit_code_has_a_reason() -> None:
    assert set(contract.EXIT_REASONS) == set(contract.ExitCode)
