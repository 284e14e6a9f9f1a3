"""Batched generation on small models with random weights: equal to transformers' own, whatever the batch."""

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    RepetitionPenaltyLogitsProcessor,
)

from plumbline_api.rlvr_job import Sampling
from plumbline_trainer.failures import ConfigError, Diverged, ModelError
from plumbline_trainer.rollout.cache import GrowingLayer, RowCache
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import Limits, limits_of
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream, choose, uniforms

VOCABULARY = 48
ENDS = (5, 11, 17, 23, 29, 35)
"""With random weights one token in eight ends a completion, so that rows end at all times."""


def llama(**changes):
    return LlamaForCausalLM, LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
        **changes,
    )


def windowed():
    return MistralForCausalLM, MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.4,
    )


def learned_positions():
    return GPT2LMHeadModel, GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.4
    )


def make(architecture):
    kind, config = architecture()
    torch.manual_seed(0)
    return kind(config).eval()


@pytest.fixture(scope="module")
def model():
    return make(llama)


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, token_ids, **options):
        return "".join(chr(ord("A") + token) for token in token_ids)


def engine_of(model, *, max_tokens=12, max_batch_size=8, stop_tokens=ENDS, stop_strings=()):
    return Engine(model, Letters(), Limits(max_tokens, max_batch_size, frozenset(stop_tokens), stop_strings))


def prompts_of(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 14, (count,), generator=generator).tolist()
    return [torch.randint(6, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def requests_of(prompts, samples, step=0):
    return [
        Request(prompt, [Stream(9, "rollout", step, index, sample) for sample in range(samples)])
        for index, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("architecture", [llama, windowed, learned_positions])
def test_greedy_equals_transformers_generate(architecture):
    model = make(architecture)
    prompts = prompts_of(9)
    ours = engine_of(model, max_tokens=20, max_batch_size=4).generate(requests_of(prompts, 1), None)
    for prompt, [completion] in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=list(ENDS),
            pad_token_id=0,
        )
        assert completion.tokens == theirs[0, len(prompt) :].tolist()
        assert completion.finish == ("stop" if completion.tokens[-1] in ENDS else "length")


def test_a_completion_depends_on_its_stream_and_not_on_the_batch(model):
    """Alone, together, in another order, with few places: the same tokens.

    The batch around a row changes its float32 logits by about 1e-6. That moves a token only if its random number is
    that close to a boundary, about one token in 1e5; the few hundred here have no such case.
    """
    prompts = prompts_of(10)
    wanted = requests_of(prompts, 4)
    sampling = Sampling(temperature=1.1, top_p=0.95)
    together = engine_of(model, max_batch_size=64).generate(wanted, sampling)
    for places in (4, 7, 16):
        assert tokens_of(engine_of(model, max_batch_size=places).generate(wanted, sampling)) == tokens_of(together)
    backwards = engine_of(model, max_batch_size=9).generate(wanted[::-1], sampling)
    assert tokens_of(backwards)[::-1] == tokens_of(together)
    for request, expected in zip(wanted, together, strict=True):
        for stream, completion in zip(request.streams, expected, strict=True):
            [[alone]] = engine_of(model).generate([Request(request.prompt, [stream])], sampling)
            assert alone.tokens == completion.tokens
            assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-4)
    lengths = {len(completion.tokens) for group in together for completion in group}
    assert len(lengths) > 3, "rows must end at different times for this test to mean anything"


def tokens_of(groups):
    return [[completion.tokens for completion in group] for group in groups]


def test_samples_of_a_group_differ_and_steps_differ(model):
    first = engine_of(model).generate(requests_of(prompts_of(3), 4, step=0), Sampling())
    again = engine_of(model).generate(requests_of(prompts_of(3), 4, step=0), Sampling())
    later = engine_of(model).generate(requests_of(prompts_of(3), 4, step=1), Sampling())
    assert tokens_of(first) == tokens_of(again)
    assert tokens_of(first) != tokens_of(later)
    assert all(len({tuple(completion.tokens) for completion in group}) > 1 for group in first)


def test_logprobs_equal_a_full_forward_pass(model):
    temperature = 0.8
    wanted = requests_of(prompts_of(6), 3)
    groups = engine_of(model, max_batch_size=5).generate(wanted, Sampling(temperature=temperature, top_k=20))
    for request, group in zip(wanted, groups, strict=True):
        for completion in group:
            ids = torch.tensor([[*request.prompt, *completion.tokens]])
            with torch.no_grad():
                logprobs = (model(ids).logits[0] / temperature).log_softmax(-1)
            expected = logprobs[len(request.prompt) - 1 : -1].gather(1, torch.tensor(completion.tokens)[:, None])
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected[:, 0], atol=1e-5, rtol=1e-4)


