"""The trainer's one port: /metrics (Prometheus), /v1/status (JSON), /healthz.

It runs in threads of its own and reads the status board only, so that it neither waits for training nor delays it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from plumbline_api.contract import HEALTH_PATH, METRICS_PATH, STATUS_PATH
from plumbline_trainer.reporting.prometheus import NO_JOB, registry_of
from plumbline_trainer.reporting.status import StatusBoard

IDLE_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.05
"""How soon the server sees that it is to close: the pod ends no earlier."""


class StatusServer:
    """Serves a board until `close`; `job` has the values of `families.JOB_LABELS`.

    Raises `OSError` from the constructor where the port is taken.
    """

    def __init__(self, board: StatusBoard, port: int, job: Sequence[str] = NO_JOB) -> None:
        self._server = _Server(("", port), _handler_of(board, job))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="status-server", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for where that was 0."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stops serving and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _handler_of(board: StatusBoard, job: Sequence[str]) -> type[BaseHTTPRequestHandler]:
    registry = registry_of(board, job)
    routes: dict[str, tuple[str, Callable[[], bytes]]] = {
        METRICS_PATH: (CONTENT_TYPE_LATEST, lambda: generate_latest(registry)),
        STATUS_PATH: ("application/json", lambda: board.report().model_dump_json(by_alias=True).encode()),
        HEALTH_PATH: ("text/plain; charset=utf-8", lambda: b"ok\n"),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, with_body: bool) -> None:
            route = routes.get(self.path.partition("?")[0])
            if route is None:
                self.send_error(HTTPStatus.NOT_FOUND, explain="known paths: " + ", ".join(routes))
                return
            content_type, body_of = route
            body = body_of()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests are not logged: the standard output belongs to the run's own lines."""

    return Handler
