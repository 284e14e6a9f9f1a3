"""Verifiers: what they accept, what they refuse, and when they say that they cannot judge."""

import subprocess
import sys

import pytest

from plumbline_api.methods.verifiers.mathematics import Math, Numeric
from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_api.methods.verifiers.text import ExactMatch, Regex
from plumbline_trainer.rewards.verifiers import VERIFIERS, build_verifier, checked_reward


def reward(parameters, completion, answer=None, code=None):
    return build_verifier(parameters, code)("prompt", completion, answer, {"prompt": "prompt", "answer": answer})


def test_every_verifier_of_the_api_is_implemented():
    assert VERIFIERS.missing() == []


def test_the_worker_loads_no_torch():
    """A worker must start in a fraction of a second, and a pod runs several."""
    code = "import sys, plumbline_trainer.rewards.worker; sys.exit(any(m in sys.modules for m in ('torch', 'sympy')))"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "completion", "answer", "expected"),
    [
        ({}, " 42\n", "42", 1),
        ({"strip": False}, " 42", "42", 0),
        ({}, "Paris", "paris", 0),
        ({"ignoreCase": True}, "PARIS", "paris", 1),
        ({"extract": r"<answer>(.*?)</answer>"}, "<answer>1</answer> no, <answer> 2 </answer>", "2", 1),
        ({"extract": r"<answer>(.*?)</answer>"}, "<answer>1</answer> no, <answer>2</answer>", "1", 0),
        ({"extract": r"<answer>(.*?)</answer>"}, "<answer>two\nlines</answer>", "two\nlines", 1),
        ({"extract": r"<answer>(.*?)</answer>"}, "2", "2", 0),
        ({"extract": r"\d+"}, "first 1 then 23", "23", 1),
        ({"extract": r"a(b)?"}, "a", "b", 0),
    ],
)
def test_exact_match(options, completion, answer, expected):
    assert reward(ExactMatch(**options), completion, answer) == expected


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
    ("options", "completion", "expected"),
    [
        ({"pattern": r"<a>.*</a>"}, "<a>one\ntwo</a>", 1),
        ({"pattern": r"<a>.*</a>"}, "x <a>one</a>", 0),
        ({"pattern": r"<a>.*</a>", "mode": "search"}, "x <a>one</a> y", 1),
    ],
)
def test_regex_looks_at_the_form_alone(options, completion, expected):
    assert reward(Regex(**options), completion) == expected


@pytest.mark.parametrize("parameters", [ExactMatch(), Numeric(), Math()])
def test_a_missing_answer_is_an_error_and_not_a_zero(parameters):
    with pytest.raises(ValueError, match="the row has no answer"):
        reward(parameters, "7", None)


def test_a_users_function_gets_prompt_completion_answer_and_row(tmp_path):
    code = tmp_path / "reward.py"
    code.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Seen:\n    text: str\n"
        "def grade(prompt, completion, answer, row):\n"
        "    return len(prompt) + 10 * len(completion) + 100 * (answer == row['answer'])\n"
    )
    parameters = PythonFunction(path=str(code), function="grade")
    assert reward(parameters, "ab", "x", code) == 126


def test_a_missing_function_is_named(tmp_path):
    code = tmp_path / "reward.py"
    code.write_text("grade = 3\n")
    with pytest.raises(AttributeError, match=r"reward\.py defines no function 'grade'"):
        build_verifier(PythonFunction(path=str(code), function="grade"), code)


@pytest.mark.parametrize(("returned", "expected"), [(1, 1.0), (True, 1.0), (-0.5, -0.5)])
def test_numbers_are_rewards(returned, expected):
    assert checked_reward(returned) == expected


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), None, "1", [1], 1j])
def test_anything_else_is_an_error(returned):
    with pytest.raises((TypeError, ValueError), match="returned"):
        checked_reward(returned)
