"""Verifiers that are the user's own code."""

from __future__ import annotations

from pathlib import Path

from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_trainer.rewards.sandbox.confinement import Limits
from plumbline_trainer.rewards.sandbox.function import SandboxedFunction
from plumbline_trainer.rewards.sandbox.shared import shared_sandbox
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify


@VERIFIERS.implements(PythonFunction)
def python_function(parameters: PythonFunction, code: Path | None) -> Verify:
    """Loads the user's file in the sandbox; what comes back calls its function there."""
    if code is None:
        raise FileNotFoundError("no file with the code is configured")
    limits = Limits(
        memory_bytes=parameters.memory_bytes,
        file_bytes=parameters.file_bytes,
        processes=parameters.processes,
        network=parameters.network,
    )
    return SandboxedFunction(shared_sandbox(), code, parameters.function, limits)
