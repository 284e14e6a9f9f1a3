"""Completions of a vLLM server, against one that speaks its protocol and generates with the trainer's own engine."""

import json
import re
import threading

import pytest
import torch
from tokenizers import Tokenizer, decoders
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from plumbline_api.methods.optimization import Lora
from plumbline_api.methods.rollout_engine import Vllm
from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.failures import ConfigError, Diverged, InfrastructureError
from plumbline_trainer.modeling.adapters import add_lora
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import limits_of
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.rollout.vllm_engine import VllmEngine, consecutive, seed_of
from plumbline_trainer.rollout.vllm_server import Server
from plumbline_trainer.rollout.vllm_weights import ServedWeights
from plumbline_trainer.stopping import StopRequest, StopRequested
from tests.trainer.vllm_server import VllmServer, serving, stream_of

ENDS = frozenset({2, 7, 19})
PROMPTS = ([1, 3, 9, 14, 30], [1, 3, 22], [1, 3, 40, 41, 12, 17, 8, 4])
RAW = Sampling(top_k=20, top_p=0.9)


@pytest.fixture
def server(llama_directory, chat_tokenizer):
    yield from serving(VllmServer(llama_directory, chat_tokenizer, end_token=2))


@pytest.fixture(scope="module")
def policy(llama_directory):
    return AutoModelForCausalLM.from_pretrained(llama_directory).eval()


class Client:
    """The trainer's side: engine and weights for one server."""

    def __init__(self, url, tokenizer, sampling=RAW, sync=None, max_tokens=16, environment=None, **parameters):
        parameters = {"timeoutSeconds": 30, "backoffSeconds": 0.01, **parameters}
        document = {"url": url, "model": "policy", "weightSync": sync or {"none": {}}, **parameters}
        self.parameters = Vllm.model_validate(document)
        self.sampling = sampling
        self.limits = limits_of(sampling, tokenizer, ENDS, max_tokens=max_tokens, max_batch_size=64)
        server = Server(self.parameters, environment or {})
        self.weights = ServedWeights(self.parameters, server, "job-7f3a")
        self.engine = VllmEngine(server, self.weights, self.limits, sampling)

    def generate(self, requests, greedy=False, poll=lambda: None):
        return self.engine.generate(requests, None if greedy else self.sampling, poll)


@pytest.fixture
def client(server, chat_tokenizer):
    def make(sampling=RAW, url=None, **options):
        return Client(url or server.url, chat_tokenizer, sampling, **options)

    return make


def requests_of(samples=4, step=0):
    return [
        Request(prompt, [Stream(7, "train", step, slot, sample) for sample in range(samples)])
        for slot, prompt in enumerate(PROMPTS)
    ]


def reference(model, client, requests, tokenizer, greedy=False):
    """What the trainer's engine generates with the server's random numbers."""
    engine = Engine(model, tokenizer, client.limits)
    wanted = [
        Request(one.prompt, [stream_of(seed_of(stream)) for stream in one.streams], one.max_tokens) for one in requests
    ]
    return engine.generate(wanted, None if greedy else client.sampling)


def assert_equal(found, expected):
    """The same tokens. Their log-probabilities differ in rounding: the server computes one request at a time, and sums
    in float32 depend on the shape of the batch. Logits are of the order of 10 here, so 1e-4 is some last bits of them.
    """
    assert [[one.tokens for one in group] for group in found] == [[one.tokens for one in group] for group in expected]
    assert [[one.finish for one in group] for group in found] == [[one.finish for one in group] for group in expected]
    for group, wanted in zip(found, expected, strict=True):
        for one, other in zip(group, wanted, strict=True):
            torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=0, atol=1e-4)


