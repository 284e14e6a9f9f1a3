"""The one sandbox of a worker process, and its end."""

from __future__ import annotations

from plumbline_trainer.rewards.sandbox.supervisor import Sandbox

_open: list[Sandbox] = []


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, started at the first call."""
    if not _open:
        _open.append(Sandbox())
    return _open[0]


def close_shared_sandbox() -> None:
    """Ends all that runs in it, and waits until processes and files are gone."""
    while _open:
        _open.pop().close()
