"""What a user reads beyond the table of bad specs: many errors at once, and a spec outside a cluster."""

from __future__ import annotations

import datetime
import json

import pytest

from plumbline_api.contract import StatusReport, TrainerConfig
from plumbline_api.messages import FieldError, InvalidSpec, join, validate
from plumbline_api.preference_job import PreferenceJob
from plumbline_api.rlvr_job import RLVRJob
from tests.api.valid_specs import valid


def test_all_errors_are_told_at_once_one_a_line() -> None:
    document = valid("RLVRJob", {"spec.training.batchSize": 0, "spec.rewards.0.weight": "1", "spec.modle": {}})
    with pytest.raises(InvalidSpec) as refused:
        validate(RLVRJob, document)
    assert str(refused.value).splitlines() == [
        "spec.training.batchSize: 0 is below the minimum of 1",
        'spec.rewards[0].weight: must be a number, not the string "1"',
        "spec.modle: unknown field; did you mean model?",
    ]


def test_two_broken_rules_of_one_block_are_both_told() -> None:
    document = valid("RLVRJob", {"spec.rollout.groupSize": 1, "spec.evaluation.everySteps": 1})
    with pytest.raises(InvalidSpec) as refused:
        validate(RLVRJob, document)
    assert [error.path for error in refused.value.errors] == ["spec.evaluation.everySteps", "spec.rollout.groupSize"]


def test_a_local_output_folder_is_for_the_trainer_by_itself() -> None:
    document = valid("PreferenceJob", {"spec.output": {"path": "/tmp/model"}})
    assert validate(PreferenceJob, document).spec.output.path == "/tmp/model"
    with pytest.raises(InvalidSpec, match="path must not be set in a cluster"):
        validate(PreferenceJob, document, in_cluster=True)


def test_a_wrong_kind_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r'^kind: "RLVRJob" is not one of PreferenceJob$'):
        validate(PreferenceJob, {**valid("PreferenceJob"), "kind": "RLVRJob"})


@pytest.mark.parametrize("document", [None, [], "spec", 3])
def test_a_document_that_is_no_object(document: object) -> None:
    with pytest.raises(InvalidSpec, match=r"^must be an object, not "):
        validate(PreferenceJob, document)


def test_no_traceback_for_values_that_json_lacks() -> None:
    for value in (float("nan"), float("inf"), datetime.date(2030, 1, 1), {1: 2}):
        with pytest.raises(InvalidSpec, match=r"^spec\.objective\.dpo\.beta: "):
            validate(PreferenceJob, valid("PreferenceJob", {"spec.objective.dpo.beta": value}))


def test_long_values_are_cut() -> None:
    with pytest.raises(InvalidSpec) as refused:
        validate(PreferenceJob, valid("PreferenceJob", {"spec.resources.memory": "x" * 30 + " " * 2}))
    assert len(str(refused.value)) < 250


def test_quantities_may_be_integers() -> None:
    assert validate(PreferenceJob, valid("PreferenceJob", {"spec.resources.cpu": 2})).spec.resources.cpu == "2"


def test_metadata_of_a_stored_object_is_kept() -> None:
    document = valid("PreferenceJob", {"metadata.managedFields": [{"manager": "kubectl"}], "metadata.uid": "u"})
    assert validate(PreferenceJob, document).metadata.uid == "u"


def test_paths() -> None:
    assert join(("spec", "rewards", 0, "weight")) == "spec.rewards[0].weight"
    assert join(("spec",), "rollout.groupSize") == "spec.rollout.groupSize"
    assert str(FieldError("", "must be an object")) == "must be an object"


@pytest.mark.parametrize(("kind", "field"), [("PreferenceJob", "preference"), ("RLVRJob", "rlvr")])
def test_a_snapshot_reads_back_as_it_was_written(kind: str, field: str) -> None:
    config = {
        "kind": kind,
        "name": "example",
        field: valid(kind, {"spec.training.gradientClip": 0, "spec.checkpoint.everySeconds": 0})["spec"],
        "paths": {"model": "/m", "train": "/t", "checkpoints": "/c", "output": "/o"},
    }
    written = validate(TrainerConfig, config)
    read = validate(TrainerConfig, json.loads(json.dumps(written.to_document())))
    assert read == written
    assert read.spec.training.gradient_clip == 0
    assert read.spec.checkpoint.every_seconds == 0


def test_times_are_read_from_the_wire() -> None:
    report = validate(StatusReport, {"state": "training", "lastStepTime": "2030-01-31T12:00:00Z"})
    assert report.last_step_time == datetime.datetime(2030, 1, 31, 12, tzinfo=datetime.UTC)
