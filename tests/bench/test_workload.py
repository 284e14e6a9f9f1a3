"""Models, tokenizer and rows of a benchmark: what the sides are given is what the figures assume."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.vocabulary import EOS, PAD, make_vocabulary
from bench.workload import (
    MODELS,
    Lengths,
    PairLengths,
    draw_pairs,
    lengths_of,
    model_directory,
    read_pairs,
    write_pairs,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("models"), "tiny", seed=0)


@pytest.mark.parametrize("size", [512, 1000, 32_000])
def test_a_vocabulary_has_exactly_the_asked_number_of_tokens(size: int) -> None:
    vocabulary = make_vocabulary(size)
    assert sorted(vocabulary.tokens.values()) == list(range(size))
    assert set(vocabulary.words) <= set(vocabulary.tokens)
    assert len(vocabulary.words) > size / 2


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_vocabulary_that_cannot_be_made_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"no vocabulary of {size} tokens"):
        make_vocabulary(size)


def test_every_word_is_one_token_for_the_tokenizer_that_is_loaded(tiny: Path) -> None:
    vocabulary = make_vocabulary(MODELS["tiny"].vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = "".join(vocabulary.words).replace("Ġ", " ")
    assert tokenizer(text)["input_ids"] == [vocabulary.tokens[word] for word in vocabulary.words]
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, EOS)


def test_lengths_are_those_that_the_tokenizer_counts_and_within_bounds(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    lengths = Lengths(prompt=(3, 9), completion=(2, 5))
    for pair in draw_pairs(50, 7, make_vocabulary(512), lengths):
        found = lengths_of(pair)
        assert found.prompt == len(tokenizer(pair.prompt)["input_ids"])
        assert found.chosen == len(tokenizer(pair.chosen + EOS)["input_ids"])
        # a prompt and its completion, joined as TRL joins them, split where they were joined
        assert len(tokenizer(pair.prompt + pair.rejected + EOS)["input_ids"]) == found.prompt + found.rejected
        assert 3 <= found.prompt <= 9
        assert 2 <= min(found.chosen, found.rejected) <= max(found.chosen, found.rejected) <= 5


def test_rows_follow_from_the_seed_and_survive_the_file(tmp_path: Path) -> None:
    vocabulary = make_vocabulary(512)
    pairs = draw_pairs(5, 1, vocabulary, Lengths())
    assert pairs == draw_pairs(5, 1, vocabulary, Lengths()) != draw_pairs(5, 2, vocabulary, Lengths())
    write_pairs(tmp_path / "rows.jsonl", pairs)
    assert read_pairs(tmp_path / "rows.jsonl") == pairs


def test_the_prompt_counts_for_both_sequences_of_a_pair() -> None:
    assert PairLengths(prompt=10, chosen=3, rejected=4).useful_tokens == 27


def test_parameters_of_the_shape_are_those_of_the_model(tiny: Path) -> None:
    shape = MODELS["tiny"]
    model = AutoModelForCausalLM.from_pretrained(tiny)
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    assert matrices == shape.matrix_parameters + shape.head_parameters


@pytest.mark.parametrize(("name", "millions"), [("11m", 11), ("100m", 100)])
def test_models_are_as_large_as_their_names_say(name: str, millions: int) -> None:
    shape = MODELS[name]
    assert round((shape.matrix_parameters + shape.head_parameters) / 1e6) == millions


def test_a_model_is_written_once(tiny: Path) -> None:
    before = (tiny / "model.safetensors").stat().st_mtime_ns
    assert model_directory(tiny.parent, "tiny", seed=0) == tiny
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before
    assert model_directory(tiny.parent, "tiny", seed=1) != tiny
