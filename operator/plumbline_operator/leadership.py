"""Which of several operators works: the holder of a Lease, by the official client's leader election.

All of them watch, so that the one that takes over knows every job already; only the leader reconciles. A leader that
cannot renew its lease stops before another one may take it, by a clock that nobody sets, and one that finds another's
name in the lease stops at once. Two of them may work at the same time all the same, when a process was frozen between
its last look at the clock and a write. Status and deletions are conditional on what was observed, and a child that is
there is not made twice; a pod that belongs to an attempt that has ended meanwhile is the one thing that no condition
can keep from being made. `apply` makes that unlikely, and whoever leads then removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock

from plumbline_operator.api import Api, ApiError
from plumbline_operator.resources import LEASES

LEASE_SECONDS = 10
RENEW_SECONDS = 7
RETRY_SECONDS = 2
"""A little shorter than in Kubernetes' own controllers, so that a takeover with its first work fits into 20 s. A leader
that dies is replaced LEASE_SECONDS to LEASE_SECONDS + RETRY_SECONDS after its last renewal; one that ends in order,
within RETRY_SECONDS."""
REQUEST_SECONDS = 3.0
"""For one request: several must fit between two renewals."""
CHECK_SECONDS = 0.5
"""Between two looks of the work at the time of the last renewal."""

UNANSWERED = (ApiError, aiohttp.ClientError, TimeoutError, OSError)

logger = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """The lease was not renewed in time or taken away: another operator may work now, and this one must not."""


class Leadership:
    """Takes part in the election for the lease `namespace/name`."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        identity = f"{socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}"
        self._lock = _Lease(api, namespace, name, identity)
        self._leading = asyncio.Event()

    @property
    def leads(self) -> bool:
        return self._leading.is_set() and time.monotonic() - self._lock.renewed <= RENEW_SECONDS

    async def run(self) -> None:
        """Waits for the lease and keeps it; raises LeadershipLost when it cannot. Cancel it to stop taking part."""
        config = Config(
            self._lock, LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, self._start_leading, self._stop_leading
        )
        try:
            await LeaderElection(config).run()
        finally:
            await self._stop_leading()
        raise self._lost()

    async def while_leading(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work once this operator leads; ends it with LeadershipLost when the lease may be another's.

        The election looks at the time of day, which may be set back, and not while it waits for an answer.
        """
        await self._leading.wait()
        working = asyncio.ensure_future(work())
        try:
            while not working.done():
                await asyncio.wait({working}, timeout=CHECK_SECONDS)
                if not self.leads:
                    raise self._lost()
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _lost(self) -> LeadershipLost:
        lease = f"lease {self._lock.namespace}/{self._lock.name}"
        return LeadershipLost(f"{lease} was not renewed for {RENEW_SECONDS} s")

    async def end(self) -> None:
        """Gives the lease to whoever asks next. Every other task of this operator has ended by now."""
        if self._lock.held:
            await self._lock.release()

    async def _start_leading(self) -> None:
        logger.info("This operator leads", extra={"identity": self._lock.identity})
        self._leading.set()

    async def _stop_leading(self) -> None:
        self._leading.clear()


class _Lease(BaseLock):
    """The lock of the library's election, over the operator's own requests.

    The library's own lock cannot create a Lease (37.0: its client refuses the call). An API server that does not answer
    is a refusal here and no end of the election.
    """

    def __init__(self, api: Api, namespace: str, name: str, identity: str) -> None:
        super().__init__(name, namespace, identity)
        self._api = api
        self._read: dict[str, Any] = {}
        """The lease as it was read or written last; a write is conditional on its version."""
        self.held = False
        """Whether this operator took the lease and nobody else was seen to have it since."""
        self.renewed = float("-inf")
        """Time of the monotonic clock just before the last renewal that was successful."""

    async def get(self, name: str, namespace: str) -> Any:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                lease = await self._api.get(LEASES, namespace, name)
        except UNANSWERED as error:
            return False, ApiException(status=0, reason=f"{type(error).__name__}: {error}")
        if lease is None:
            missing = ApiException(status=404, reason="NotFound")
            missing.body = '{"code": 404}'  # what the election looks at
            return False, missing
        self._read = lease
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or None
        if self.held and holder not in (None, self.identity):
            self.held = False
            raise LeadershipLost(f"lease {namespace}/{name} is held by {holder} now")
        duration = spec.get("leaseDurationSeconds")
        return True, LeaderElectionRecord(
            holder,
            str(duration) if duration else None,
            spec.get("acquireTime"),
            spec.get("renewTime"),
        )

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        now = _now()
        spec = {**_terms(self.identity), "acquireTime": now, "renewTime": now, "leaseTransitions": 0}
        manifest = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
        return await self._renew(self._api.create(LEASES, manifest))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Takes or renews the lease, unless it has another version by now."""
        held, now = self._read.get("spec") or {}, _now()
        spec = {**_terms(self.identity), "renewTime": now}
        if held.get("holderIdentity") != self.identity:
            spec |= {"acquireTime": now, "leaseTransitions": (held.get("leaseTransitions") or 0) + 1}
        return await self._renew(self._write(name, namespace, spec))

    async def release(self) -> None:
        """Leaves the lease to whoever asks next, if it is still this operator's."""
        with contextlib.suppress(LeadershipLost):
            await self.get(self.name, self.namespace)
        if (self._read.get("spec") or {}).get("holderIdentity") == self.identity:
            await _answered(self._write(self.name, self.namespace, {"holderIdentity": None}))

    async def _renew(self, request: Awaitable[bool]) -> bool:
        asked = time.monotonic()
        renewed = await _answered(request)
        if renewed:
            self.held, self.renewed = True, asked
        return renewed

    async def _write(self, name: str, namespace: str, spec: dict[str, Any]) -> bool:
        change = {"metadata": {"resourceVersion": self._read["metadata"]["resourceVersion"]}, "spec": spec}
        self._read = await self._api.patch(LEASES, namespace, name, change)
        return True


def _terms(identity: str) -> dict[str, Any]:
    return {"holderIdentity": identity, "leaseDurationSeconds": LEASE_SECONDS}


def _now() -> str:
    """Kubernetes' MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _answered(request: Awaitable[bool]) -> bool:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await request
    except UNANSWERED as error:
        logger.warning("The lease cannot be written", extra={"error": f"{type(error).__name__}: {error}"})
        return False
