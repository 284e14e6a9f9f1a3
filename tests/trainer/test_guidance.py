"""A head that guides a frozen model: what it learns, how completions are guided by it, and what a job makes of it."""

from __future__ import annotations

import itertools
import json
import math
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.checkpoint.manifest import sha256_of
from plumbline_trainer.data.batches import TokenSequence, pad_sequences
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.export import export
from plumbline_trainer.failures import ModelError
from plumbline_trainer.guided_model import GuidedModel
from plumbline_trainer.modeling.logprobs import predicting_states
from plumbline_trainer.modeling.success_head import (
    SuccessHead,
    attach_success_head,
    detach_success_head,
    success_head,
)
from plumbline_trainer.objectives.guided_policy import outcome_loss
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.guidance import Guide, switches
from plumbline_trainer.rollout.limits import Limits
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.stopping import StopRequest
from plumbline_trainer.tasks.guidance import learnt_tokens
from plumbline_trainer.tasks.rlvr import RLVRTask, build
from tests.trainer.rlvr_jobs import llama, write_job
from tests.trainer.rlvr_rank import start_rank

VOCABULARY, LENGTH = 4, 3
PROMPT = (1, 2)
COMPLETIONS = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
REWARD = torch.tensor([float((text[0] + 2 * text[1] + text[2]) % 4 == 1) for text in COMPLETIONS], dtype=torch.float64)


def small_llama(size: int = VOCABULARY, seed: int = 1) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = llama(size)
    config.initializer_range = 0.3
    return LlamaForCausalLM(config).eval()


def small_gpt() -> PreTrainedModel:
    """A model that the engine runs by its own forward pass."""
    torch.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()


def guided(model: PreTrainedModel, width: int = 64, **settings: Any) -> Guide:
    """A guide by a new head on `model`."""
    attach_success_head(model, width, seed=0)
    head = success_head(model)
    assert head is not None
    return Guide(head, **{"eta": 0.5, "candidates": VOCABULARY, "temperature": 1.0, **settings})


def perturbed(guide: Guide) -> Guide:
    """The guide with a head that prefers some tokens to others."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        guide.head.tokens.copy_(0.3 * torch.randn(guide.head.tokens.shape, generator=generator))
    return guide


def engine_of(model: PreTrainedModel, guide: Guide | None, max_tokens: int = LENGTH, rows: int = 4096) -> Engine:
    return Engine(model, None, Limits(max_tokens, rows, frozenset()), guide)  # type: ignore[arg-type]


def states_of(model: PreTrainedModel, texts: list[tuple[int, ...]]) -> torch.Tensor:
    """[N, T, H]: the states that predict the tokens of completions of one length."""
    batch = pad_sequences([TokenSequence(PROMPT, text) for text in texts], 0)
    with torch.no_grad():
        return predicting_states(model, batch).view(len(texts), len(texts[0]), -1)


def chances(model: PreTrainedModel, guide: Guide | None) -> torch.Tensor:
    """[N] float64: the probability of every completion, under the guided policy or the model's own."""
    states = states_of(model, COMPLETIONS).flatten(0, 1)
    with torch.no_grad():
        logits = model.get_output_embeddings()(states)
        scores = logits if guide is None else guide.scores(logits, states)
    taken = torch.tensor(COMPLETIONS).flatten()[:, None]
    return scores.double().log_softmax(-1).gather(1, taken).view(-1, LENGTH).sum(dim=1).exp()


def optimum(model: PreTrainedModel, eta: float) -> torch.Tensor:
    """pi_ref exp(R / eta) / Z over whole completions."""
    weights = chances(model, None) * (REWARD / eta).exp()
    return weights / weights.sum()


def distance(model: PreTrainedModel, guide: Guide) -> float:
    """Total variation from the analytic optimum."""
    return float((chances(model, guide) - optimum(model, guide.eta)).abs().sum() / 2)


