"""What instructions are about: counts and properties of a text."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_ABBREVIATION = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Inc|Ltd|Co|vs|etc|e\.g|i\.e|cf|No|Fig|approx)\.$", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
_BULLET = re.compile(r"^[ \t]*(?:\*(?!\*)|-)[ \t]*\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*([^*\n]+)\*\*|(?<!\*)\*([^*\n]+)\*(?!\*)")
_TITLE = re.compile(r"<<([^\n]+?)>>")


def words(text: str) -> int:
    """Runs of letters and digits."""
    return len(_WORD.findall(text))


def sentences(text: str) -> int:
    """Parts that end with `.`, `!` or `?` before white space, and what remains after the last of them.

    An initial (`J. Smith`) and common abbreviations end none; numbers such as 3.5 hold no white space.
    """
    count, start = 0, 0
    for match in _SENTENCE_END.finditer(text):
        before = text[start : match.end()]
        if match[0] == "." and (_ABBREVIATION.search(before) or re.search(r"(?:^|\s)[A-Z]\.$", before)):
            continue
        count += bool(_WORD.search(before))
        start = match.end()
    return count + bool(_WORD.search(text[start:]))


def paragraphs(text: str) -> list[str]:
    """The parts between empty lines, without those that are empty themselves."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def bullets(text: str) -> int:
    """Lines that begin with `*` or `-`."""
    return len(_BULLET.findall(text))


def highlights(text: str) -> int:
    """Parts of a line marked `*so*` or `**so**` that hold more than white space."""
    return sum(bool((double or single).strip()) for double, single in _HIGHLIGHT.findall(text))


def occurrences(text: str, phrase: str, *, whole_words: bool) -> int:
    """How often a phrase occurs, letter case aside; `whole_words` leaves out those within longer words."""
    edge_before = r"(?<!\w)" if whole_words else ""
    edge_after = r"(?!\w)" if whole_words else ""
    return len(re.findall(edge_before + re.escape(phrase) + edge_after, text, re.IGNORECASE))


def has_title(text: str) -> bool:
    """Whether something stands in double angle brackets."""
    return any(title.strip("<> ") for title in _TITLE.findall(text))


def is_upper(text: str) -> bool:
    """Whether there are letters and all are capitals."""
    return text.isupper()


def is_lower(text: str) -> bool:
    """Whether there are letters and none is a capital."""
    return text.islower()
