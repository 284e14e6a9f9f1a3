"""Verifiers that are the user's own code."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path

from plumbline_api.methods.verifiers.python import PythonFunction
from plumbline_trainer.rewards.verifiers.registry import VERIFIERS, Verify


@VERIFIERS.implements(PythonFunction)
def python_function(parameters: PythonFunction, code: Path | None) -> Verify:
    """Loads the user's file as a module of its own and returns its function."""
    if code is None:
        raise FileNotFoundError("no file with the code is configured")
    name = re.sub(r"\W", "_", str(code))
    loader = SourceFileLoader(name, str(code))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(code)))
    module.__file__ = str(code)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    loader.exec_module(module)
    function: Verify | None = getattr(module, parameters.function, None)
    if not callable(function):
        raise AttributeError(f"{code.name} defines no function {parameters.function!r}")
    return function
