"""A base image for machines that reach Debian's packages but no container registry.

Debian bookworm reduced to Python 3.11 and the certificates of authorities: what the Dockerfiles' default base also
holds. It is meant for the local cluster: security updates come with a new release of Debian's `bookworm` suite.
"""

from __future__ import annotations

import hashlib
import os
import shutil

from images.buildah import Buildah
from images.commands import cache_directory, install_packages, run, say

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
UNUSED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale")


def ensure(buildah: Buildah) -> str:
    """Return the base image's name, made first if it is not there. Takes minutes once."""
    mirror = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, UNUSED)).encode()).hexdigest()[:12]
    name = f"localhost/plumbline/debian-python:{recipe}"
    if buildah.has(name):
        return name
    install_packages({"debootstrap": "debootstrap"})
    tree = cache_directory() / "debian"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    say(f"installing a minimal Debian {SUITE} with Python as the base image (one to three minutes, once)")
    # In a mount namespace of its own: what debootstrap mounts inside the tree is gone with it, however it ends.
    run(
        ["unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase",
         f"--include={','.join(PACKAGES)}", SUITE, str(tree), mirror]
    )  # fmt: skip
    for folder in [*(tree / unused for unused in UNUSED), *tree.rglob("__pycache__")]:
        shutil.rmtree(folder, ignore_errors=True)
    # Written from this machine's by debootstrap; a container gets its own.
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/hostname").unlink(missing_ok=True)
    say("storing the base image")
    archive = cache_directory() / "debian.tar"
    run(["tar", "--create", "--file", str(archive), "--directory", str(tree), "."])
    buildah.commit_archive(archive, name)
    archive.unlink()
    shutil.rmtree(tree)
    return name
