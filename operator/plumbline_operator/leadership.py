"""Which of several operators works: the holder of a Lease, by the official client's leader election.

All of them watch, so that the one that takes over knows every job already; only the leader reconciles. A leader that
cannot renew its lease stops before another one may take it. Should two of them work at once all the same, because a
process was frozen between its last look at the clock and a write, no harm is done: every write is conditional or
idempotent. The election is there so that two operators do not do everything twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from plumbline_operator.api import Api, ApiError
from plumbline_operator.resources import LEASES

LEASE_SECONDS = 15
RENEW_SECONDS = 10
RETRY_SECONDS = 2
"""As in Kubernetes' own controllers. A leader that dies is replaced LEASE_SECONDS to LEASE_SECONDS + RETRY_SECONDS
after its last renewal; one that ends in order, within RETRY_SECONDS."""
REQUEST_SECONDS = 4.0
"""For one request: several must fit between two renewals."""

logger = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """The lease was not renewed in time: another operator may work now, and this one must not."""


class Leadership:
    """Takes part in the election for the lease `namespace/name`."""

    def __init__(self, configuration: Configuration, api: Api, namespace: str, name: str) -> None:
        self._client = ApiClient(configuration)
        self._api = api
        self._lock = _Lease(
            name, namespace, f"{socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}", self._client
        )
        self._leading = asyncio.Event()

    @property
    def leads(self) -> bool:
        return self._leading.is_set()

    async def run(self) -> None:
        """Waits for the lease and keeps it; raises LeadershipLost when it cannot. Cancel it to stop taking part."""
        config = Config(
            self._lock, LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, self._start_leading, self._stop_leading
        )
        await LeaderElection(config).run()
        raise LeadershipLost(f"lease {self._lock.namespace}/{self._lock.name} was not renewed for {RENEW_SECONDS} s")

    async def while_leading(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work once this operator leads."""
        await self._leading.wait()
        await work()

    async def end(self) -> None:
        """Gives the lease to whoever asks next. Every other task of this operator has ended by now."""
        try:
            if self._leading.is_set():
                await self._release()
        except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
            logger.info("The lease was not given back and will run out", extra={"error": str(error)})
        finally:
            await self._client.close()

    async def _release(self) -> None:
        lease = await self._api.get(LEASES, self._lock.namespace, self._lock.name)
        if lease is None or lease["spec"].get("holderIdentity") != self._lock.identity:
            return
        version = lease["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": None}}
        await self._api.patch(LEASES, self._lock.namespace, self._lock.name, change)

    async def _start_leading(self) -> None:
        logger.info("This operator leads", extra={"identity": self._lock.identity})
        self._leading.set()

    async def _stop_leading(self) -> None:
        self._leading.clear()


class _Lease(LeaseLock):
    """The library's lock, for which an API server that does not answer is a refusal and no end of the election."""

    async def get(self, name: str, namespace: str) -> Any:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await super().get(name, namespace)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return False, ApiException(status=0, reason=f"{type(error).__name__}: {error}")

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        return await _answered(super().create(name, namespace, election_record))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        return await _answered(super().update(name, namespace, updated_record))


async def _answered(request: Awaitable[bool]) -> bool:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await request
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        logger.warning("The lease cannot be written", extra={"error": f"{type(error).__name__}: {error}"})
        return False
