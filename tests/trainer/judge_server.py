"""A judge over HTTP as tests need it: it answers by a function, and misbehaves where it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Judge(ThreadingHTTPServer):
    """Answers a request's body with `verdict` of it, and does whatever `behave` says instead, by body and attempt."""

    daemon_threads = True

    def __init__(self, verdict: Callable[[Any], Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.verdict = verdict
        self.seen, self.headers_seen, self.times = [], [], []
        self.active = self.most_active = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.behave = lambda handler, body, attempt: False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/judge"

    def attempts_of(self, body: Any) -> int:
        return sum(seen == body for seen in self.seen)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        judge = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with judge.lock:
            judge.seen.append(body)
            judge.headers_seen.append(dict(self.headers))
            judge.times.append(time.monotonic())
            judge.active += 1
            judge.most_active = max(judge.most_active, judge.active)
        try:
            if not judge.behave(self, body, judge.attempts_of(body)):
                self.reply(judge.verdict(body))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with judge.lock:
                judge.active -= 1

    def reply(self, document: Any, status: int = 200, raw: str | None = None, **headers: str) -> bool:
        content = (json.dumps(document) if raw is None else raw).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)
        return True

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


def chat_reply(text: str) -> dict[str, Any]:
    """What a server of the OpenAI protocol sends around a text."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@contextmanager
def served(verdict: Callable[[Any], Any]) -> Iterator[Judge]:
    """A judge that answers until the block ends."""
    server = Judge(verdict)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
