"""Verifiers that look at the text alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.text import ExactMatch, Regex
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_answer


@VERIFIERS.implements(ExactMatch)
def exact_match(parameters: ExactMatch, code: Path | None) -> Verify:
    """Compares text with text."""
    extract = re.compile(parameters.extract, re.DOTALL) if parameters.extract else None

    def normalized(text: str) -> str:
        text = text.strip() if parameters.strip else text
        return text.casefold() if parameters.ignore_case else text

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        expected = normalized(required_answer(answer))
        if extract is None:
            return float(normalized(completion) == expected)
        matches = list(extract.finditer(completion))
        if not matches:
            return 0.0
        found = matches[-1].group(1 if extract.groups else 0)
        return float(found is not None and normalized(found) == expected)

    return verify


@VERIFIERS.implements(Regex)
def regex(parameters: Regex, code: Path | None) -> Verify:
    """Checks the form of a completion; `.` matches line breaks too."""
    pattern = re.compile(parameters.pattern, re.DOTALL)
    matches = pattern.fullmatch if parameters.mode == "fullMatch" else pattern.search

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        return float(matches(completion) is not None)

    return verify
