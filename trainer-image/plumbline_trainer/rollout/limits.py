"""How completions end and what they may hold, from the sampling settings and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.rows import Prompt
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.modeling.logprobs import causal_model
from plumbline_trainer.rollout.constrained import Grammar, grammar_of


@dataclass(frozen=True)
class Limits:
    """How completions end, what they may hold, and how many are generated together."""

    max_tokens: int
    max_batch_size: int
    stop_tokens: frozenset[int]
    stop_strings: tuple[str, ...] = ()
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    grammar: Grammar | None = None


def limits_of(
    sampling: Sampling, tokenizer: Any, stop_tokens: frozenset[int], *, max_tokens: int, max_batch_size: int
) -> Limits:
    """What `sampling` says about completions besides how a token is drawn; `stop_tokens` are the model's own.

    Raises `ConfigError` for a stop token that the tokenizer does not have, and for a grammar that cannot be used.
    """
    ends = stop_tokens | named_stop_tokens(sampling, tokenizer)
    return Limits(
        max_tokens,
        max_batch_size,
        ends,
        tuple(sampling.stop),
        sampling.min_tokens,
        sampling.repetition_penalty,
        grammar_of(sampling, tokenizer, ends),
    )


def ends_of(model: nn.Module, renderer: Renderer, prompt: Prompt) -> frozenset[int]:
    """The tokens that end a completion: EOS, those of the model's generation settings, and the end of a turn, which is
    tried with `prompt`."""
    found = {renderer.tokenizer.eos_token_id}
    settings = getattr(causal_model(model), "generation_config", None)
    configured = getattr(settings, "eos_token_id", None)
    if configured is not None:
        found |= set(configured if isinstance(configured, list) else [configured])
    [turn] = renderer.completion_ids([prompt], ["x"])
    found.add(turn[-1])
    return frozenset(found)


def named_stop_tokens(sampling: Sampling, tokenizer: Any) -> frozenset[int]:
    """The tokens of `stopTokens` and `stopTokenIds`. Raises `ConfigError` for one that is not in the vocabulary."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    known = set(vocabulary.values())
    for index, token in enumerate(sampling.stop_tokens):
        if token not in vocabulary:
            raise ConfigError(f"spec.rollout.sampling.stopTokens[{index}]: the tokenizer has no token {token!r}")
    for index, number in enumerate(sampling.stop_token_ids):
        if number not in known:
            raise ConfigError(f"spec.rollout.sampling.stopTokenIds[{index}]: the tokenizer has no token {number}")
    return frozenset(vocabulary[token] for token in sampling.stop_tokens) | frozenset(sampling.stop_token_ids)
