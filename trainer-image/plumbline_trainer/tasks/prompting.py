"""What the model reads before a completion: the prompt, or the prompt with a label of the completion's reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from plumbline_api.methods.policy.own_solutions import ReturnConditioned
from plumbline_api.rlvr_job import RLVRJobSpec
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.rows import PromptRow
from plumbline_trainer.failures import DataError
from plumbline_trainer.objectives.policy.demonstrations import DEMONSTRATED
from plumbline_trainer.rollout.experience import Experience
from plumbline_trainer.rollout.return_conditioning import labelled
from plumbline_trainer.tasks.rlvr_data import PromptData


class TrainingPrompts:
    """The prompt that each experience is learnt behind, as token ids."""

    def __init__(self, spec: RLVRJobSpec, data: PromptData, renderer: Renderer) -> None:
        """`data` holds the prompts that are sampled from. Raises `DataError` for a prompt too long with its label."""
        objective = spec.objective.value
        self._good = data.prompt_ids
        self._bad: Sequence[Sequence[int]] | None = None
        if isinstance(objective, ReturnConditioned):
            self._threshold = objective.threshold
            self._bad = _labelled_ids(data.rows, objective.bad_label, renderer, spec.training.max_prompt_tokens)

    def of(self, experience: Experience) -> Sequence[int]:
        """Behind the label of what its reward is, where prompts have labels; a demonstration is good."""
        if self._bad is None or DEMONSTRATED in experience.prepared or experience.reward >= self._threshold:
            return self._good[experience.row]
        return self._bad[experience.row]


def sampling_prompts(spec: RLVRJobSpec, data: PromptData, renderer: Renderer) -> PromptData:
    """The prompts that completions are sampled for: those of the data, or with the label of a good completion."""
    objective = spec.objective.value
    if not isinstance(objective, ReturnConditioned):
        return data
    ids = _labelled_ids(data.rows, objective.good_label, renderer, spec.training.max_prompt_tokens)
    return replace(data, prompt_ids=ids)


def _labelled_ids(rows: Sequence[PromptRow], label: str, renderer: Renderer, most: int) -> list[list[int]]:
    prompts = [labelled(row.prompt, label) for row in rows]
    ids = [list(found) for found in renderer.prompt_ids(prompts, [row.place for row in rows])]
    for row, found in zip(rows, ids, strict=True):
        if len(found) > most:
            raise DataError(
                f"{row.place}: with the label {label!r} the prompt has {len(found)} tokens, "
                f"more than training.maxPromptTokens {most}"
            )
    return ids
