#!/usr/bin/env python3
"""Build the images of operator and trainer and load them into the local cluster.

    python3 images/build.py                      build both
    python3 images/build.py trainer --load       build one and load it
    python3 images/build.py --load --print-tags  build and load both, print the Helm values that name them
    python3 images/build.py --print-tags         only print the values

Docker builds where its daemon answers. Elsewhere (Linux, root) buildah builds the same Dockerfiles, on a base made
from Debian's packages and with wheels downloaded by this machine's pip. Tags are made from the contents: an image is
built once, and a cluster never runs a stale one. Progress goes to standard error.

Environment: TORCH_INDEX_URL (index with torch's CPU build, where pip's configuration has none), DEBIAN_MIRROR,
XDG_CACHE_HOME, and what chooses the cluster (USE_EXISTING_CLUSTER).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster import backends, registry
from images import debian_base, docker, wheels
from images.buildah import Buildah
from images.commands import cache_directory, say
from images.description import IMAGES, Image


def main() -> int:
    """Run the command line; an error is one message."""
    signal.signal(signal.SIGTERM, _interrupt)
    options = _parser().parse_args()
    chosen = list(IMAGES) if options.image == "all" else [options.image]
    try:
        prefix = registry_prefix(options.registry)
        tags = {name: image.tag(build_arguments(image)) for name, image in IMAGES.items()}
        if options.load or not options.print_tags:
            with only_one_build():
                engine = choose_engine(options.builder)
                for name in chosen:
                    local, tags[name] = ensure(engine, IMAGES[name])
                    if options.load:
                        load(engine, local, reference(prefix, name, tags[name]), push=bool(prefix))
        if options.print_tags:
            print(json.dumps(helm_values({name: reference(prefix, name, tag) for name, tag in tags.items()})))
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        return 130
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", choices=[*IMAGES, "all"], default="all")
    parser.add_argument("--load", action="store_true", help="also load into the running local cluster, or push")
    parser.add_argument("--print-tags", action="store_true", help="print the images as JSON values for helm")
    parser.add_argument("--builder", choices=["auto", "docker", "buildah"], default="auto")
    parser.add_argument(
        "--registry",
        help="prefix of the images' names, and with --load where they are pushed "
        "(default: the local cluster's own registry, or none)",
    )
    return parser


def registry_prefix(wanted: str | None) -> str:
    """Return what the images' names begin with: a registry's host and path, empty for none."""
    if wanted is not None:
        return wanted.rstrip("/")
    return registry.HOST if backends.choose() == "bare" else ""


def build_arguments(image: Image) -> dict[str, str]:
    """Return the arguments of an image's build that the environment decides."""
    index = os.environ.get("TORCH_INDEX_URL", "")
    return {"TORCH_INDEX_URL": index} if image.name == "trainer" and index else {}


def reference(prefix: str, name: str, tag: str) -> str:
    """Return the name under which a cluster asks for an image."""
    return f"{prefix}/plumbline/{name}:{tag}".lstrip("/")


def helm_values(references: dict[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """Return the chart's values that name the images, for `helm install --values`."""
    values = {}
    for name, full in references.items():
        repository, _, tag = full.rpartition(":")
        values[name] = {"image": {"repository": repository, "tag": tag}}
    return values


def choose_engine(builder: str) -> Buildah | docker.Docker:
    """Return what builds here."""
    with_docker = builder == "docker" or (builder == "auto" and docker.available())
    return docker.Docker() if with_docker else Buildah()


def ensure(engine: Buildah | docker.Docker, image: Image) -> tuple[str, str]:
    """Return an image's name in the engine's storage and its tag; it is built first if it is not there."""
    arguments = build_arguments(image)
    context = cache_directory() / "context"
    image.copy_context(context)
    tag = image.tag(arguments, context)
    name = reference("localhost", image.name, tag)
    if not engine.has(name):
        if isinstance(engine, Buildah):
            folder = wheels.ensure(image, arguments.get("TORCH_INDEX_URL", ""))
            arguments |= {"BASE_IMAGE": debian_base.ensure(engine)}
            engine.build(image, name, context, arguments, folder)
        else:
            engine.build(image, name, context, arguments)
    say(f"{image.name}: {name} ({engine.size(name)})")
    return name, tag


def load(engine: Buildah | docker.Docker, local: str, full: str, *, push: bool) -> None:
    """Bring an image to where the cluster takes it from: a registry, or the nodes themselves."""
    if push:
        say(f"pushing {full}")
        engine.push(local, full)
        return
    archive = cache_directory() / "load.tar"
    archive.unlink(missing_ok=True)
    say(f"loading {full} into the nodes")
    engine.save(local, full, archive)
    try:
        backends.cluster(backends.choose()).load_image(archive, full)
    finally:
        archive.unlink(missing_ok=True)


@contextmanager
def only_one_build() -> Iterator[None]:
    """Hold the cache's lock: two builds at once would only be in each other's way."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
