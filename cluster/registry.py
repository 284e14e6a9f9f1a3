"""Debian's docker-registry on loopback, so that images can be pushed and pulled.

With it, a missing image is a quick and real 404 instead of a lookup in a network
that a test machine may not have. It listens on 127.0.0.1 only; both nodes
share the machine's network and reach it there.
"""

from __future__ import annotations

import http.client

from cluster.build import cached_binaries
from cluster.network import write_json
from cluster.processes import Processes

NAME = "registry"
ADDRESS = ("127.0.0.1", 5000)
HOST = "localhost:5000"


def start(processes: Processes) -> None:
    """Start the registry; what was pushed is kept until `down --purge`."""
    config = write_json(
        processes.directory / "registry.json",
        {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(processes.directory / "registry")},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"{ADDRESS[0]}:{ADDRESS[1]}"},
        },
    )
    processes.start(NAME, [str(cached_binaries() / "docker-registry"), "serve", str(config)])


def ready() -> bool:
    """Whether the registry answers."""
    connection = http.client.HTTPConnection(*ADDRESS, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
