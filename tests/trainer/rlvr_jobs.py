"""Small RLVR jobs in which any method can stand: rows with every column, two components of the reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plumbline_api.base import Family
from plumbline_api.contract import TrainerConfig
from plumbline_api.methods.advantage.family import Advantage
from plumbline_api.methods.critic import Categorical, Critic, CrossEntropy, ValueLoss
from plumbline_api.methods.policy.family import PolicyObjective
from plumbline_api.methods.shaping.family import Shaping

WORDS = ["<bos>", "<eos>", "<unk>", *"abcdefgh", *"0123", "Hint:", "answer", "is"]

END = 1
"""The token that ends a text."""

ROWS = [
    {
        "prompt": f"{first} {second}",
        "answer": str(number % 4),
        "hint": "answer is " + str(number % 4),
        "solution": str(number % 4),
        "kind": "even" if number % 2 == 0 else "odd",
        "tree": "t" if number < 2 else "u",
        "prefix": "" if number % 2 == 0 else first,
        "means": [0.1, 0.5, 0.9],
        "arms": 3,
        "history": [[0, 1.0], [1, 0.0]],
        "target": 2,
    }
    for number, (first, second) in enumerate(["ab", "cd", "ef", "gh", "ac", "bd"])
]

PARAMETERS: dict[tuple[str, str], dict[str, Any]] = {
    ("shaping", "constrained"): {"constraints": [{"component": "short", "threshold": 0.5}]},
    ("shaping", "componentGate"): {"component": "short"},
    ("shaping", "exactLengthTarget"): {"tokens": 3},
    ("shaping", "maximumLengthTarget"): {"column": "target"},
    ("shaping", "posterior"): {"component": "short"},
    ("shaping", "trust"): {"component": "short"},
    ("shaping", "sigmoidGate"): {"component": "short"},
    ("shaping", "refinementGain"): {"rounds": ["right", "short"]},
    ("shaping", "hypervolumeWeighting"): {"objectives": [{"component": "right"}, {"component": "short"}]},
    ("shaping", "gradientWeighting"): {"components": ["right", "short"]},
    ("curriculum", "selfEvolving"): {"categoryColumn": "kind"},
    ("exploration.selection", "prof"): {"component": "short", "keep": 3},
    ("exploration.rescue", "guidance"): {"template": "{prompt} Hint: {hint}", "samples": 2},
}
"""What a method needs to be said, by place and key; for others the defaults do."""


def write_words(directory: Path) -> int:
    """A tokenizer of a few words; returns their number."""
    words = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>", unk_token="<unk>"
    ).save_pretrained(directory)
    return len(words)


def llama(size: int) -> LlamaConfig:
    """A Llama of two small layers for `size` words."""
    return LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=END,
        pad_token_id=END,
    )


def write_model(directory: Path) -> None:
    """That Llama with random weights that depend on nothing, and the tokenizer."""
    size = write_words(directory)
    torch.manual_seed(0)
    LlamaForCausalLM(llama(size)).save_pretrained(directory)


def around(member: type[Family], values: Path) -> dict[str, Any]:
    """What else the spec says so that `member` can stand in a job; `values` is the directory of a trained critic."""
    if issubclass(member, Advantage) and member.needs_frozen_values:
        return {"critic": frozen(values)}
    if issubclass(member, Advantage) and member.needs_values:
        return {"critic": {"shared": {"trunkCoefficient": 0.5}}}
    if issubclass(member, PolicyObjective) and member.learns_values:
        return {"critic": {"shared": {"trunkCoefficient": 0.5}}}
    if issubclass(member, (Critic, ValueLoss)):
        estimator = "frozenValue" if member.member_key == "frozen" else "gae"
        within_bounds = {"rewards": [{"name": "right", "verifier": {"exactMatch": {"extract": "[0-3]"}}}]}
        return {"advantage": {estimator: {}}} | (within_bounds if member in (CrossEntropy, Categorical) else {})
    if issubclass(member, Shaping) and member.removed_by_baselines:
        return {"advantage": {"none": {}}}
    if issubclass(member, Shaping) and member.changes_scale:
        return {"advantage": {"leaveOneOut": {}}}
    return {}


def frozen(values: Path) -> dict[str, Any]:
    """A critic that was trained before."""
    return {"frozen": {"source": {"path": {"path": str(values)}}}}


def write_job(folder: Path, model: Path, patch: dict[str, Any], training: dict[str, Any]) -> TrainerConfig:
    """The configuration of a job of a few short steps; `patch` maps dotted paths of the spec to values."""
    train = folder / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    spec: dict[str, Any] = {
        "runtimeRef": {"name": "torch-cpu"},
        "model": {"source": {"path": {"path": str(model)}}, "dtype": "float32"},
        "data": {"train": {"source": {"path": {"path": str(train)}}}},
        "objective": {"grpo": {}},
        "rollout": {"groupSize": 4},
        "rewards": [
            {"name": "right", "verifier": {"exactMatch": {"extract": "[0-3]"}}},
            {"name": "short", "weight": 0.25, "verifier": {"regex": {"pattern": r"\S+( \S+)?", "mode": "fullMatch"}}},
        ],
        "training": {
            "steps": 4,
            "batchSize": 16,
            "maxPromptTokens": 8,
            "maxCompletionTokens": 6,
            "seed": 3,
            **training,
        },
        "output": {"path": str(folder / "output")},
    }
    for path, value in patch.items():
        node = spec
        *parents, last = path.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    critic = spec.get("critic", {}).get("frozen", {}).get("source", {}).get("path", {}).get("path")
    paths = {
        "model": str(model),
        "train": str(train),
        "critic": critic,
        "checkpoints": str(folder / "checkpoints"),
        "output": str(folder / "output"),
    }
    return TrainerConfig.model_validate({"kind": "RLVRJob", "name": "test", "rlvr": spec, "paths": paths})
