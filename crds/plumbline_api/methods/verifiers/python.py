"""Verifiers that are the user's own code."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, has


class PythonFunction(Verifier, key="python"):
    """A user's function `verify(prompt, completion, answer, row) -> float`, mounted from a ConfigMap and run in a separate process that sees none of the runtime's environment variables."""

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
