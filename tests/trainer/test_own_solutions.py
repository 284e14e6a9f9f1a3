"""States of programs, correct prefixes of wrong ones, and the buffer that keeps different solutions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.search.program_states import ProgramError, correct_prefix, known_states, normal_form, states
from plumbline_trainer.search.solution_buffer import SolutionBuffer

SOLUTION = "apples = 3 * 4\neaten = 5\nleft = apples - eaten\nprice = left / 2"


def test_states_are_the_values_after_each_line():
    assert states(SOLUTION) == [
        frozenset({12}),
        frozenset({12, 5}),
        frozenset({12, 5, 7}),
        frozenset({12, 5, 7, 3.5}),
    ]
    assert states("x = 2\nx = -x ** 2\n\n") == [frozenset({2}), frozenset({-4})]
    assert states("a = 0.1 + 0.2") == states("b = 0.3")


def test_a_wrong_program_has_a_correct_prefix():
    """Other names, another order of factors: after two lines it has computed what the solution had."""
    wrong = "a = 4 * 3\nb = 5\nc = a + b\nd = c / 2"
    assert correct_prefix(wrong, known_states([SOLUTION])) == "a = 4 * 3\nb = 5"
    assert correct_prefix("a = 1\nb = 2", known_states([SOLUTION])) is None
    assert correct_prefix("a = 12\nb = a / 0", known_states([SOLUTION])) == "a = 12"
    assert correct_prefix("a = 12", known_states([SOLUTION])) is None


def test_two_spellings_of_a_program_are_one():
    assert normal_form("x = 3*4\ny = x-5") == normal_form("a  =  3 * 4\n\nb = a - 5") == "v0 = 3 * 4\nv1 = v0 - 5"
    assert normal_form("x = 3 * 4") != normal_form("x = 4 * 3")


@pytest.mark.parametrize(
    "line",
    [
        "x = 1 / 0",
        "x = y",
        "x = __import__('os')",
        "x, y = 1, 2",
        "print(y)",
        "print(1, 2)",
        "print(1, end='')",
        "print(*x)",
        "x = 9 ** 9 ** 9",
        "x = (-8) ** 0.5",
        "x = True",
        "x = 1e400",
        "x = 0 ** -1",
        "x = " + "(" * 5000,
        "x = 'a'",
        "x =",
    ],
)
def test_what_is_no_arithmetic_is_refused(line):
    with pytest.raises(ProgramError):
        states(line)


@given(
    st.lists(st.sampled_from("+-*/%"), min_size=1, max_size=6), st.lists(st.integers(-50, 50), min_size=7, max_size=7)
)
def test_values_are_pythons_own(operators, numbers):
    expression = (
        " ".join(f"{number} {sign}" for number, sign in zip(numbers, operators, strict=False)) + f" {numbers[-1]}"
    )
    try:
        expected = eval(expression)
    except ZeroDivisionError:
        with pytest.raises(ProgramError):
            states(f"x = {expression}")
        return
    [found] = states(f"x = {expression}")[0]
    assert found == pytest.approx(expected, rel=1e-8)


def test_the_buffer_keeps_different_solutions_and_its_state():
    buffer = SolutionBuffer(capacity=2)
    assert buffer.add(3, normal_form("x = 1"), [5, 6])
    assert not buffer.add(3, normal_form("y = 1"), [7, 6])
    assert buffer.add(3, "x = 2 - 1", [8]) and not buffer.add(3, "x = 3 - 2", [9])
    assert buffer.of(3) == {normal_form("x = 1"): [5, 6], "x = 2 - 1": [8]} and buffer.of(4) == {}
    again = SolutionBuffer(capacity=2)
    again.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    assert again.of(3) == buffer.of(3) and not again.add(3, normal_form("z = 1"), [1])
    with pytest.raises(ValueError, match="capacity"):
        SolutionBuffer(0)