def test_a_group_larger_than_the_batch_is_generated_in_parts(model):
    wanted = requests_of(prompts_of(2), 11)
    sampling = Sampling()
    assert tokens_of(engine_of(model, max_batch_size=3).generate(wanted, sampling)) == tokens_of(
        engine_of(model, max_batch_size=100).generate(wanted, sampling)
    )


def test_the_batch_never_exceeds_its_limit_and_shrinks_when_rows_end(model, monkeypatch):
    sizes = []
    advance = Engine.advance

    def recording(self, tokens, starts, cache, bias):
        sizes.append(tokens.shape[0])
        return advance(self, tokens, starts, cache, bias)

    monkeypatch.setattr(Engine, "advance", recording)
    prompts = [prompt * 2 for prompt in prompts_of(12)]
    groups = engine_of(model, max_tokens=30, max_batch_size=8).generate(requests_of(prompts, 2), Sampling())
    tokens = sum(len(completion.tokens) for group in groups for completion in group)
    assert max(sizes) <= 8
    assert min(sizes) < 8
    # 24 rows in three fixed batches of 8, each running until its longest row ends, would cost more
    batches = [groups[index : index + 4] for index in range(0, 12, 4)]
    fixed = sum(8 * max(len(completion.tokens) for group in batch for completion in group) for batch in batches)
    assert tokens - 24 <= sum(sizes) < 0.8 * fixed


def test_stop_strings_end_a_completion_with_the_token_that_completes_them(model):
    """The string may span tokens; here it is made of two letters that the model really writes."""
    [[free]] = engine_of(model, max_tokens=20, stop_tokens=()).generate(requests_of([[7, 8, 9]], 1), Sampling())
    text = Letters().decode(free.tokens)
    stop = text[5:7]
    engine = engine_of(model, max_tokens=20, stop_tokens=(), stop_strings=(stop,))
    [[stopped]] = engine.generate(requests_of([[7, 8, 9]], 1), Sampling())
    assert Letters().decode(stopped.tokens) == text[: text.index(stop) + 2]
    assert stopped.finish == "stop"
    assert free.finish == "length"


def test_a_prompts_text_does_not_trigger_a_stop_string(model):
    stop = Letters().decode([7, 8])
    [[completion]] = engine_of(model, stop_strings=(stop,)).generate(requests_of([[7, 8]], 1), None)
    assert len(completion.tokens) > 1 or completion.tokens[0] in ENDS


def test_polling_ends_generation(model):
    class Stopped(Exception):
        pass

    calls = 0

    def poll():
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Stopped

    model.train()
    with pytest.raises(Stopped):
        engine_of(model, max_tokens=50, stop_tokens=()).generate(requests_of([[7, 8]], 1), Sampling(), poll)
    assert calls == 4
    assert model.training, "the mode of the model must be restored"
    model.eval()


def test_the_growing_layer_holds_what_concatenation_would_hold():
    generator = torch.Generator().manual_seed(0)
    layer = GrowingLayer()
    pieces = [torch.randn(2, 3, length, 4, generator=generator) for length in (5, 1, 1, 40, 1, 1)]
    for piece in pieces:
        keys, values = layer.update(piece, -piece)
    expected = torch.cat(pieces, dim=2)
    assert torch.equal(keys, expected)
    assert torch.equal(values, -expected)
    assert layer.get_seq_length() == 49


def test_appending_tokens_copies_a_bounded_number_of_columns(monkeypatch):
    """Growing by one column a thousand times allocates a handful of buffers, not a thousand."""
    layer = GrowingLayer()
    buffers = set()
    for _ in range(1000):
        layer.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
        buffers.add(layer.keys.untyped_storage().nbytes())
    assert len(buffers) < 12


