"""Completions that follow a regular expression or a JSON schema, token by token.

The automaton is llguidance's: from the text so far it knows which tokens can continue it, tokens that span the
grammar's symbols included. Every completion has an automaton of its own, so what one may write depends on itself alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.failures import ConfigError

if TYPE_CHECKING:
    from llguidance import LLMatcher

_WORD_BITS = 32


class Grammar:
    """A grammar over the tokens of a tokenizer. Making one takes about a second for a vocabulary of 100 000."""

    def __init__(self, tokenizer: Any, end_tokens: frozenset[int], description: str) -> None:
        """`description` is a grammar in llguidance's form; `end_tokens` may follow where it is complete.

        Raises `ValueError` for a grammar, or a kind of tokenizer, that llguidance does not take.
        """
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        tokens = from_tokenizer(tokenizer, eos_token=sorted(end_tokens))
        if problem := LLMatcher.validate_grammar(description, tokens):
            raise ValueError(problem)
        self._first = LLMatcher(tokens, description)
        if self._first.is_error():
            raise ValueError(self._first.get_error())
        self.vocabulary: int = tokens.vocab_size

    def start(self) -> Follower:
        """The beginning of a completion."""
        return Follower(self._first.deep_copy(), self.vocabulary)


class Follower:
    """One completion on its way through a grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._words = np.zeros((1, -(-vocabulary // _WORD_BITS)), dtype=np.int32)

    @property
    def complete(self) -> bool:
        """Whether nothing may follow, an end token included."""
        return bool(self._matcher.is_stopped())

    def allowed(self, vocabulary: int) -> np.ndarray:
        """bool [vocabulary]: the tokens that may come next; those that the tokenizer does not know may not."""
        words = self._words[0]
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
        if len(bits) < vocabulary:
            bits = np.concatenate([bits, np.zeros(vocabulary - len(bits), dtype=bool)])
        return bits[:vocabulary]

    def advance(self, token: int) -> None:
        """Takes `token`, which must be one of those allowed."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"token {token} does not continue the grammar: {self._matcher.get_error()}")


def grammar_of(sampling: Sampling, tokenizer: Any, end_tokens: frozenset[int]) -> Grammar | None:
    """The grammar that `sampling` asks for; None without one. Raises `ConfigError` that names the field."""
    if sampling.regex is None and sampling.json_schema is None:
        return None
    from llguidance import LLMatcher

    if sampling.regex is not None:
        field, description = "regex", LLMatcher.grammar_from_regex(sampling.regex)
    else:
        field, description = "jsonSchema", LLMatcher.grammar_from_json_schema(json.dumps(sampling.json_schema))
    try:
        return Grammar(tokenizer, end_tokens, description)
    except ValueError as error:
        raise ConfigError(f"spec.rollout.sampling.{field}: {error}") from error
