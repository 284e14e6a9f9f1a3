"""The process pool of verifiers: order, hard time limits, deaths, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from plumbline_api.sources import Reward
from plumbline_trainer.failures import RewardFunctionError
from plumbline_trainer.rewards.pool import Call, VerifierPool

SOURCE = """
import os, signal, subprocess, sys, time

def verify(prompt, completion, answer, row):
    if completion == "sleep":
        time.sleep(3600)
    if completion == "loop":
        while True:
            pass
    if completion == "child":
        subprocess.Popen(["sleep", "3600"])
        time.sleep(3600)
    if completion == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "leave":
        sys.exit(4)
    if completion == "close":
        os.closerange(3, 100)
    if completion == "raise":
        return helper(row)
    if completion == "print":
        print("a line on standard output")
        sys.stdout.flush()
        os.write(1, b"and another\\n")
    if completion == "environment":
        return len({"MASTER_ADDR", "HF_TOKEN"} & set(os.environ)) + 10 * ("PATH" in os.environ)
    if completion == "memory":
        return len(bytearray(5 * 2**30))
    if completion == "read":
        return len(sys.stdin.read())
    return float(completion) if completion.isdigit() else 0

def helper(row):
    return row["nothing"]
"""


@pytest.fixture
def pool(tmp_path):
    code = tmp_path / "reward.py"
    code.write_text(SOURCE)
    with VerifierPool([component(code)], {"code": code}, workers=2) as pool:
        yield pool


def component(code, name="code", **options):
    return Reward(name=name, verifier={"python": {"path": str(code)}}, **({"timeout_seconds": 1.0} | options))


def call(completion, **row):
    return Call("code", "prompt", completion, None, row)


def test_results_come_in_the_order_of_calls(pool):
    outcomes = pool.run([call(str(number)) for number in range(40)])
    assert [outcome.value for outcome in outcomes] == list(range(40))


def test_no_calls_are_no_work(pool):
    assert pool.run([]) == []


def test_large_texts_pass(pool):
    text = "1" * 300
    [outcome] = pool.run([Call("code", "ä" * 2_000_000, text, None, {})])
    assert outcome.value == float(text)


@pytest.mark.parametrize("completion", ["sleep", "loop"])
def test_a_call_out_of_time_is_ended_and_the_others_go_on(pool, completion):
    started = time.monotonic()
    outcomes = pool.run([call("1"), call(completion), call("2"), call("3")])
    assert [outcome.value for outcome in outcomes] == [1, None, 2, 3]
    assert outcomes[1].timed_out
    assert outcomes[1].error == "did not return within 1 s"
    assert time.monotonic() - started < 20
    assert [outcome.value for outcome in pool.run([call("4"), call("5")])] == [4, 5]


def test_children_of_a_call_out_of_time_are_ended_too(pool):
    sleeping = set()
    [outcome] = pool.run([call("child")], lambda: sleeping.update(_sleeping()))
    assert outcome.timed_out
    assert sleeping
    assert not any(map(_alive, sleeping))


def test_a_call_knows_how_long_it_took(pool):
    short, long = pool.run([call("1"), call("sleep")])
    assert 0 < short.seconds < long.seconds
    assert 1 <= long.seconds < 20


def test_a_death_is_an_error_of_its_call_alone(pool):
    outcomes = pool.run([call("die"), call("1"), call("die"), call("2")])
    assert [outcome.value for outcome in outcomes] == [None, 1, None, 2]
    assert outcomes[0].error == "the process ended by signal SIGKILL"
    assert not outcomes[0].timed_out


def test_a_call_whose_process_was_killed_from_outside_is_made_once_more(tmp_path):
    numbers = Reward(name="numbers", verifier={"numeric": {}}, timeout_seconds=30.0)
    before = _children()
    with VerifierPool([numbers], {}, workers=1) as pool:
        calls = [Call("numbers", "", str(number), str(number), {}) for number in range(300)]
        seen = []

        def kill(call, outcome):
            seen.append(call)
            if len(seen) in (1, 100):
                [worker] = _children() - before
                os.kill(worker, signal.SIGKILL)

        outcomes = pool.run(calls, on_outcome=kill)
    assert [outcome.value for outcome in outcomes] == [1.0] * 300


def test_processes_killed_while_they_load_are_replaced_a_few_times(tmp_path):
    numbers = Reward(name="numbers", verifier={"numeric": {}}, timeout_seconds=30.0)
    before = _children()

    def kill(times):
        killed = set()

        def poll():
            if len(killed) < times:
                for worker in _children() - before - killed:
                    killed.add(worker)
                    os.kill(worker, signal.SIGKILL)

        return poll

    with VerifierPool([numbers], {}, workers=1) as pool:
        assert [one.value for one in pool.run([Call("numbers", "", "1", "1", {})], kill(2))] == [1.0]
    refused = pytest.raises(RewardFunctionError, match=r"reward numbers: .*SIGKILL while loading the code")
    with VerifierPool([numbers], {}, workers=1) as pool, refused:
        pool.run([Call("numbers", "", "1", "1", {})], kill(3))


def test_an_error_carries_the_end_of_its_traceback(pool):
    [outcome] = pool.run([call("raise")])
    assert outcome.error == "KeyError: 'nothing'"
    assert 'return row["nothing"]' in outcome.traceback
    assert outcome.traceback.endswith("KeyError: 'nothing'")


def test_leaving_by_sys_exit_is_an_error_and_keeps_the_process(pool):
    outcomes = pool.run([call("leave"), call("1")])
    assert outcomes[0].error == "SystemExit: 4"
    assert outcomes[1].value == 1


def test_code_that_closes_files_breaks_only_its_call(pool):
    outcomes = pool.run([call("close"), call("1")])
    assert outcomes[0].failed
    assert outcomes[1].value == 1


def test_printing_and_reading_do_not_disturb_the_protocol(pool):
    outcomes = pool.run([call("print"), call("read"), call("7")])
    assert [outcome.value for outcome in outcomes] == [0, 0, 7]


def test_the_trainers_environment_stays_with_the_trainer(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    with VerifierPool([component(tmp_path / "reward.py")], {"code": tmp_path / "reward.py"}, workers=1) as fresh:
        assert [outcome.value for outcome in fresh.run([call("environment")])] == [10]


def test_memory_beyond_the_limit_is_an_error_of_its_call_alone(pool):
    outcomes = pool.run([call("memory"), call("1")])
    assert outcomes[0].error == "MemoryError"
    assert outcomes[1].value == 1


def test_components_keep_apart(tmp_path):
    code = tmp_path / "reward.py"
    code.write_text("def verify(prompt, completion, answer, row): return 5\n")
    rewards = [component(code), Reward(name="same", verifier={"exactMatch": {}})]
    with VerifierPool(rewards, {"code": code}, workers=1) as pool:
        calls = [("same", "a"), ("code", "a"), ("same", "b")]
        outcomes = pool.run([Call(name, "", completion, "a", {}) for name, completion in calls])
    assert [outcome.value for outcome in outcomes] == [1, 5, 0]


def test_code_that_does_not_load_in_time_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("plumbline_trainer.rewards.pool.LOAD_SECONDS", 3.0)
    code = tmp_path / "reward.py"
    code.write_text("import time\ntime.sleep(3600)\n")
    with (
        VerifierPool([component(code)], {"code": code}, workers=1) as pool,
        pytest.raises(RewardFunctionError, match="reward code: its code did not load within 3 s"),
    ):
        pool.run([call("1")])


def test_polling_ends_a_run_and_leaves_the_pool_usable(pool):
    class Stopped(Exception):
        pass

    began = time.monotonic()

    def poll():
        if time.monotonic() - began > 0.3:
            raise Stopped

    with pytest.raises(Stopped):
        pool.run([call("sleep"), call("sleep")], poll)
    assert [outcome.value for outcome in pool.run([call("1")])] == [1]


def test_closing_leaves_no_process(tmp_path):
    code = tmp_path / "reward.py"
    code.write_text(SOURCE)
    before, all_before = _children(), descendants(os.getpid())
    pool = VerifierPool([component(code)], {"code": code}, workers=3)
    pool.run([call("1")])
    assert len(_children() - before) == 3
    # a worker, its sandbox's own process and the function in it, three times
    _until(lambda: len(descendants(os.getpid()) - all_before) == 9)
    below = descendants(os.getpid()) - all_before
    pool.close()
    assert not any(map(_alive, below))
    assert _children() == before
    pool.close()


def test_a_killed_trainer_leaves_no_worker(tmp_path):
    """Not even one that is in an endless loop and so never sees that its input has ended."""
    code = tmp_path / "reward.py"
    code.write_text("import subprocess\ndef verify(prompt, completion, answer, row):\n"
                    "    subprocess.Popen(['sleep', '3600'])\n"
                    "    while True: pass\n")  # fmt: skip
    program = (
        "import sys; from pathlib import Path\n"
        "from plumbline_api.sources import Reward\n"
        "from plumbline_trainer.rewards.pool import Call, VerifierPool\n"
        "reward = Reward(name='code', verifier={'python': {'path': sys.argv[1]}}, timeout_seconds=3600)\n"
        "VerifierPool([reward], {'code': Path(sys.argv[1])}, 1).run([Call('code', '', '', None, {})])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    trainer = subprocess.Popen([sys.executable, "-c", program, str(code)], env=environment)
    _until(lambda: _sleeping(trainer.pid))
    below = descendants(trainer.pid)
    assert len(below) >= 4  # the worker, the sandbox's own process, the function, its child
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    _until(lambda: not any(map(_alive, below)))


def _until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def _alive(pid):
    """Whether the process runs; one that has ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _sleeping(root=None):
    """Descendants that are `sleep 3600`."""
    found = set()
    for pid in descendants(root or os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x003600\x00":
                found.add(pid)
    return found


def _children():
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def descendants(root):
    """All processes below one."""
    parents = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(directory.name)] = int((directory / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}