class TestCompletions:
    @pytest.mark.parametrize(
        "sampling",
        [
            Sampling(),
            RAW,
            Sampling(min_p=0.02, repetition_penalty=1.3),
            Sampling(min_tokens=6),
            Sampling(stop=["a", "9 "]),
            Sampling(stop=["b"], min_tokens=5),
            Sampling(stop_tokens=["<user>"], stop_token_ids=[11, 12]),
        ],
        ids=lambda sampling: ",".join(sorted(sampling.model_fields_set)) or "plain",
    )
    def test_equal_those_of_the_trainers_engine(self, sampling, client, policy, chat_tokenizer):
        ours = client(sampling, logprobsMode="raw")
        found = ours.generate(requests_of())
        assert_equal(found, reference(policy, ours, requests_of(), chat_tokenizer))

    def test_both_ends_occur(self, client):
        finishes = {one.finish for group in client().generate(requests_of(8)) for one in group}
        assert finishes == {"stop", "length"}

    def test_greedy_ones_are_asked_for_once_a_prompt(self, client, server, policy, chat_tokenizer):
        ours = client(Sampling(repetition_penalty=1.2))
        found = ours.generate(requests_of(3), greedy=True)
        assert_equal(found, reference(policy, ours, requests_of(3), chat_tokenizer, greedy=True))
        assert [body["n"] for body in server.bodies()] == [1, 1, 1]
        assert all(body["temperature"] == 0 and "seed" not in body for body in server.bodies())

    def test_follow_the_limit_of_their_request(self, client, policy, chat_tokenizer):
        streams = [Stream(7, "train", 0, 0, sample) for sample in range(4)]
        wanted = [Request(PROMPTS[0], streams, 3), Request(PROMPTS[0], streams, 500)]
        ours = client()
        found = ours.generate(wanted)
        assert_equal(found, reference(policy, ours, wanted, chat_tokenizer))
        assert max(len(one.tokens) for one in found[0]) == 3
        assert max(len(one.tokens) for one in found[1]) == 16

    def test_do_not_depend_on_how_samples_are_put_together(self, client):
        together = client().generate(requests_of(4))
        alone = [Request(one.prompt, [stream]) for one in requests_of(4) for stream in one.streams]
        assert_equal([[one] for group in together for one in group], client().generate(alone))

    def test_gaps_between_samples_make_requests_of_their_own(self, client, server, policy, chat_tokenizer):
        streams = [Stream(7, "train", 0, 0, sample) for sample in (0, 1, 5, 6, 7, 3)]
        ours = client()
        wanted = [Request(PROMPTS[0], streams)]
        assert_equal(ours.generate(wanted), reference(policy, ours, wanted, chat_tokenizer))
        assert sorted(body["n"] for body in server.bodies()) == [1, 2, 3]

    def test_nothing_is_asked_for_nothing(self, client, server):
        assert client().generate([]) == []
        assert client().generate([Request(PROMPTS[0], [])], greedy=True) == [[]]
        assert server.seen == []

    def test_figures(self, client):
        ours = client()
        found = [one for group in ours.generate(requests_of()) for one in group]
        figures = ours.engine.last_figures
        assert figures.completions == 12
        assert figures.tokens == sum(len(one.tokens) for one in found)
        assert figures.longest == max(len(one.tokens) for one in found)
        assert figures.prompt_tokens == sum(len(prompt) for prompt in PROMPTS)
        assert figures.decode_seconds > figures.alone_seconds > 0

    def test_the_last_request_alone_is_measured(self, client, server):
        """One reply is held back until all others were given."""
        given = threading.Semaphore(0)

        def hold_back(handler, path, body, attempt):
            if body["prompt"] == PROMPTS[0]:
                for _ in PROMPTS[1:]:
                    given.acquire()
                server.closing.wait(0.3)
            return False

        def count(document):
            given.release()
            return document

        server.behave, server.change = hold_back, count
        ours = client()
        ours.generate(requests_of())
        assert ours.engine.last_figures.alone_seconds >= 0.25
        assert 0 < ours.engine.last_figures.slowest_share <= 1


class TestGrammars:
    @pytest.fixture
    def byte_tokenizer(self, chat_tokenizer):
        """The same tokens, with a decoder that tells the library for grammars which bytes they stand for."""
        inner = Tokenizer.from_str(chat_tokenizer.backend_tokenizer.to_str())
        inner.decoder = decoders.ByteLevel()
        return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")

    @pytest.fixture
    def server(self, llama_directory, byte_tokenizer):
        yield from serving(VllmServer(llama_directory, byte_tokenizer, end_token=2))

    @pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
    @pytest.mark.parametrize(
        ("constraint", "pattern"),
        [
            ({"regex": "[0-9]{1,3}[.]"}, r"[0-9]{1,3}[.]"),
            ({"json_schema": {"enum": [1, 23, 456]}}, r"1|23|456"),
        ],
        ids=["regex", "json schema"],
    )
    def test_completions_follow_them(self, constraint, pattern, greedy, server, policy, byte_tokenizer):
        ours = Client(server.url, byte_tokenizer, Sampling(**constraint))
        found = ours.generate(requests_of(), greedy)
        assert_equal(found, reference(policy, ours, requests_of(), byte_tokenizer, greedy))
        texts = [byte_tokenizer.decode(one.tokens, skip_special_tokens=True) for group in found for one in group]
        assert all(re.fullmatch(pattern, text) for text in texts)


