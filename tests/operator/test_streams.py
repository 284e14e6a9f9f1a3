"""Watch streams: no answer of an API server ends the operator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import aiohttp
import kopf
import pytest
from kopf._cogs.clients import errors, fetching, watching
from kopf._cogs.structs import references

from plumbline_operator import streams
from plumbline_operator.watching import kopf_settings

PODS = references.Resource("", "v1", "pods")


class Taker:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def take_listed(self, group: str, plural: str, document: Mapping[str, Any]) -> None:
        if document.get("unforeseen"):
            raise ValueError(document)
        self.taken.append((group, plural, document))

    def list_ended(self, group: str, plural: str, namespace: str | None) -> None:
        self.taken.append((group, plural, namespace))


taker = Taker()


def refusal(kind: type[errors.APIError], status: int) -> errors.APIError:
    return kind("no", status=status, headers={})


def error_event(code: int) -> dict[str, Any]:
    return {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "etcdserver: no leader"}}


@pytest.fixture(autouse=True)
def restarting_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    original = watching.continuous_watch
    monkeypatch.setattr(streams, "RELIST_SECONDS", 0.0)
    streams.keep_streams_alive(taker)
    taker.taken.clear()
    yield
    watching.continuous_watch = original


class Server:
    """Answers one list and one watch after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lists: list[Exception] = []
        self.watches: list[Any] = []
        self.listed = 0
        self.held: list[Any] = []
        monkeypatch.setattr(fetching, "fetch_objs", self._list)
        monkeypatch.setattr(watching, "watch_objs", self._watch)

    async def _list(self, **_: Any) -> AsyncIterator[tuple[list[Any], str]]:
        self.listed += 1
        if self.lists:
            raise self.lists.pop(0)
        yield self.held, "7"

    async def _watch(self, **_: Any) -> AsyncIterator[Any]:
        if not self.watches:
            yield {"type": "ADDED", "object": {"metadata": {"uid": "a", "resourceVersion": "8"}}}
            return
        answer = self.watches.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield answer


async def first_event() -> Any:
    """What kopf's own loop delivers first."""
    async for event in watching.infinite_watch(settings=kopf_settings(), resource=PODS, namespace=None):
        if not isinstance(event, watching.Bookmark):
            return event
    return None


@pytest.mark.parametrize(
    "answer",
    [
        error_event(500),
        error_event(410),
        {"type": "ERROR", "object": {"message": "of no code"}},
        refusal(errors.APINotFoundError, 404),
        refusal(errors.APIConflictError, 409),
        refusal(errors.APIClientError, 410),
        ValueError("a line that was cut off"),
    ],
    ids=str,
)
async def test_a_stream_begins_anew_whatever_it_is_answered(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    server = Server(monkeypatch)
    server.watches = [answer, answer]
    event = await asyncio.wait_for(first_event(), 10)
    assert event["type"] == "ADDED"
    assert server.listed == 3


@pytest.mark.parametrize(
    "error", [refusal(errors.APIClientError, 410), refusal(errors.APINotFoundError, 404), aiohttp.ClientPayloadError()]
)
async def test_a_list_that_fails_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    server = Server(monkeypatch)
    server.lists = [error]
    assert (await asyncio.wait_for(first_event(), 10))["type"] == "ADDED"


async def test_what_a_list_holds_takes_the_short_way_and_what_a_watch_tells_goes_to_kopf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(monkeypatch)
    server.held = [{"metadata": {"uid": str(number)}} for number in range(2 * streams.LISTED_AT_ONCE)]
    assert (await asyncio.wait_for(first_event(), 10))["type"] == "ADDED"
    assert taker.taken == [("", "pods", document) for document in [*server.held, None]]


async def test_one_object_that_nobody_foresaw_keeps_no_other_from_being_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    server.held = [{"unforeseen": True}, {"metadata": {"uid": "a"}}]
    assert (await asyncio.wait_for(first_event(), 10))["type"] == "ADDED"
    assert taker.taken == [("", "pods", server.held[1]), ("", "pods", None)]


async def test_without_a_login_there_is_nothing_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch)
    server.lists = [kopf.LoginError("no credentials are left")]
    with pytest.raises(kopf.LoginError):
        await first_event()
