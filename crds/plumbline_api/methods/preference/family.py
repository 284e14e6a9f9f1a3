"""The family of preference objectives, and what a member declares about itself."""

from __future__ import annotations

from typing import ClassVar, Literal

from plumbline_api.base import Family

DataShape = Literal["pairs", "unpaired", "completions", "lists"]


class PreferenceObjective(Family):
    """What a preference job minimises."""

    data_shape: ClassVar[DataShape] = "pairs"
    """Rows it learns from: (prompt, chosen, rejected), (prompt, completion, label), (prompt, completion) or
    (prompt, K completions, K scores)."""

    needs_reference: ClassVar[bool] = True
    """Whether log-probabilities under a reference model enter the loss."""

    needs_scores: ClassVar[bool] = False
    """Whether rows must carry scores of their completions."""

    needs_tokens: ClassVar[bool] = False
    """Whether the loss sees each token's log-probability and not only their sum."""

    needs_whole_step: ClassVar[bool] = False
    """Whether a row's loss depends on all rows of the optimizer step. They are then scored without gradients first."""

    draws_samples: ClassVar[bool] = False
    """Whether completions drawn from the reference enter the loss; its parameters then have `samples_per_prompt`."""

    smallest_batch: ClassVar[int] = 1
    """Fewest rows of a step from which the loss can be computed."""

    trains_scalar_head: ClassVar[bool] = False
    """Whether the result is a reward model (`AutoModelForSequenceClassification`) and not a language model."""
