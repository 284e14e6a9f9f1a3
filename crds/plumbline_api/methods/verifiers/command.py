"""Verifiers that are programs of their own, such as proof checkers and compilers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from plumbline_api.methods.verifiers.family import Verifier


class Command(Verifier, key="command"):
    """What a program of the trainer's image says of the completion, which it reads from its standard input: its exit status, or the number that it prints; as with the Lean checker of "Leanabell-Prover: Posttraining Scaling in Formal Reasoning" (Zhang et al. 2025, arXiv:2504.06122)."""

    needs_answer: ClassVar[bool] = False

    command: list[Annotated[str, StringConstraints(min_length=1, max_length=1024)]] = Field(
        min_length=1,
        max_length=64,
        description="Program and arguments, run without a shell in an empty directory of its own, the only place where it may write, and without network. It reads what the image holds and the files that are named here. No part of a completion becomes an argument.",
    )
    input: Literal["completion", "json"] = Field(
        "completion",
        description="What the program reads: the completion as text, or one JSON object with prompt, completion, answer and row.",
    )
    result: Literal["exitStatus", "lastLine"] = Field(
        "exitStatus",
        description="exitStatus gives 1 for the status 0 and 0 for any of rejectStatuses; lastLine gives the number in the last line that the program prints, which must end with status 0. Anything else is an error, and so is a signal.",
    )
    reject_statuses: list[Annotated[int, Field(ge=1, le=125)]] = Field(
        default=[1],
        min_length=1,
        max_length=125,
        description="With exitStatus: the statuses that say that the completion is wrong; others say that the program could not judge. A Python program ends with 1 where it raises: one that says wrong by 2 is told apart from one that fails.",
    )
    timeout_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="The program and all that it started are killed after this time, and the call counts as an error.",
    )
    output_bytes: int = Field(
        65_536, ge=1024, le=16_777_216, description="How much of the end of what the program prints is kept."
    )
