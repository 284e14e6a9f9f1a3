"""Instructions about the form of a text, as in IFEval.

Names and arguments of the rules in rows are those of IFEval's data (Zhou et al. 2023, arXiv:2311.07911), and so are
their meanings, with two differences: sentences are counted by `text_measures` and not by NLTK's trained splitter, and
keywords are texts and not regular expressions. `language:response_language` is refused: it needs a language detector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.instructions import Count, Instructions
from plumbline_trainer.rewards.verifiers import text_measures as measure
from plumbline_trainer.rewards.verifiers.documents import NO_DOCUMENT, read_document
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_column, shown

Check = Callable[[str], bool]
"""Whether a text follows a rule."""

_CONSTRAINED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@VERIFIERS.implements(Instructions)
def instructions(parameters: Instructions, code: Path | None) -> Verify:
    """The rules of the spec, and of the row where it has its own; an empty text follows none of them."""
    fixed = spec_rules(parameters)

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        rules = [*fixed, *(row_rules(row, parameters) if parameters.from_rows else ())]
        if not rules:
            raise ValueError(f"the row's {parameters.names_column} is empty: there is no rule to follow")
        texts = _variants(completion) if parameters.strictness == "loose" else [completion]
        followed = [any(bool(text.strip()) and rule(text) for text in texts) for rule in rules]
        return float(all(followed)) if parameters.reward == "all" else sum(followed) / len(followed)

    return verify


def spec_rules(parameters: Instructions) -> list[Check]:
    """One check for each rule of the spec; every keyword and every forbidden text is a rule of its own."""
    counted: list[tuple[Count | None, Callable[[str], int]]] = [
        (parameters.words, measure.words),
        (parameters.sentences, measure.sentences),
        (parameters.paragraphs, lambda text: len(measure.paragraphs(text))),
        (parameters.bullets, measure.bullets),
        (parameters.highlights, measure.highlights),
    ]
    checks: list[Check] = [
        partial(_between, count.at_least, count.at_most, how_many) for count, how_many in counted if count is not None
    ]
    for keyword in parameters.keywords or ():
        times = partial(measure.occurrences, phrase=keyword.text, whole_words=True)
        checks.append(partial(_between, keyword.at_least, keyword.at_most, times))
    for phrase in parameters.forbidden or ():
        checks.append(partial(_between, None, 0, partial(measure.occurrences, phrase=phrase, whole_words=True)))
    if (start := parameters.starts_with) is not None:
        checks.append(lambda text: text.strip().startswith(start.strip()))
    if (end := parameters.ends_with) is not None:
        checks.append(lambda text: text.strip().endswith(end.strip()))
    if parameters.letter_case is not None:
        checks.append(measure.is_upper if parameters.letter_case == "upper" else measure.is_lower)
    if parameters.no_commas:
        checks.append(_no_comma)
    if parameters.json_only:
        checks.append(_is_json)
    if parameters.title:
        checks.append(measure.has_title)
    return checks


def row_rules(row: Mapping[str, Any], parameters: Instructions) -> list[Check]:
    """The rules of a row. Raises `ValueError` for names and arguments that are not IFEval's."""
    names = required_column(row, parameters.names_column)
    arguments = row.get(parameters.arguments_column)
    arguments = [{}] * len(names) if arguments is None else arguments
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
        raise ValueError(
            f"the row's {parameters.names_column} and {parameters.arguments_column} must be lists of equal length"
        )
    return [_row_rule(name, given or {}) for name, given in zip(names, arguments, strict=True)]


def _row_rule(name: Any, arguments: Mapping[str, Any]) -> Check:
    build = ROW_RULES.get(name)
    if build is None:
        raise ValueError(f"the row's instruction {shown(name)} is not known; known are {', '.join(sorted(ROW_RULES))}")
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        return build(**given)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the row's instruction {name} cannot use the arguments {shown(given)}: {error}") from None


def _between(at_least: int | None, at_most: int | None, how_many: Callable[[str], int], text: str) -> bool:
    count = how_many(text)
    return (at_least is None or count >= at_least) and (at_most is None or count <= at_most)


def _related(how_many: Callable[[str], int], relation: str, number: int) -> Check:
    """IFEval's two relations."""
    number = int(number)
    if relation == "at least":
        return partial(_between, number, None, how_many)
    if relation == "less than":
        return partial(_between, None, number - 1, how_many)
    raise ValueError(f'the relation must be "at least" or "less than", not {relation!r}')


