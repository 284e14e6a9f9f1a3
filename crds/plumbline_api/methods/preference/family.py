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

    scores_are_probabilities: ClassVar[bool] = False
    """Whether those scores must lie between 0 and 1."""

    needs_tokens: ClassVar[bool] = False
    """Whether the loss sees each token's log-probability and not only their sum."""

    needs_prefix: ClassVar[bool] = False
    """Whether rows carry a `prefix`: text after the prompt that both completions continue and that bears no loss."""

    moves_reference: ClassVar[bool] = False
    """Whether the reference's parameters change during the run; its parameters then have `mix` and `every_steps`.
    Log-probabilities under such a reference cannot be cached."""

    needs_whole_step: ClassVar[bool] = False
    """Whether a row's loss depends on all rows of the optimizer step. They are then scored without gradients first."""

    needs_reference_kl: ClassVar[bool] = False
    """Whether the divergence between reference and policy over the vocabulary enters the loss, with its gradient."""

    draws_samples: ClassVar[bool] = False
    """Whether completions drawn from the reference enter the loss; its parameters then have `samples_per_prompt`."""

    needs_revisions: ClassVar[bool] = False
    """Whether each completion is also scored as a revision of the other and of itself; its parameters then have
    `revision_template` and `revision_request`."""

    masked_likelihood: ClassVar[bool] = False
    """Whether the model is a masked diffusion language model, whose log-probabilities are estimated from masked copies
    drawn anew in every step; its parameters then have `samples`, `masks_per_step` and `shared_noise`."""

    smallest_batch: ClassVar[int] = 1
    """Fewest rows of a step from which the loss can be computed."""

    trains_scalar_head: ClassVar[bool] = False
    """Whether the result is a reward model (`AutoModelForSequenceClassification`) and not a language model."""

    def parts(self) -> list[PreferenceObjective]:
        """The objectives that make up this one, whose needs count: itself, or the terms of a sum."""
        return [self]
