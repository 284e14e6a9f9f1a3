"""Where tokens end in their text, for tokenizers that cut characters and words in pieces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from plumbline_trainer.shaping.positions import UNFINISHED, token_ends

CORPUS = [
    "the thinking ends here</think> the answer is 42, so the sum is 42.",
    "naïve café, 日本語 and 🙂🙂 emoji",
    "  spaces\n\n",
]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = {"vocab_size": 330, "initial_alphabet": alphabet, "special_tokens": ["<eos>"], "show_progress": False}
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(**settings))
    return tokenizer


def words_with_marked_spaces() -> Tokenizer:
    """As Llama's: a space belongs to the word behind it, and is not written at the beginning of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    settings = {"vocab_size": 200, "special_tokens": ["<eos>"], "show_progress": False}
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(**settings))
    return tokenizer


TOKENIZERS = {"bytes": byte_level(), "words": words_with_marked_spaces()}
tokenizers = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def ends_of(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    return token_ends(lambda some: tokenizer.decode(list(some)), tokens)


@tokenizers
@pytest.mark.parametrize("text", CORPUS[:2])
def test_every_prefix_of_tokens_writes_that_many_characters(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text).ids
    ends = ends_of(tokenizer, tokens)
    assert len(ends) == len(tokens)
    assert ends[-1] == len(tokenizer.decode(tokens))
    for count, end in enumerate(ends, start=1):
        written = tokenizer.decode(tokens[:count])
        if not written.endswith(UNFINISHED):
            assert end == len(written)
    assert ends == sorted(ends)


def test_bytes_of_one_character_end_where_it_ends() -> None:
    tokens = TOKENIZERS["bytes"].encode("a🙃b").ids
    ends = ends_of(TOKENIZERS["bytes"], tokens)
    assert len(tokens) > 3
    assert ends == [1, *[1] * (len(tokens) - 3), 2, 3]


@tokenizers
def test_special_tokens_write_nothing(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("the answer").ids
    assert ends_of(tokenizer, [*tokens, tokenizer.token_to_id("<eos>")]) == [*ends_of(tokenizer, tokens), 10]


def test_no_tokens_write_no_text() -> None:
    assert ends_of(TOKENIZERS["bytes"], []) == []


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_covered(text: str) -> None:
    tokens = TOKENIZERS["bytes"].encode(text).ids
    ends = ends_of(TOKENIZERS["bytes"], tokens)
    assert ends == sorted(ends)
    if tokens and not text.endswith(UNFINISHED):
        assert ends[-1] == len(text)
