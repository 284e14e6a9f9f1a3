"""The folder of wheels that a build without a package index installs from.

Downloaded by this machine's pip, so that its configuration (mirrors, folders of wheels, certificates) counts and
never gets into an image.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from charts.tools import python_with_pip
from images.commands import cache_directory, run, say
from images.description import ROOT, Image

# What the base image's Python can load, whichever Python runs pip here.
TARGET = ["--python-version", "3.11", "--implementation", "cp", "--only-binary", ":all:", "--no-deps"]
# pip does not know that one of these includes the others; Debian 12 has glibc 2.36.
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)), "manylinux2014_x86_64")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def ensure(image: Image, torch_index: str) -> Path:
    """Return a folder with a wheel for every line of the image's requirements, downloaded if it is not there.

    `torch_index`: package index to take torch from; where it is empty, pip's own configuration may offer a CPU build,
    else PyTorch's index of CPU builds is asked.
    """
    pins = [pin for file in image.requirements for pin in read_pins(ROOT / file)]
    key = hashlib.sha256(repr((sorted(pins), torch_index, TARGET, PLATFORMS)).encode()).hexdigest()[:12]
    folder = cache_directory() / "wheels" / f"{image.name}-{key}"
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    say(f"{image.name}: downloading {len(pins)} wheels")
    others = [pin for pin in pins if not pin.startswith("torch==")]
    for torch in set(pins) - set(others):
        _download_torch(torch, partial, torch_index)
    _download(others, partial)
    partial.rename(folder)
    return folder


def read_pins(file: Path) -> list[str]:
    """Return the `name==version` lines of a constraint file."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def _download_torch(pin: str, folder: Path, index: str) -> None:
    if index:
        _download([pin], folder, "--index-url", index)
        return
    # Only the local version tells a CPU build; without it pip would take gigabytes of CUDA from the public index.
    cpu_pin = f"{pin}+cpu"
    try:
        _download([cpu_pin], folder)
    except RuntimeError:
        say(f"pip is not configured to find {cpu_pin}: taking it from {CPU_INDEX}")
        _download([cpu_pin], folder, "--index-url", CPU_INDEX)


def _download(pins: list[str], folder: Path, *options: str) -> None:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    pip = [python_with_pip(), "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    run([*pip, *TARGET, *platforms, *options, *pins])
