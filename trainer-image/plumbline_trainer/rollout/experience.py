"""What a rollout leaves behind for the updates that learn from it, and its form in a checkpoint."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plumbline_trainer.reporting.metrics import Metric, Metrics


@dataclass
class Experience:
    """One completion with what an update needs of it. Values of tokens are float32 [T], T tokens of the completion."""

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
    reward: float
    """After shaping."""

    old_logprobs: Tensor | None = None
    """As the trainer computes them, under the policy before this rollout's updates; of a stale one under whatever
    policy its importance ratio is taken to. None in a first update where that is the policy as it is."""

    stale: bool = False
    """Whether another policy than the one before this rollout's updates sampled it, or is the one of `old_logprobs`:
    with these its ratio is not 1 in the first update either."""

    reference_logprobs: Tensor | None = None
    reference_tokens: Tensor | None = None
    """int32 [T]: what the reference would have written in place of each token; None where nothing asks for it."""

    values: Tensor | None = None
    """The critic's, before the updates."""

    returns: Tensor | None = None
    """What the critic's values should be."""

    prepared: dict[str, Tensor] = field(default_factory=dict)
    """What the objective's preparation gives for the completion, [], or for its tokens, [T]."""


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


_OF_TOKENS = ("sampled_logprobs", "advantages", "old_logprobs", "reference_logprobs", "values", "returns")


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
                "reward": experience.reward,
                "stale": experience.stale,
                **{name: _pack(getattr(experience, name)) for name in _OF_TOKENS},
                "reference_tokens": _pack(experience.reference_tokens),
                "prepared": {
                    name: _pack(values) if values.dim() else float(values)
                    for name, values in experience.prepared.items()
                },
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
        tokens = _unpack(entry["tokens"], np.int32)
        assert tokens is not None
        prepared = {
            name: torch.tensor(value) if isinstance(value, float) else _unpack(value, np.float32)
            for name, value in entry["prepared"].items()
        }
        of_tokens: dict[str, Any] = {name: _unpack(entry[name], np.float32) for name in _OF_TOKENS}
        experiences.append(
            Experience(
                entry["slot"],
                entry["sample"],
                entry["row"],
                tokens.tolist(),
                reward=entry["reward"],
                reference_tokens=_unpack(entry["reference_tokens"], np.int32),
                stale=entry["stale"],
                prepared={name: values for name, values in prepared.items() if values is not None},
                **of_tokens,
            )
        )
    experiences.sort(key=lambda experience: (experience.slot, experience.sample))
    metrics = {name: Metric(total, count) for name, (total, count) in state["metrics"].items()}
    return Rollout(state["number"], experiences, state["sequences"], state["tokens"], metrics if rank == 0 else {})


def padded(rows: Sequence[Tensor | None]) -> Tensor | None:
    """[B, T] from B rows of different length, zeros at the right, or [B] from numbers; None where a row has none."""
    present = [row for row in rows if row is not None]
    if len(present) < len(rows):
        return None
    return pad_sequence(present, batch_first=True) if present[0].dim() else torch.stack(present)


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
