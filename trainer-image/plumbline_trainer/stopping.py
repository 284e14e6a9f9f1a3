"""The request to stop: set by a signal, polled by everything that takes long."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(Exception):
    """Somebody asked this rank or a peer to stop. Not a failure: the loop saves the last completed step and ends."""


class StopRequest:
    """Whether somebody asked for the run to stop.

    A signal handler only sets a flag, so that nothing is ever interrupted in the middle of a write or an update; a
    second signal changes nothing. Code that takes longer than a second or so calls `raise_if_requested` between its
    pieces (a micro-batch, a decoding step, a batch of the evaluation).
    """

    def __init__(self) -> None:
        self._requested = False
        self._honoured = False
        self._deferred = False
        self.signal_name = ""
        self.polled_at = time.monotonic()
        """When somebody last asked whether to stop: a sign of life of what takes long."""

    @property
    def pending(self) -> bool:
        """Whether a stop was asked for that is to be honoured now: nobody has started to, and it is not deferred."""
        return self._requested and not self._honoured and not self._deferred

    @property
    def honoured(self) -> bool:
        """Whether all ranks have agreed to stop; from then on saving goes on undisturbed."""
        return self._honoured

    def request(self, signal_name: str = "") -> None:
        """Asks for a stop."""
        self.signal_name = self.signal_name or signal_name
        self._requested = True

    def raise_if_requested(self) -> None:
        """Raises `StopRequested` where a stop is pending."""
        self.polled_at = time.monotonic()
        if self.pending:
            raise StopRequested(self.signal_name)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Holds a stop back until the end of the block. All ranks enter and leave it between the same collectives, so
        that they go on agreeing; it is for what must happen entirely or not at all, and must be short."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def honour(self) -> None:
        """Marks the stop as agreed on by all ranks: `raise_if_requested` is quiet from here on."""
        self._requested = self._honoured = True

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
