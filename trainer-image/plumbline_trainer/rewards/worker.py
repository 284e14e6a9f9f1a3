"""The process that runs verifiers: started by `pool`, reads calls from its standard input, answers on its output.

One JSON object a line. The first line it reads lists the components; it answers each with `loaded` or `failed`. Every
further line is a call, answered with `value` or `error`. Code that prints, reads the terminal or starts children
cannot disturb this: the pipes are moved away from the standard streams before any of it is loaded.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_trainer.rewards.verifiers import Verify, build_verifier, checked_reward

_PR_SET_PDEATHSIG = 1
_TRACEBACK_LINES = 12

CALL_MEMORY_BYTES = 4 * 2**30
"""What calls may use beyond loaded code: enough for any check of a text, too little to end the trainer's pod."""


def main() -> None:
    """Serves until the input ends."""
    _end_with_parent()
    calls, answers = _private_streams()
    verifiers = _load(json.loads(calls.readline()), answers)
    _limit_memory()
    for line in calls:
        call = json.loads(line)
        try:
            verify = verifiers[call["component"]]
            value = checked_reward(verify(call["prompt"], call["completion"], call["answer"], call["row"]))
        except BaseException as error:  # whatever the user's code raises, sys.exit included, is the call's answer
            _say(answers, error=_summary(error), traceback=_tail())
        else:
            _say(answers, value=value)


def _load(components: list[dict[str, Any]], answers: TextIO) -> dict[str, Verify]:
    verifiers: dict[str, Verify] = {}
    for component in components:
        name, code = component["name"], component["code"]
        try:
            parameters = VerifierChoice.model_validate(component["verifier"]).value
            verifiers[name] = build_verifier(parameters, Path(code) if code else None)
        except BaseException as error:
            _say(answers, failed=name, error=_summary(error), traceback=_tail())
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
    """A trainer that is killed leaves no worker behind, not even one that is caught in a loop."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory() -> None:
    """Lets calls add `CALL_MEMORY_BYTES` of addresses to what loading has mapped; beyond that they get a MemoryError.

    Only the soft limit is set: it is against accidents, and code that means to hold more may raise it.
    """
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = mapped + CALL_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _say(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")


def _summary(error: BaseException) -> str:
    lines = traceback.format_exception_only(error)
    return lines[-1].strip()


def _tail() -> str:
    return "\n".join(traceback.format_exc().rstrip().splitlines()[-_TRACEBACK_LINES:])


if __name__ == "__main__":
    main()
