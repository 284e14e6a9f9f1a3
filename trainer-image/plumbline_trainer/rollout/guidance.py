"""Sampling from the policy that a success head guides, for some rows of a batch and up to a token of each.

Q# ("Qsharp: Provably Optimal Distributional RL for LLM Post-Training", Zhou et al. 2025, arXiv:2502.20548): see
`objectives.guided_policy` for what is learnt and why it guides to the optimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plumbline_trainer.modeling.success_head import SuccessHead
from plumbline_trainer.objectives.guided_policy import guided_logits, regularized_value
from plumbline_trainer.rollout.sampling import Stream, uniforms


@dataclass(frozen=True)
class Guide:
    """A success head and how its values are added to logits."""

    head: SuccessHead
    eta: float
    candidates: int
    """The reference's so many likeliest tokens are guided, all others ruled out."""

    temperature: float
    """That of sampling, at which the reference is what its completions were sampled from."""

    def scores(self, logits: Tensor, states: Tensor) -> Tensor:
        """[R, V] float32 from the reference's `logits` [R, V] and the `states` [R, H] that they were made of.

        The scores still have to be divided by the temperature: the guided policy is softmax(logits / temperature +
        Q / eta) over the candidates.
        """
        logits = logits.float()
        tokens = logits.topk(min(self.candidates, logits.shape[-1]), dim=-1).indices
        values = regularized_value(self.head(states, tokens), self.eta)
        return guided_logits(logits, self.temperature * values, self.eta, tokens)


class GuidedRows:
    """The rows of a batch that come and go, and how many tokens of each are guided."""

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self._guided = np.zeros(0, dtype=np.int64)

    def admit(self, guided: Sequence[int]) -> None:
        """Adds rows below the others, by their numbers of guided tokens."""
        self._guided = np.concatenate([self._guided, np.array(guided, dtype=np.int64)])

    def keep(self, places: np.ndarray) -> None:
        """Keeps the rows at `places`, in that order."""
        self._guided = self._guided[places]

    def apply(self, logits: Tensor, states: Tensor, produced: np.ndarray, scores: Tensor | None) -> Tensor | None:
        """What to choose by in place of `logits` [B, V]; None where nothing changes.

        `scores` [B, V] are the logits after other edits, which are the reference's then; `produced` [B] counts the
        tokens of each row.
        """
        rows = np.flatnonzero(produced < self._guided)
        if not len(rows):
            return scores
        index = torch.from_numpy(rows).to(logits.device)
        edited = (logits if scores is None else scores).float()
        return edited.index_copy(0, index, self._guide.scores(edited[index], states[index]))


def switches(streams: Sequence[Stream], within: int) -> list[int]:
    """The number of tokens, evenly from 0 to `within` - 1, after which guidance ends in the completion of each stream;
    it belongs to the stream and to nothing else. 0 for all where `within` is 0."""
    if not streams or not within:
        return [0] * len(streams)
    own = [Stream(one.seed, f"switch {one.purpose}", one.step, one.prompt, one.sample) for one in streams]
    drawn = uniforms(own, np.zeros((len(own), 1), dtype=np.int64))[:, 0]
    found: list[int] = np.floor(drawn * within).astype(int).tolist()
    return found
