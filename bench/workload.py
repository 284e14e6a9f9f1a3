"""What is trained in a benchmark: models with random weights, a tokenizer of made-up words, and seeded pairs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.vocabulary import EOS, PAD, SPACE, Vocabulary, make_vocabulary


@dataclass(frozen=True)
class ModelShape:
    """A Qwen2 decoder with tied embeddings."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden // self.heads

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The weight matrices of one layer: name -> (features in, features out)."""
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        return {
            "q": (self.hidden, queries),
            "k": (self.hidden, keys),
            "v": (self.hidden, keys),
            "o": (queries, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }

    @property
    def matrix_parameters(self) -> int:
        """Parameters of all layers' matrices; embeddings, head, norms and biases are not among them."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.projections.values())

    @property
    def head_parameters(self) -> int:
        """Parameters of the language-model head, which are those of the embedding."""
        return self.vocabulary * self.hidden


MODELS = {
    "tiny": ModelShape(layers=2, hidden=64, intermediate=160, heads=4, key_value_heads=2, vocabulary=512),
    "11m": ModelShape(layers=4, hidden=256, intermediate=704, heads=4, key_value_heads=2, vocabulary=32_000),
    "100m": ModelShape(layers=12, hidden=768, intermediate=2048, heads=12, key_value_heads=4, vocabulary=32_000),
}


@dataclass(frozen=True)
class Lengths:
    """Bounds, both included, of uniformly drawn lengths in tokens; a completion's EOS counts."""

    prompt: tuple[int, int] = (64, 256)
    completion: tuple[int, int] = (16, 256)


@dataclass(frozen=True)
class Pair:
    """A row of the data file. The texts join to `prompt + completion`: every word begins with its space."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PairLengths:
    """Tokens of a pair's three parts; the completions' EOS counts."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def useful_tokens(self) -> int:
        """What both trainers are measured by: the tokens of two sequences, the prompt counted for each of them."""
        return 2 * self.prompt + self.chosen + self.rejected


def cache_directory() -> Path:
    """Where models, rows and other versions of TRL are kept between benchmarks."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "plumbline" / "bench"


def draw_pairs(count: int, seed: int, vocabulary: Vocabulary, lengths: Lengths) -> list[Pair]:
    """`count` pairs of uniformly drawn words, the same for the same arguments."""
    draw = random.Random(seed)

    def text(tokens: int) -> str:
        return "".join(draw.choices(vocabulary.words, k=tokens)).replace(SPACE, " ")

    pairs = []
    for _ in range(count):
        prompt = text(draw.randint(*lengths.prompt))
        # the trainers end each completion with EOS, which takes one token of its length
        chosen, rejected = (text(draw.randint(*lengths.completion) - 1) for _ in range(2))
        pairs.append(Pair(prompt, chosen, rejected))
    return pairs


def lengths_of(pair: Pair) -> PairLengths:
    """A word is a token; each completion gets its EOS."""
    return PairLengths(len(pair.prompt.split()), len(pair.chosen.split()) + 1, len(pair.rejected.split()) + 1)


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Writes pairs as JSON lines."""
    path.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in pairs), encoding="utf-8")


def read_pairs(path: Path) -> list[Pair]:
    """Reads what `write_pairs` wrote."""
    return [Pair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def model_directory(cache: Path, name: str, seed: int) -> Path:
    """The directory of the model `name` with weights drawn by `seed`, written below `cache` unless it is there."""
    shape = MODELS[name]
    identity = json.dumps({**asdict(shape), "seed": seed}, sort_keys=True)
    directory = cache / f"model-{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not directory.exists():
        partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
        _write_model(partial, shape, seed)
        try:
            partial.rename(directory)
        except OSError:
            shutil.rmtree(partial)
            if not directory.exists():
                raise
    return directory


def _write_model(directory: Path, shape: ModelShape, seed: int) -> None:
    # only a first run needs these imports, which take seconds
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    vocabulary = make_vocabulary(shape.vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary.tokens, merges=vocabulary.merges, pad_token=PAD, eos_token=EOS, unk_token=EOS
    )
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=vocabulary.tokens[PAD],
        eos_token_id=vocabulary.tokens[EOS],
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
