"""What is changed about the logits of each row before a token is chosen: penalties, and tokens that may not come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plumbline_trainer.rollout.constrained import Follower, Grammar


class ScoreEdits:
    """The edits of a batch whose rows come and go, and what they need to know of each row.

    A repetition penalty r > 1 divides positive logits of tokens that the row's prompt or completion has, and
    multiplies negative ones. End tokens may not come before `min_tokens`. A grammar allows what continues it.
    """

    def __init__(self, repetition_penalty: float, min_tokens: int, end_tokens: Tensor, grammar: Grammar | None) -> None:
        self._penalty = repetition_penalty
        self._min_tokens = min_tokens
        self._end_tokens = end_tokens
        self._grammar = grammar
        self._seen = torch.zeros(0, 0, dtype=torch.bool)
        self._followers: list[Follower] = []

    def admit(self, prompts: Sequence[Sequence[int]], vocabulary: int, device: torch.device) -> None:
        """Adds rows below the others, by their prompts."""
        if self._penalty != 1.0:
            seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
            for row, prompt in zip(seen, prompts, strict=True):
                row[torch.tensor(prompt, dtype=torch.long)] = True
            seen = seen.to(device)
            self._seen = torch.cat([self._seen, seen]) if len(self._seen) else seen
        if self._grammar is not None:
            self._followers += [self._grammar.start() for _ in prompts]

    def keep(self, places: np.ndarray) -> None:
        """Keeps the rows at `places`, in that order."""
        if self._penalty != 1.0:
            self._seen = self._seen[torch.from_numpy(places).to(self._seen.device)]
        if self._grammar is not None:
            self._followers = [self._followers[place] for place in places]

    def apply(self, logits: Tensor, produced: np.ndarray, live: np.ndarray) -> Tensor | None:
        """The changed logits [B, V], in float32; None where nothing changes.

        `produced` [B] counts the tokens of each row, and only rows at places `live` take a token.
        """
        scores = None
        if self._penalty != 1.0:
            scores = logits.float()
            penalised = torch.where(scores > 0, scores / self._penalty, scores * self._penalty)
            scores = torch.where(self._seen, penalised, scores)
        short = live[produced[live] < self._min_tokens - 1]
        if len(short):
            scores = logits.float().clone() if scores is None else scores
            rows = torch.from_numpy(short).to(scores.device)
            scores[rows[:, None], self._end_tokens.to(scores.device)] = float("-inf")
        if self._grammar is not None:
            scores = logits.float() if scores is None else scores
            allowed = np.ones(scores.shape, dtype=bool)
            for place in live:
                allowed[place] = self._followers[place].allowed(scores.shape[1])
            scores = scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), float("-inf"))
        return scores

    def take(self, tokens: Tensor, live: np.ndarray) -> np.ndarray:
        """Tells the rows at places `live` their `tokens` [live]; which of them, bool [live], a grammar completes."""
        if self._penalty != 1.0:
            self._seen[torch.from_numpy(live).to(self._seen.device), tokens] = True
        complete = np.zeros(len(live), dtype=bool)
        if self._grammar is not None:
            for index, (place, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
                self._followers[place].advance(token)
                complete[index] = self._followers[place].complete
        return complete
