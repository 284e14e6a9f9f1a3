"""Rows that a verifier cannot use are refused before anything is trained, by file and line."""

import json

import pytest

from plumbline_api.sources import Dataset, Reward
from plumbline_trainer.data.rows import load_rows
from plumbline_trainer.failures import DataError
from plumbline_trainer.rewards import rehearsal
from plumbline_trainer.rewards.pool import VerifierPool
from plumbline_trainer.rewards.rehearsal import rehearse

CHOICES = {"prompt": "p", "answer": "B", "choices": ["one", "two"]}
SCHEMA = {"prompt": "p", "format": {"type": "object"}}
RULES = {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def rehearsed(tmp_path, verifier, rows):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_rows(str(file), Dataset(source={"path": {"path": str(file)}}), "prompts").rows
    rewards = [Reward(name="form", verifier=verifier, timeout_seconds=30)]
    with VerifierPool(rewards, {}, workers=1) as pool:
        return rehearse(rewards, found, pool)


@pytest.mark.parametrize(
    ("verifier", "good", "change", "message"),
    [
        ({"multipleChoice": {"choicesColumn": "choices"}}, CHOICES, {"choices": "one or two"}, "must be a list of 2"),
        ({"multipleChoice": {"choicesColumn": "choices"}}, CHOICES, {"answer": "C"}, "'C' is none of the options"),
        ({"multipleChoice": {"choicesColumn": "choices"}}, CHOICES, {"choices": None}, "the row has no choices"),
        ({"multipleChoice": {}}, CHOICES, {"answer": "E"}, "'E' is none of the options A to D"),
        ({"jsonSchema": {"schemaColumn": "format"}}, SCHEMA, {"format": "{"}, "is not JSON"),
        ({"jsonSchema": {"schemaColumn": "format"}}, SCHEMA, {"format": {"type": "thing"}}, "malformed"),
        ({"instructions": {"fromRows": True}}, RULES, {"instruction_id_list": ["no:rule"]}, "'no:rule' is not known"),
        ({"instructions": {"fromRows": True}}, RULES, {"kwargs": []}, "lists of equal length"),
        ({"math": {}}, CHOICES, {"answer": " "}, "holds no mathematical expression"),
        ({"numeric": {"shape": "fuzzy"}}, {"prompt": "p", "answer": 1}, {"answer": "many"}, "is not a number"),
        ({"reasoningGym": {}}, None, {"prompt": "p"}, "the row has no reasoningGym"),
    ],
)
def test_a_row_that_its_verifier_cannot_use_is_refused_by_line(tmp_path, verifier, good, change, message):
    rows = [good, {**(good or {}), **change}, good] if good else [change]
    if good:
        assert rehearsed(tmp_path, verifier, [good, good]) == []
    line = 2 if good else 1
    with pytest.raises(DataError, match=rf"train\.jsonl:{line}: reward form cannot be computed: .*{message}"):
        rehearsed(tmp_path, verifier, rows)


def test_rows_far_down_are_read_too(tmp_path):
    rows = [SCHEMA] * (2 * rehearsal.CHUNK + 7) + [{"prompt": "p", "format": 7}]
    with pytest.raises(DataError, match=rf"train\.jsonl:{len(rows)}: "):
        rehearsed(tmp_path, {"jsonSchema": {"schemaColumn": "format"}}, rows)


def test_a_rehearsal_ends_when_its_time_is_over(tmp_path, monkeypatch):
    """A file of any size must not hold up the start; what was not tried counts as an error in training."""
    monkeypatch.setattr(rehearsal, "REHEARSAL_SECONDS", 0.0)
    monkeypatch.setattr(rehearsal.VerifierPool, "run", without_limit(rehearsal.VerifierPool.run))
    rows = [SCHEMA] * rehearsal.CHUNK + [{"prompt": "p", "format": 7}]
    assert rehearsed(tmp_path, {"jsonSchema": {"schemaColumn": "format"}}, rows) == []


def without_limit(run):
    return lambda pool, calls, on_outcome, longest: run(pool, calls, on_outcome=on_outcome)
