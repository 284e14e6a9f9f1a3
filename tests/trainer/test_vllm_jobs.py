"""RLVR jobs whose completions a vLLM server generates, against one that speaks its protocol."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from plumbline_api.contract import TrainerConfig
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.failures import ConfigError, InfrastructureError
from plumbline_trainer.preflight import preflight
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import limits_of
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.rollout.vllm_engine import seed_of
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.build import build_task
from plumbline_trainer.tasks.data_sets import open_renderer
from plumbline_trainer.tasks.rlvr import RLVRTask, build, stop_tokens
from tests.trainer.rlvr_jobs import END, PARAMETERS, write_job
from tests.trainer.rlvr_rank import start_rank
from tests.trainer.toy_program import Child
from tests.trainer.vllm_server import VllmServer, serving, stream_of


@pytest.fixture
def server(model: Path) -> Iterator[VllmServer]:
    yield from serving(VllmServer(model, AutoTokenizer.from_pretrained(model), end_token=END))


Configure = Callable[..., TrainerConfig]


@pytest.fixture
def config_of(server: VllmServer, model: Path, tmp_path: Path) -> Configure:
    """`config_of(patch, training, sync, **engine)`: a job with `server`; `patch` maps dotted paths to values."""

    def make(
        patch: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        sync: str = "reload",
        **engine: Any,
    ) -> TrainerConfig:
        weight_sync = {sync: {} if sync == "none" else {"directory": str(tmp_path / "shared")}}
        engine = {"url": server.url, "model": "policy", "weightSync": weight_sync, "backoffSeconds": 0.01, **engine}
        around: dict[str, Any] = {"rollout.engine": {"vllm": engine}}
        if sync == "lora":
            around["peft"] = {"lora": {"rank": 4}}
        return write_job(tmp_path, model, around | (patch or {}), training or {})

    return make


class Run:
    """A job's steps with the smallest trainer that they need."""

    def __init__(self, config: TrainerConfig) -> None:
        stop = StopRequest()
        self.task: RLVRTask = build(config, Ranks(stop, torch.device("cpu")), stop)
        self.optimizer = torch.optim.AdamW(self.trained(), lr=1e-2)

    def trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.task.model.parameters() if parameter.requires_grad]

    def step(self, number: int) -> dict[str, Any]:
        """Runs step `number`: what was known of it before, and what its losses say."""
        self.optimizer.zero_grad()
        batch = self.task.prepare(number)
        found: dict[str, Any] = dict(batch.metrics)
        for micro_batch in batch.micro_batches:
            share, metrics = self.task.loss(micro_batch)
            share.backward()
            found |= metrics
        self.optimizer.step()
        self.task.step_done(number)
        return found

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.trained()]).clone()

    def gradient(self) -> torch.Tensor:
        return torch.cat([given(parameter.grad).flatten() for parameter in self.trained()])


def given(values: torch.Tensor | None) -> torch.Tensor:
    assert values is not None
    return values


@pytest.fixture
def open_run() -> Iterator[Callable[[TrainerConfig], Run]]:
    opened: list[Run] = []

    def open_one(config: TrainerConfig) -> Run:
        opened.append(Run(config))
        return opened[-1]

    yield open_one
    for run in opened:
        run.task.close()


def served_weights(server: VllmServer) -> torch.Tensor:
    """Those with which the server generates, an adapter's added to the model's."""
    adapters = list(server.loaded.values())
    found = adapters[0] if adapters else server.base
    return torch.cat([parameter.detach().flatten() for parameter in found.parameters()]).clone()