def test_models_without_attention_caches_are_refused():
    from transformers import MambaConfig

    with pytest.raises(ModelError, match="only models with attention layers"):
        RowCache(MambaConfig(num_hidden_layers=2))


@pytest.mark.parametrize("sampling", [None, Sampling(), Sampling(top_k=4)], ids=["greedy", "whole", "top-k"])
def test_a_model_that_has_diverged_is_named_as_that(sampling):
    broken = make(llama)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        engine_of(broken, stop_tokens=()).generate(requests_of(prompts_of(3), 2), sampling)


class Named(Letters):
    """A tokenizer that also knows its vocabulary."""

    def get_vocab(self):
        return {f"<{token}>": token for token in range(VOCABULARY)}


def with_sampling(model, sampling, *, max_tokens=12, max_batch_size=8, stop_tokens=frozenset(ENDS)):
    limits = limits_of(sampling, Named(), stop_tokens, max_tokens=max_tokens, max_batch_size=max_batch_size)
    return Engine(model, Named(), limits)


def test_stop_tokens_are_named_by_text_or_id(model):
    prompts = prompts_of(8)
    plain = with_sampling(model, Sampling(), stop_tokens=frozenset())
    free = [group[0].tokens for group in plain.generate(requests_of(prompts, 1), Sampling())]
    first, second = free[0][3], free[1][2]
    sampling = Sampling(stop_tokens=[f"<{first}>"], stop_token_ids=[second])
    engine = with_sampling(model, sampling, stop_tokens=frozenset())
    for tokens, [stopped] in zip(free, engine.generate(requests_of(prompts, 1), sampling), strict=True):
        ends = [index for index, token in enumerate(tokens) if token in (first, second)]
        assert stopped.tokens == tokens[: ends[0] + 1 if ends else None]
        assert stopped.finish == ("stop" if ends else "length")


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(stop_tokens=["<1>", "<none>"]), r"stopTokens\[1\].*'<none>'"),
        (Sampling(stop_token_ids=[VOCABULARY]), r"stopTokenIds\[0\].*48"),
    ],
)
def test_a_stop_token_that_the_tokenizer_lacks_is_refused(model, sampling, message):
    with pytest.raises(ConfigError, match=message):
        with_sampling(model, sampling)


def test_no_completion_ends_before_its_least_length(model):
    sampling = Sampling(min_tokens=6)
    groups = with_sampling(model, sampling).generate(requests_of(prompts_of(8), 4), sampling)
    completions = [completion for group in groups for completion in group]
    lengths = [len(completion.tokens) for completion in completions]
    assert min(lengths) == 6
    assert all(token not in ENDS for completion in completions for token in completion.tokens[:5])
    free = with_sampling(model, Sampling()).generate(requests_of(prompts_of(8), 4), Sampling())
    assert min(len(completion.tokens) for group in free for completion in group) < 6


def test_a_stop_string_does_not_end_a_completion_before_its_least_length(model):
    [[free]] = engine_of(model, max_tokens=20, stop_tokens=()).generate(requests_of([[7, 8, 9]], 1), Sampling())
    stop = Letters().decode(free.tokens)[1:3]
    sampling = Sampling(stop=[stop], min_tokens=10)
    engine = with_sampling(model, sampling, max_tokens=20, stop_tokens=frozenset())
    [[kept]] = engine.generate(requests_of([[7, 8, 9]], 1), sampling)
    assert len(kept.tokens) >= 10
    assert kept.tokens[:10] == free.tokens[:10]