class TestSeeds:
    def test_samples_of_a_prompt_count_up(self):
        seeds = [seed_of(Stream(7, "train", 3, 5, sample)) for sample in range(5)]
        assert [seed - seeds[0] for seed in seeds] == [0, 1, 2, 3, 4]

    def test_everything_else_gives_another_seed(self):
        streams = [
            Stream(7, "train", 3, 5, 0),
            Stream(8, "train", 3, 5, 0),
            Stream(7, "evaluation", 3, 5, 0),
            Stream(7, "train", 4, 5, 0),
            Stream(7, "train", 3, 6, 0),
        ]
        assert len({seed_of(stream) >> 32 for stream in streams}) == len(streams)

    def test_fit_into_64_bits_with_a_sign(self):
        last = 2**32 - 1
        assert 0 <= seed_of(Stream(last, "x" * 50, last, last, last)) < 2**63

    def test_runs(self):
        streams = [Stream(1, "a", 0, 0, sample) for sample in (0, 1, 3, 4, 2)]
        assert [[stream.sample for stream in run] for run in consecutive(streams)] == [[0, 1], [3, 4], [2]]
        assert list(consecutive([])) == []


class TestTransport:
    def test_concurrency_is_bounded_and_connections_are_kept(self, client, server):
        client(maxConcurrentRequests=2).generate([request for step in range(6) for request in requests_of(1, step)])
        assert len(server.bodies()) == 18
        assert server.most_active == 2
        assert server.connections == 2

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_passing_failures_are_tried_again(self, status, client, server, policy, chat_tokenizer):
        server.behave = lambda handler, path, body, attempt: attempt < 3 and handler.reply({}, status)
        ours = client(attempts=3)
        assert_equal(ours.generate(requests_of()), reference(policy, ours, requests_of(), chat_tokenizer))
        assert len(server.bodies()) == 9

    def test_a_broken_connection_is_tried_again(self, client, server):
        def hang_up(handler, path, body, attempt):
            if attempt == 1:
                handler.close_connection = True
                handler.connection.close()
                return True
            return False

        server.behave = hang_up
        assert len(client(attempts=2).generate(requests_of())) == 3

    def test_retry_after_is_obeyed(self, client, server):
        server.behave = lambda handler, path, body, attempt: attempt == 1 and handler.reply({}, 429, Retry_After="1")
        client(attempts=2).generate(requests_of(1)[:1])
        first, second = server.times
        assert second - first >= 1.0

    def test_a_failure_that_stays_names_address_and_status(self, client, server):
        server.behave = lambda handler, path, body, attempt: handler.reply({"error": {"message": "no memory"}}, 500)
        with pytest.raises(InfrastructureError) as failure:
            client(attempts=2).generate(requests_of())
        assert f"{server.url}/v1/completions" in str(failure.value)
        assert "status 500: no memory (2 attempts)" in str(failure.value)

    def test_nobody_there(self, client):
        with pytest.raises(InfrastructureError, match=r"http://127\.0\.0\.1:9/v1/completions: .*could not be reached"):
            client(url="http://127.0.0.1:9", attempts=2).generate(requests_of())

    def test_a_reply_that_does_not_come_has_a_deadline(self, client, server):
        server.behave = lambda handler, path, body, attempt: server.closing.wait(30) or True
        with pytest.raises(InfrastructureError, match=r"/v1/completions: no reply within 0\.3 s"):
            client(timeoutSeconds=0.3).generate(requests_of())

    def test_the_deadline_covers_all_attempts(self, client, server):
        server.behave = lambda handler, path, body, attempt: handler.reply({"error": "busy"}, 503)
        with pytest.raises(InfrastructureError, match=r"no reply within 0\.3 s; before that: .*status 503: busy"):
            client(timeoutSeconds=0.3, attempts=20, backoffSeconds=0.2).generate(requests_of())

    def test_a_stop_gets_through_while_the_server_is_slow(self, client, server):
        stop, asked = StopRequest(), threading.Event()

        def wait(handler, path, body, attempt):
            asked.set()
            server.closing.wait(30)
            return True

        def poll():
            if asked.is_set():
                stop.request("SIGTERM")
            stop.raise_if_requested()

        server.behave = wait
        with pytest.raises(StopRequested):
            client().generate(requests_of(), poll=poll)

    def test_what_the_server_refuses_is_the_jobs_fault(self, client):
        with pytest.raises(ConfigError, match=r"status 400: This model's maximum context length is 64 tokens"):
            client(max_tokens=500).generate(requests_of())

    def test_a_model_that_is_gone_may_come_back(self, client):
        ours = client()
        ours.weights.model = "elsewhere"
        with pytest.raises(InfrastructureError, match="does not know the model 'elsewhere' any more"):
            ours.generate(requests_of())


