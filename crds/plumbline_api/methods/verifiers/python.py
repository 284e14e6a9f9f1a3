"""Verifiers that are the user's own code."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, has


class PythonFunction(Verifier, key="python"):
    """A user's function `verify(prompt, completion, answer, row) -> float`, mounted from a ConfigMap and run in a sandbox: a process of its own without the runtime's environment variables, without network unless `network` is set, and with no files but its own, the interpreter's and a temporary directory."""

    needs_answer = False

    rules: ClassVar = (Rule(has("configMap").differs(has("path")), "exactly one of configMap and path must be set"),)

    config_map: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        description="ConfigMap that holds the code. Give this in a cluster; give `path` when running the trainer by itself.",
    )
    path: str | None = Field(
        None, min_length=1, max_length=1024, description="File with the code, when running the trainer by itself."
    )
    file: str = Field(
        "reward.py", min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$", description="Key of the ConfigMap."
    )
    function: str = Field(
        "verify", min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the function."
    )
    network: bool = Field(
        False,
        description="Lets the function open internet connections, for example to a service that judges completions. Without it, it cannot.",
    )
    memory_bytes: int = Field(
        4 * 2**30,
        ge=16 * 2**20,
        le=2**42,
        description="Memory that the function may use besides the interpreter's, loaded libraries included.",
    )
    file_bytes: int = Field(
        256 * 2**20,
        ge=4096,
        le=2**40,
        description="Size of all files that the function may keep in its temporary directory.",
    )
    processes: int = Field(
        16, ge=1, le=256, description="Processes at a time, the function's own included; 1 lets it start none."
    )
