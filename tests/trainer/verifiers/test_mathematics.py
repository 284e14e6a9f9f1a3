"""Numbers and formulas: what is equal, how far off is how bad, and when a verifier says that it cannot judge."""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plumbline_api.methods.verifiers.mathematics import Math, Numeric
from plumbline_trainer.rewards.verifiers.mathematics import equal_by_algebra
from plumbline_trainer.rewards.verifiers.plain_numbers import read_answer, read_completion, read_number, same_number
from tests.trainer.verifiers.verifying import reward


@pytest.mark.parametrize(
    ("options", "completion", "answer", "expected"),
    [
        ({}, "3 + 4 = 7", "7", 1),
        ({}, "7 + 4 = 3", "7", 0),
        ({}, "The answer is 7.", "7", 1),
        ({}, "7.0", "7", 1),
        ({}, "$1,234,567.50", "1234567.5", 1),
        ({}, "-3", "-3", 1),
        ({}, "10-7", "7", 1),
        ({}, "x=-3", "3", 0),
        ({}, "1.5e3", "1500", 1),
        ({}, ".5", "0.5", 1),
        ({}, "no number at all", "7", 0),
        ({}, "0.1", "0.10000000000000001", 1),
        ({}, "123456789012345678901", "123456789012345678902", 1),
        ({"relativeTolerance": 0}, "123456789012345678901", "123456789012345678902", 0),
        ({"absoluteTolerance": 0.5}, "7.5", "7", 1),
        ({"absoluteTolerance": 0.4}, "7.5", "7", 0),
        ({"relativeTolerance": 0.01}, "101", "100", 1),
        ({"relativeTolerance": 0.01}, "102", "100", 0),
    ],
)
def test_numeric(options, completion, answer, expected):
    assert reward(Numeric(**options), completion, answer) == expected


@pytest.mark.parametrize("answer", ["many", "", "1/2", "#### 7"])
def test_numeric_refuses_an_answer_that_is_no_number(answer):
    with pytest.raises(ValueError, match="is not a number"):
        reward(Numeric(), "7", answer)


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("so it is 0.5", "1/2", 1),
        (r"$\frac{2}{4}$", r"\frac{1}{2}", 1),
        (r"therefore \boxed{12}", "12", 1),
        ("$1 + x$", "x + 1", 1),
        ("$2 + x$", "x + 1", 0),
        ("$(1, 2)$", "(2, 1)", 0),
        ("The answer is 13.", "12", 0),
        ("I do not know", "12", 0),
        ("", "12", 0),
    ],
)
def test_math(completion, answer, expected):
    assert reward(Math(), completion, answer) == expected


