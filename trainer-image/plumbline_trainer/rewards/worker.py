"""The process that runs verifiers: started by `pool`, reads calls from its standard input, answers on its output.

One JSON object a line. The first line it reads lists the components; it answers each with `loaded` or `failed`. Every
further line is a call, answered with `value` or `error`, and with `seconds`, the time that it took. Libraries that
print or read the terminal cannot disturb this: the pipes are moved away from the standard streams before any is loaded.

Only the project's own code and its libraries run in this process. Completions and the user's functions run in the
sandbox (see `sandbox`), which this process supervises and takes down with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_trainer.rewards.sandbox.function import CodeFailed, FunctionEnded, OutOfTime, SandboxedFunction
from plumbline_trainer.rewards.sandbox.shared import close_shared_sandbox
from plumbline_trainer.rewards.sandbox.supervisor import SandboxError
from plumbline_trainer.rewards.sandbox.tasks import summary, tail
from plumbline_trainer.rewards.verifiers import Verify, build_verifier, checked_reward

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
CALL_MEMORY_BYTES = 4 * 2**30
"""What calls of built-in verifiers may use beyond loaded code: enough for any check of a text, and no more."""


def main() -> None:
    """Serves until the input ends."""
    _end_with_parent()
    signal.signal(signal.SIGTERM, _leave)
    calls, answers = _private_streams()
    verifiers = _load(json.loads(calls.readline()), answers)
    _limit_memory()
    for line in calls:
        call = json.loads(line)
        began = time.monotonic()
        try:
            verify = verifiers[call["component"]]
            if isinstance(verify, SandboxedFunction):
                verify.seconds = call["limit"]
            value = checked_reward(verify(call["prompt"], call["completion"], call["answer"], call["row"]))
        except BaseException as error:  # whatever a verifier or the user's code raises is the call's answer
            failure = _failure(error)
            _say(answers, **failure, seconds=time.monotonic() - began)
            if failure["ends"]:
                break
        else:
            _say(answers, value=value, seconds=time.monotonic() - began)
    close_shared_sandbox()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """What runs in the sandbox is gone, and its files, before this process is."""
    close_shared_sandbox()
    os._exit(0)


def _load(components: list[dict[str, Any]], answers: TextIO) -> dict[str, Verify]:
    verifiers: dict[str, Verify] = {}
    for component in components:
        name, code = component["name"], component["code"]
        try:
            parameters = VerifierChoice.model_validate(component["verifier"]).value
            verifiers[name] = build_verifier(parameters, Path(code) if code else None)
        except BaseException as error:
            _say(answers, failed=name, **_failure(error))
        else:
            _say(answers, loaded=name)
    return verifiers


def _private_streams() -> tuple[TextIO, TextIO]:
    """The pipes to the pool; what the user's code sees as input is empty, and what it prints goes to standard error."""
    calls = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return calls, answers


def _end_with_parent() -> None:
    """A trainer that is killed leaves no worker behind, not even one that is caught in a loop.

    And no process of the same user looks into it, where rows with their answers are.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _limit_memory() -> None:
    """Lets calls add `CALL_MEMORY_BYTES` of addresses to what loading has mapped; beyond that they get a MemoryError.

    Only the soft limit is set: it is against accidents. What runs in the sandbox has limits of its own.
    """
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = mapped + CALL_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _say(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")


def _failure(error: BaseException) -> dict[str, Any]:
    """What an error says, in one line and with the end of its traceback; and whether this process ends with it."""
    timed_out, ends = isinstance(error, OutOfTime), isinstance(error, (FunctionEnded, SandboxError))
    if isinstance(error, CodeFailed):
        return {"error": error.error, "traceback": error.traceback, "timed_out": timed_out, "ends": ends}
    return {"error": summary(error), "traceback": tail(error), "timed_out": timed_out, "ends": ends}


if __name__ == "__main__":
    main()
