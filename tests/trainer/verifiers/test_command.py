"""The verifier that runs a program: statuses and numbers, limits, and what is left behind."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError

from plumbline_api.methods.verifiers.choice import VerifierChoice
from plumbline_api.methods.verifiers.command import Command
from plumbline_api.sources import Reward
from plumbline_trainer.rewards.pool import Call, Outcome, VerifierPool
from plumbline_trainer.rewards.sandbox import landlock
from plumbline_trainer.rewards.verifiers.command import CommandFailed, run
from tests.trainer.verifiers.verifying import reward

CHECKER = [sys.executable, "-S", str(Path(__file__).with_name("propositional_checker.py"))]


def program(source: str, **options: object) -> Command:
    return Command.model_validate({"command": [sys.executable, "-S", "-c", source], **options})


@pytest.mark.parametrize(("proof", "expected"), [("a | ~a", 1), ("(a & b) -> a", 1), ("a -> b", 0), (" a\n", 0)])
def test_the_exit_status_of_a_checker_is_the_reward(proof, expected):
    assert reward(Command(command=CHECKER), proof) == expected


def test_a_status_that_is_no_verdict_is_an_error():
    with pytest.raises(CommandFailed, match="status 2: 'no formula'"):
        reward(Command(command=CHECKER), "1 + 1")
    assert reward(Command(command=CHECKER, reject_statuses=[1, 2]), "1 + 1") == 0
    with pytest.raises(CommandFailed, match="signal 11"):
        reward(program("import os; os.kill(os.getpid(), 11)"), "")


def test_the_last_line_may_be_the_reward():
    source = "print('checking'); print(0.75); print()"
    assert reward(program(source, result="lastLine"), "") == 0.75
    with pytest.raises(CommandFailed, match="status 1"):
        reward(Command(command=CHECKER, result="lastLine"), "a")
    with pytest.raises(CommandFailed, match="'proved' is not a number"):
        reward(program("print('proved')", result="lastLine"), "")


def test_the_program_may_read_the_row():
    """It says wrong by 3, as Python ends with 1 where a program raises."""
    source = (
        "import json, sys; given = json.load(sys.stdin)\n"
        "sys.exit(0 if given['completion'] == given['row']['first'] + given['answer'] else 3)"
    )
    parameters = program(source, input="json", rejectStatuses=[3])
    assert reward(parameters, "ab", answer="b", first="a") == 1
    assert reward(parameters, "xb", answer="b", first="a") == 0
    with pytest.raises(CommandFailed, match="KeyError: 'first'"):
        reward(parameters, "ab", answer="b")


def test_a_completion_is_never_an_argument():
    source = "import json, sys; print(json.dumps([sys.argv[1:], sys.stdin.read()])); print(1)"
    given = "; touch x $(id) --help"
    found = run([sys.executable, "-S", "-c", source], given.encode(), 10, 65536)
    assert json.loads(found.output.decode().splitlines()[0]) == [[], given]


def test_it_runs_in_an_empty_directory_that_is_gone_afterwards():
    source = "import os; open('made', 'w').close(); print(os.getcwd(), os.listdir('.'))"
    found = run([sys.executable, "-S", "-c", source], b"", 10, 65536)
    directory, made = found.output.decode().split(maxsplit=1)
    assert made.strip() == "['made']" and not Path(directory).exists()


@pytest.mark.parametrize("proof", ["sleep", "print"])
def test_time_and_output_are_bounded(proof):
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.5 s"):
        reward(Command(command=CHECKER, timeout_seconds=0.5), proof)
    assert time.monotonic() - began < 5


def test_only_the_end_of_the_output_is_kept():
    found = run([sys.executable, "-S", "-c", "print('x' * 10**7); print('end')"], b"", 30, 2048)
    assert len(found.output) == 2048 and found.output.endswith(b"end\n")


def test_nothing_that_it_started_survives():
    """A child that holds the pipes open neither delays the verdict nor lives on."""
    source = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(3600)'])\n"
        "print(p.pid, flush=True)"
    )
    began = time.monotonic()
    found = run([sys.executable, "-S", "-c", source], b"", 30, 2048)
    assert found.status == 0 and time.monotonic() - began < 10
    child = int(found.output)
    deadline = time.monotonic() + 10
    while _running(child):
        assert time.monotonic() < deadline, f"process {child} lives on"
        os.sched_yield()


def _running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_program_that_is_not_there_is_an_error():
    with pytest.raises(CommandFailed, match="cannot be started"):
        reward(Command(command=["/nowhere/lake", "env", "lean"]), "")


@pytest.mark.parametrize("wrong", [{"command": []}, {"command": [""]}, {"command": ["x"], "rejectStatuses": [0]}])
def test_senseless_parameters_are_refused(wrong):
    with pytest.raises(ValidationError):
        VerifierChoice.of("command", **wrong)


def test_in_the_pool_of_verifiers_failures_are_counted_and_no_rewards():
    """Proofs, a wrong one, no formula and one that takes too long: values for two, errors for the others."""
    component = Reward(
        name="proof",
        verifier=VerifierChoice.of("command", command=CHECKER, timeoutSeconds=1.0),
    )
    calls = [Call("proof", "prompt", text, None, {}) for text in ["a | ~a", "a", "1 + 1", "sleep", "~(a & ~a)"]]
    with VerifierPool([component], {}, workers=2) as pool:
        outcomes = pool.run(calls)
    assert [outcome.value for outcome in outcomes] == [1.0, 0.0, None, None, 1.0]
    assert [outcome.failed for outcome in outcomes] == [False, False, True, True, False]
    assert "status 2" in str(outcomes[2].error) and "longer than 1 s" in str(outcomes[3].error)


ATTEMPTS = {
    "write beside its directory": "open({file!r}, 'w')",
    "read what the job's volumes hold": "open({file!r}).read()",
    "open a connection": "import socket; socket.socket()",
    "kill its caller": "os.kill(os.getppid(), 9)",
    "leave the session of its caller": "child = os.fork(); os.waitpid(child, 0) if child else os.setsid()",
    "look into its caller": "open(f'/proc/{{os.getppid()}}/environ').read()",
}


@pytest.mark.skipif(not landlock.abi_version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_a_completion_could_make_of_the_program_is_refused(attempt, tmp_path):
    file = tmp_path / "answers"
    file.write_text("secret")
    source = (
        f"import os\ntry:\n {ATTEMPTS[attempt].format(file=str(file))}\n"
        "except PermissionError: print('refused', flush=True)\nos._exit(0)"
    )
    found = run([sys.executable, "-S", "-c", source], b"", 10, 65536)
    assert b"refused" in found.output and file.read_text() == "secret"


def test_a_file_that_is_named_in_the_command_can_be_read(tmp_path):
    script = tmp_path / "judge.py"
    script.write_text("print(1)")
    assert reward(Command(command=[sys.executable, "-S", str(script)], result="lastLine"), "") == 1


def test_the_program_dies_with_the_process_of_its_verifier(tmp_path):
    """The process that waits for it is killed; the program is gone with it, and the call is made again elsewhere."""
    flag = tmp_path / "again"
    source = "import os, sys, time; os.path.exists(sys.argv[1]) or time.sleep(3600)"
    component = Reward(name="proof", verifier={"command": {"command": [sys.executable, "-S", "-c", source, str(flag)]}})
    outcomes: list[Outcome] = []
    with VerifierPool([component], {}, workers=1) as pool:
        calling = threading.Thread(target=lambda: outcomes.extend(pool.run([Call("proof", "prompt", "", None, {})])))
        calling.start()
        deadline = time.monotonic() + 20
        while not (found := _processes_with(str(flag))):
            assert time.monotonic() < deadline
            os.sched_yield()
        flag.touch()
        os.kill(_parent(found[0]), signal.SIGKILL)
        while _running(found[0]):
            assert time.monotonic() < deadline
        calling.join(20)
    assert [outcome.value for outcome in outcomes] == [1.0]


def _processes_with(argument: str) -> list[int]:
    """Processes that have the argument."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if argument in (directory / "cmdline").read_text().split("\0"):
                found.append(int(directory.name))
    return found


def _parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
