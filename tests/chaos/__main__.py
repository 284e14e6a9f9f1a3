"""`python -m tests.chaos --kills 100 --seed 7`: chaos on the local cluster, started if none runs."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from bench.machine import commit, describe_machine
from scripts.deployment import ROOT, Cluster, build_images, install_operator
from tests.chaos.run import run_chaos, summary


def main() -> int:
    """Exit code 0 where everything held."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, help="repeats the choices of an earlier run (default: a new one)")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "chaos.json")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    status = subprocess.run([sys.executable, "-m", "cluster", "status"], cwd=ROOT, check=False, capture_output=True)
    subprocess.run([sys.executable, "-m", "cluster", "up"], cwd=ROOT, check=True)
    try:
        cluster, images = Cluster.local(), build_images()
        install_operator(cluster, images)
        model = ROOT / ".tiny-model"
        builder = ROOT / "examples" / "tiny-model" / "build.py"
        subprocess.run([sys.executable, str(builder), "--output", str(model)], cwd=ROOT, check=True)
        started = time.monotonic()

        def say(line: str) -> None:
            print(line, flush=True)

        result = run_chaos(cluster, images, model, kills=options.kills, seed=seed, say=say)
    finally:
        if status.returncode:
            subprocess.run([sys.executable, "-m", "cluster", "down"], cwd=ROOT, check=True)
    document = {"machine": str(describe_machine()), "commit": commit(), "seconds": round(time.monotonic() - started)}
    options.output.write_text(json.dumps({**document, **result.document()}, indent=1) + "\n")
    print(summary(result))
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
