"""Runs the test lanes: `scripts/test.py [LANE ...]`; without names `lint unit control-plane e2e`.

lint           ruff and mypy
unit           everything that needs nothing but Python
slow           unit tests that take long, such as learning curves
control-plane  the operator and the CRDs against a real kube-apiserver and etcd, with a simulated kubelet
e2e            one run of each kind of job in real pods on a real cluster
e2e-all        every end-to-end test
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = str(ROOT / ".venv" / "bin" / "python")
DEFAULT_LANES = ("lint", "unit", "control-plane", "e2e")
CODE = ("crds", "operator", "trainer-image", "cluster", "images", "scripts", "charts", "examples", "bench", "tests")


def run(*command: str, environment: dict[str, str] | None = None) -> bool:
    """Runs a command in the repository's root; tells whether it succeeded."""
    print(f"$ {' '.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False).returncode == 0


def pytest(*arguments: str) -> bool:
    """Runs pytest with one thread a process, so that two processes use two cores."""
    return run(PYTHON, "-m", "pytest", *arguments, environment={"OMP_NUM_THREADS": "1"})


def lint() -> bool:
    """Style and types."""
    results = [
        run(PYTHON, "-m", "ruff", "check", *CODE),
        run(PYTHON, "-m", "ruff", "format", "--check", *CODE),
        run(PYTHON, "-m", "mypy"),
    ]
    return all(results)


def unit() -> bool:
    """Everything that needs nothing but Python."""
    return pytest("-n", "2", "-m", "not control_plane and not cluster and not e2e and not slow")


def slow() -> bool:
    """Unit tests that take longer than the whole rest, such as learning curves of several examples."""
    return pytest("-m", "slow and not control_plane and not cluster and not e2e")


def control_plane() -> bool:
    """Needs the control plane's binaries, which are built once and cached."""
    if not run(sys.executable, "-m", "cluster", "build"):
        return False
    # simulated trainers of both listen on the contract's port
    results = [pytest("-m", "control_plane", "--ignore=tests/scale"), pytest("-m", "control_plane", "tests/scale")]
    return all(results)


def end_to_end(*selection: str) -> bool:
    """Needs a cluster: starts one where none runs, and stops it again if it did."""
    status = subprocess.run([sys.executable, "-m", "cluster", "status"], cwd=ROOT, check=False, capture_output=True)
    was_up = status.returncode == 0
    if not run(sys.executable, "-m", "cluster", "up"):
        return False
    try:
        return pytest(*selection)
    finally:
        if not was_up:
            run(sys.executable, "-m", "cluster", "down")


LANES = {
    "lint": lint,
    "unit": unit,
    "slow": slow,
    "control-plane": control_plane,
    "e2e": lambda: end_to_end("-m", "e2e and not slow"),
    "e2e-all": lambda: end_to_end("-m", "e2e or cluster"),
}


def main() -> None:
    """Runs the chosen lanes, all of them even if one fails, and ends with a line for each."""
    lanes = sys.argv[1:] or list(DEFAULT_LANES)
    unknown = [lane for lane in lanes if lane not in LANES]
    if unknown:
        raise SystemExit(f"unknown lane {', '.join(unknown)}; there are {', '.join(LANES)}")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "environment.py")], check=True)
    results: dict[str, tuple[bool, float]] = {}
    for lane in lanes:
        print(f"=== {lane}", flush=True)
        started = time.monotonic()
        results[lane] = (LANES[lane](), time.monotonic() - started)
    print("=== result")
    for lane, (passed, seconds) in results.items():
        print(f"{lane:15} {'passed' if passed else 'FAILED'} in {seconds:.0f} s")
    if not all(passed for passed, _ in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
