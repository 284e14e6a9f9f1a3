"""Multiple choice: which option a completion chooses, and that hedging chooses none."""

import pytest

from plumbline_api.methods.verifiers.text import MultipleChoice
from plumbline_trainer.rewards.verifiers.multiple_choice import chosen
from tests.trainer.verifiers.verifying import reward

CAPITALS = ["Berlin", "Rome", "Paris", "Madrid"]


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("**C**.", "C"),
        ("Option C", "C"),
        ("C. because it is", "C"),
        ("(C) because it is", "C"),
        (r"so \boxed{C}", "C"),
        (r"so \boxed{\text{(C)}}", "C"),
        (r"\boxed{A} no, \boxed{C}", "C"),
        ("<answer>A</answer> or rather <answer> c </answer>", "C"),
        ("The answer is C.", "C"),
        ("The answer is (c)", "C"),
        ("Answer: C", "C"),
        ("**Answer:** C", "C"),
        ("The correct option is **C**.", "C"),
        ("I choose C, since the others are wrong.", "C"),
        ("The answer is A. Wait, the answer is C.", "C"),
        ("The answer is C, because option A is wrong.", "C"),
        ("The answer is C, I think", "C"),
        ("Considering all, (C) fits.", "C"),
        ("The answer is a matter of taste", None),
        ("The answer is A or C", None),
        ("The answer is A, C", None),
        ("Answer: A/C", None),
        (r"\boxed{A, C}", None),
        ("A) Berlin B) Rome C) Paris D) Madrid", None),
        ("(A) or (C)", None),
        ("The answer is E.", None),
        ("E", None),
        ("A bird in the hand", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_what_a_completion_chooses(completion, letter):
    assert chosen(completion, "ABCD") == letter
    assert reward(MultipleChoice(), completion, "C") == (letter == "C")


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("Paris", "C"),
        ("paris.", "C"),
        ("C. Paris", "C"),
        ("(C) Paris", "C"),
        ("The answer is Paris.", "C"),
        ("The answer is C. Paris", "C"),
        (r"\boxed{Paris}", "C"),
        ("A. Paris", "A"),
        ("Paris or Rome", None),
    ],
)
def test_options_may_be_named_by_their_text(completion, letter):
    assert chosen(completion, "ABCD", CAPITALS) == letter


@pytest.mark.parametrize("answer", ["C", "(C)", "c", "Paris", "C. Paris"])
def test_the_rows_answer_is_a_letter_or_a_text(answer):
    parameters = MultipleChoice(choicesColumn="choices")
    assert reward(parameters, "The answer is C", answer, choices=CAPITALS) == 1
    assert reward(parameters, "Rome", answer, choices=CAPITALS) == 0


def test_the_number_of_options_says_which_letters_count():
    assert reward(MultipleChoice(options=5), "The answer is E", "E") == 1
    assert reward(MultipleChoice(options=2), "The answer is C", "A") == 0


@pytest.mark.parametrize("answer", ["E", "Paris", "", "7"])
def test_an_answer_that_is_no_option_is_an_error(answer):
    with pytest.raises(ValueError, match="is none of the options A to D"):
        reward(MultipleChoice(), "C", answer)


@pytest.mark.parametrize("choices", [None, "Paris", ["Paris"]])
def test_rows_without_choices_are_an_error(choices):
    with pytest.raises(ValueError, match="the row"):
        reward(MultipleChoice(choicesColumn="choices"), "C", "C", choices=choices)
