"""JSON schemas: what is valid, which share is, and what is refused."""

import json

import pytest

from plumbline_api.methods.verifiers.schema import JsonSchema
from plumbline_trainer.rewards.verifiers import build_verifier
from tests.trainer.verifiers.verifying import reward

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "note": {"type": "string"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("completion", "valid", "share"),
    [
        ('{"name": "Ada", "age": 36}', 1, 1),
        ('{"name": "Ada", "age": 36, "note": "x"}', 1, 1),
        ('```json\n{"name": "Ada", "age": 36}\n```', 1, 1),
        ('{"name": "Ada", "age": -1}', 0, 2 / 4),
        ('{"name": "Ada"}', 0, 2 / 4),
        ('{"name": "Ada", "age": 36, "more": 1}', 0, 3 / 4),
        ("{}", 0, 1 / 4),
        ("[]", 0, 0),
        ("36", 0, 0),
        ('{"name": "Ada", "age": 36', 0, 0),
        ('Here it is: {"name": "Ada", "age": 36}', 0, 0),
        ('{"name": "Ada", "age": NaN}', 0, 0),
        ("[" * 100_000, 0, 0),
        ("", 0, 0),
    ],
)
def test_documents(completion, valid, share):
    assert reward(JsonSchema(schema=PERSON), completion) == valid
    assert reward(JsonSchema(schema=PERSON, reward="share"), completion) == pytest.approx(share)


def test_a_fence_may_be_refused():
    assert reward(JsonSchema(schema=PERSON, allowFence=False), '```json\n{"name": "Ada", "age": 36}\n```') == 0


@pytest.mark.parametrize("written", [PERSON, json.dumps(PERSON)])
def test_a_row_brings_its_own_schema(written):
    parameters = JsonSchema(schemaColumn="format")
    assert reward(parameters, '{"name": "Ada", "age": 36}', format=written) == 1
    assert reward(parameters, '{"name": 36, "age": 36}', format=written) == 0


def test_references_within_the_schema_are_followed():
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"n": {"$ref": "#/$defs/n"}}}
    assert reward(JsonSchema(schema=schema, reward="share"), '{"n": 1}') == 1
    assert reward(JsonSchema(schema=schema, reward="share"), '{"n": "1"}') == 0


def test_null_means_null_in_a_schema():
    parameters = JsonSchema(schema={"properties": {"n": {"const": None}}})
    again = JsonSchema.model_validate(json.loads(json.dumps(parameters.to_document())))
    assert [reward(again, text) for text in ('{"n": null}', '{"n": 1}')] == [1, 0]


def test_nothing_is_fetched():
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    with pytest.raises(Exception, match=r"Unresolvable|127\.0\.0\.1"):
        reward(JsonSchema(schema=schema), "{}")


@pytest.mark.parametrize("schema", [{"type": "number of things"}, {"properties": {"a": {"minimum": "x"}}}])
def test_a_malformed_schema_does_not_load(schema):
    with pytest.raises(ValueError, match=r"the schema\[.* is malformed"):
        build_verifier(JsonSchema(schema=schema))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the row has no format"),
        ("{", "is not JSON"),
        (7, "is not a schema"),
        ({"type": "thing"}, "malformed"),
    ],
)
def test_a_row_without_a_usable_schema_is_an_error(value, message):
    with pytest.raises(ValueError, match=message):
        reward(JsonSchema(schemaColumn="format"), "{}", format=value)


@pytest.mark.parametrize("fields", [{}, {"schema": PERSON, "schemaColumn": "format"}])
def test_exactly_one_place_of_the_schema(fields):
    with pytest.raises(ValueError, match="exactly one of schema and schemaColumn"):
        JsonSchema(**fields)
