"""Beginnings of wrong programs that are worth learning, as tokens (Ni et al. 2023, arXiv:2205.14318, sec. 3.2)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from plumbline_trainer.rewards.program_text import program_span
from plumbline_trainer.search.program_states import State, correct_prefix, normal_form

TextOf = Callable[[Sequence[int]], str]
"""What tokens say."""


def right_beginning(
    text: str, tokens: Sequence[int], known: Iterable[State], solutions: Iterable[str], text_of: TextOf
) -> tuple[str, list[int]] | None:
    """Normal form and tokens of the longest beginning of a wrong completion that has computed what a solution had.

    `known` are the states of the prompt's right programs, `solutions` their normal forms. What stands before the
    program, such as an opening fence, is part of the tokens; the end token is not. None where no such beginning is,
    where it is one of a known solution, which teaches it already, and where no token ends with its last line.
    """
    begin, end = program_span(text)
    prefix = correct_prefix(text[begin:end], known)
    if prefix is None:
        return None
    form = normal_form(prefix)
    if begins_one(form, solutions):
        return None
    cut = tokens_until(text, begin + len(prefix), tokens, text_of)
    return None if cut is None else (form, cut)


def begins_one(form: str, solutions: Iterable[str]) -> bool:
    """Whether one of `solutions` has the lines of `form` as its first ones; normal forms all of them."""
    return any(solution == form or solution.startswith(f"{form}\n") for solution in solutions)


def tokens_until(text: str, place: int, tokens: Sequence[int], text_of: TextOf) -> list[int] | None:
    """The first of `tokens`, which say `text`, up to the end of the line in which `place` is, its line break included.

    None where there is no line break, and where the token with it says something of the next line as well: then no
    sequence of the completion's own tokens is that beginning.
    """
    line_end = text.find("\n", place)
    if line_end < 0:
        return None
    wanted = text[: line_end + 1]
    count = bisect_left(range(len(tokens)), len(wanted), key=lambda number: len(text_of(tokens[:number])))
    cut = list(tokens[:count])
    said = text_of(cut)
    return cut if said.startswith(wanted) and not said[len(wanted) :].strip() else None