def test_math_works_outside_the_main_thread():
    """math-verify's own time limits raise there, which other trainers have met as rewards that were silently 0."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(reward, Math(), "so 0.5", "1/2").result() == 1


def test_math_refuses_an_answer_without_expression():
    with pytest.raises(ValueError, match="holds no mathematical expression"):
        reward(Math(), "12", " ")


@pytest.mark.parametrize(
    ("completion", "answer", "options", "expected"),
    [
        ("100", "100", {}, 1),
        ("90", "100", {}, 0.9),
        ("110", "100", {}, 0.9),
        ("25", "100", {}, 0.25),
        ("200", "100", {}, 0),
        ("-100", "100", {}, 0),
        ("-8", "-10", {}, 0.8),
        ("12", "10", {"absoluteTolerance": 2}, 1),
        ("13", "10", {"absoluteTolerance": 2}, 0.9),
        ("0", "0", {}, 1),
        ("1", "0", {}, 0),
        ("1", "0", {"leastScale": 4}, 0.75),
        ("1.5", "1", {"leastScale": 2}, 0.75),
        ("none", "10", {}, 0),
    ],
)
def test_a_fuzzy_number_earns_by_its_relative_error(completion, answer, options, expected):
    assert reward(Numeric(shape="fuzzy", relativeTolerance=0, **options), completion, answer) == pytest.approx(expected)


@given(
    st.decimals(-1000, 1000, places=3),
    st.lists(st.decimals(-3000, 3000, places=3), min_size=2, max_size=6),
    st.decimals(0, 10, places=2),
)
def test_a_fuzzy_reward_lies_between_0_and_1_and_never_grows_with_the_error(answer, others, tolerance):
    parameters = Numeric(shape="fuzzy", absoluteTolerance=float(tolerance))
    exact = Numeric(absoluteTolerance=float(tolerance))
    by_error = sorted(others, key=lambda other: abs(other - answer))
    rewards = [reward(parameters, f"{other:f}", f"{answer:f}") for other in by_error]
    assert rewards == sorted(rewards, reverse=True)
    assert all(0 <= value <= 1 for value in rewards)
    assert [value == 1 for value in rewards] == [reward(exact, f"{other:f}", f"{answer:f}") == 1 for other in by_error]


def decided(answer, completion):
    """What the fast path says alone."""
    expected, found = read_answer(answer), read_completion(completion)
    return None if expected is None or found is None else same_number(expected, found)


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("7", "7", True),
        ("8", "7", False),
        ("-7", "7", False),
        ("7.0", "7", True),
        ("0.5", "1/2", True),
        (r"$\frac{2}{4}$", "1/2", True),
        (r"$\frac{2}{4}$", r"$\dfrac{1}{2}$", True),
        (r"$-\frac{3}{4}$", "-0.75", True),
        ("The answer is 42.", "42", True),
        ("The answer is 42", "24", False),
        ("It has 1,234 parts", "1234", True),
        (r"so \boxed{12} it is", r"\boxed{12}", True),
        (r"1 + 1 makes \boxed{3}", "2", False),
        (r"\boxed{\frac{1}{3}}", r"\frac{2}{6}", True),
        ("50%", "0.5", True),
        ("50%", "50%", True),
        (r"\boxed{25\%}", "1/4", True),
        ("0.333", "1/3", False),
        ("12345678901234567890", "12345678901234567891", False),
    ],
)
def test_plain_numbers_are_decided_at_once_and_as_math_verify_decides(completion, answer, expected):
    assert decided(answer, completion) is expected
    assert equal_by_algebra(answer, completion) is expected


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("3 + 4 = 7", "7"),
        ("7 or 8", "7"),
        ("$7$ and $8$", "7"),
        (r"\boxed{7} and \boxed{8}", "7"),
        (r"\boxed{7} } ", "7"),
        (r"\boxed{x = 7}", "7"),
        ("7 - or not", "7"),
        ("7 percent", "0.07"),
        ("about 7m", "7"),
        ("x7", "7"),
        ("2^{10}", "1024"),
        ("1/0", "1"),
        ("0.3333333", "1/3"),
        ("9%", "9"),
        ("0.1234567890123456", "0.12345"),
        ("7", "x"),
        ("seven", "7"),
        ("", "7"),
    ],
)
def test_what_is_not_plain_is_left_to_math_verify(completion, answer):
    assert decided(answer, completion) is None


INTEGERS = st.integers(-10_000, 10_000).map(str)
DECIMALS = st.decimals(-1000, 1000, places=2).map(lambda number: f"{number:f}")
FRACTIONS = st.tuples(st.integers(-60, 60), st.integers(1, 60)).map(lambda pair: f"{pair[0]}/{pair[1]}")
LATEX = st.tuples(st.sampled_from(["", "-"]), st.integers(0, 60), st.integers(1, 60)).map(
    lambda parts: f"{parts[0]}\\frac{{{parts[1]}}}{{{parts[2]}}}"
)
PERCENT = st.integers(0, 300).map(lambda number: f"{number}\\%")
NUMBERS = st.one_of(INTEGERS, DECIMALS, FRACTIONS, LATEX, PERCENT)
WORDS = st.sampled_from(["", "so ", "The answer is ", "answer: ", "we get ", "Result:\n"])
AFTER = st.sampled_from(["", ".", " apples", "\n", " as was to be shown."])


@st.composite
def equal_or_other(draw):
    """Two ways to write numbers, equal in about half of the cases."""
    first = draw(NUMBERS)
    number = read_number(first)
    value = number.value / (100 if number.percent else 1)
    again = [first, f"{value.numerator}/{value.denominator}"]
    if (value * 1000).denominator == 1:
        again.append(f"{float(value):.3f}")
    return first, draw(st.one_of(st.sampled_from(again), NUMBERS))


@example(("3/5", "3/5"), "", ".", "{}")
@given(equal_or_other(), WORDS, AFTER, st.sampled_from(["{}", "${}$", "\\boxed{{{}}}", "$\\boxed{{{}}}$"]))
@settings(deadline=None, max_examples=400)
def test_fast_path_and_math_verify_agree_wherever_the_fast_path_decides(pair, before, after, form):
    answer, given_number = pair
    completion = before + form.format(given_number) + after
    fast = decided(answer, completion)
    if fast is not None:
        if "/" in given_number and completion.endswith(f"{given_number}."):
            # math-verify takes the stop of the sentence for a decimal point, and 3/5. for a float that is not 3/5.
            completion = completion.removesuffix(".")
        assert fast is equal_by_algebra(answer, completion), (answer, completion)


@given(st.text(alphabet="0123456789.,/-+%= \\n$x", max_size=12), INTEGERS)
@settings(deadline=None, max_examples=300)
def test_they_agree_on_texts_that_are_nearly_numbers(completion, answer):
    fast = decided(answer, completion)
    if fast is not None:
        assert fast is equal_by_algebra(answer, completion), (answer, completion)


@pytest.mark.parametrize(("text", "value"), [("1,234.5", Fraction(2469, 2)), ("-3/6", Fraction(-1, 2)), ("12,5", None)])
def test_numbers_are_read_exactly(text, value):
    number = read_number(text)
    assert (number and number.value) == value
