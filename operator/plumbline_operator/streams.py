"""Watch streams that begin anew where kopf would give up.

kopf ends the whole operator when one watch is answered with what it does not expect: an error event other than 410,
the HTTP status 404, 409 or 410 (such as for a continue token that has expired), a line that was cut off. API servers
that restart, are upgraded or sit behind a proxy say such things for a moment, and they say them to every replica at
once. There is no setting for it in kopf, so the one coroutine that its endless loop calls is wrapped: whatever it
raises is logged, and the loop lists and watches again.

A stream that fails for ever is not hidden by this: the audit finds that it does not deliver, and fails the liveness
probe.

What a list holds, with which every stream begins, goes the short way: kopf has a queue and a task for each object, made
for handlers that take long, and at a start over thousands of objects, all of which are new to it, they are most of what
the start costs. What a watch tells afterwards comes by way of kopf's handlers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

import kopf
from kopf._cogs.clients import watching

RELIST_SECONDS = 1.0
LISTED_AT_ONCE = 20
"""Objects of a list that are taken before others get their turn."""

logger = logging.getLogger(__name__)

Watch = Callable[..., AsyncIterator[Any]]
"""Lists and watches one resource until the stream cannot go on; takes keyword arguments."""

_kopf_watch: Watch = watching.continuous_watch


class TakesLists(Protocol):
    """Who takes what the streams begin with."""

    def take_listed(self, group: str, plural: str, document: Mapping[str, Any]) -> None:
        """An object of a resource that a list holds."""

    def list_ended(self, group: str, plural: str, namespace: str | None) -> None:
        """All that the list holds was taken. `namespace` is None for a list of the whole cluster."""


def keep_streams_alive(taker: TakesLists) -> None:
    """Makes all streams of kopf begin anew after errors, and give `taker` what they begin with, in this process.

    May be called again.
    """
    watching.continuous_watch = restarting(without_lists(_kopf_watch, taker))


def without_lists(watch: Watch, taker: TakesLists) -> Watch:
    """The same watch without the objects that its list holds, which are taken here."""

    async def watch_only(**about: Any) -> AsyncIterator[Any]:
        resource = about["resource"]
        taken = 0
        async for event in watch(**about):
            if event is watching.Bookmark.LISTED:
                taker.list_ended(resource.group, resource.plural, about["namespace"])
            elif not isinstance(event, watching.Bookmark) and event["type"] is None:
                try:
                    taker.take_listed(resource.group, resource.plural, event["object"])
                except Exception:  # one object that nobody foresaw must not keep the others from being listed
                    logger.exception("A listed object cannot be taken", extra={"resource": str(resource)})
                taken += 1
                if taken % LISTED_AT_ONCE == 0:
                    await asyncio.sleep(0)
                continue
            yield event

    return watch_only


def restarting(watch: Watch) -> Watch:
    """The same watch, which ends after an error instead of raising it, so that whoever calls it watches again."""

    async def watch_until_error(**about: Any) -> AsyncIterator[Any]:
        try:
            async for event in watch(**about):
                yield event
        except kopf.LoginError:
            raise  # nobody can watch any more
        except Exception as error:
            told = {"resource": str(about.get("resource")), "error": f"{type(error).__name__}: {error}"}
            logger.warning("A watch stream failed and begins anew", extra=told)
            await asyncio.sleep(RELIST_SECONDS)

    return watch_until_error
