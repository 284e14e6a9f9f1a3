"""Length instructions: prompts that ask for at most N words, and labels that follow from who keeps to it.

From "Following Length Constraints in Instructions" (Yuan et al. 2024, arXiv:2406.17744): preference pairs get a limit
in their prompt, and a completion that breaks it loses against one that keeps it. What the limit decides:

| words of the winner | words of the loser | the pair |
|---|---|---|
| at most N | at most N | stays as it is |
| at most N | above N | stays as it is |
| above N | at most N | is turned round |
| above N | above N | gets no instruction: nobody kept it, so the preference says nothing about it |

How N is drawn is ours: with the chance `deciding_share` between the two lengths, from the shorter to one word less
than the longer, so that only the shorter completion keeps it; otherwise from the longer to half as much again, so that
both do. Neither is below both lengths. Completions of equal length only get limits that both keep.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plumbline_api.preference_data import LIMIT_PLACE, LengthInstruction
from plumbline_trainer.data.conversations import Prompt
from plumbline_trainer.data.rows import PairRow
from plumbline_trainer.data.seeds import derive_seed

Outcome = Literal["kept", "turned", "undecided"]

ROOM = 1.5
"""The largest limit that both completions keep, relative to the longer of them."""


@dataclass(frozen=True)
class Instructed:
    """Rows of which some got a length instruction."""

    rows: list[PairRow]
    instructed: int
    turned: int
    """Of these, pairs whose completions changed places."""


def instruct_lengths(parameters: LengthInstruction, rows: Sequence[PairRow], seed: int) -> Instructed:
    """Gives `share` of the rows an instruction; a pure function, in which each row depends on index and seed."""
    result: list[PairRow] = []
    instructed = turned = 0
    for index, row in enumerate(rows):
        generator = random.Random(derive_seed(seed, "length instruction", index))
        if generator.random() >= parameters.share:
            result.append(row)
            continue
        limit = draw_limit(words(row.chosen), words(row.rejected), parameters.deciding_share, generator)
        changed = instruct(row, limit, parameters.text)
        result.append(changed or row)
        instructed += changed is not None
        turned += changed is not None and changed.chosen != row.chosen
    return Instructed(result, instructed, turned)


def draw_limit(first: int, second: int, deciding_share: float, generator: random.Random) -> int:
    """A limit around two lengths in words, at least 1; see the module."""
    shorter, longer = sorted((first, second))
    if generator.random() < deciding_share and max(shorter, 1) < longer:
        return generator.randint(max(shorter, 1), longer - 1)
    return generator.randint(max(longer, 1), max(int(ROOM * longer), 1))


def outcome(winner_words: int, loser_words: int, limit: int) -> Outcome:
    """What a limit makes of a pair."""
    if winner_words <= limit:
        return "kept"
    return "turned" if loser_words <= limit else "undecided"


def instruct(row: PairRow, limit: int, text: str) -> PairRow | None:
    """The pair with the limit in its prompt, turned round where that decides it; None where it cannot get one.

    That is where nobody keeps the limit, where the conversation has no message of the user, and where the pair is one
    of steps: the length of a step says nothing about that of the answer.
    """
    result = outcome(words(row.chosen), words(row.rejected), limit)
    prompt = _with_instruction(row.prompt, text.replace(LIMIT_PLACE, str(limit)))
    if result == "undecided" or prompt is None or row.prefix or not row.final:
        return None
    if result == "kept":
        return replace(row, prompt=prompt)
    # the scores were given without the instruction, and contradict the pair that it makes
    return replace(row, prompt=prompt, chosen=row.rejected, rejected=row.chosen, chosen_score=None, rejected_score=None)


def words(text: str) -> int:
    """Number of words: what white space separates."""
    return len(text.split())


def _with_instruction(prompt: Prompt, instruction: str) -> Prompt | None:
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    last = next((index for index in reversed(range(len(prompt))) if prompt[index]["role"] == "user"), None)
    if last is None:
        return None
    message = prompt[last] | {"content": f"{instruction}\n\n{prompt[last]['content']}"}
    return [*prompt[:last], message, *prompt[last + 1 :]]
