"""Tokenizer and first weights of the tiny model: a Llama architecture small enough to train on a laptop's CPU.

    python examples/tiny-model/make_tokenizer.py --data DIR/data --output DIR/untrained

The tokenizer is a byte-level BPE made from the training text: any text can be written with it, a digit is always a
token of its own, and frequent phrases such as `What is ` become one token, which keeps rows short. The chat template
marks turns with `<|user|>`, `<|assistant|>` and `<|end|>`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 512
PADDING, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% else %}<|user|>{% endif %}"
    "{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

ARCHITECTURE = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    # the usual 0.02 suits a width of thousands; narrow matrices need larger entries for signals to pass
    "initializer_range": 0.06,
}
"""About 0.4 million parameters."""


def make_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE over `texts`, with one token a digit and the special tokens of the chat template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        # without the usual split at spaces, merges may span words; digits stay alone
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PADDING, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PADDING,
        eos_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=ARCHITECTURE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def make_weights(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Random weights, the same for the same seed."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            **ARCHITECTURE,
        )
    )


def write_untrained_model(rows: Path, directory: Path, seed: int) -> int:
    """Writes a Hugging Face directory with tokenizer and random weights; returns the number of parameters.

    `rows` is the JSONL file whose prompts and completions the vocabulary is made from.
    """
    tokenizer = make_tokenizer(_texts(rows))
    model = make_weights(tokenizer, seed)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def _texts(rows: Path) -> Iterator[str]:
    with rows.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["prompt"]
            yield row["completion"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory that make_data.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="directory for tokenizer and weights")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same weights")
    options = parser.parse_args()
    parameters = write_untrained_model(options.data / "sft-train.jsonl", options.output, options.seed)
    print(f"{options.output}: {parameters} parameters")


if __name__ == "__main__":
    main()
