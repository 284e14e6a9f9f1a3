"""The verifier `code`: runs a completion's program in the sandbox against the tests of its row.

What a completion does is never an error of the verifier: a program that hangs, dies, eats memory or attacks the
sandbox has failed its test. Errors are rows whose tests cannot be read, and machines without the sandbox.

Programs with inputs and outputs never see the outputs: they are compared here. Unit tests run in a process of their
own and reach the program through messages (`sandbox.objects`, `sandbox.remote`), so that it can neither change nor see
them.
"""

from __future__ import annotations

import ast
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from plumbline_api.methods.verifiers.code import Code
from plumbline_trainer.rewards.program_text import program_span
from plumbline_trainer.rewards.sandbox.confinement import Limits
from plumbline_trainer.rewards.sandbox.shared import shared_sandbox
from plumbline_trainer.rewards.sandbox.supervisor import Sandbox, run_script, run_test
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify, required_column


@dataclass(frozen=True)
class Case:
    """An input and the output that it must give."""

    input: str
    output: str


@dataclass(frozen=True)
class UnitTest:
    """Python code that raises nothing where the program is right."""

    source: str
    function: str | None = None
    """The function, or the method `Class.name` of a test case, to call after the source has run."""

    takes_candidate: bool = False
    """Whether the function gets the entry point as its argument."""


Test = Case | UnitTest


@VERIFIERS.implements(Code)
def code_tests(parameters: Code, code: Path | None) -> Verify:
    """Runs every test in a fresh process until the time for all of them is over."""
    sandbox = shared_sandbox()
    limits = Limits(
        memory_bytes=parameters.memory_bytes,
        file_bytes=parameters.file_bytes,
        processes=parameters.processes,
        processor_seconds=math.ceil(parameters.case_timeout_seconds) + 1,
    )
    run_script(sandbox, "", b"", limits, seconds=parameters.case_timeout_seconds, output_bytes=1)  # does it work here?

    def verify(prompt: Any, completion: str, answer: str | None, row: Mapping[str, Any]) -> float:
        entry_point = (
            None if parameters.entry_point_column is None else required_column(row, parameters.entry_point_column)
        )
        tests = read_tests(required_column(row, parameters.tests_column), entry_point)
        program = extract_program(completion)
        if not program.strip():
            return 0.0
        deadline = time.monotonic() + parameters.timeout_seconds
        passed = 0
        for test in tests:
            seconds = min(parameters.case_timeout_seconds, deadline - time.monotonic())
            if seconds > 0 and _passes(sandbox, program, test, entry_point, limits, parameters, seconds):
                passed += 1
            elif parameters.mode == "allOrNothing":
                return 0.0
        return passed / len(tests)

    return verify


def extract_program(completion: str) -> str:
    """The text of `program_span`."""
    begin, end = program_span(completion)
    return completion[begin:end]


def read_tests(value: Any, entry_point: str | None = None) -> list[Test]:
    """The tests in a row's column, which may also be written as JSON. Raises `ValueError` where there are none."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"the row's tests are no JSON: {error}") from error
    if isinstance(value, Mapping) and {"inputs", "outputs"} <= value.keys():
        if len(value["inputs"]) != len(value["outputs"]):
            raise ValueError("the row's tests have as many inputs as outputs, but these differ in number")
        value = [{"input": i, "output": o} for i, o in zip(value["inputs"], value["outputs"], strict=True)]
    if isinstance(value, str):
        return _tests_of_text(value, entry_point)
    if not isinstance(value, Sequence) or not value:
        raise ValueError("the row's tests are neither a list, nor a text of Python, or there are none")
    if all(isinstance(test, str) for test in value):
        return [UnitTest(_parsed(test)[0]) for test in value]
    if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in value):
        return [Case(_text(test["input"]), _text(test["output"])) for test in value]
    raise ValueError("the row's tests are a mixture, or objects without input and output")


def same_output(written: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether an output counts as the expected one; see `Code.absolute_tolerance`."""
    if tolerance == 0:
        return _lines(written) == _lines(expected)
    words = zip_longest(written.split(), expected.split())
    return all(one is not None and other is not None and _same_word(one, other, tolerance) for one, other in words)


def _passes(
    sandbox: Sandbox,
    program: str,
    test: Test,
    entry_point: str | None,
    limits: Limits,
    parameters: Code,
    seconds: float,
) -> bool:
    if isinstance(test, UnitTest):
        wire = {
            "source": test.source, "function": test.function, "candidate": test.takes_candidate, "only": entry_point,
        }  # fmt: skip
        return run_test(sandbox, program, wire, limits, seconds=seconds)[0]
    output = run_script(
        sandbox, program, test.input.encode(), limits, seconds=seconds, output_bytes=parameters.output_bytes
    )
    if not output.succeeded:
        return False
    return same_output(output.written.decode(errors="replace"), test.output, parameters.absolute_tolerance)


def _tests_of_text(source: str, entry_point: str | None) -> list[Test]:
    source, tree = _parsed(source)
    tests: list[Test] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            tests.append(UnitTest(source, node.name))
        elif isinstance(node, ast.FunctionDef) and node.name == "check" and len(node.args.args) == 1:
            if entry_point is None:
                raise ValueError("the row's tests define check(candidate); entryPointColumn must say what it checks")
            tests.append(UnitTest(source, node.name, takes_candidate=True))
        elif isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases):
            methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            tests += [UnitTest(source, f"{node.name}.{name}") for name in methods if name.startswith("test")]
    return tests or [UnitTest(source)]


def _parsed(source: str) -> tuple[str, ast.Module]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the row's tests are no Python: {error}") from error
    if not tree.body:
        raise ValueError("a test of the row is empty")
    return source, tree


def _text(value: Any) -> str:
    """An input or output as text; some data sets have lists of lines."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _same_word(one: str, other: str, tolerance: float) -> bool:
    numbers = (_number(one), _number(other))
    if numbers[0] is None or numbers[1] is None:
        return one == other
    return abs(numbers[0] - numbers[1]) <= tolerance


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
