"""Every bad spec is refused with the words of the table: by operator and trainer, and by the CRD."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from plumbline_api.messages import FieldError, InvalidSpec, changed_fixed_fields, validate
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob
from tests.api import api_server
from tests.api.bad_spec_rows import BadSpec, BadUpdate
from tests.api.bad_specs import BAD_SPECS, BAD_UPDATES, GOOD_UPDATES
from tests.api.valid_specs import MODELS, every_method, valid

Schemas = Mapping[str, api_server.Schema]

bad_specs = pytest.mark.parametrize("case", BAD_SPECS, ids=lambda case: case.name)
bad_updates = pytest.mark.parametrize("case", BAD_UPDATES, ids=lambda case: case.name)
good_updates = pytest.mark.parametrize(("kind", "patch"), GOOD_UPDATES.values(), ids=GOOD_UPDATES)
methods = pytest.mark.parametrize("document", every_method().values(), ids=every_method())


def test_the_table_is_large_and_names_are_unique() -> None:
    names = [case.name for case in (*BAD_SPECS, *BAD_UPDATES)]
    assert len(names) == len(set(names))
    assert len(BAD_SPECS) >= 40


@bad_specs
def test_operator_refuses_with_field_and_message(case: BadSpec) -> None:
    with pytest.raises(InvalidSpec) as refused:
        validate(MODELS[case.kind], valid(case.kind, case.patch), in_cluster=True)
    assert FieldError(case.path, case.message) in refused.value.errors


@bad_specs
def test_api_server_refuses_what_it_can_know(case: BadSpec, schemas: Schemas) -> None:
    errors = api_server.refusals(schemas[case.kind], valid(case.kind, case.patch))
    match case.judge:
        case "code":
            assert not errors
        case "rule":
            found = {error.message: error.path for error in errors}
            # metadata has no schema, so that rules on it cannot name their field
            assert found.get(case.message) == ("" if case.path.startswith("metadata.") else case.path)
        case "unknown":
            assert FieldError(case.path, "unknown field") in errors
        case "bounds":
            assert case.path in {error.path for error in errors}


@bad_updates
def test_operator_sees_a_change_of_a_fixed_field(case: BadUpdate) -> None:
    old = validate(MODELS[case.kind], valid(case.kind, case.before), in_cluster=True)
    new = validate(MODELS[case.kind], valid(case.kind, {**case.before, **case.patch}), in_cluster=True)
    assert isinstance(old, PreferenceJob | RLVRJob)
    assert isinstance(new, PreferenceJob | RLVRJob)
    assert changed_fixed_fields(old.spec, new.spec) == [FieldError(case.path, case.message)]


@bad_updates
def test_api_server_refuses_a_change_of_a_fixed_field(case: BadUpdate, schemas: Schemas) -> None:
    old, new = valid(case.kind, case.before), valid(case.kind, {**case.before, **case.patch})
    assert api_server.refusals(schemas[case.kind], new, old) == [FieldError(case.path, case.message)]


@good_updates
def test_what_may_change_while_a_job_runs(kind: str, patch: dict[str, object], schemas: Schemas) -> None:
    old, new = valid(kind), valid(kind, patch)
    assert api_server.refusals(schemas[kind], new, old) == []
    before, after = (validate(MODELS[kind], document, in_cluster=True) for document in (old, new))
    assert isinstance(before, PreferenceJob | RLVRJob)
    assert isinstance(after, PreferenceJob | RLVRJob)
    assert before.spec != after.spec
    assert changed_fixed_fields(before.spec, after.spec) == []


@pytest.mark.parametrize("kind", MODELS)
def test_the_smallest_spec_is_accepted(kind: str, schemas: Schemas) -> None:
    validate(MODELS[kind], valid(kind), in_cluster=True)
    assert api_server.refusals(schemas[kind], valid(kind)) == []


@methods
def test_every_method_is_accepted_with_its_defaults(document: dict[str, object], schemas: Schemas) -> None:
    kind = str(document["kind"])
    validate(MODELS[kind], document, in_cluster=True)
    assert api_server.refusals(schemas[kind], document) == []


@methods
def test_server_and_operator_fill_in_the_same_defaults(document: dict[str, object], schemas: Schemas) -> None:
    kind = str(document["kind"])
    by_server = api_server.defaulted(schemas[kind], document)
    assert _without_empty(validate(MODELS[kind], document).to_document()) == _without_empty(by_server)


def _without_empty(value: object) -> object:
    """Empty lists and maps left out: in the models they are there, in stored objects they are not."""
    if isinstance(value, dict):
        kept = {name: _without_empty(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in ([], {})}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value