@pytest.mark.parametrize("greedy", [True, False])
def test_the_repetition_penalty_is_that_of_transformers(model, greedy):
    """Token by token: the choice follows from logits that transformers' own processor has changed."""
    sampling = Sampling(repetition_penalty=1.8, temperature=0.9)
    wanted = requests_of(prompts_of(5), 3)
    engine = with_sampling(model, sampling, max_batch_size=6)
    groups = engine.generate(wanted, None if greedy else sampling)
    processor = RepetitionPenaltyLogitsProcessor(1.8)
    for request, group in zip(wanted, groups, strict=True):
        for stream, completion in zip(request.streams, group, strict=True):
            for position, token in enumerate(completion.tokens):
                ids = torch.tensor([[*request.prompt, *completion.tokens[:position]]])
                with torch.no_grad():
                    logits = model(ids).logits[:, -1]
                scores = processor(ids, logits)
                uniform = torch.from_numpy(uniforms([stream], np.array([[position]]))[:, 0])
                expected, logprob = choose(logits, None if greedy else sampling, uniform, scores)
                assert token == int(expected)
                assert completion.logprobs[position] == pytest.approx(float(logprob), abs=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(min_p=0.05),
        Sampling(top_k=10, top_p=0.9),
        Sampling(repetition_penalty=1.5),
        Sampling(min_tokens=5),
        Sampling(stop_token_ids=[40, 41]),
    ],
    ids=["min-p", "top-k and top-p", "repetition penalty", "least length", "stop tokens"],
)
def test_options_do_not_make_a_completion_depend_on_the_batch(model, sampling):
    wanted = requests_of(prompts_of(9), 3)
    together = tokens_of(with_sampling(model, sampling, max_batch_size=64).generate(wanted, sampling))
    for places in (1, 4, 7):
        assert tokens_of(with_sampling(model, sampling, max_batch_size=places).generate(wanted, sampling)) == together
    assert tokens_of(with_sampling(model, sampling).generate(wanted[::-1], sampling))[::-1] == together


def test_figures_count_what_was_done(model):
    engine = engine_of(model, max_tokens=30, max_batch_size=8)
    prompts = prompts_of(12)
    groups = engine.generate(requests_of(prompts, 2), Sampling())
    lengths = [len(completion.tokens) for group in groups for completion in group]
    figures = engine.last_figures
    assert figures.completions == 24
    assert figures.tokens == sum(lengths)
    assert figures.longest == max(lengths)
    assert figures.slowest_share == pytest.approx(figures.alone_seconds / figures.seconds)
    assert figures.prompt_tokens == sum(len(prompt) for prompt in prompts), "a prompt is computed once"
    assert figures.decode_rows >= sum(lengths) - 24, "the last token of a completion is not computed"
    assert 1 <= figures.rows_per_step <= 8
    assert figures.decode_rows == pytest.approx(figures.rows_per_step * figures.decode_steps)
    assert figures.prefill_seconds > 0
    assert figures.decode_seconds > 0


def test_the_slowest_completion_runs_alone_when_the_others_have_ended(model, monkeypatch):
    """By a clock that each forward pass moves on by a second: two completions, of four and nine tokens."""
    engine = engine_of(model, max_tokens=9, stop_tokens=())
    now = 0.0
    advance = Engine.advance

    def slow(*arguments):
        nonlocal now
        now += 1.0
        return advance(*arguments)

    monkeypatch.setattr(Engine, "advance", slow)
    monkeypatch.setattr("plumbline_trainer.rollout.engine.time.perf_counter", lambda: now)
    streams = [Stream(1, "figures", 0, number, 0) for number in range(2)]
    [short], [long] = engine.generate([Request([3, 4], streams[:1], 4), Request([3, 4], streams[1:], 9)], Sampling())
    assert (len(short.tokens), len(long.tokens)) == (4, 9), "neither meets an end token"
    assert engine.last_figures.alone_seconds == 4, "passes for the tokens five to eight; the last is not computed"
    assert engine.last_figures.slowest_share == pytest.approx(4 / 8)


def test_one_completion_is_alone_all_the_time(model):
    engine = engine_of(model, max_tokens=5, stop_tokens=())
    engine.generate([Request([3, 4], [Stream(1, "figures", 0, 0, 0)])], Sampling())
    assert engine.last_figures.slowest_share == pytest.approx(1)


def test_figures_of_calls_add_up(model):
    engine = engine_of(model, max_tokens=9)
    figures = []
    for number in range(2):
        engine.generate(requests_of(prompts_of(3 + number), 2), Sampling())
        figures.append(engine.last_figures)
    both = figures[0] + figures[1]
    assert both.completions == 6 + 8
    assert both.tokens == figures[0].tokens + figures[1].tokens
    assert both.longest == max(one.longest for one in figures)
    assert both.seconds == pytest.approx(figures[0].seconds + figures[1].seconds)


def test_figures_of_nothing_are_zero(model):
    engine = engine_of(model)
    assert engine.generate([], Sampling()) == []
    assert engine.last_figures.rows_per_step == 0
    assert engine.last_figures.slowest_share == 0
