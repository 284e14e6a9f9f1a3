"""Instructions about the form of a text: every rule of the spec and of IFEval's rows, on both sides of its border."""

import pytest

from plumbline_api.methods.verifiers.instructions import Instructions
from plumbline_trainer.rewards.verifiers import text_measures
from plumbline_trainer.rewards.verifiers.instructions import ROW_RULES
from tests.trainer.verifiers.verifying import reward


@pytest.mark.parametrize(
    ("rules", "followed", "broken"),
    [
        ({"words": {"atLeast": 3}}, "one two three", "one two"),
        ({"words": {"atMost": 2}}, "one two", "one two three"),
        ({"words": {"atLeast": 2, "atMost": 2}}, "one two", "one"),
        ({"sentences": {"atLeast": 2, "atMost": 2}}, "One. Two!", "One. Two. Three?"),
        ({"paragraphs": {"atLeast": 2}}, "one\n\ntwo", "one\ntwo"),
        ({"bullets": {"atLeast": 2, "atMost": 2}}, "Look:\n* a\n - b", "* a\n* b\n* c"),
        ({"highlights": {"atLeast": 2}}, "*one* and **two**", "*one* and ** **"),
        ({"keywords": [{"text": "cat", "atLeast": 2}]}, "Cat and cat", "cat and cats"),
        ({"keywords": [{"text": "cat", "atMost": 1}]}, "a cat", "cat cat"),
        ({"forbidden": ["dog"]}, "dogma", "The Dog."),
        ({"startsWith": "Dear"}, "  Dear all", "dear all"),
        ({"endsWith": "Yours"}, "so\nYours\n", "Yours, A."),
        ({"letterCase": "upper"}, "ALL 7!", "All 7!"),
        ({"letterCase": "lower"}, "all 7!", "All 7!"),
        ({"letterCase": "lower"}, "a", "7!"),
        ({"noCommas": True}, "a; b", "a, b"),
        ({"json": True}, '```json\n{"a": 1}\n```', '{"a": 1} as asked'),
        ({"title": True}, "<<Poem>>\nso", "<< >>\nso"),
    ],
)
def test_rules_of_the_spec(rules, followed, broken):
    assert reward(Instructions(**rules), followed) == 1
    assert reward(Instructions(**rules), broken) == 0


ROWS = [
    ("keywords:existence", {"keywords": ["one", "two"]}, "One, twofold", "one only"),
    ("keywords:frequency", {"keyword": "a b", "frequency": 2, "relation": "at least"}, "a b A B", "a b"),
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "less than"}, "a", "a a"),
    ("keywords:forbidden_words", {"forbidden_words": ["bad"]}, "badly", "so bad."),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "eE", "e"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "One.", "One. Two."),
    ("length_constraints:number_words", {"num_words": 2, "relation": "at least"}, "one two", "one"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***\n", "one\n***\n***\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"},
        "one\n\nwell, two",
        "well\n\none",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b]", "[a]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "so\np. s. more", "so"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "so\nP.P.S more", "P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* one", "* one\n- two"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*a*", "a"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:json_format", {}, "[1]", "one"),
    ("detectable_format:title", {}, "<<a>>", "a"),
    ("combination:two_responses", {}, "a\n******\nb", "a\n******\na"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Do it."}, "do it. Done", "Done"),
    ("startend:end_checker", {"end_phrase": "Bye."}, 'so "bye."', "bye. so"),
    ("startend:quotation", {}, '"so"', '"so'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "A BIG one", "A"),
    ("change_case:english_capital", {}, "SO", "So"),
    ("change_case:english_lowercase", {}, "so", "So"),
    ("punctuation:no_comma", {}, "a", "a,"),
]


@pytest.mark.parametrize(("name", "arguments", "followed", "broken"), ROWS, ids=[row[0] for row in ROWS])
def test_rules_of_rows_have_the_names_and_arguments_of_ifeval(name, arguments, followed, broken):
    columns = {"instruction_id_list": [name], "kwargs": [{"unused": None, **arguments}]}
    assert reward(Instructions(fromRows=True), followed, **columns) == 1
    assert reward(Instructions(fromRows=True), broken, **columns) == 0


def test_every_rule_of_rows_is_tried():
    assert {row[0] for row in ROWS} == set(ROW_RULES)


def test_share_and_all():
    rules = {"words": {"atMost": 3}, "noCommas": True, "keywords": [{"text": "cat"}, {"text": "dog"}]}
    assert reward(Instructions(**rules), "cat, dog, cow, hen") == 0.5
    assert reward(Instructions(**rules, reward="all"), "cat, dog, cow, hen") == 0
    assert reward(Instructions(**rules, reward="all"), "cat dog") == 1


def test_rules_of_rows_come_on_top_of_those_of_the_spec():
    parameters = Instructions(noCommas=True, fromRows=True)
    columns = {"instruction_id_list": ["detectable_format:title"], "kwargs": [{}]}
    assert reward(parameters, "<<a>>", **columns) == 1
    assert reward(parameters, "<<a>>,", **columns) == 0.5


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    rule = {"startsWith": "Dear"}
    assert reward(Instructions(**rule), "Sure:\nDear all") == 0
    assert reward(Instructions(**rule, strictness="loose"), "Sure:\nDear all") == 1
    assert reward(Instructions(**rule, strictness="loose"), "Sure:\n**Dear** all\nDone.") == 1
    assert reward(Instructions(**rule, strictness="loose"), "Sure:\nso:\nDear all") == 0


@pytest.mark.parametrize("strictness", ["strict", "loose"])
def test_an_empty_text_follows_nothing(strictness):
    assert reward(Instructions(noCommas=True, strictness=strictness), " \n") == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "the row has no instruction_id_list"),
        ({"instruction_id_list": []}, "there is no rule to follow"),
        ({"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]}, "must be lists of equal length"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "must be lists of equal length"),
        ({"instruction_id_list": ["language:response_language"], "kwargs": [{}]}, "is not known"),
        ({"instruction_id_list": ["keywords:frequency"], "kwargs": [{"keyword": "a"}]}, "cannot use the arguments"),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 3, "relation": "around"}],
            },
            "the relation must be",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_errors(columns, message):
    with pytest.raises(ValueError, match=message):
        reward(Instructions(fromRows=True), "so", **columns)


def test_some_rule_is_needed():
    with pytest.raises(ValueError, match="at least one rule must be set"):
        Instructions()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("no end", 1),
        ("One. Two. Three.", 3),
        ("Dr. Smith paid 3.50 dollars. Why?!", 2),
        ("J. S. Bach wrote it.", 1),
        ('He said "no." Then he left.', 2),
        ("Wait... what?", 2),
        ("One.\nTwo", 2),
    ],
)
def test_sentences(text, count):
    assert text_measures.sentences(text) == count
