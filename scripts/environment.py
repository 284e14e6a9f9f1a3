"""Creates or refreshes the virtual environment `.venv` with the pinned requirements; a second run takes no time.

torch comes as its CPU build: from where pip is configured to look, else from PyTorch's own index; `TORCH_INDEX_URL`
names another one, such as an index of CUDA builds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / "plumbline.stamp"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def inputs_digest() -> str:
    """Changes when anything that decides what is installed does."""
    digest = hashlib.sha256(sys.version.encode())
    for path in [ROOT / "pyproject.toml", *sorted((ROOT / "requirements").glob("*.txt"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install_debian_packages(*packages: str) -> None:
    """Installs Debian packages, or says which are missing where that is not possible."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"please install {' '.join(packages)} first")
    print(f"environment: installing {' '.join(packages)}", flush=True)
    subprocess.run(["apt-get", "update", "-qq"], check=False)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        check=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.DEVNULL,
    )


def create() -> None:
    """Makes an empty virtual environment; Debian keeps what `venv` needs in a package of its own."""
    command = [sys.executable, "-m", "venv", str(ENVIRONMENT)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        install_debian_packages("python3-venv")
        subprocess.run(command, check=True)


def torch_attempts(pin: str) -> list[list[str]]:
    """What pip is asked for, one after the other, until one succeeds."""
    index = os.environ.get("TORCH_INDEX_URL")
    if index:
        return [[pin, "--extra-index-url", index]]
    # only the local version tells a CPU build; the public index has gigabytes of CUDA under the plain one
    return [[f"{pin}+cpu"], [f"{pin}+cpu", "--extra-index-url", CPU_INDEX]]


def install() -> None:
    """Installs the project, its extras and its tools at the versions of `requirements/`."""
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    trainer = (ROOT / "requirements" / "trainer.txt").read_text().splitlines()
    pin = next(line for line in trainer if line.startswith("torch=="))
    attempts = torch_attempts(pin)
    for attempt in attempts:
        last = attempt is attempts[-1]
        quiet = None if last else subprocess.DEVNULL
        if not subprocess.run([*pip, *attempt], check=last, stdout=quiet, stderr=quiet).returncode:
            break
    constraints = [argument for path in sorted((ROOT / "requirements").glob("*.txt")) for argument in ("-c", str(path))]
    subprocess.run([*pip, *constraints, "-e", f"{ROOT}[dev]"], check=True)


def main() -> None:
    """Brings the environment up to date if it is not."""
    wanted = inputs_digest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    started = time.monotonic()
    print("environment: installing the pinned requirements into .venv (a few minutes the first time)", flush=True)
    if not (ENVIRONMENT / "bin" / "python").exists():
        create()
    install()
    STAMP.write_text(wanted)
    print(f"environment: ready after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
