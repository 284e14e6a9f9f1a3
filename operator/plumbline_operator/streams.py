"""Watch streams that begin anew where kopf would give up.

kopf ends the whole operator when one watch is answered with what it does not expect: an error event other than 410,
the HTTP status 404, 409 or 410 (such as for a continue token that has expired), a line that was cut off. API servers
that restart, are upgraded or sit behind a proxy say such things for a moment, and they say them to every replica at
once. There is no setting for it in kopf, so the one coroutine that its endless loop calls is wrapped: whatever it
raises is logged, and the loop lists and watches again.

A stream that fails for ever is not hidden by this: the audit finds that it does not deliver, and fails the liveness
probe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
from kopf._cogs.clients import watching

RELIST_SECONDS = 1.0

logger = logging.getLogger(__name__)

Watch = Callable[..., AsyncIterator[Any]]
"""Lists and watches one resource until the stream cannot go on; takes keyword arguments."""

_kopf_watch: Watch = watching.continuous_watch


def keep_streams_alive() -> None:
    """Makes all streams of kopf begin anew after errors, in this process. May be called again."""
    watching.continuous_watch = restarting(_kopf_watch)


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
