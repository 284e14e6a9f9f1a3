"""`python -m tests.scale [life] [burst] [alive]`: the operator at scale, on a real API server with simulated kubelets.

Without names all parts are measured. Each writes its section of the results; `alive` measures what `seed` has written
into the same directory, and does that itself where nobody has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import ROOT, commit, describe_machine, load_average
from tests.scale.bars import missed
from tests.scale.measurement import measure_alive, measure_burst, measure_life, seed_jobs
from tests.scale.world import ScaleWorld

RESULTS = ROOT / "bench" / "results" / "scale.json"
PARTS = ("life", "burst", "alive")


def main() -> int:
    """Exit code 0 where every bar is met."""
    parser = argparse.ArgumentParser(prog="tests.scale", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS, "seed"], help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--at-once", type=int, default=1000, help="jobs created at once (default: %(default)s)")
    parser.add_argument("--more", type=int, default=100, help="jobs created one by one afterwards")
    parser.add_argument("--alive", type=int, default=5000, help="jobs that run already (default: %(default)s)")
    parser.add_argument("--lives", type=int, default=50, help="jobs whose whole life is counted (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="the operator's --workers (default: its own)")
    parser.add_argument("--directory", type=Path, help="of the control plane; `seed` leaves it running there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    subprocess.run([sys.executable, "-m", "cluster", "build"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory(prefix="plumbline-scale-") as temporary:
        for part in options.parts or PARTS:
            directory = options.directory or Path(temporary) / part
            directory.mkdir(parents=True, exist_ok=True)
            before = load_average()
            section = asyncio.run(run_part(part, directory, options))
            if section:
                write(options.output, part, {**section, "workers": options.workers, "load_average_before": before})
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    for line in missed(results):
        print(f"MISSED: {line}")
    return 1 if missed(results) else 0


async def run_part(part: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One part in a control plane of its own, except that `alive` uses one that `seed` has left."""
    world = ScaleWorld(directory, outlives_us=part == "seed")
    seeded = (directory / "seeded").exists()
    if part == "alive" and seeded:
        world.find()
    else:
        world.start()
    try:
        if part == "life":
            world.start_kubelet()
            return await measure_life(world, directory, options.workers, options.lives, say)
        if part == "burst":
            world.start_kubelet()
            return await measure_burst(world, directory, options.workers, options.at_once, options.more, say)
        if not (part == "alive" and seeded):
            world.start_kubelet()
            await seed_jobs(world, directory, options.alive, say)
            world.stop_kubelet()
            (directory / "seeded").touch()
        if part == "seed":
            return {}
        world.start_kubelet(bind_pods=False)
        return await measure_alive(world, directory, options.workers, options.alive, say)
    finally:
        if part == "seed" and (directory / "seeded").exists():
            world.stop_kubelet()
        else:
            world.stop()
            (directory / "seeded").unlink(missing_ok=True)


def write(output: Path, part: str, section: dict[str, Any]) -> None:
    """Puts a section into the results beside those that are there."""
    results = json.loads(output.read_text()) if output.exists() else {}
    results[part] = {**section, "machine": str(describe_machine()), "commit": commit(), "kubernetes": "1.20.2"}
    output.write_text(json.dumps(results, indent=2) + "\n")


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