class TestKey:
    @pytest.fixture
    def locked(self, llama_directory, chat_tokenizer):
        yield from serving(VllmServer(llama_directory, chat_tokenizer, end_token=2, key="secret"))

    def test_is_sent(self, locked, client):
        ours = client(url=locked.url, apiKeyVariable="VLLM_KEY", environment={"VLLM_KEY": "secret"})
        assert len(ours.generate(requests_of())) == 3

    def test_a_wrong_one_is_the_jobs_fault(self, locked, client):
        ours = client(url=locked.url, apiKeyVariable="VLLM_KEY", environment={"VLLM_KEY": "guess"})
        with pytest.raises(ConfigError, match=r"status 401: Unauthorized.*apiKeyVariable"):
            ours.generate(requests_of())

    def test_a_missing_variable_is_named(self, client):
        with pytest.raises(ConfigError, match=r"apiKeyVariable: the environment variable VLLM_KEY is not set"):
            client(apiKeyVariable="VLLM_KEY", environment={})


def without(name):
    def change(document):
        for choice in document["choices"]:
            choice.pop(name)
        return document

    return change


def with_choice(**fields):
    return lambda document: {**document, "choices": [{**choice, **fields} for choice in document["choices"]]}


def with_logprobs(change):
    def changed(document):
        for choice in document["choices"]:
            choice["logprobs"]["token_logprobs"] = change(choice["logprobs"]["token_logprobs"])
        return document

    return changed


class TestWrongReplies:
    @pytest.mark.parametrize(
        ("change", "failure", "message"),
        [
            (without("logprobs"), ConfigError, "no log-probabilities of the sampled tokens"),
            (with_choice(logprobs=None), ConfigError, "no log-probabilities of the sampled tokens"),
            (with_logprobs(lambda values: [None, *values[1:]]), ConfigError, "no log-probabilities of the sampled"),
            (with_logprobs(lambda values: values[1:]), ConfigError, r"log-probabilities for \d+ tokens"),
            (with_logprobs(lambda values: [float("nan"), *values[1:]]), Diverged, "not finite"),
            (without("token_ids"), ConfigError, "no token ids .*0.10.2"),
            (with_choice(token_ids=[]), ConfigError, "no token ids"),
            (with_choice(token_ids=["a"]), ConfigError, "no token ids"),
            (with_choice(token_ids=[3] * 17), ConfigError, "has 17 tokens, at most 16 were asked for"),
            (with_choice(prompt_token_ids=[1, 1]), ConfigError, "completed another prompt"),
            (with_choice(finish_reason="abort"), InfrastructureError, "broken off by the server .*'abort'"),
            (with_choice(index=0), ConfigError, "the reply has 2 completions, 2 were asked for"),
            (lambda document: {**document, "choices": document["choices"][:1]}, ConfigError, "has 1 completions, 2"),
            (lambda document: {"object": "chat.completion"}, ConfigError, "no text completion"),
            (lambda document: [document], ConfigError, "no text completion"),
        ],
    )
    def test_are_explained(self, change, failure, message, client, server):
        server.change = change
        with pytest.raises(failure, match=message) as caught:
            client().generate(requests_of(2))
        assert server.url in str(caught.value)

    def test_a_page_is_no_reply(self, client, server):
        server.behave = lambda handler, path, body, attempt: handler.reply(raw="<html>Sign in</html>")
        with pytest.raises(InfrastructureError, match="the reply is no JSON: <html>Sign in</html>"):
            client().generate(requests_of())


