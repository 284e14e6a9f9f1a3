"""The snapshot and the pods that are made of it: paths, resources, security, environment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plumbline_api.contract import TrainerConfig
from plumbline_api.scheduling import Scheduling
from plumbline_operator.children import Placement, pod_manifest, service_manifest
from plumbline_operator.decide.acceptance import accept
from plumbline_operator.model import Observed
from plumbline_operator.snapshot import Snapshot, read_snapshot, whole_cpus
from tests.operator.job_documents import RUNTIME, preference_job, rlvr_job, stored


def snapshot_of(job: dict[str, Any], **runtime: Any) -> Snapshot:
    return read_snapshot(config_map_of(job, **runtime))


def config_map_of(job: dict[str, Any], **runtime: Any) -> dict[str, Any]:
    document = {**RUNTIME, "spec": {**RUNTIME["spec"], **runtime}}
    return accept(Observed(job=stored(job), runtime=document))


def pod_of(job: dict[str, Any], rank: int = 0, scheduling: Scheduling | None = None, **runtime: Any) -> dict[str, Any]:
    snapshot = snapshot_of(job, **runtime)
    return pod_manifest(stored(job), snapshot, Placement(scheduling or Scheduling()), 2, rank, "10.96.0.7")


def mounts_of(pod: dict[str, Any]) -> dict[str, tuple[str, str | None, bool]]:
    """Claim or other source, sub-path and read-only flag by mount path."""
    sources = {}
    for volume in pod["spec"]["volumes"]:
        source = next(value for key, value in volume.items() if key != "name")
        sources[volume["name"]] = source.get("claimName") or source.get("name") or "emptyDir"
    return {
        mount["mountPath"]: (sources[mount["name"]], mount.get("subPath"), mount.get("readOnly", False))
        for mount in pod["spec"]["containers"][0]["volumeMounts"]
    }


def environment_of(pod: dict[str, Any], container: str = "containers") -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["spec"][container][0]["env"]}


def test_the_config_is_what_the_trainer_parses() -> None:
    config_map = config_map_of(preference_job())
    config = TrainerConfig.model_validate_json(config_map["data"]["config.json"])
    assert (config.kind, config.name, config.namespace, config.uid) == ("PreferenceJob", "tune", "team", "uid-1")
    assert config.spec.resources.cpu == "2", "what the spec leaves open comes from the runtime"
    assert config_map["immutable"] is True
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_the_same_job_and_runtime_give_the_same_hash_and_another_runtime_gives_another() -> None:
    assert snapshot_of(preference_job()).hash == snapshot_of(preference_job()).hash
    assert snapshot_of(preference_job()).hash != snapshot_of(preference_job(), image="trainer:2").hash


def test_volumes_are_mounted_where_the_contract_says() -> None:
    assert mounts_of(pod_of(preference_job())) == {
        "/etc/plumbline": ("tune-snapshot", None, True),
        "/tmp": ("emptyDir", None, False),
        "/dev/shm": ("emptyDir", None, False),
        "/plumbline/model": ("models", "tiny", True),
        "/plumbline/data/train": ("data", "pairs", True),
        "/plumbline/output": ("results", "tune", False),
        "/plumbline/checkpoints": ("results", "tune/checkpoints", False),
    }
    paths = snapshot_of(preference_job()).config.paths
    assert paths.train == "/plumbline/data/train/train.jsonl"
    assert paths.output_uri == "pvc://results/tune"
    assert paths.checkpoints_uri == "pvc://results/tune/checkpoints"


def test_a_file_at_the_root_of_a_volume_and_a_checkpoint_volume() -> None:
    job = preference_job(
        data={"train": {"source": {"volume": {"claimName": "data", "path": "train.jsonl"}}}},
        checkpoint={"volume": {"claimName": "fast", "path": "state"}},
        output={"volume": {"claimName": "results", "path": "models/a"}},
    )
    mounts = mounts_of(pod_of(job))
    assert mounts["/plumbline/data/train"] == ("data", None, True)
    assert mounts["/plumbline/checkpoints"] == ("fast", "state", False)
    assert mounts["/plumbline/output"] == ("results", "models/a", False)


def test_config_maps_locations_and_paths_of_the_image_are_sources_too() -> None:
    job = preference_job(
        model={"source": {"path": {"path": "/models/tiny"}}},
        data={
            "train": {"source": {"configMap": {"name": "rows", "key": "train.jsonl"}}},
            "evaluation": {"source": {"uri": {"uri": "s3://bucket/held-out.jsonl"}}},
        },
    )
    paths = snapshot_of(job).config.paths
    assert paths.model == "/models/tiny"
    assert paths.train == "/plumbline/data/train/train.jsonl"
    assert paths.evaluation == "s3://bucket/held-out.jsonl"
    assert mounts_of(pod_of(job))["/plumbline/data/train"] == ("rows", None, True)


def test_each_source_of_a_mixture_is_mounted_under_its_name() -> None:
    sources = {
        "helpful": {"volume": {"claimName": "data", "path": "pairs/helpful.jsonl"}},
        "safe": {"configMap": {"name": "rows", "key": "safe.jsonl"}},
        "remote": {"uri": {"uri": "s3://bucket/rows.parquet"}},
    }
    mixture = [{"name": name, "weight": 1, "source": source} for name, source in sources.items()]
    job = preference_job(data={"mixture": mixture})
    paths = snapshot_of(job).config.paths
    assert paths.train is None
    assert paths.mixture == {
        "helpful": "/plumbline/data/train/helpful/helpful.jsonl",
        "safe": "/plumbline/data/train/safe/safe.jsonl",
        "remote": "s3://bucket/rows.parquet",
    }
    mounts = mounts_of(pod_of(job))
    assert mounts["/plumbline/data/train/helpful"] == ("data", "pairs", True)
    assert mounts["/plumbline/data/train/safe"] == ("rows", None, True)
    assert "/plumbline/data/train" not in mounts
    names = [volume["name"] for volume in pod_of(job)["spec"]["volumes"]]
    assert len(names) == len(set(names))


def test_generated_prompts_need_no_mount() -> None:
    job = rlvr_job()
    generator = {"reasoningGym": {"task": "chain_sum", "config": {"max_terms": 3, "nothing": None}}}
    job["spec"]["data"] = {"train": {"generator": generator}}
    snapshot = snapshot_of(job)
    assert snapshot.config.paths.train is None
    assert snapshot.config.rlvr.data.to_document()["train"]["generator"]["reasoningGym"]["config"] == {
        "max_terms": 3,
        "nothing": None,
    }
    assert not [path for path in mounts_of(pod_of(job)) if path.startswith("/plumbline/data")]


def test_reward_code_is_mounted_under_its_name() -> None:
    job = rlvr_job()
    assert snapshot_of(job).config.paths.rewards == {"own_code": "/plumbline/rewards/own_code/score.py"}
    assert mounts_of(pod_of(job))["/plumbline/rewards/own_code"] == ("rewards", None, True)


def test_reward_models_are_mounted_under_their_name() -> None:
    job = rlvr_job()
    source = {"volume": {"claimName": "models", "path": "liked"}}
    job["spec"]["rewards"].append({"name": "is_liked", "verifier": {"rewardModel": {"source": source}}})
    assert snapshot_of(job).config.paths.reward_models == {"is_liked": "/plumbline/reward-models/is_liked"}
    assert mounts_of(pod_of(job))["/plumbline/reward-models/is_liked"] == ("models", "liked", True)


def test_pods_meet_the_restricted_pod_security_standard() -> None:
    spec = pod_of(preference_job())["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec["initContainers"], *spec["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
    assert not any("hostPath" in volume for volume in spec["volumes"])


def test_ranks_meet_at_the_address_of_the_attempt() -> None:
    job = preference_job(replicas=2)
    other, leader = environment_of(pod_of(job, 1)), environment_of(pod_of(job, 0))
    assert (other["RANK"], other["WORLD_SIZE"], other["LOCAL_RANK"]) == ("1", "2", "0")
    assert (other["MASTER_ADDR"], other["MASTER_PORT"], other["PLUMBLINE_ATTEMPT"]) == ("10.96.0.7", "29400", "2")
    assert leader["MASTER_ADDR"]["fieldRef"]["fieldPath"] == "status.podIP"
    service = service_manifest(stored(job), 2)
    labels = pod_of(job, 0)["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert not service["spec"]["selector"].items() <= pod_of(job, 1)["metadata"]["labels"].items()


def test_gpus_are_for_the_trainer_only() -> None:
    job = preference_job()
    job["spec"]["resources"]["gpus"] = 2
    spec = pod_of(job)["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in spec["initContainers"][0]["resources"]["limits"]
    assert spec["containers"][0]["resources"]["requests"] == spec["containers"][0]["resources"]["limits"]


def test_the_runtimes_environment_has_the_last_word() -> None:
    variables = [
        {"name": "OMP_NUM_THREADS", "value": "7"},
        {"name": "TOKEN", "secretKeyRef": {"name": "hub", "key": "token"}},
    ]
    environment = environment_of(pod_of(preference_job(), env=variables))
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["TOKEN"]["secretKeyRef"] == {"name": "hub", "key": "token", "optional": False}


def test_scheduling_adds_to_the_runtimes() -> None:
    scheduling = Scheduling.model_validate(
        {"nodeSelector": {"zone": "b"}, "tolerations": [{"key": "gpu"}], "priorityClassName": "high"}
    )
    spec = pod_of(preference_job(), 0, scheduling, nodeSelector={"disk": "ssd"}, tolerations=[{"key": "spot"}])["spec"]
    assert spec["nodeSelector"] == {"disk": "ssd", "zone": "b"}
    assert [entry["key"] for entry in spec["tolerations"]][:2] == ["gpu", "spot"]
    assert spec["priorityClassName"] == "high"


def test_names_are_short_enough_for_the_longest_job_name() -> None:
    job = preference_job("j" * 40, replicas=1024, training={"steps": 1, "batchSize": 1024})
    name = pod_manifest(stored(job), snapshot_of(job), Placement(), 1001, 1023, "")["metadata"]["name"]
    assert len(name) <= 63


@pytest.mark.parametrize(
    ("quantity", "threads"), [("1", 1), ("500m", 1), ("2500m", 3), ("0.5", 1), ("16", 16), ("2e0", 2), ("1k", 1000)]
)
def test_cpu_quantities_become_threads(quantity: str, threads: int) -> None:
    assert whole_cpus(quantity) == threads


def test_the_snapshot_fits_a_config_map() -> None:
    assert len(json.dumps(config_map_of(rlvr_job()))) < 100_000
