"""Verifiers: from a completion to a number. Each is built once from its parameters and then called once a completion.

This package runs inside the worker processes of `rewards.pool`. It and what it imports must load fast: no torch, and
libraries such as math-verify only where a job asks for them. A verifier raises where it cannot judge; it never answers
0 instead.
"""

from plumbline_trainer.rewards.verifiers import (  # noqa: F401  (importing a module registers its verifiers)
    code,
    command,
    instructions,
    mathematics,
    multiple_choice,
    python,
    reasoning_gym,
    schema,
    text,
)
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Build, Verify, build_verifier, checked_reward

__all__ = ["VERIFIERS", "Build", "Verify", "build_verifier", "checked_reward"]