def test_in_rounds_on_a_tree_of_tokens_the_guided_policy_becomes_the_analytic_optimum() -> None:
    """Roll in guided, roll out with the model, by the engine that jobs use; then the head is fitted to all so far."""
    model = small_llama()
    guide = guided(model)
    start = distance(model, guide)
    assert start > 0.2
    optimizer = torch.optim.Adam(guide.head.parameters(), lr=0.01)
    states = states_of(model, COMPLETIONS)
    place = {text: number for number, text in enumerate(COMPLETIONS)}
    counts = torch.zeros(len(COMPLETIONS), LENGTH)
    for round_number in range(4):
        streams = [Stream(7, "rollout", round_number, 0, sample) for sample in range(4096)]
        request = Request(PROMPT, streams, guided=switches(streams, LENGTH if round_number else 0))
        [found] = engine_of(model, guide).generate([request], Sampling())
        for completion in found:
            counts[place[tuple(completion.tokens)], completion.guided :] += 1
        for _ in range(400):
            logits = torch.stack(
                [guide.head(states[:, t], torch.tensor(COMPLETIONS)[:, t]) for t in range(LENGTH)], dim=1
            )
            loss = (outcome_loss(logits, REWARD, torch.ones_like(counts, dtype=torch.bool)) * counts).sum()
            optimizer.zero_grad()
            (loss / counts.sum()).backward()
            optimizer.step()
    assert distance(model, guide) < 0.02, start


