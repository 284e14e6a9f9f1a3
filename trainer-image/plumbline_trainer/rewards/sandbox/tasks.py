"""What sandboxed processes do. Each task runs in a fresh fork of the zygote, confined, with its descriptors in place.

| task | 0 | 1 | 2 | 3 | 4 | 5 | 6 |
|---|---|---|---|---|---|---|---|
| `script` | its input | its output | nothing | source | | | |
| `program` | nothing | nothing | nothing | source | questions | answers | |
| `checker` | nothing | nothing | nothing | tests | answers | questions | verdict |
| `function` | nothing | log | log | source | calls | answers | |
"""

from __future__ import annotations

import ast
import atexit
import json
import linecache
import numbers
import os
import re
import reprlib
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from plumbline_trainer.rewards.sandbox import objects, remote

PASSED = b"passed"
TRACEBACK_LINES = 12


def script() -> int:
    """Runs a program as Python does: its own `__main__`, input and output; returns the exit code."""
    return _run_main(_read(3).decode())


def program() -> int:
    """Runs a program and then answers questions about what it defines."""
    source = _read(3).decode()
    channel = objects.Channel(os.fdopen(4, "rb"), os.fdopen(5, "wb"))
    module = _new_module("solution")
    exec(compile(source, "solution.py", "exec"), module.__dict__)
    objects.serve(channel, module.__dict__)
    return 0


def checker() -> int:
    """Runs one test against a program in another process and says whether it passed."""
    tests = json.loads(_read(3))
    connection = remote.Connection(objects.Channel(os.fdopen(4, "rb"), os.fdopen(5, "wb")))
    names = connection.names(_modules_in(tests["source"]))
    solution = ModuleType("solution")
    solution.__dict__.update(names)
    sys.modules["solution"] = solution
    module = _new_module("tests")
    module.__dict__.update(names if tests["only"] is None else {k: v for k, v in names.items() if k == tests["only"]})
    exec(compile(tests["source"], "tests.py", "exec"), module.__dict__)
    if tests["function"] is not None:
        _call_test(module.__dict__, tests["function"], [module.__dict__[tests["only"]]] if tests["candidate"] else [])
    os.write(6, PASSED)
    return 0


def function() -> int:
    """Loads the user's reward function and calls it until nobody asks any more."""
    loading = json.loads(_read(3))
    calls, answers = os.fdopen(4, "rb"), os.fdopen(5, "wb")

    def say(**message: Any) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    try:
        verify = _load(loading["source"], loading["path"], loading["function"])
    except BaseException as error:  # whatever loading raises, sys.exit included, is what the user has to see
        say(error=summary(error), traceback=tail(error))
        return 1
    say(loaded=True)
    for line in calls:
        call = json.loads(line)
        try:
            value = verify(call["prompt"], call["completion"], call["answer"], call["row"])
            say(value=_number(value))
        except BaseException as error:
            say(error=summary(error), traceback=tail(error))
    return 0


TASKS: Mapping[str, Callable[[], int]] = {
    "script": script, "program": program, "checker": checker, "function": function,
}  # fmt: skip


def summary(error: BaseException) -> str:
    """The error in one line."""
    return traceback.format_exception_only(error)[-1].strip()


def tail(error: BaseException) -> str:
    """The end of the error's traceback."""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])


def _read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _new_module(name: str) -> ModuleType:
    """A module that is found by its name: dataclasses and pickle look there."""
    module = ModuleType(name)
    sys.modules[name] = module
    return module


def _run_main(source: str) -> int:
    sys.argv = [""]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    code = 0
    try:
        exec(compile(source, "program.py", "exec"), _new_module("__main__").__dict__)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter does at its end: waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return code & 0xFF


def _modules_in(source: str) -> set[str]:
    """Names of the standard library's modules that tests look things up in: a program's own must not stand in."""
    nodes = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return {node.id for node in nodes if isinstance(node, ast.Name)} & sys.stdlib_module_names


def _call_test(namespace: dict[str, Any], name: str, arguments: list[Any]) -> None:
    """Calls a test function, or a method of a `unittest.TestCase` with what comes before and after it."""
    owner, _, method = name.rpartition(".")
    if not owner:
        namespace[name](*arguments)
        return
    from unittest import TestResult

    result = TestResult()
    namespace[owner](method).run(result)
    if not result.wasSuccessful() or result.testsRun != 1:
        raise AssertionError(f"{name} failed")


def _load(source: str, path: str, name: str) -> Callable[..., Any]:
    """The function of that name in the user's file, loaded as a module of its own."""
    module = _new_module(re.sub(r"\W", "_", path))
    module.__file__ = path
    # tracebacks show the lines even where the file itself cannot be read from here
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    exec(compile(source, path, "exec"), module.__dict__)
    found = getattr(module, name, None)
    if not callable(found):
        raise AttributeError(f"{os.path.basename(path)} defines no function {name!r}")  # noqa: PTH119
    verify: Callable[..., Any] = found
    return verify


def _number(value: Any) -> float:
    """A number as JSON carries it; whether it is finite is for the other side to see."""
    if not isinstance(value, numbers.Real):
        raise TypeError(f"returned {reprlib.repr(value)}, which is not a number")
    return float(value)