def _variants(text: str) -> list[str]:
    """The eight texts of which IFEval's loose criterion takes the best: without first line, last line, asterisks."""
    lines = text.split("\n")
    cut = [lines, lines[1:], lines[:-1], lines[1:-1]]
    texts = [text, *("\n".join(part).strip() for part in cut[1:])]
    return [variant for some in texts for variant in (some, some.replace("*", ""))]


def _no_comma(text: str) -> bool:
    return "," not in text


def _is_json(text: str) -> bool:
    return read_document(text, allow_fence=True) is not NO_DOCUMENT


def _keywords(keywords: list[str]) -> Check:
    return lambda text: all(measure.occurrences(text, word, whole_words=False) for word in keywords)


def _keyword_frequency(keyword: str, frequency: int, relation: str) -> Check:
    return _related(partial(measure.occurrences, phrase=keyword.strip(), whole_words=False), relation, frequency)


def _forbidden_words(forbidden_words: list[str]) -> Check:
    return lambda text: not any(measure.occurrences(text, word, whole_words=True) for word in forbidden_words)


def _letter_frequency(letter: str, let_frequency: int, let_relation: str) -> Check:
    return _related(lambda text: text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _number_words(num_words: int, relation: str) -> Check:
    return _related(measure.words, relation, num_words)


def _number_sentences(num_sentences: int, relation: str) -> Check:
    return _related(measure.sentences, relation, num_sentences)


def _number_paragraphs(num_paragraphs: int) -> Check:
    """Paragraphs that the divider *** separates; only the first and the last part may be empty."""

    def check(text: str) -> bool:
        parts = [part.strip() for part in text.split("***")]
        inner = parts[1 if not parts[0] else 0 : len(parts) - 1 if not parts[-1] else len(parts)]
        return all(inner) and len(inner) == num_paragraphs

    return check


def _nth_paragraph_first_word(num_paragraphs: int, nth_paragraph: int, first_word: str) -> Check:
    wanted = first_word.lower()

    def check(text: str) -> bool:
        parts = measure.paragraphs(text)
        if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= len(parts):
            return False
        word = parts[nth_paragraph - 1].split()[0].lstrip("'\"").lower()
        return re.split(r"[.,?!'\"]", word)[0] == wanted

    return check


def _number_placeholders(num_placeholders: int) -> Check:
    return lambda text: len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def _postscript(postscript_marker: str) -> Check:
    """A marker such as P.S., with or without a space between its letters, at the beginning of a line or within it."""
    marker = postscript_marker.strip().lower()
    pattern = re.compile(re.escape(marker).replace(r"\.", r"\.\s?"))
    return lambda text: pattern.search(text.lower()) is not None


def _number_bullets(num_bullets: int) -> Check:
    return lambda text: measure.bullets(text) == num_bullets


def _number_highlights(num_highlights: int) -> Check:
    return lambda text: measure.highlights(text) >= num_highlights


def _multiple_sections(section_spliter: str, num_sections: int) -> Check:
    """Sections that begin with the marker and a number. The argument's name is IFEval's."""
    pattern = re.compile(re.escape(section_spliter.strip()) + r"\s?\d+")
    return lambda text: len(pattern.findall(text)) >= num_sections


def _constrained_response() -> Check:
    return lambda text: any(answer in text for answer in _CONSTRAINED_ANSWERS)


def _two_responses() -> Check:
    def check(text: str) -> bool:
        parts = [part.strip() for part in text.split("******")]
        answers = [part for part in parts if part]
        return all(parts[1:-1]) and len(answers) == 2 and answers[0] != answers[1]

    return check


def _repeat_prompt(prompt_to_repeat: str) -> Check:
    return lambda text: text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end_checker(end_phrase: str) -> Check:
    return lambda text: text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation() -> Check:
    return lambda text: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'


def _capital_words(capital_frequency: int, capital_relation: str) -> Check:
    return _related(
        lambda text: sum(word.isupper() for word in re.findall(r"[\w'’-]+", text)), capital_relation, capital_frequency
    )


ROW_RULES: dict[str, Callable[..., Check]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _number_placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullets,
    "detectable_format:constrained_response": _constrained_response,
    "detectable_format:number_highlighted_sections": _number_highlights,
    "detectable_format:multiple_sections": _multiple_sections,
    "detectable_format:json_format": lambda: _is_json,
    "detectable_format:title": lambda: measure.has_title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end_checker,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda: measure.is_upper,
    "change_case:english_lowercase": lambda: measure.is_lower,
    "punctuation:no_comma": lambda: _no_comma,
}
"""IFEval's names of rules -> what makes a check of their arguments."""
