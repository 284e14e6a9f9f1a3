"""The user's own function as a verifier."""

import pytest

from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_trainer.rewards.sandbox.function import CodeFailed
from plumbline_trainer.rewards.verifiers import build_verifier
from tests.trainer.verifiers.verifying import reward


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
    with pytest.raises(CodeFailed, match=r"reward\.py defines no function 'grade'"):
        build_verifier(PythonFunction(path=str(code), function="grade"), code)
