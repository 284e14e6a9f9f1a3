"""Write a container image archive from plain files, with no registry or builder.

The format is the docker-archive one, which containerd, buildah and Docker load.
Two images come from it: the pause container of every pod, and a busybox for
tests and demos. Both are Debian's static busybox; a pause container only has
to stay alive (containerd ends it with SIGKILL).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAUSE_IMAGE = "k8s.local/pause:1"
BUSYBOX_IMAGE = "k8s.local/busybox:1"

_DIRECTORIES = {"tmp": 0o1777, "bin": 0o755, "etc": 0o755, "var": 0o755, "root": 0o700}
_APPLETS = [
    *("sh", "ash", "echo", "printf", "true", "false", "test", "env", "sleep", "timeout", "date", "yes", "seq", "kill"),
    *("cat", "cp", "mv", "rm", "ln", "ls", "mkdir", "chmod", "touch", "stat", "dd", "df", "sync", "find", "pwd"),
    *("head", "tail", "grep", "sed", "awk", "sort", "tr", "wc", "xargs", "md5sum", "tar"),
    *("hostname", "id", "uname", "ps", "ip", "nc", "nslookup", "ping", "wget", "httpd"),
]


@dataclass
class Contents:
    """What an image holds: files by their path in it, and symbolic links."""

    files: dict[str, Path] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def write_archive(target: Path, name: str, contents: Contents, command: list[str], user: str = "") -> str:
    """Write a single-layer image and return its id (the digest of its configuration)."""
    layer = _layer(contents)
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": command, "User": user, "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            "history": [{"created_by": "cluster.archive_image"}],
        }
    ).encode()
    image_id = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{image_id}.json", "RepoTags": [name], "Layers": [f"{layer_digest}/layer.tar"]}]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as archive:
        _add(archive, f"{image_id}.json", config)
        _add(archive, f"{layer_digest}/layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return f"sha256:{image_id}"


def write_basic_images(directory: Path) -> list[Path]:
    """Write the pause and the busybox image and return their archives."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise RuntimeError("busybox is missing: install busybox-static")
    files = {"bin/busybox": Path(busybox)}
    pause, tools = directory / "pause.tar", directory / "busybox.tar"
    write_archive(pause, PAUSE_IMAGE, Contents(files), ["/bin/busybox", "sleep", "infinity"])
    links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
    write_archive(tools, BUSYBOX_IMAGE, Contents(files, links), ["sh"])
    return [pause, tools]


def image_id(archive: Path) -> str | None:
    """Return the id of the image in a docker or OCI archive, None if it cannot be told."""
    with tarfile.open(archive) as tar:
        try:
            names = set(tar.getnames())
            if "manifest.json" in names:
                config = _json(tar, "manifest.json")[0]["Config"]
                return "sha256:" + Path(config).name.removesuffix(".json")
            manifest = _json(tar, "index.json")["manifests"][0]["digest"]
            content = _json(tar, "blobs/" + manifest.replace(":", "/"))
            return str(content["config"]["digest"])
        except (KeyError, IndexError, ValueError):
            return None


def _json(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(name)
    return json.load(member)


def _layer(contents: Contents) -> bytes:
    """Return a layer that is the same, byte by byte, for the same contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, mode in _DIRECTORIES.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, link in sorted(contents.links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            tar.addfile(entry)
        for name, file in sorted(contents.files.items()):
            _add(tar, name, file.read_bytes(), 0o755)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
