"""Verifiers that run the completion."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, field

COLUMN_NAME = r"^[A-Za-z_][-A-Za-z0-9_.]*$"


class Code(Verifier, key="code"):
    """Runs the completion's Python program, its last fenced block of code or else the whole text, in a sandbox against the row's tests: inputs with the outputs that they must give, or unit tests."""

    needs_answer = False

    rules: ClassVar = (
        Rule(
            field("timeoutSeconds") >= field("caseTimeoutSeconds"),
            "timeoutSeconds must not be below caseTimeoutSeconds",
            path="timeoutSeconds",
        ),
    )

    mode: Literal["passRate", "allOrNothing"] = Field(
        "allOrNothing",
        description="passRate: the share of tests that pass; allOrNothing: 1 if all of them pass, else 0, and the first that fails ends the run.",
    )
    tests_column: str = Field(
        "tests",
        min_length=1,
        max_length=63,
        pattern=COLUMN_NAME,
        description="Column of the row with the tests: a list of objects {input, output} for programs that read standard input and write standard output, or a list of Python tests such as `assert add(1, 2) == 3`, or one text of Python with functions `test...`, cases of `unittest`, or `check(candidate)`.",
    )
    entry_point_column: str | None = Field(
        None,
        min_length=1,
        max_length=63,
        pattern=COLUMN_NAME,
        description="Column with the name that unit tests use of the program and that `check(candidate)` gets. Without it they see every public name of the program.",
    )
    absolute_tolerance: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Above 0, outputs are compared word by word, and words that are numbers may differ by this. At 0 they are compared line by line; white space at the ends of lines and empty lines at the end do not count.",
    )
    case_timeout_seconds: float = Field(5.0, gt=0, le=600, description="Wall-clock time of one test.")
    timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Wall-clock time of all tests of a completion; those not run by then have failed.",
    )
    memory_bytes: int = Field(
        512 * 2**20, ge=16 * 2**20, le=2**40, description="Memory that the program may use besides the interpreter's."
    )
    output_bytes: int = Field(2**20, ge=1, le=2**30, description="Output that a program may write.")
    file_bytes: int = Field(
        16 * 2**20,
        ge=4096,
        le=2**40,
        description="Size of all files that the program may keep in its temporary directory.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="Processes at a time, the program itself included; 1 lets it start none."
    )
