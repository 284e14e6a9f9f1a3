"""What preference objectives see: log-probabilities of the completions of B rows, and what the data says about them.

Notation of all objectives: log pi(y|x) is the sum over the completion's tokens; h(y) = log pi(y|x) - log pi_ref(y|x)
is the log-ratio; y_w is the chosen, y_l the rejected completion; sigma is the logistic function.

An objective is a pure function `(parameters, inputs) -> (losses, metrics)`. Losses are `[B]`, one a row, of which the
caller takes the mean over all rows of the optimizer step; supervised objectives give `[B, T]`, one a token, of which
the caller takes the mean over all completion tokens of the step. Nothing may depend on which rows share a call, except
through `whole_step`, which is the same for every micro-batch and rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from plumbline_trainer.reporting.metrics import Metric

Losses = tuple[torch.Tensor, dict[str, Metric]]
"""Losses with gradient, and metrics without."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of single tokens."""

    policy: torch.Tensor
    """[B, T] float: log pi(y_t | x, y_<t); 0 where `mask` is false."""

    mask: torch.Tensor
    """[B, T] bool: true at completion tokens."""

    reference: torch.Tensor | None = None
    """[B, T] float, without gradient; None for objectives without a reference."""

    typical: torch.Tensor | None = None
    """[B, T] float, without gradient: what a typical token has for a log-probability at each position, given by
    `weighting.typical_logprobs`; only for pair weightings that declare `needs_tokens`."""


@dataclass(frozen=True)
class Completions:
    """One completion for each of B rows; `[B, K]` in place of `[B]` where a row has K of them."""

    logprob: torch.Tensor
    """[B] float: log pi(y|x), with gradient."""

    tokens: torch.Tensor
    """[B] float: |y|, number of completion tokens."""

    reference: torch.Tensor | None = None
    """[B] float: log pi_ref(y|x); None for objectives without a reference."""

    score: torch.Tensor | None = None
    """[B] float: the data's score of the completion, higher is better; None where the data has none."""

    by_token: TokenLogprobs | None = None
    """Only for objectives and pair weightings that declare `needs_tokens`."""

    reference_kl: torch.Tensor | None = None
    """[B] float, with gradient: sum over completion positions of KL(pi_ref(.|x, y_<t) || pi(.|x, y_<t)), taken over
    the whole vocabulary; only for objectives that declare `needs_reference_kl`."""

    @property
    def log_ratio(self) -> torch.Tensor:
        """[B]: h(y). Raises `ValueError` without a reference."""
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities")
        return self.logprob - self.reference

    @property
    def mean_logprob(self) -> torch.Tensor:
        """[B]: log pi(y|x) / |y|."""
        return self.logprob / self.tokens

    @property
    def given_score(self) -> torch.Tensor:
        """[B]: the data's score. Raises `ValueError` where the data has none."""
        if self.score is None:
            raise ValueError("this objective needs scores")
        return self.score

    def take(self, index: torch.Tensor) -> Completions:
        """The completions at the positions `index`, int64 of any shape; one of more than one dimension leaves out
        what is known of single tokens."""
        by_token = None
        if self.by_token is not None and index.dim() == 1:
            by_token = TokenLogprobs(**{name: _take(value, index) for name, value in vars(self.by_token).items()})
        others = {name: _take(value, index) for name, value in vars(self).items() if name != "by_token"}
        return Completions(**others, by_token=by_token)


@dataclass(frozen=True)
class Revisions:
    """The completions of B pairs once more, each as a revision of an answer that the model is shown: y|(x, answer)."""

    chosen_given_rejected: Completions
    """y_w where the answer is y_l."""

    rejected_given_chosen: Completions
    """y_l where the answer is y_w."""

    rejected_given_rejected: Completions
    """y_l where the answer is y_l: the revision keeps it."""

    chosen_given_chosen: Completions
    """y_w where the answer is y_w."""


@dataclass(frozen=True)
class Pairs:
    """B pairs of completions of the same prompt."""

    chosen: Completions
    rejected: Completions

    whole_step: Pairs | None = None
    """All pairs of the optimizer step, in the step's order, scored by the present policy without gradients; only for
    objectives that declare `needs_whole_step`."""

    positions: torch.Tensor | None = None
    """[B] int64: where these rows stand in `whole_step`."""

    samples: Completions | None = None
    """[B, S]: completions of each prompt drawn from the reference; only for objectives that declare `draws_samples`."""

    revisions: Revisions | None = None
    """Only for objectives that declare `needs_revisions`."""


@dataclass(frozen=True)
class Unpaired:
    """B completions, each desirable or not."""

    completion: Completions

    desirable: torch.Tensor
    """[B] bool."""

    reference_point: torch.Tensor | None = None
    """KTO's z_0, scalar without gradient; see `unpaired.kto_reference_point`."""

    running_reward: torch.Tensor | None = None
    """[2] float, without gradient: BCO's running means of the rewards of desirable and of undesirable rows, this step
    included; see `unpaired.updated_running_reward`."""

    whole_step: Unpaired | None = None
    positions: torch.Tensor | None = None
    """As in `Pairs`."""


@dataclass(frozen=True)
class Demonstrations:
    """B completions to imitate."""

    completion: Completions

    samples: Completions | None = None
    """As in `Pairs`."""


@dataclass(frozen=True)
class Lists:
    """B rows of up to K scored completions of the same prompt."""

    completions: Completions
    """Tensors are [B, K]; entries where `present` is false mean nothing (0, with 1 token)."""

    present: torch.Tensor
    """[B, K] bool: which completions exist; at least two in every row."""


@dataclass(frozen=True)
class Scores:
    """Scalar scores of a reward model under training: pairs (chosen, rejected) or lists."""

    values: torch.Tensor
    """[B, K] float with gradient: r(x, y_k). For pairs K = 2 and column 0 is the chosen completion."""

    present: torch.Tensor
    """[B, K] bool: which completions exist."""

    labels: torch.Tensor | None = None
    """[B, K] float: the data's scores of the completions; None where the data has none."""


def _take(values: Any, index: torch.Tensor) -> Any:
    """`values` at `index`, along the first dimension; None stays None."""
    return None if values is None else values[index]
