"""From the log-probabilities of sequences to what an objective sees: pairs, lists, single completions, scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_trainer.data.revisions import REVISIONS
from plumbline_trainer.objectives.preference.inputs import (
    Completions,
    Demonstrations,
    Lists,
    Pairs,
    Revisions,
    Scores,
    TokenLogprobs,
    Unpaired,
)
from plumbline_trainer.tasks.scored_rows import ScoredRows

RowInputs = Pairs | Unpaired | Demonstrations | Lists | Scores


@dataclass(frozen=True)
class SequenceValues:
    """What the policy says about S sequences, and what a reference that is computed along with it says."""

    values: torch.Tensor
    """[S] float: log pi(y|x), or the scalar score of a reward model."""

    by_token: TokenLogprobs | None = None
    """[S, T]: the same token by token."""

    reference: torch.Tensor | None = None
    """[S] float: log pi_ref(y|x) where it does not come from the rows."""

    reference_kl: torch.Tensor | None = None
    """[S] float: see `Completions.reference_kl`."""


@dataclass(frozen=True)
class StepFacts:
    """What the loss of a row takes from the whole optimizer step."""

    reference_point: torch.Tensor | None = None
    running_reward: torch.Tensor | None = None
    whole_step: RowInputs | None = None
    positions: dict[int, int] | None = None
    """Row -> its place in the step."""


def row_inputs(
    objective: PreferenceObjective,
    part: ScoredRows,
    rows: list[int],
    found: SequenceValues,
    facts: StepFacts,
) -> RowInputs:
    """The inputs of `objective` for `rows` of `part`, whose sequences have the values `found`, in order."""
    device = found.values.device
    counts = torch.tensor([len(part.sequences[row]) for row in rows])
    starts = (counts.cumsum(0) - counts).to(device)
    scores = None if part.scores is None else part.scores[rows].to(device)
    if objective.trains_scalar_head or objective.data_shape == "lists":
        place, present = _places(starts, part.completions[rows].to(device))
        labels = None if scores is None else scores[:, : present.shape[1]]
        if objective.trains_scalar_head:
            return Scores(torch.where(present, found.values[place], 0.0), present, labels)
        listed = _completions(part, rows, found).take(place)
        return Lists(replace(_absent_as_nothing(listed, present), score=labels), present)
    completions = _completions(part, rows, found)
    own = completions.take(starts)
    positions = None
    if facts.positions is not None:
        positions = torch.tensor([facts.positions[row] for row in rows], device=device)
    if objective.data_shape == "pairs":
        return Pairs(
            replace(own, score=None if scores is None else scores[:, 0]),
            replace(completions.take(starts + 1), score=None if scores is None else scores[:, 1]),
            whole_step=facts.whole_step if isinstance(facts.whole_step, Pairs) else None,
            positions=positions,
            samples=_samples(objective, completions, starts, counts.to(device)),
            revisions=_revisions(objective, completions, starts + 2),
        )
    if objective.data_shape == "completions":
        return Demonstrations(own, _samples(objective, completions, starts, counts.to(device)))
    if part.desirable is None:
        raise ValueError("unpaired rows need labels")
    return Unpaired(
        own,
        part.desirable[rows].to(device),
        reference_point=_moved(facts.reference_point, device),
        running_reward=_moved(facts.running_reward, device),
        whole_step=facts.whole_step if isinstance(facts.whole_step, Unpaired) else None,
        positions=positions,
    )


def _completions(part: ScoredRows, rows: list[int], found: SequenceValues) -> Completions:
    """All sequences of `rows`, with what the rows know of their reference."""
    device = found.values.device
    numbers = part.sequence_numbers(rows)
    by_token = found.by_token
    if by_token is not None and by_token.reference is None:
        by_token = replace(by_token, reference=part.reference_tokens(numbers, by_token.mask))
    reference = found.reference
    if reference is None and part.reference is not None:
        reference = part.reference[numbers].to(device)
    return Completions(
        found.values,
        part.tokens[numbers].to(device),
        reference,
        by_token=by_token,
        reference_kl=found.reference_kl,
    )


def _places(starts: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """([B, K] positions of each row's completions, [B, K] bool which exist); absent ones point at the row's first."""
    column = torch.arange(int(counts.max()), device=starts.device)
    present = column < counts[:, None]
    return starts[:, None] + torch.where(present, column, 0), present


def _absent_as_nothing(listed: Completions, present: torch.Tensor) -> Completions:
    """Entries that do not exist as 0, with 1 token."""

    def blank(values: torch.Tensor | None, value: float = 0.0) -> torch.Tensor | None:
        return None if values is None else torch.where(present, values, value)

    return replace(
        listed,
        logprob=torch.where(present, listed.logprob, 0.0),
        tokens=torch.where(present, listed.tokens, 1.0),
        reference=blank(listed.reference),
    )


def _samples(
    objective: PreferenceObjective, completions: Completions, starts: torch.Tensor, counts: torch.Tensor
) -> Completions | None:
    """[B, S]: the last S sequences of each row, which were drawn from the reference."""
    if not objective.draws_samples:
        return None
    drawn: int = objective.samples_per_prompt  # type: ignore[attr-defined]
    return completions.take((starts + counts - drawn)[:, None] + torch.arange(drawn, device=starts.device))


def _revisions(objective: PreferenceObjective, completions: Completions, starts: torch.Tensor) -> Revisions | None:
    if not objective.needs_revisions:
        return None
    return Revisions(**{name: completions.take(starts + offset) for offset, name in enumerate(REVISIONS)})


def _moved(values: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if values is None else values.to(device)
