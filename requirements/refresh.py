"""Rewrite the constraint files: the full pinned closure of each image.

    python3 requirements/refresh.py             pins of pyproject.toml change, everything else stays where it is
    python3 requirements/refresh.py --upgrade   newest versions of everything that pyproject.toml does not pin

`operator.txt` and `trainer.txt` close over the extras of pyproject.toml, `build.txt` over its build system. The
resolver is pip, asked for a report instead of an installation. The files name versions, not builds: torch is
written without its local version, and what only its CUDA builds depend on is left out, so that one file serves
CPU and CUDA images (torch itself pins the CUDA libraries it was built with).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
CUDA_ONLY = re.compile(r"^(nvidia-.*|cuda-.*|triton)$")


def normalized(name: str) -> str:
    """Return a distribution's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(report: dict) -> dict[str, str]:
    """Return name -> version of what pip's report would install, without this project and CUDA libraries."""
    found = {}
    for item in report["install"]:
        name = normalized(item["metadata"]["name"])
        if name != "plumbline" and not CUDA_ONLY.match(name):
            found[name] = item["metadata"]["version"].partition("+")[0]
    return found


def resolve(requirements: list[str], constraints: list[str]) -> dict[str, str]:
    """Ask pip for the closure of the requirements."""
    with tempfile.TemporaryDirectory() as temporary:
        report, limits = Path(temporary) / "report.json", Path(temporary) / "constraints.txt"
        limits.write_text("\n".join(constraints) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", str(report), "--constraint", str(limits), *requirements]
        subprocess.run(command, check=True, cwd=ROOT)
        return pins(json.loads(report.read_text()))


def kept(file: Path, direct: set[str]) -> list[str]:
    """Return the lines of a constraint file whose versions pyproject.toml does not decide."""
    if not file.exists():
        return []
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return [line for line in lines if line.partition("==")[0] not in direct]


def main() -> int:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="do not keep the versions of the present files")
    upgrade = parser.parse_args().upgrade
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    own = project["project"]["dependencies"]
    sources = {
        "operator": own + extras["operator"],
        "trainer": own + extras["trainer"],
        "build": project["build-system"]["requires"],
    }
    for name, requirements in sources.items():
        file = FOLDER / f"{name}.txt"
        pinned = {normalized(one.partition("==")[0]) for one in requirements if "==" in one}
        closure = resolve(requirements, [] if upgrade else kept(file, pinned))
        lines = [f"{package}=={version}" for package, version in sorted(closure.items())]
        header = "# Written by requirements/refresh.py: every distribution of the image, pinned.\n"
        file.write_text(header + "\n".join(lines) + "\n")
        print(f"{file.relative_to(ROOT)}: {len(lines)} distributions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