class TestRollouts:
    def test_have_the_tokens_of_the_trainers_engine(self, config_of, open_run, server):
        config = config_of({"kl": {"loss": {}}})
        spec = config.rlvr
        run = open_run(config)
        run.task.prepare(0)
        ends = stop_tokens(run.task.model, open_renderer(config), run.task.train)
        limits = limits_of(spec.rollout.sampling, run.task.tokenizer, ends, max_tokens=6, max_batch_size=64)
        engine = Engine(run.task.model, run.task.tokenizer, limits)
        experiences = run.task._rollout.experiences
        assert len(experiences) == 16
        for one in experiences:
            stream = stream_of(seed_of(Stream(3, "rollout", 0, one.slot, one.sample)))
            [[expected]] = engine.generate(
                [Request(run.task.train.prompt_ids[one.row], [stream])], spec.rollout.sampling
            )
            assert one.tokens == expected.tokens
            torch.testing.assert_close(one.sampled_logprobs, torch.tensor(expected.logprobs), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("sync", ["reload", "lora"])
    def test_are_those_of_the_present_policy(self, sync, config_of, open_run, server):
        run = open_run(config_of(sync=sync))
        found = []
        for step in range(4):
            metrics = run.step(step)
            assert metrics["sampler_gap"].value < 1e-5, "log-probabilities are those of the policy"
            found.append(served_weights(server))
        assert len(server.bodies("/collective_rpc" if sync == "reload" else "/v1/load_lora_adapter")) == 4
        assert all(not torch.equal(one, other) for one, other in pairwise(found))

    def test_several_updates_share_one(self, config_of, open_run, server):
        run = open_run(config_of({"rollout.updatesPerRollout": 2}))
        for step in range(4):
            run.step(step)
        assert len(server.bodies("/collective_rpc")) == 2

    def test_sync_is_a_phase(self, config_of, open_run):
        phases = open_run(config_of()).task.prepare(0).phase_seconds
        assert phases["sync"] > 0
        assert phases["generate"] > 0

    def test_figures_are_shown(self, config_of, open_run):
        metrics = open_run(config_of()).task.prepare(0).metrics
        assert metrics["tokens_per_second/decode"].value > 0
        assert 0 < metrics["completions/slowest_share"].value <= 1
        assert "tokens_per_second/prefill" not in metrics, "a server does not tell"

    def test_corrections_weigh_by_the_servers_log_probabilities(self, config_of, open_run, server):
        correction = {"offPolicyCorrection": {"truncated": {"bound": 100}}}
        plain = open_run(config_of(correction))
        assert plain.step(0)["off_policy/weight"].value == pytest.approx(1, abs=1e-4)

        def halved(document):
            for choice in document["choices"]:
                logprobs = choice["logprobs"]
                logprobs["token_logprobs"] = [value - 0.6931472 for value in logprobs["token_logprobs"]]
            return document

        server.change = halved
        doubled = open_run(config_of(correction))
        metrics = doubled.step(0)
        assert metrics["off_policy/weight"].value == pytest.approx(2, rel=1e-4)
        assert metrics["sampler_gap"].value == pytest.approx(0.6931472, rel=1e-4)
        torch.testing.assert_close(doubled.gradient(), 2 * plain.gradient(), rtol=1e-3, atol=1e-6)


class TestResume:
    @pytest.mark.parametrize("updates", [1, 2])
    def test_a_resumed_run_equals_a_whole_one(self, updates, config_of, open_run, server):
        config = config_of({"rollout.updatesPerRollout": updates})
        whole = open_run(config)
        for step in range(4):
            whole.step(step)
        first = open_run(config)
        first.step(0)
        state = json.loads(json.dumps(first.task.state_dict()))
        server.start_anew()
        second = open_run(config)
        second.task.model.load_state_dict(first.task.model.state_dict())
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        second.task.load_state_dict(state)
        for step in range(1, 4):
            second.step(step)
        assert torch.equal(second.weights(), whole.weights())


class TestEvaluation:
    @pytest.fixture
    def measured(self, config_of, open_run):
        def make(**options):
            config = config_of(**options)
            document = json.loads(config.model_dump_json(by_alias=True, exclude_none=True))
            document["rlvr"]["data"]["evaluation"] = document["rlvr"]["data"]["train"]
            document["paths"]["evaluation"] = document["paths"]["train"]
            return open_run(TrainerConfig.model_validate(document))

        return make

    def test_is_of_the_updated_policy_and_pushes_once(self, measured, server):
        run = measured()
        run.step(0)
        server.seen.clear()
        run.task.evaluate()
        assert len(server.bodies("/collective_rpc")) == 1
        assert all(body["temperature"] == 0 for body in server.bodies())
        policy = torch.cat([parameter.detach().flatten() for parameter in run.task.model.parameters()])
        assert torch.equal(served_weights(server), policy)
        run.task.prepare(1)
        assert len(server.bodies("/collective_rpc")) == 1, "the rollout needs the same weights"

    def test_a_server_with_weights_of_its_own_takes_no_part(self, measured, server):
        run = measured(sync="none", patch={"offPolicyCorrection": {"truncated": {}}})
        run.step(0)
        server.seen.clear()
        assert "accuracy" in run.task.evaluate()
        assert server.seen == []


GREEDY = {"advantage": {"remax": {}}}
CONTINUED = {"advantage": {"monteCarloValue": {}}}
FORCED = {"shaping": [{"progress": {}}]}


@pytest.mark.parametrize(
    "patch",
    [
        GREEDY,
        CONTINUED,
        FORCED,
        {"exploration.resampling": {"dynamicSampling": {}}},
        {"exploration.replay": {"selective": {}}},
        {"exploration.rescue": {"guidance": PARAMETERS["exploration.rescue", "guidance"]}},
        {"kl": {"reward": {}}},
    ],
    ids=["greedy", "continuations", "forced-answers", "resampling", "replay", "guidance", "kl-in-reward"],
)
def test_stages_that_need_more_work_with_a_server(patch, config_of, open_run):
    run = open_run(config_of(patch))
    for step in range(2):
        run.step(step)
    assert run.weights().isfinite().all()


def test_two_ranks_push_once_and_make_the_rollout_of_one(config_of, open_run, server, tmp_path):
    config = config_of({"rollout.updatesPerRollout": 2}, sync="lora")
    (tmp_path / "config.json").write_text(config.model_dump_json(by_alias=True, exclude_none=True))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [start_rank(tmp_path / "config.json", rank, **address) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.bodies("/v1/load_lora_adapter")) == 1
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = open_run(config)
    alone.task.prepare(0)
    states = [both[0]["state"], both[1]["state"], alone.task.state_dict()]
    written = [
        {(one["slot"], one["sample"]): one["tokens"] for one in state["rollout"]["experiences"]} for state in states
    ]
    assert written[0] == written[1] == written[2]


class TestStart:
    def test_a_server_that_does_not_fit_is_refused(self, config_of):
        config = config_of(model="qwen")
        with pytest.raises(ConfigError, match=r"vllm\.model: .* does not serve 'qwen'"):
            build(config, Ranks(StopRequest(), torch.device("cpu")), StopRequest())

    def test_forced_answers_need_room_as_well(self, config_of, server):
        server.max_model_len = 20
        with pytest.raises(ConfigError, match="max-model-len 20"):
            build(config_of(FORCED), Ranks(StopRequest(), torch.device("cpu")), StopRequest())

    def test_a_server_that_is_not_there_yet_may_come(self, config_of):
        config = config_of(url="http://127.0.0.1:9", attempts=1)
        with pytest.raises(InfrastructureError, match="could not be reached"):
            build(config, Ranks(StopRequest(), torch.device("cpu")), StopRequest())


class TestPreflight:
    def test_passes_without_the_server(self, config_of):
        assert preflight(config_of(url="http://127.0.0.1:9")).training_rows == 6

    def test_names_a_missing_key(self, config_of, monkeypatch):
        monkeypatch.delenv("ROLLOUT_KEY", raising=False)
        with pytest.raises(ConfigError, match="the environment variable ROLLOUT_KEY is not set"):
            preflight(config_of(apiKeyVariable="ROLLOUT_KEY"))

    def test_tries_the_folder_of_the_weights(self, config_of, tmp_path):
        (tmp_path / "shared").write_text("")
        with pytest.raises(ConfigError, match="folder for weights for the rollout server"):
            preflight(config_of())


def test_a_whole_job_by_its_manifest(server, model, tmp_path):
    """It learns to write what is rewarded, is measured with the server, and exports what it served last."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": word, "answer": "1"}) + "\n" for word in "abcdefgh"))
    source = {"source": {"path": {"path": str(rows)}}}
    steps = 12
    manifest = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "RLVRJob",
        "metadata": {"name": "served"},
        "spec": {
            "runtimeRef": {"name": "torch-cpu"},
            "model": {"source": {"path": {"path": str(model)}}, "dtype": "float32"},
            "data": {"train": source, "evaluation": source},
            "objective": {"grpo": {}},
            "optimizer": {"adamw": {"learningRate": 0.02}},
            "rollout": {
                "groupSize": 8,
                "engine": {
                    "vllm": {
                        "url": server.url,
                        "model": "policy",
                        "weightSync": {"reload": {"directory": str(tmp_path / "shared")}},
                    }
                },
            },
            "rewards": [{"name": "right", "verifier": {"regex": {"pattern": "1.*", "mode": "fullMatch"}}}],
            "training": {
                "steps": steps,
                "batchSize": 64,
                "maxPromptTokens": 8,
                "maxCompletionTokens": 2,
                "gradientClip": 0,
            },
            "output": {"path": str(tmp_path / "output")},
        },
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(manifest))
    child = Child(path, build=build_task)
    assert child.wait() == 0, child.log.read_text()
    rewards = [line["reward/mean"] for line in child.lines() if line["event"] == "step"]
    assert rewards[-1] > rewards[0] + 0.3, rewards
    assert len(server.bodies("/collective_rpc")) == steps + 1, "one push a rollout, one before the last evaluation"
    exported = load_file(tmp_path / "output" / "model.safetensors")
    served = server.base.state_dict()
    assert all(torch.equal(values, served[name]) for name, values in exported.items())
    assert list((tmp_path / "shared").iterdir()) == [], "weights for the server are gone"
    last = child.last_words()
    assert last["score"]["value"] > last["score"]["first"]