@pytest.mark.parametrize("build_model", [small_llama, small_gpt], ids=["direct", "forward"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_engine_samples_from_the_guided_policy(build_model: Any, temperature: float) -> None:
    """Log-probabilities stay those of the model: a completion is one of the guided policy by its frequency."""
    model = build_model()
    guide = perturbed(guided(model, temperature=temperature, eta=0.1))
    streams = [Stream(3, "rollout", 0, 0, sample) for sample in range(6000)]
    [found] = engine_of(model, guide, 1).generate([Request(PROMPT, streams)], Sampling(temperature=temperature))
    frequency = torch.bincount(torch.tensor([one.tokens[0] for one in found]), minlength=VOCABULARY) / len(found)
    state = states_of(model, [(0,)])[:, 0]
    with torch.no_grad():
        logits = model.get_output_embeddings()(state)[0]
        success = torch.stack([guide.head(state, torch.tensor([token]))[0] for token in range(VOCABULARY)]).sigmoid()
    value = guide.eta * (1 - success + success * math.exp(1 / guide.eta)).log()
    own = (logits / temperature).softmax(0)
    expected = (logits / temperature + value / guide.eta).softmax(0)
    assert (expected - own).abs().sum() > 0.1
    assert (frequency - expected).abs().sum() < 0.03
    for one in found[:5]:
        assert one.logprobs[0] == pytest.approx(float(own[one.tokens[0]].log()), abs=1e-5)
        assert one.guided == 1


def test_a_new_head_changes_nothing_but_what_are_candidates() -> None:
    model = small_llama(32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    streams = [Stream(3, "rollout", 0, 0, sample) for sample in range(64)]
    [own] = engine_of(model, None, 6).generate([Request(PROMPT, streams)], Sampling())
    guide = guided(model, candidates=32)
    [found] = engine_of(model, guide, 6).generate([Request(PROMPT, streams)], Sampling())
    assert [one.tokens for one in found] == [one.tokens for one in own]
    [few] = engine_of(model, replace(guide, candidates=1), 6).generate([Request(PROMPT, streams)], Sampling())
    [greedy] = engine_of(model, None, 6).generate([Request(PROMPT, streams[:1])], None)
    assert {tuple(one.tokens) for one in few} == {tuple(greedy[0].tokens)}
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        f"success_head.{name}" for name, _ in guide.head.named_parameters()
    ]
    assert detach_success_head(model) is guide.head and detach_success_head(model) is None
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_guidance_ends_where_a_completions_own_stream_says_whatever_is_beside_it() -> None:
    model = small_llama(32)
    guide = perturbed(guided(model, candidates=32, eta=0.05))
    streams = [Stream(3, "rollout", 2, prompt, sample) for prompt in range(2) for sample in range(12)]
    ends = switches(streams, 6)
    assert set(ends) == set(range(6)) and switches(streams[5:9], 6) == ends[5:9]
    assert switches(streams, 0) == [0] * 24 and switches([], 6) == []
    together = engine_of(model, guide, 6, rows=5).generate(
        [Request(PROMPT, streams[:12], guided=ends[:12]), Request((3, 4, 5), streams[12:], guided=ends[12:])],
        Sampling(),
    )
    for prompt, group, first in ((PROMPT, together[0], 0), ((3, 4, 5), together[1], 12)):
        for sample, one in enumerate(group):
            stream, end = streams[first + sample], ends[first + sample]
            [[alone]] = engine_of(model, guide, 6).generate([Request(prompt, [stream], guided=[end])], Sampling())
            assert (alone.tokens, alone.guided) == (one.tokens, one.guided) and one.guided == end
    [[unguided]] = engine_of(model, None, 6).generate([Request(PROMPT, streams[:1])], Sampling())
    [[none]] = engine_of(model, guide, 6).generate([Request(PROMPT, streams[:1], guided=[0])], Sampling())
    [[whole]] = engine_of(model, guide, 6).generate([Request(PROMPT, streams[:1])], Sampling())
    assert none.tokens == unguided.tokens != whole.tokens


def test_the_gradient_is_that_of_all_logits() -> None:
    """Against a head that makes the logits of the whole vocabulary and picks the taken ones."""
    generator = torch.Generator().manual_seed(2)
    head = SuccessHead(8, 11, 5).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    states = torch.randn(7, 8, generator=generator)
    tokens = torch.tensor([1, 4, 4, 0, 10, 3, 1])
    outcomes = torch.tensor([1.0, 0, 1, 0, 0, 1, 1], dtype=torch.float64)
    head = head.float()
    logits = head(states, tokens)
    every = head(states, torch.arange(11).expand(7, 11))
    torch.testing.assert_close(every.gather(1, tokens[:, None])[:, 0], logits)
    features = states @ head.features.weight.T + head.features.bias
    dense = (features * features.sigmoid()) @ head.tokens.T + states @ head.prefix.weight.T + head.prefix.bias
    taken = (dense * torch.nn.functional.one_hot(tokens, 11)).sum(dim=1)
    expected = torch.autograd.grad(
        binary_cross_entropy_with_logits(taken, outcomes.float()), list(head.parameters()), retain_graph=True
    )
    mask = torch.ones(7, 1, dtype=torch.bool)
    found = torch.autograd.grad(outcome_loss(logits[:, None], outcomes, mask).mean(), list(head.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


class Run:
    """A job's steps with the smallest trainer that they need."""

    def __init__(self, folder: Path, model: Path, patch: dict[str, Any], **training: Any) -> None:
        folder.mkdir(exist_ok=True)
        config = write_job(folder, model, {"objective": {"qSharp": {"candidates": 8}}, **patch}, training)
        paths = config.paths.model_copy(update={"evaluation": config.paths.train})
        self.config = config.model_copy(update={"paths": paths})
        stop = StopRequest()
        self.task: RLVRTask = build(self.config, Ranks(stop, torch.device("cpu")), stop)
        parameters = [parameter for parameter in self.task.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=0.02)

    def step(self, number: int) -> dict[str, float]:
        self.optimizer.zero_grad()
        batch = self.task.prepare(number)
        for micro_batch in batch.micro_batches:
            self.task.loss(micro_batch)[0].backward()
        self.optimizer.step()
        self.task.step_done(number)
        return {name: metric.value for name, metric in batch.metrics.items()}

    def close(self) -> None:
        self.task.close()


def test_a_step_learns_from_what_the_model_wrote_in_the_newest_rollouts(tmp_path: Path, model: Path) -> None:
    with closing(Run(tmp_path / "job", model, {"objective": {"qSharp": {"keepRollouts": 3}}})) as run:
        sizes, shares = [], []
        for number in range(5):
            run.step(number)
            batches = run.task._updates.micro_batches(run.task._rollout, fresh=True)  # type: ignore[arg-type]
            experiences = [one for batch in batches for one in batch.experiences]
            sizes.append(len(experiences))
            learnt = sum(learnt_tokens(one) for one in experiences)
            shares.append(learnt / sum(len(one.tokens) for one in experiences))
            assert {batch.counts.tokens for batch in batches} == {float(learnt)}
            assert all(learnt_tokens(one) for one in experiences)
        assert sizes[0] == 16 and sizes[0] < sizes[1] < sizes[2]
        assert abs(sizes[4] - sizes[2]) < 12, "no more than three rollouts"
        assert shares[0] == 1.0, "before anything is learnt the model writes everything"
        assert shares[1] < 1.0


def test_the_model_stays_as_it_is_and_the_guided_policy_succeeds_more_often(tmp_path: Path, model: Path) -> None:
    patch = {
        "rewards": [{"name": "digit", "verifier": {"regex": {"pattern": "[0-3]", "mode": "search"}}}],
        "data.evaluation": {"source": {"path": {"path": str(tmp_path / "job" / "train.jsonl")}}},
        "evaluation.samples": 64,
    }
    with closing(Run(tmp_path / "job", model, patch, batchSize=48, maxCompletionTokens=3)) as run:
        frozen = {name: one.clone() for name, one in run.task.model.named_parameters() if not one.requires_grad}
        first = run.task.evaluate()
        assert first["accuracy"] == first["unguided/accuracy"]
        for number in range(25):
            run.step(number)
        last = run.task.evaluate()
        assert last["unguided/accuracy"] == first["unguided/accuracy"]
        assert last["pass_at/1"] > first["pass_at/1"] + 0.25
        now = dict(run.task.model.named_parameters())
        assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_what_is_exported_guides_as_the_job_did(tmp_path: Path, model: Path) -> None:
    with closing(Run(tmp_path / "job", model, {"rollout.sampling": {"temperature": 0.8}})) as run:
        for number in range(4):
            run.step(number)
        head = success_head(run.task.model)
        assert head is not None and bool((head.tokens != 0).any())
        guide = Guide(head, eta=0.1, candidates=8, temperature=0.8)
        sequence = TokenSequence([3, 4], [11, 5, 12, 1])
        with torch.no_grad():
            states = predicting_states(run.task.model, pad_sequences([sequence], 1))
            logits = run.task.model.get_output_embeddings()(states)  # type: ignore[operator]
            expected = (guide.scores(logits, states) / 0.8).log_softmax(-1)
        taken = expected.gather(1, torch.tensor(sequence.completion_ids)[:, None])[:, 0]
        status = export(run.task, run.config, 4, None, [], StopRequest())
    output = tmp_path / "job" / "output"
    record = json.loads((output / "plumbline.json").read_text())
    assert status.digest == record["digest"]
    assert record["files"]["guidance.safetensors"] == sha256_of(output / "guidance.safetensors")
    alone = LlamaForCausalLM.from_pretrained(output)
    start = LlamaForCausalLM.from_pretrained(model).state_dict()
    assert alone.state_dict().keys() == start.keys()
    assert all(torch.equal(value, start[name]) for name, value in alone.state_dict().items())

    loaded = GuidedModel(str(output), dtype="float32", device=torch.device("cpu"))
    found = loaded.logprobs(sequence.prompt_ids, sequence.completion_ids)
    assert torch.equal(found.isinf(), taken.isinf())
    torch.testing.assert_close(found, taken, atol=1e-6, rtol=1e-6)
    texts = loaded.generate(["a b", "c d"], max_tokens=5, samples=3, seed=4)
    assert [len(group) for group in texts] == [3, 3]
    assert loaded.generate(["a b"], max_tokens=5, samples=3, seed=4) == texts[:1]
    assert loaded.generate([], max_tokens=5) == []
    (output / "guidance.json").unlink()
    with pytest.raises(ModelError, match="guidance head cannot be loaded"):
        GuidedModel(str(output))


def test_several_ranks_make_the_rollouts_and_the_gradient_of_one(tmp_path: Path, model: Path) -> None:
    run = Run(tmp_path / "job", model, {})
    file = tmp_path / "job" / "config.json"
    file.write_text(run.config.model_dump_json(by_alias=True, exclude_none=True))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [start_rank(file, rank, steps=3, **address) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    both = [torch.load(file.with_name(f"{rank}.pt"), weights_only=True) for rank in range(2)]
    with closing(run):
        for number in range(3):
            for micro_batch in run.task.prepare(number).micro_batches:
                run.task.loss(micro_batch)[0].backward()
            if number < 2:
                run.task.step_done(number)
        gradient = torch.cat([one.grad.flatten() for one in run.task.model.parameters() if one.grad is not None])
        state = run.task.state_dict()["collector"]["guidance"]
    for found in both:
        torch.testing.assert_close(found["gradient"], gradient, atol=1e-6, rtol=1e-4)
        kept = found["state"]["collector"]["guidance"]
        assert kept["within"] == state["within"] > 0
        assert len(kept["kept"]) == len(state["kept"]) == 3
        for one, other in zip(kept["kept"], state["kept"], strict=True):
            assert [(e["slot"], e["sample"], e["tokens"], e["reward"]) for e in one["experiences"]] == [
                (e["slot"], e["sample"], e["tokens"], e["reward"]) for e in other["experiences"]
            ]
