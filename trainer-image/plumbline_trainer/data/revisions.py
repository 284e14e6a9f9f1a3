"""What an improver reads: the prompt, an answer to it, and the request to revise the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.conversations import Prompt
from plumbline_trainer.data.rendering import Renderer
from plumbline_trainer.data.rows import PairRow

REVISIONS = ("chosen_given_rejected", "rejected_given_rejected", "chosen_given_chosen", "rejected_given_chosen")
"""The fields of `objectives.preference.inputs.Revisions` in the order of a row's sequences: neighbours share their
prompt."""


@dataclass(frozen=True)
class RevisionTemplate:
    """How a revision is asked for."""

    text: str
    """Where the tokenizer has no chat template: the prompt of the revision, with {prompt} and {answer}."""

    request: str
    """Where it has one: the user's turn that follows the prompt and the answer."""

    chat: bool
    """Whether the tokenizer has a chat template."""


def revision_prompt(prompt: Prompt, answer: str, template: RevisionTemplate) -> Prompt:
    """The prompt for a revision of `answer`: messages for a chat template, else text.

    Braces in prompt and answer stay as they are. A prompt of messages stays one: without a chat template the renderer
    refuses it, as it refuses the prompt itself.
    """
    if not template.chat and isinstance(prompt, str):
        values = {"{prompt}": prompt, "{answer}": answer}
        return re.sub(r"\{prompt\}|\{answer\}", lambda found: values[found.group()], template.text)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*turns, {"role": "assistant", "content": answer}, {"role": "user", "content": template.request}]


def revision_prompts(row: PairRow, template: RevisionTemplate) -> tuple[Prompt, Prompt]:
    """The prompts for a revision of the row's rejected and of its chosen completion, each after the row's prefix."""
    return (
        revision_prompt(row.prompt, row.prefix + row.rejected, template),
        revision_prompt(row.prompt, row.prefix + row.chosen, template),
    )


def revision_sequences(
    rows: Sequence[PairRow], template: RevisionTemplate, renderer: Renderer
) -> list[list[TokenSequence]]:
    """The four sequences of every row in the order of `REVISIONS`.

    A revision begins with the row's prefix, as the completions do, and ends as they end. Raises `DataError` naming the
    row.
    """
    twice = [row for row in rows for _ in range(2)]
    prompts = [prompt for row in rows for prompt in revision_prompts(row, template)]
    places, prefixes = [row.place for row in twice], [row.prefix for row in twice]
    prompt_ids = renderer.prompt_ids(prompts, places, prefixes)
    chosen, rejected = (
        renderer.completion_ids(prompts, completions, places, prefixes, [row.final for row in twice])
        for completions in ([row.chosen for row in twice], [row.rejected for row in twice])
    )
    return [
        [
            TokenSequence(prompt_ids[position], completions[position])
            for position in (2 * row, 2 * row + 1)
            for completions in (chosen, rejected)
        ]
        for row in range(len(rows))
    ]
