"""Configurations: snapshots and manifests with local paths; what is refused names its field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline_trainer.configuration import identity_of, load_config
from plumbline_trainer.failures import ConfigError


def path_source(path: str) -> dict[str, Any]:
    return {"source": {"path": {"path": path}}}


PREFERENCE: dict[str, Any] = {
    "apiVersion": "plumbline.dev/v1alpha1",
    "kind": "PreferenceJob",
    "metadata": {"name": "sums", "namespace": "team", "labels": {"any": "label"}},
    "spec": {
        "runtimeRef": {"name": "torch-cpu"},
        "model": path_source("models/base"),
        "data": {"train": path_source("train.jsonl"), "evaluation": path_source("held-out.parquet")},
        "objective": {"dpo": {"beta": 0.2}},
        "training": {"steps": 10},
        "output": {"path": "results/sums"},
    },
}
RLVR: dict[str, Any] = {
    **PREFERENCE,
    "kind": "RLVRJob",
    "spec": {
        **{key: value for key, value in PREFERENCE["spec"].items() if key != "objective"},
        "objective": {"grpo": {}},
        "rewards": [
            {"name": "right", "verifier": {"numeric": {}}},
            {"name": "short", "verifier": {"python": {"path": "reward.py"}}},
        ],
    },
}


def written(folder: Path, document: Any, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(json.dumps(document) if name.endswith(".json") else yaml.safe_dump(document))
    return path


def changed(document: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A copy with the dotted `field` set, or removed where `value` is `...`."""
    result = copy.deepcopy(document)
    *parents, last = field.split(".")
    target = result
    for name in parents:
        target = target[name]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return result


@pytest.mark.parametrize("name", ["job.yaml", "job.json"])
def test_a_manifest_gives_local_paths(name: str, tmp_path: Path) -> None:
    config = load_config(written(tmp_path, PREFERENCE, name))
    assert (config.kind, config.name, config.namespace) == ("PreferenceJob", "sums", "team")
    assert config.spec.objective.key == "dpo"
    assert config.paths.model == "models/base"
    assert config.paths.train == "train.jsonl"
    assert config.paths.evaluation == "held-out.parquet"
    assert config.paths.output == "results/sums"
    assert config.paths.checkpoints == "results/sums-checkpoints", "beside the model, which is nothing but a model"


def test_the_files_of_a_mixture_are_found_by_name(tmp_path: Path) -> None:
    sources = {"a": path_source("a.jsonl"), "b": {"source": {"uri": {"uri": "https://example.org/b.jsonl"}}}}
    mixture = [{"name": name, "weight": 2, **source} for name, source in sources.items()]
    config = load_config(written(tmp_path, changed(PREFERENCE, "spec.data", {"mixture": mixture})))
    assert config.paths.train is None
    assert config.paths.mixture == {"a": "a.jsonl", "b": "https://example.org/b.jsonl"}
    mixture[1]["source"] = {"configMap": {"name": "rows", "key": "b.jsonl"}}
    with pytest.raises(ConfigError, match=r"spec\.data\.mixture\[1\]\.source\.configMap needs a cluster"):
        load_config(written(tmp_path, changed(PREFERENCE, "spec.data", {"mixture": mixture})))


def test_reward_code_is_found_by_component(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, RLVR))
    assert config.paths.rewards == {"short": "reward.py"}


def test_a_snapshot_round_trips(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, RLVR))
    assert load_config(written(tmp_path, config.to_document(), "config.json")) == config


