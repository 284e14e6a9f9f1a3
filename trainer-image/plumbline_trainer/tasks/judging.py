"""This rank's completions with their scores, and the judged rollout of all ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.distributed import Ranks
from plumbline_trainer.reporting.metrics import Metric, merge
from plumbline_trainer.rewards.scoring import Scores
from plumbline_trainer.rollout.experience import padded
from plumbline_trainer.rollout.judged import JudgedRollout
from plumbline_trainer.rollout.requests import Completion
from plumbline_trainer.tasks.rlvr_metrics import correct

_SAMPLES = 2**32
"""More than the samples of a prompt."""


@dataclass(frozen=True)
class Candidate:
    """A completion of this rank."""

    slot: int
    """Place of its prompt in the rollout, over all ranks."""

    sample: int
    """Its number among the completions of the prompt."""

    row: int
    """The prompt's row in the training set."""

    completion: Completion
    text: str

    hinted: bool = False
    """Whether it was sampled with a hint in the prompt, without which it is learnt from."""

    injected: bool = False
    """Whether it was not sampled for this rollout: a solution out of the data, or an own one of earlier."""

    @property
    def key(self) -> int:
        """Orders by slot, then by sample."""
        return self.slot * _SAMPLES + self.sample


class Judgement:
    """Candidates and what the components of the reward say of them; grows and shrinks until the rollout is complete."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self._components: dict[str, Tensor] = {}
        self._totals = torch.zeros(0, dtype=torch.float64)
        self._valid = torch.zeros(0, dtype=torch.bool)
        self._metrics: list[dict[str, Metric]] = []

    def add(self, candidates: Sequence[Candidate], scores: Scores) -> None:
        """Takes further candidates with their scores."""
        self.candidates += candidates
        empty = self._totals[:0]
        self._components = {
            name: torch.cat([self._components.get(name, empty), values]) for name, values in scores.components.items()
        }
        self._totals = torch.cat([self._totals, scores.totals])
        self._valid = torch.cat([self._valid, scores.valid])
        self._metrics.append(scores.metrics)
        self._keep(sorted(range(len(self.candidates)), key=lambda place: self.candidates[place].key))

    def drop(self, slots: Collection[int]) -> None:
        """Forgets the candidates of `slots`; their calls stay counted."""
        self._keep([place for place, one in enumerate(self.candidates) if one.slot not in slots])

    def drop_sample(self, slot: int, sample: int) -> None:
        """Forgets one candidate; its calls stay counted."""
        self._keep([place for place, one in enumerate(self.candidates) if (one.slot, one.sample) != (slot, sample)])

    def scores(self) -> Scores:
        """The scores of the candidates, in order; the metrics also count calls for dropped ones."""
        return Scores(self._components, self._totals, self._valid, merge(self._metrics))

    def sampled_scores(self) -> Scores:
        """As `scores`, without the candidates that no policy sampled in this rollout."""
        index = torch.tensor([not candidate.injected for candidate in self.candidates], dtype=torch.bool)
        components = {name: values[index] for name, values in self._components.items()}
        return Scores(components, self._totals[index], self._valid[index], merge(self._metrics))

    def rollout(self, spec: RLVRJobSpec, columns: Sequence[Mapping[str, Any]], step: int, steps: int) -> JudgedRollout:
        """This rank's part of the judged rollout, in order of slot and sample; `columns` are those of all rows."""
        completions = [candidate.completion for candidate in self.candidates]
        logprobs = padded([torch.tensor(completion.logprobs) for completion in completions])
        count = len(completions)
        injected = torch.tensor([candidate.injected for candidate in self.candidates], dtype=torch.bool)
        return JudgedRollout(
            rewards=self._totals,
            groups=torch.tensor([candidate.slot for candidate in self.candidates], dtype=torch.long),
            valid=self._valid,
            lengths=torch.tensor([len(completion.tokens) for completion in completions], dtype=torch.long),
            correct=(correct(spec, self.scores()) | injected) if count else injected,
            truncated=torch.tensor([completion.finish == "length" for completion in completions], dtype=torch.bool),
            logprobs=torch.zeros(0, 0) if logprobs is None else logprobs,
            guided=torch.tensor([completion.guided for completion in completions], dtype=torch.long),
            components=self._components,
            texts=[candidate.text for candidate in self.candidates],
            columns=[columns[candidate.row] for candidate in self.candidates],
            weights={reward.name: reward.weight for reward in spec.rewards},
            step=step,
            steps=steps,
            max_completion_tokens=spec.training.max_completion_tokens,
        )

    def _keep(self, places: list[int]) -> None:
        index = torch.tensor(places, dtype=torch.long)
        self.candidates = [self.candidates[place] for place in places]
        self._components = {name: values[index] for name, values in self._components.items()}
        self._totals, self._valid = self._totals[index], self._valid[index]


def gathered(ranks: Ranks, own: JudgedRollout, keys: Sequence[int]) -> tuple[JudgedRollout, Tensor]:
    """The completions of all ranks in the order of their keys, and the places [n] of this rank's own among them.

    So a sum over the rollout is the same to the last bit however prompts were dealt out. `keys` belong to the
    completions of `own` and are ascending.
    """
    if ranks.alone:
        return own, torch.arange(len(keys))
    parts, all_keys = zip(*ranks.gather((own, list(keys))), strict=True)
    flat = torch.tensor([key for some in all_keys for key in some], dtype=torch.long)
    order = flat.argsort(stable=True)
    joined = {name.name: _joined([getattr(part, name.name) for part in parts]) for name in fields(own)}
    everyone = taken(replace(own, **joined), order)
    start = sum(len(some) for some in all_keys[: ranks.rank])
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return everyone, places[start : start + len(keys)]


def taken(rollout: JudgedRollout, index: Tensor) -> JudgedRollout:
    """The completions `index` (int64 [n]) of a rollout, in that order."""
    count = len(rollout.rewards)

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[index]
        if isinstance(value, Mapping):
            return {key: of(inner) if isinstance(inner, Tensor) else inner for key, inner in value.items()}
        if isinstance(value, (list, tuple)) and len(value) == count:
            return [value[place] for place in index.tolist()]
        return value

    return replace(rollout, **{name.name: of(getattr(rollout, name.name)) for name in fields(rollout)})


def _joined(values: Sequence[Any]) -> Any:
    """One value from those of all ranks: tensors and lists end to end, by key in a mapping; else all are the same."""
    first = values[0]
    if isinstance(first, Tensor):
        if first.dim() == 1:
            return torch.cat(list(values))
        width = max(value.shape[1] for value in values)
        return torch.cat([pad(value, (0, width - value.shape[1])) for value in values])
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values if key in value]) for key in first}
    if isinstance(first, (list, tuple)):
        return [item for value in values for item in value]
    return first
