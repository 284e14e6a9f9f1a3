"""`python -m tests.faults`: injects faults into jobs on the local cluster and checks the reason that each gets.

Starts the cluster if none runs. Writes what was measured to `bench/results/faults.json` and the table of
`docs/diagnosis.md`; with `--record` also the objects as they were, trimmed, to `tests/operator/recorded/`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.machine import commit, describe_machine, load_average
from cluster.bare import BareCluster
from scripts.deployment import ROOT, Cluster, build_images, install_operator, trainer_image
from tests.faults.cases import faults
from tests.faults.recording import record
from tests.faults.report import replace_part, table, with_rows
from tests.faults.run import Verdict, prepared_scene, run_faults

BAR_SECONDS = 5.0


def main() -> int:
    """Exit code 0 where every fault got its reason, in time."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=[], help="names of faults whose rows are measured anew (default: all)"
    )
    parser.add_argument("--record", action="store_true", help="record pods, events and nodes for tests/operator")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "faults.json")
    options = parser.parse_args()
    status = subprocess.run([sys.executable, "-m", "cluster", "status"], cwd=ROOT, check=False, capture_output=True)
    subprocess.run([sys.executable, "-m", "cluster", "up"], cwd=ROOT, check=True)
    try:
        cluster, images = Cluster.local(), build_images()
        install_operator(cluster, with_own_processor(images))
        builder, model = ROOT / "examples" / "tiny-model" / "build.py", ROOT / ".tiny-model"
        subprocess.run([sys.executable, str(builder), "--output", str(model)], cwd=ROOT, check=True)
        chosen = [fault for fault in faults(trainer_image(images)) if not options.only or fault.name in options.only]
        load, started = load_average(), time.monotonic()
        with prepared_scene(cluster, BareCluster(), trainer_image(images), model) as scene:
            verdicts = run_faults(scene, chosen)
            seconds = round(time.monotonic() - started)
            if options.record:
                record(scene, chosen, ROOT / "tests" / "operator" / "recorded")
    finally:
        if status.returncode:
            subprocess.run([sys.executable, "-m", "cluster", "down"], cwd=ROOT, check=True)
    document: dict[str, Any] = {
        "machine": str(describe_machine()),
        "commit": commit(),
        "loadBefore": load,
        "seconds": seconds,
        "barSeconds": BAR_SECONDS,
        "faults": [asdict(verdict) | {"commit": commit()} for verdict in verdicts],
    }
    if options.only and options.output.exists():
        document = with_rows(json.loads(options.output.read_text()), document["faults"])
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    page = ROOT / "docs" / "diagnosis.md"
    replace_part(page, "faults", table(document))
    for name, text in scene.printed.items():
        replace_part(page, name, f"```\n{text.rstrip()}\n```\n")
    return _summary(verdicts)


def with_own_processor(images: dict[str, Any]) -> dict[str, Any]:
    """Chart values with half a core for the operator: trainers on the same two cores would leave it a twentieth."""
    requests = {"cpu": "500m", "memory": "128Mi"}
    return images | {"operator": images["operator"] | {"resources": {"requests": requests}}}


def _summary(verdicts: list[Verdict]) -> int:
    wrong = [verdict for verdict in verdicts if not verdict.right]
    late = [
        verdict for verdict in verdicts if verdict.seconds_after_end is not None
        and verdict.seconds_after_end > BAR_SECONDS
    ]  # fmt: skip
    print(f"{len(verdicts) - len(wrong)} of {len(verdicts)} faults got the right reason; {len(late)} too late")
    for verdict in {id(verdict): verdict for verdict in (*wrong, *late)}.values():
        print(f"  {verdict.name}: {verdict.expected} expected, {verdict.reason} told: {verdict.message}")
    return 1 if wrong or late else 0


if __name__ == "__main__":
    sys.exit(main())
