"""What a rollout leaves behind for the updates that learn from it, and its form in a checkpoint."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plumbline_trainer.reporting.metrics import Metric, Metrics


@dataclass
class Experience:
    """One completion with what an update needs of it. Log-probabilities are float32 [T], T tokens of the completion."""

    slot: int
    """Place of its prompt in the rollout, over all ranks."""

    sample: int
    """Its number among the completions of the prompt."""

    row: int
    """The prompt's row in the training set."""

    tokens: list[int]
    sampled_logprobs: Tensor
    """As the sampler computed them."""

    advantages: Tensor
    """float32 [T]."""

    reward: float
    """After shaping."""

    old_logprobs: Tensor | None = None
    """As the trainer computes them, under the policy that sampled."""

    reference_logprobs: Tensor | None = None


@dataclass(frozen=True)
class Rollout:
    """One rank's share of a rollout."""

    number: int
    experiences: list[Experience]
    """Those that can move the policy, in order of slot and sample."""

    sequences: float
    """Completions of the rollout that have a reward, over all ranks."""

    tokens: float
    """Tokens of these completions."""

    metrics: Metrics
    """This rank's share."""


def encode_rollout(rollout: Rollout, experiences: Sequence[Experience], metrics: Metrics) -> dict[str, Any]:
    """The rollout with the `experiences` and `metrics` of all ranks in JSON types; every number comes back exactly."""
    return {
        "number": rollout.number,
        "sequences": rollout.sequences,
        "tokens": rollout.tokens,
        "metrics": {name: [float(metric.total), float(metric.count)] for name, metric in metrics.items()},
        "experiences": [
            {
                "slot": experience.slot,
                "sample": experience.sample,
                "row": experience.row,
                "tokens": _pack(torch.tensor(experience.tokens, dtype=torch.int32)),
                "sampled": _pack(experience.sampled_logprobs),
                "advantages": _pack(experience.advantages),
                "reward": experience.reward,
                "old": _pack(experience.old_logprobs),
                "reference": _pack(experience.reference_logprobs),
            }
            for experience in experiences
        ],
    }


def decode_rollout(state: dict[str, Any], rank: int, world_size: int) -> Rollout:
    """The share of `rank`: what `encode_rollout` was given for the slots that fall to it."""
    experiences = []
    for entry in state["experiences"]:
        if entry["slot"] % world_size != rank:
            continue
        tokens, sampled = _unpack(entry["tokens"], np.int32), _unpack(entry["sampled"], np.float32)
        advantages = _unpack(entry["advantages"], np.float32)
        assert tokens is not None and sampled is not None and advantages is not None
        experiences.append(
            Experience(
                entry["slot"],
                entry["sample"],
                entry["row"],
                tokens.tolist(),
                sampled,
                advantages,
                entry["reward"],
                _unpack(entry["old"], np.float32),
                _unpack(entry["reference"], np.float32),
            )
        )
    experiences.sort(key=lambda experience: (experience.slot, experience.sample))
    metrics = {name: Metric(total, count) for name, (total, count) in state["metrics"].items()}
    return Rollout(state["number"], experiences, state["sequences"], state["tokens"], metrics if rank == 0 else {})


def padded(rows: Sequence[Tensor | None]) -> Tensor | None:
    """[B, T] from B rows of different length, zeros at the right; None where the rows have no values."""
    present = [row for row in rows if row is not None]
    return pad_sequence(present, batch_first=True) if len(present) == len(rows) else None


def _pack(values: Tensor | None) -> str | None:
    """Base64 of the little-endian bytes: a third of the size of decimal digits, and exact."""
    if values is None:
        return None
    array = values.numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _unpack(text: str | None, kind: type[np.generic]) -> Tensor | None:
    if text is None:
        return None
    array = np.frombuffer(base64.b64decode(text), dtype=np.dtype(kind).newbyteorder("<"))
    return torch.from_numpy(array.astype(kind))