def trained(policy_directory, lora=False, seed=0, scale=0.2):
    """A policy that has moved: with an adapter, or as a whole."""
    model = AutoModelForCausalLM.from_pretrained(policy_directory)
    generator = torch.Generator().manual_seed(seed)
    if lora:
        model = add_lora(model, Lora(rank=4), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("kind", ["reload", "lora"])
class TestWeights:
    @pytest.fixture
    def sync(self, kind, tmp_path):
        return {kind: {"directory": str(tmp_path / "shared")}}

    def test_a_push_changes_what_is_sampled(self, kind, sync, client, server, alone, llama_directory, chat_tokenizer):
        ours = client(sync=sync)
        for step in range(3):
            model = trained(llama_directory, kind == "lora", seed=step)
            ours.weights.bring(model, step, alone)
            found = ours.generate(requests_of(4, step))
            assert_equal(found, reference(model, ours, requests_of(4, step), chat_tokenizer))
        assert len({json.dumps(body) for body in server.bodies("/v1/load_lora_adapter")}) == (
            3 if kind == "lora" else 0
        )

    def test_the_same_step_is_not_pushed_twice(self, kind, sync, client, server, alone, llama_directory):
        ours = client(sync=sync)
        model = trained(llama_directory, kind == "lora")
        ours.weights.bring(model, 4, alone)
        told = len(server.seen)
        ours.weights.bring(model, 4, alone)
        assert len(server.seen) == told
        ours.weights.bring(model, 5, alone)
        assert len(server.seen) > told

    def test_only_the_newest_is_kept(self, kind, sync, client, server, alone, llama_directory, tmp_path):
        earlier = client(sync=sync)
        model = trained(llama_directory, kind == "lora")
        for step in range(2):
            earlier.weights.bring(model, step, alone)
        # the next attempt of the job finds what the earlier one has left
        ours = client(sync=sync)
        for step in range(2):
            ours.weights.bring(model, step, alone)
        [left] = (tmp_path / "shared" / "job-7f3a").iterdir()
        assert list(server.loaded) == ([left.name] if kind == "lora" else [])

    def test_everybody_may_read_what_is_written(self, kind, sync, client, alone, llama_directory, tmp_path):
        client(sync=sync).weights.bring(trained(llama_directory, kind == "lora"), 0, alone)
        [left] = (tmp_path / "shared" / "job-7f3a").iterdir()
        modes = {path.name: path.stat().st_mode & 0o777 for path in left.iterdir()}
        assert set(modes.values()) == {modes["update"]}
        assert any(name.endswith(".safetensors") for name in modes)

    def test_the_server_may_see_the_directory_elsewhere(
        self, kind, client, server, alone, llama_directory, tmp_path, chat_tokenizer
    ):
        (tmp_path / "mounted").symlink_to(tmp_path / "shared")
        ours = client(
            sync={kind: {"directory": str(tmp_path / "shared"), "serverDirectory": str(tmp_path / "mounted")}}
        )
        ours.weights.bring(trained(llama_directory, kind == "lora"), 0, alone)
        if kind == "lora":
            [body] = server.bodies("/v1/load_lora_adapter")
            assert body["lora_path"].startswith(str(tmp_path / "mounted" / "job-7f3a"))
        else:
            [body] = server.bodies("/collective_rpc")
            assert body["kwargs"]["weights_path"].startswith(str(tmp_path / "mounted" / "job-7f3a"))

    def test_a_server_that_was_started_anew_is_noticed(self, kind, sync, client, server, alone, llama_directory):
        ours = client(sync=sync)
        ours.weights.bring(trained(llama_directory, kind == "lora"), 0, alone)
        ours.generate(requests_of())
        server.start_anew()
        with pytest.raises(InfrastructureError, match="started anew"):
            ours.generate(requests_of())

    def test_a_server_in_another_mode_is_explained(self, kind, sync, client, alone, llama_directory, chat_tokenizer):
        plain = VllmServer(llama_directory, chat_tokenizer, end_token=2, adapters=False, development=False)
        for server in serving(plain):
            ours = client(url=server.url, sync=sync)
            needed = "VLLM_ALLOW_RUNTIME_LORA_UPDATING" if kind == "lora" else "VLLM_SERVER_DEV_MODE"
            with pytest.raises(ConfigError, match=rf"status 404: Not Found.*{needed}"):
                ours.weights.bring(trained(llama_directory, kind == "lora"), 0, alone)

    def test_a_failing_push_is_infrastructure(self, kind, sync, client, server, alone, llama_directory):
        server.behave = lambda handler, path, body, attempt: handler.reply({"error": {"message": "CUDA error"}}, 500)
        with pytest.raises(InfrastructureError, match="status 500: CUDA error"):
            client(sync=sync, attempts=2).weights.bring(trained(llama_directory, kind == "lora"), 0, alone)

    def test_a_full_volume_is_named(self, kind, client, alone, llama_directory, small_volume):
        (small_volume / "filling").write_bytes(b"0" * (2**20 - 8192))
        ours = client(sync={kind: {"directory": str(small_volume / "shared")}})
        with pytest.raises(InfrastructureError, match=r"writing weights for the rollout server.*volume is full"):
            ours.weights.bring(trained(llama_directory, kind == "lora"), 0, alone)


class TestReload:
    def test_the_prefix_cache_is_emptied_after_the_weights(self, client, server, alone, llama_directory, tmp_path):
        ours = client(sync={"reload": {"directory": str(tmp_path / "shared")}})
        ours.weights.bring(trained(llama_directory), 0, alone)
        assert server.paths == ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version"]

    def test_servers_without_weight_versions_are_not_asked(
        self, client, alone, llama_directory, chat_tokenizer, tmp_path
    ):
        old = VllmServer(llama_directory, chat_tokenizer, end_token=2, versions=False)
        for server in serving(old):
            ours = client(url=server.url, sync={"reload": {"directory": str(tmp_path / "shared")}})
            ours.weights.bring(trained(llama_directory), 0, alone)
            ours.generate(requests_of())
            assert "/weight_info" not in server.paths


class TestAdapters:
    @pytest.fixture
    def sync(self, tmp_path):
        return {"lora": {"directory": str(tmp_path / "shared")}}

    def test_requests_ask_for_the_newest_by_name(self, sync, client, server, alone, llama_directory):
        ours = client(sync=sync)
        names = []
        for step in range(2):
            ours.weights.bring(trained(llama_directory, lora=True, seed=step), step, alone)
            ours.generate(requests_of())
            names.append(server.bodies()[-1]["model"])
        assert names[0] != names[1] == ours.weights.model
        assert all(name.startswith("job-7f3a-") for name in names)

    def test_other_jobs_adapters_stay(self, sync, client, server, alone, llama_directory):
        server.loaded["job-90bb-1"] = server.base
        client(sync=sync).weights.bring(trained(llama_directory, lora=True), 0, alone)
        assert "job-90bb-1" in server.loaded

    def test_a_reply_from_another_model_is_refused(self, sync, client, server, alone, llama_directory):
        ours = client(sync=sync)
        ours.weights.bring(trained(llama_directory, lora=True), 0, alone)
        server.change = lambda document: {**document, "model": "policy"}
        with pytest.raises(InfrastructureError, match=r"answered with the model 'policy' to a request for 'job-7f3a-"):
            ours.generate(requests_of())

    def test_a_directory_that_the_server_does_not_see(self, client, alone, llama_directory, tmp_path):
        sync = {"lora": {"directory": str(tmp_path / "shared"), "serverDirectory": "/nowhere"}}
        with pytest.raises(ConfigError, match=r"No adapter found for /nowhere/job-7f3a.*must name a directory"):
            client(sync=sync).weights.bring(trained(llama_directory, lora=True), 0, alone)

    def test_a_balancer_in_front_is_noticed(self, sync, client, server, alone, llama_directory):
        """The adapter lands on one server, and another one answers."""
        server.behave = lambda handler, path, body, attempt: (
            path == "/v1/load_lora_adapter" and handler.reply(raw="Success")
        )
        with pytest.raises(InfrastructureError, match=r"does not list the adapter .* several servers"):
            client(sync=sync).weights.bring(trained(llama_directory, lora=True), 0, alone)


class TestNoSync:
    def test_the_server_keeps_its_weights(self, client, server, alone, llama_directory, policy, chat_tokenizer):
        ours = client()
        ours.weights.bring(trained(llama_directory), 3, alone)
        assert server.seen == []
        assert_equal(ours.generate(requests_of()), reference(policy, ours, requests_of(), chat_tokenizer))


class TestCheck:
    def test_a_server_that_fits(self, client):
        client().weights.check(longest=64)

    def test_another_model(self, client):
        with pytest.raises(ConfigError, match=r"vllm\.model: .* does not serve 'qwen'; it serves: policy"):
            client(model="qwen").weights.check(longest=64)

    def test_too_little_room(self, client):
        with pytest.raises(ConfigError, match=r"--max-model-len 64, .* are 65 together"):
            client().weights.check(longest=65)

    def test_something_else_behind_the_address(self, client, server):
        server.behave = lambda handler, path, body, attempt: handler.reply({"hello": "world"})
        with pytest.raises(ConfigError, match="no list of models; is this a vLLM server"):
            client().weights.check(longest=64)