@pytest.mark.parametrize(
    ("field", "source", "message"),
    [
        ("spec.model.source", {"volume": {"claimName": "models"}}, "spec.model.source.volume needs a cluster"),
        (
            "spec.data.train.source",
            {"configMap": {"name": "data", "key": "train.jsonl"}},
            "spec.data.train.source.configMap needs a cluster; give spec.data.train.source.path",
        ),
        (
            "spec.data.evaluation.source",
            {"volume": {"claimName": "data", "path": "held-out.jsonl"}},
            "spec.data.evaluation.source.volume needs a cluster",
        ),
    ],
)
def test_sources_that_only_a_cluster_resolves_are_refused(
    field: str, source: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(written(tmp_path, changed(PREFERENCE, field, source)))
    assert message in str(refused.value)
    assert "job.yaml" in str(refused.value)


def test_a_uri_needs_no_cluster(tmp_path: Path) -> None:
    source = {"uri": {"uri": "https://example.org/train.jsonl"}}
    config = load_config(written(tmp_path, changed(PREFERENCE, "spec.data.train.source", source)))
    assert config.paths.train == "https://example.org/train.jsonl"


def test_an_output_without_a_path_is_refused(tmp_path: Path) -> None:
    document = changed(PREFERENCE, "spec.output", {"volume": {"claimName": "results"}})
    with pytest.raises(ConfigError, match=r"spec\.output\.path must be set to run without a cluster"):
        load_config(written(tmp_path, document))


def test_reward_code_in_a_config_map_is_refused(tmp_path: Path) -> None:
    document = copy.deepcopy(RLVR)
    document["spec"]["rewards"][1]["verifier"] = {"python": {"configMap": "code"}}
    with pytest.raises(ConfigError, match=r"spec\.rewards\[1\]\.verifier\.python\.path must be set"):
        load_config(written(tmp_path, document))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spec.training.batchsize", 8, "spec.training.batchsize: unknown field; did you mean batchSize?"),
        ("spec.training.steps", "ten", "spec.training.steps: must be an integer"),
        ("spec.objective", {}, "spec.objective: exactly one of"),
        ("spec.objective", {"dpo": {}, "ipo": {}}, "spec.objective: exactly one of"),
        ("spec.model", ..., "spec.model: is required"),
        ("kind", "Pod", "kind must be one of PreferenceJob, RLVRJob, but it is 'Pod'"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_field(field: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(written(tmp_path, changed(PREFERENCE, field, value)))
    assert message in str(refused.value)
    assert str(tmp_path / "job.yaml") in str(refused.value)


def test_a_group_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.groupSize must be at least 2"):
        load_config(written(tmp_path, changed(RLVR, "spec.rollout", {"groupSize": 1})))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.json", '{\n  "kind": ,\n}', "job.json:2: not valid JSON"),
        ("job.yaml", "kind: [\n", "job.yaml:2: not one valid YAML document"),
        ("job.yaml", "a: 1\n---\nb: 2\n", "not one valid YAML document"),
        ("job.yaml", "- a\n", "must be an object, but it is list"),
        ("job.json", "null", "must be an object"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named_with_its_line(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert message in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.json cannot be read"):
        load_config(tmp_path / "missing.json")


def test_a_snapshot_needs_exactly_the_spec_of_its_kind(tmp_path: Path) -> None:
    document = load_config(written(tmp_path, PREFERENCE)).to_document()
    with pytest.raises(ConfigError, match="must be set for kind RLVRJob"):
        load_config(written(tmp_path, {**document, "kind": "RLVRJob"}, "config.json"))


def test_a_snapshot_of_another_contract_is_refused(tmp_path: Path) -> None:
    document = load_config(written(tmp_path, PREFERENCE)).to_document()
    with pytest.raises(ConfigError, match="contractVersion"):
        load_config(written(tmp_path, {**document, "contractVersion": "v2"}, "config.json"))


def identity(folder: Path, document: dict[str, Any]) -> dict[str, Any]:
    return identity_of(load_config(written(folder, document)), {"model": "sha256:1"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spec.runPolicy", {"backoffLimit": 9}),
        ("spec.checkpoint", {"everySteps": 3}),
        ("spec.resources", {"replicas": 2}),
        ("spec.output", {"path": "elsewhere"}),
        ("spec.data.evaluation", path_source("other.jsonl")),
        ("spec.data.train", path_source("/mnt/train.jsonl")),
        ("metadata.name", "renamed"),
    ],
)
def test_what_changes_no_number_is_not_part_of_the_identity(field: str, value: Any, tmp_path: Path) -> None:
    assert identity(tmp_path, changed(PREFERENCE, field, value)) == identity(tmp_path, PREFERENCE)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("spec.training", {"steps": 11}, "spec.training.steps"),
        ("spec.objective", {"dpo": {"beta": 0.3}}, "spec.objective.dpo.beta"),
        ("spec.optimizer", {"adamw": {"learningRate": 0.5}}, "spec.optimizer.adamw.learningRate"),
    ],
)
def test_what_changes_the_result_is_part_of_the_identity(field: str, value: Any, name: str, tmp_path: Path) -> None:
    one, other = identity(tmp_path, PREFERENCE), identity(tmp_path, changed(PREFERENCE, field, value))
    assert [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)] == [name]
