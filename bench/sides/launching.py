"""The sides by name, and one run of one of them in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench.machine import ROOT, load_average
from bench.measurement import Assignment, Report

NEWEST = "newest"


class SideFailed(Exception):
    """A side ended without a report; the message has the end of its output."""


@dataclass(frozen=True)
class Side:
    """One trainer in one configuration."""

    name: str
    module: str
    trl: str | None = None
    """Version of TRL."""

    precompute_reference: bool = False
    compile: bool = False


OURS = Side("plumbline", "bench.sides.ours")
OURS_COMPILED = Side("plumbline-compiled", "bench.sides.ours", compile=True)


def trl_side(text: str) -> Side:
    """The side that `text` names: a version of TRL, or `newest`, optionally followed by `+precomputed`."""
    version, _, option = text.partition("+")
    if option not in ("", "precomputed"):
        raise ValueError(f"{text!r}: after the version of TRL only +precomputed is known")
    if version == NEWEST:
        version = newest_trl()
    if not re.fullmatch(r"\d+(\.\d+)+", version):
        raise ValueError(f"{text!r}: {version!r} is no version of TRL")
    name = f"trl-{version}" + (f"-{option}" if option else "")
    return Side(name, "bench.sides.trl_dpo", trl=version, precompute_reference=bool(option))


def newest_trl() -> str:
    """The newest version of TRL on the package index that pip uses. Raises `SideFailed` where it cannot be asked."""
    command = [sys.executable, "-m", "pip", "index", "versions", "trl"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^trl \((\S+)\)", answer.stdout, re.MULTILINE)
    if found is None:
        raise SideFailed(f"the newest version of TRL could not be found out:\n{answer.stderr.strip()}")
    return found.group(1)


def trl_path(version: str, cache: Path) -> Path | None:
    """Where TRL `version` is: None for the environment's own, else a folder below `cache`, filled when it is not there.

    Only TRL itself differs: torch, transformers and the rest come from the environment on every side.
    """
    try:
        if importlib.metadata.version("trl") == version:
            return None
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = cache / f"trl-{version}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            target = Path(partial) / "trl"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
            subprocess.run([*command, f"trl=={version}"], check=True)
            target.rename(folder)
    return folder


def run_side(side: Side, assignment: Assignment, threads: int, cache: Path) -> tuple[Report, float]:
    """One training by `side` in a new process with `threads` threads: its report, and the load before it.

    `assignment.work` and `.report` are set here: every run has a new folder, and caches of its own in it, so that no
    run finds what an earlier one computed. Raises `SideFailed`.
    """
    load = load_average()
    with tempfile.TemporaryDirectory(dir=cache) as work:
        told = replace(
            assignment,
            work=work,
            report=f"{work}/report.json",
            precompute_reference=side.precompute_reference,
            compile=side.compile,
        )
        told.write(Path(work) / "assignment.json")
        run_module(side, Path(work), threads, cache)
        report = Report.read(Path(told.report))
    require_version(side, report.versions)
    return report, load


def run_module(side: Side, work: Path, threads: int, cache: Path) -> None:
    """Runs `side` in a new process with `threads` threads, on `assignment.json` in the folder `work`.

    Raises `SideFailed` unless it ends well and leaves `report.json` there.
    """
    log = work / "log"
    with log.open("wb") as stream:
        code = subprocess.run(
            [sys.executable, "-m", side.module, str(work / "assignment.json")],
            cwd=ROOT,
            env=_environment(side, threads, str(work), cache),
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code or not (work / "report.json").exists():
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise SideFailed(f"{side.name} ended with exit code {code}:\n{end}")


def require_version(side: Side, versions: dict[str, str]) -> None:
    """Raises `SideFailed` where another version of TRL ran than the side's."""
    if side.trl is not None and versions["trl"] != side.trl:
        raise SideFailed(f"{side.name} ran TRL {versions['trl']}: {json.dumps(versions)}")


def _environment(side: Side, threads: int, work: str, cache: Path) -> dict[str, str]:
    path = [str(ROOT), str(ROOT / "crds"), str(ROOT / "trainer-image")]
    folder = None if side.trl is None else trl_path(side.trl, cache)
    if folder is not None:
        path.insert(0, str(folder))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "XDG_CACHE_HOME": f"{work}/cache",
        "HF_HOME": f"{work}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",  # processors are compared: a GPU that one side finds by itself would decide it all
    }
