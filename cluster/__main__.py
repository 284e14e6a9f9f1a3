"""`python3 -m cluster <command>`: the local Kubernetes from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from cluster import backends, build
from cluster.paths import kubeconfig_path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m cluster", description=__doc__)
    parser.add_argument("--backend", choices=backends.BACKENDS, default="auto")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the cluster up")
    # Also accepted after the command; suppressed so that it does not undo the first.
    up.add_argument("--backend", choices=backends.BACKENDS, default=argparse.SUPPRESS)
    down = commands.add_parser("down", help="take it down and undo all changes to the machine")
    down.add_argument("--purge", action="store_true", help="also remove images and volumes")
    commands.add_parser("status", help="show processes and nodes; exit 1 unless healthy")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    commands.add_parser("build", help="only build the binaries")
    load = commands.add_parser("load-image", help="import a docker or OCI archive into all nodes")
    load.add_argument("archive", type=Path)
    load.add_argument("name", nargs="?")
    for name, text in (("node-stop", "kill a node's kubelet"), ("node-start", "start it again")):
        commands.add_parser(name, help=text).add_argument("name")
    server = commands.add_parser("crd-server", help="the newer CRD server (crd_server.py)")
    server.add_argument("action", choices=["build"])
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "build":
        print(build.build())
        return 0
    if arguments.command == "crd-server":
        from cluster import crd_server

        print(crd_server.build())
        return 0
    chosen = backends.choose(arguments.backend)
    if arguments.command == "kubeconfig":
        existing = chosen == "existing" and os.environ.get("KUBECONFIG")
        print(existing or kubeconfig_path())
        return 0
    cluster = backends.cluster(chosen)
    if arguments.command == "status":
        return cluster.status()
    if arguments.command == "up":
        cluster.up()
    elif arguments.command == "down":
        cluster.down(purge=arguments.purge)
    elif arguments.command == "load-image":
        cluster.load_image(arguments.archive, arguments.name)
    elif arguments.command == "node-stop":
        cluster.stop_node(arguments.name)
    elif arguments.command == "node-start":
        cluster.start_node(arguments.name)
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run one command; errors are one message, not a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that `up` cleans up as it does on Ctrl-C
    try:
        return _run(_parser().parse_args())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (RuntimeError, OSError, LookupError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
