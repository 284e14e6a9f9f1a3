"""What is trained in the benchmark of rollouts: prompts, and a model whose completions end by themselves.

Random weights never end a completion: one token of 32 000 is the end. So the model's end token gets a logit that is
higher by a constant, which makes lengths geometric with a chosen mean, cut off at the limit.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from pathlib import Path

from bench.vocabulary import EOS, SPACE, Vocabulary, make_vocabulary
from bench.workload import MODELS, model_directory

RESIDUAL_CONSTANT = 0.5
"""What the first feature of every embedding is set to: it passes through all layers nearly unchanged, and the end
token's own first feature then weighs it into a logit."""


def draw_prompts(count: int, seed: int, vocabulary: Vocabulary, lengths: tuple[int, int]) -> list[str]:
    """`count` prompts of uniformly drawn words, the same for the same arguments; bounds of the lengths included."""
    draw = random.Random(f"prompts {seed}")
    return ["".join(draw.choices(vocabulary.words, k=draw.randint(*lengths))).replace(SPACE, " ") for _ in range(count)]


def write_prompts(path: Path, prompts: list[str]) -> None:
    """Writes prompts as JSON lines."""
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")


def read_prompts(path: Path) -> list[str]:
    """Reads what `write_prompts` wrote."""
    return [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]


def ending_model_directory(cache: Path, name: str, seed: int, mean_length: int) -> Path:
    """The directory of the model `name` whose completions have `mean_length` tokens on average without a limit.

    0 leaves the weights as they were drawn: completions then run to the limit. Written below `cache` unless it is
    there.
    """
    plain = model_directory(cache, name, seed)
    if mean_length == 0:
        return plain
    directory = plain.with_name(f"{plain.name}-mean{mean_length}")
    if not directory.exists():
        partial = directory.with_name(f"{directory.name}.{os.getpid()}.partial")
        shutil.copytree(plain, partial)
        _raise_end(partial, make_vocabulary(MODELS[name].vocabulary), mean_length)
        try:
            partial.rename(directory)
        except OSError:
            shutil.rmtree(partial)
            if not directory.exists():
                raise
    return directory


def _raise_end(directory: Path, vocabulary: Vocabulary, mean_length: int) -> None:
    # only a first run needs these imports, which take seconds
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    end = vocabulary.tokens[EOS]
    words = torch.tensor([vocabulary.tokens[word] for word in vocabulary.words])
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = RESIDUAL_CONSTANT
        rows = words[torch.randint(len(words), (16, 128), generator=drawn)]
        states = model.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state[:, 8:].flatten(0, 1)
        logits = states @ embedding.T
        others = logits.index_fill(1, torch.tensor([end]), -math.inf).logsumexp(1)
        wanted = (others - math.log(mean_length - 1)).mean()
        embedding[end, 0] += (wanted - logits[:, end].mean()) / states[:, 0].mean()
    model.save_pretrained(directory)
