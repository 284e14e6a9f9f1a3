"""Completions that follow a grammar: what may come next, the distribution over it, and the engine that keeps to it."""

import json
import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.rollout.constrained import grammar_of
from plumbline_trainer.rollout.engine import Engine
from plumbline_trainer.rollout.limits import limits_of
from plumbline_trainer.rollout.requests import Request
from plumbline_trainer.rollout.sampling import Stream

END = 0
MODEL_VOCABULARY = 320
"""More than the tokenizer has, as models are often padded."""


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, a few pairs of them that cross the symbols of grammars, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("a", "b"), ("1", "2"), ('"', ":"), ("{", '"'), ("b", "c")]
    names = ["<end>", *alphabet, *("".join(pair) for pair in pairs)]
    inner = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, pairs))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=MODEL_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


def generate(model, tokenizer, sampling, *, prompts=6, samples=4, places=64, tokens=60, greedy=False):
    limits = limits_of(sampling, tokenizer, frozenset({END}), max_tokens=tokens, max_batch_size=places)
    requests = [
        Request([5 + prompt, 7, 9], [Stream(3, "rollout", 0, prompt, sample) for sample in range(samples)])
        for prompt in range(prompts)
    ]
    groups = Engine(model, tokenizer, limits).generate(requests, None if greedy else sampling)
    return [completion for group in groups for completion in group]


def texts(tokenizer, completions):
    return [tokenizer.decode(completion.tokens, skip_special_tokens=True) for completion in completions]


def allowed_words(tokenizer, follower):
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return {names[token] for token in follower.allowed(MODEL_VOCABULARY).nonzero()[0]}


def test_what_may_come_next_is_what_continues_the_expression(tokenizer):
    follower = grammar_of(Sampling(regex="abc?|12+"), tokenizer, frozenset({END})).start()
    assert allowed_words(tokenizer, follower) == {"a", "ab", "1", "12"}
    follower.advance(tokenizer.convert_tokens_to_ids("ab"))
    assert allowed_words(tokenizer, follower) == {"c", "<end>"}
    follower.advance(tokenizer.convert_tokens_to_ids("c"))
    assert follower.complete or allowed_words(tokenizer, follower) == {"<end>"}


def test_a_token_that_leaves_the_grammar_is_refused(tokenizer):
    follower = grammar_of(Sampling(regex="ab"), tokenizer, frozenset({END})).start()
    with pytest.raises(ValueError, match="does not continue the grammar"):
        follower.advance(tokenizer.convert_tokens_to_ids("1"))


def test_every_completion_matches_the_expression(model, tokenizer):
    pattern = r"(ab|12){2,4}[x-z]+\."
    completions = generate(model, tokenizer, Sampling(regex=pattern, temperature=1.3))
    ended = [completion for completion in completions if completion.finish == "stop"]
    assert len(ended) > 12
    for text in texts(tokenizer, ended):
        assert re.fullmatch(pattern, text), text
    assert len(set(texts(tokenizer, completions))) > 8, "completions must differ for this test to mean anything"


def test_every_completion_is_a_document_of_the_schema(model, tokenizer):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": ["ab", "abc", "12"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    completions = generate(model, tokenizer, Sampling(json_schema=schema), tokens=200)
    ended = [completion for completion in completions if completion.finish == "stop"]
    assert len(ended) > 12
    for text in texts(tokenizer, ended):
        document = json.loads(text)
        assert set(document) == {"a", "b"}
        assert isinstance(document["a"], bool)
        assert document["b"] in ("ab", "abc", "12")


def test_greedy_completions_keep_to_the_grammar_too(model, tokenizer):
    for text in texts(tokenizer, generate(model, tokenizer, Sampling(regex="(12){3}|(abc){2}"), greedy=True)):
        assert text in ("121212", "abcabc")


def test_a_completion_depends_on_its_stream_and_not_on_the_batch(model, tokenizer):
    sampling = Sampling(regex="[abc12]{3,20}x", top_p=0.95)
    together = [completion.tokens for completion in generate(model, tokenizer, sampling)]
    for places in (1, 5):
        assert [completion.tokens for completion in generate(model, tokenizer, sampling, places=places)] == together
    assert len({len(tokens) for tokens in together}) > 3


def test_tokens_follow_the_models_distribution_renormalised_over_what_may_come(model, tokenizer):
    """And the log-probability is the model's own, without the grammar: what the trainer computes."""
    samples = 8000
    completions = generate(model, tokenizer, Sampling(regex="[abc]"), prompts=1, samples=samples, places=samples)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 7, 9]])).logits[0, -1]
    letters = tokenizer.convert_tokens_to_ids(["a", "b", "c"])
    expected = logits[letters].softmax(0)
    counts = torch.tensor([sum(completion.tokens[0] == letter for completion in completions) for letter in letters])
    assert counts.sum() == samples
    statistic = float(((counts - expected * samples) ** 2 / (expected * samples)).sum())
    assert statistic < 20  # two degrees of freedom: once in 20 000
    for completion in completions[:20]:
        expected_logprob = logits.log_softmax(0)[completion.tokens[0]]
        assert completion.logprobs[0] == pytest.approx(float(expected_logprob), abs=1e-4)


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        (Sampling(regex="(a"), r"spec\.rollout\.sampling\.regex"),
        (Sampling(json_schema={"type": "nothing"}), r"spec\.rollout\.sampling\.jsonSchema"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_by_its_field(tokenizer, sampling, named):
    with pytest.raises(ConfigError, match=named):
        grammar_of(sampling, tokenizer, frozenset({END}))


def test_without_a_grammar_there_is_none(tokenizer):
    assert grammar_of(Sampling(), tokenizer, frozenset({END})) is None


@pytest.mark.parametrize("fields", [{"regex": "a", "jsonSchema": {}}, {"regex": "a", "minTokens": 2}])
def test_fields_that_contradict_each_other_are_refused(fields):
    with pytest.raises(ValueError, match="jsonSchema"):
        Sampling.model_validate(fields)
