"""Pulling status reports: over a real connection, from trainers that are slow, wordy or broken."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from plumbline_api.contract import StatusReport
from plumbline_operator import status_pull
from plumbline_operator.api import Api
from plumbline_operator.login import refuse_redirects
from plumbline_operator.model import Observed
from plumbline_operator.pods import PodView
from plumbline_operator.resources import JobKey
from plumbline_operator.status_pull import MOST_AT_ONCE, MOST_DOUBLINGS, NEWS_AT_ONCE, StatusPuller
from plumbline_operator.untrusted import MOST_BYTES

KEY = JobKey("PreferenceJob", "team", "tune")
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Setting:
    """One puller and one trainer, whose answers the test writes."""

    def __init__(self, progress_interval: float = 60) -> None:
        self.told: asyncio.Queue[JobKey] = asyncio.Queue()
        self.asked = 0
        self.has_time = True
        self.answer: Answer
        self.puller = StatusPuller(
            None,  # type: ignore[arg-type]
            self.told.put_nowait,
            has_time=lambda: self.has_time,
            through_api_server=False,
            progress_interval=progress_interval,
            pull_seconds=0.02,
            timeout_seconds=0.3,
        )
        self.pod = PodView("tune-trainer-1-0", "pod-uid", attempt=1, rank=0, phase="Running", ip="127.0.0.1")
        self.observed = Observed(job={}, pods=(self.pod,))
        self.puller.follow(KEY, self.observed)

    def follow_one_that_was_heard(self) -> None:
        """The same trainer, of which the stored status has a report of an operator before this one."""
        running = {
            "type": "Running",
            "status": "True",
            "reason": "Training",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }
        job = {"status": {"attempt": 1, "attempts": [{"number": 1, "toStep": 2}], "conditions": [running]}}
        self.puller.forget(KEY)
        self.puller.follow(KEY, dataclasses.replace(self.observed, job=job))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        with contextlib.suppress(ConnectionError):  # who says too much is hung up on
            await self.answer(writer)
        writer.close()

    def answers(self, *parts: bytes) -> None:
        async def answer(writer: asyncio.StreamWriter) -> None:
            length = sum(len(part) for part in parts)
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05)  # the network's pause between two segments

        self.answer = answer

    def streams(self, head: bytes, chunk: bytes, pause: float = 0.0) -> None:
        """Answers with a head and then the same chunk, until the puller hangs up."""
        self.sent = 0

        async def answer(writer: asyncio.StreamWriter) -> None:
            writer.write(head)
            while not writer.is_closing():
                writer.write(chunk)
                self.sent += len(chunk)
                await writer.drain()
                await asyncio.sleep(pause)

        self.answer = answer

    async def asked_again(self, times: int) -> None:
        wanted = self.asked + times
        async with asyncio.timeout(10):
            while self.asked < wanted:
                await asyncio.sleep(0.01)

    async def news(self) -> StatusReport:
        assert await asyncio.wait_for(self.told.get(), 10) == KEY
        report = self.puller.report(KEY)
        assert report is not None
        return report


@pytest.fixture
async def setting(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[Setting]:
    setting = Setting(*getattr(request, "param", ()))
    server = await asyncio.start_server(setting.serve, "127.0.0.1", 0)
    monkeypatch.setattr(status_pull, "PORT", server.sockets[0].getsockname()[1])
    task = asyncio.create_task(setting.puller.run())
    yield setting
    assert not task.done(), "no answer ends the puller"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()


def body(**fields: Any) -> bytes:
    return StatusReport(**({"state": "training", "step": 3} | fields)).model_dump_json(by_alias=True).encode()


async def test_a_report_that_comes_in_several_segments_is_read_whole(setting: Setting) -> None:
    report = body()
    setting.answers(report[:40], report[40:])
    assert (await setting.news()).step == 3


async def test_a_warning_is_news_whatever_the_progress_interval(setting: Setting) -> None:
    setting.answers(body())
    await setting.news()
    setting.answers(body(step=4))
    await setting.asked_again(3)
    assert setting.told.empty(), "steps alone wait for the interval"
    setting.answers(body(step=5, warnings=["a checkpoint is damaged"]))
    assert (await setting.news()).warnings == ["a checkpoint is damaged"]


@pytest.mark.parametrize(
    "nonsense", [b"", b"\xff\xfe", b"[" * 5000, b"null", b'{"state": "dancing"}', b" " * (MOST_BYTES + 1)]
)
async def test_nonsense_is_passed_over_and_asked_for_again(setting: Setting, nonsense: bytes) -> None:
    setting.answers(nonsense)
    await setting.asked_again(2)
    assert setting.puller.report(KEY) is None
    setting.answers(body())
    assert (await setting.news()).state == "training"


async def test_an_error_that_nobody_foresaw_stays_with_its_job(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> StatusReport:
        raise RuntimeError("not foreseen")

    setting.answers(body())
    monkeypatch.setattr(StatusReport, "model_validate_json", broken)
    await setting.asked_again(3)


async def test_a_pod_that_ended_is_not_asked_any_more(setting: Setting) -> None:
    setting.answers(body())
    await setting.news()
    setting.puller.follow(KEY, Observed(job={}))
    assert setting.puller.report(KEY) is None


# trainers that mean harm

OK = b"HTTP/1.1 200 OK\r\n"


async def test_a_body_without_end_is_cut_off(setting: Setting) -> None:
    setting.streams(OK + b"\r\n", b"x" * 4096)
    await setting.asked_again(2)
    assert setting.sent < 64 * MOST_BYTES, "what fits into the buffers of the kernel, not what a trainer likes to send"
    assert setting.puller.report(KEY) is None


async def test_a_head_without_end_is_cut_off(setting: Setting) -> None:
    setting.streams(OK, b"X-Padding: " + b"x" * 4096 + b"\r\n")
    await setting.asked_again(2)
    assert setting.sent < 64 * MOST_BYTES


@pytest.mark.parametrize("head", [b"", OK, OK + b"Content-Length: 100\r\n\r\n"])
async def test_a_trainer_that_speaks_a_byte_at_a_time_is_hung_up_on_in_time(setting: Setting, head: bytes) -> None:
    setting.streams(head, b" ", pause=0.01)
    started = time.monotonic()
    await setting.asked_again(2)
    assert time.monotonic() - started < 2, "the limit is for the whole answer, not for each of its bytes"


async def test_a_packed_body_is_not_unpacked(setting: Setting) -> None:
    bomb = gzip.compress(b" " * (200 * 1024 * 1024), compresslevel=1)[: MOST_BYTES - 1]
    setting.answers(bomb)
    answer = setting.answer

    async def packed(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Encoding: gzip\r\n" + f"Content-Length: {len(bomb)}\r\n\r\n".encode() + bomb)
        await writer.drain()

    setting.answer = packed
    await setting.asked_again(2)
    assert setting.puller.report(KEY) is None
    assert answer is not packed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(setting: Setting, status: int) -> None:
    elsewhere: list[bytes] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        elsewhere.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def answer(writer: asyncio.StreamWriter) -> None:
        location = f"Location: http://127.0.0.1:{port}/v1/status\r\n"
        writer.write(f"HTTP/1.1 {status} Moved\r\n{location}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()

    setting.answer = answer
    await setting.asked_again(3)
    server.close()
    assert elsewhere == []


async def test_cookies_are_not_kept(setting: Setting) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        setting.asked += 1
        document = body()
        writer.write(OK + f"Set-Cookie: a=b\r\nContent-Length: {len(document)}\r\n\r\n".encode() + document)
        writer.close()

    setting.serve = serve  # type: ignore[method-assign]
    await setting.asked_again(2)
    assert not any(b"cookie" in head.lower() for head in heads)
    assert not any(b"authorization" in head.lower() for head in heads)


async def test_who_answers_with_nonsense_is_asked_less_and_less_and_forgiven_at_once(setting: Setting) -> None:
    asked: list[float] = []

    async def nonsense(writer: asyncio.StreamWriter) -> None:
        asked.append(time.monotonic())
        writer.write(OK + b"Content-Length: 4\r\n\r\nnull")
        await writer.drain()

    setting.answer = nonsense
    await setting.asked_again(MOST_DOUBLINGS + 1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses[-1] > 0.02 * 2 ** (MOST_DOUBLINGS - 1)
    setting.answers(body())
    await setting.news()
    started = time.monotonic()
    await setting.asked_again(3)
    assert time.monotonic() - started < 1


async def test_many_that_hang_do_not_keep_one_that_answers_waiting(setting: Setting) -> None:
    """Each holds one of the places for the whole time limit, but not again and again."""

    async def hang(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    setting.answer = hang
    for number in range(4 * MOST_AT_ONCE):
        setting.puller.follow(JobKey("PreferenceJob", "team", f"hangs-{number}"), setting.observed)
    good = await asyncio.start_server(_answer_well, "127.0.0.9", status_pull.PORT)
    pod = PodView("good-trainer-1-0", "good-uid", attempt=1, rank=0, phase="Running", ip="127.0.0.9")
    await setting.asked_again(MOST_AT_ONCE)
    setting.puller.follow(JobKey("PreferenceJob", "team", "good"), Observed(job={}, pods=(pod,)))
    assert (await asyncio.wait_for(setting.told.get(), 5)).name == "good"
    good.close()


async def _answer_well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    document = body()
    writer.write(OK + f"Content-Length: {len(document)}\r\n\r\n".encode() + document)
    writer.close()


async def test_endless_news_are_told_at_the_pace_of_progress(setting: Setting) -> None:
    number = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal number
        number += 1
        document = body(warnings=[f"warning {number}"])
        writer.write(OK + f"Content-Length: {len(document)}\r\n\r\n".encode() + document)
        await writer.drain()

    setting.answer = answer
    await setting.asked_again(4 * NEWS_AT_ONCE)
    assert NEWS_AT_ONCE <= setting.told.qsize() <= NEWS_AT_ONCE + 1
    assert json.loads(body())["step"] == 3


@pytest.mark.parametrize("setting", [(0.0,)], ids=["no interval"], indirect=True)
async def test_progress_waits_while_all_workers_are_busy_and_news_do_not(setting: Setting) -> None:
    step, state = 0, "training"

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal step
        step += 1
        document = body(step=step, state=state)
        writer.write(OK + f"Content-Length: {len(document)}\r\n\r\n".encode() + document)
        await writer.drain()

    setting.answer = answer
    await setting.news()  # the first report
    setting.has_time = False
    await setting.asked_again(2)  # the answer that was under way, and one that found no time
    while not setting.told.empty():
        setting.told.get_nowait()
    await setting.asked_again(5)
    assert setting.told.empty()
    state = "evaluating"
    assert (await setting.news()).state == "evaluating"
    assert setting.told.empty()
    setting.has_time = True
    heard = (await setting.news()).step
    assert (await setting.news()).step > heard


async def test_through_the_api_server_the_same_bounds_hold() -> None:
    """The client of the API server: an endless answer is cut off, a redirect refused."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if "redirects" in request.path:
            return web.Response(status=302, headers={"Location": "/api/v1/namespaces/kube-system/secrets"})
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 4096)
        return response

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    configuration.client_session_kwargs = {"trust_env": False, "middlewares": (refuse_redirects,)}
    api = Api(configuration)
    try:
        with pytest.raises(ValueError, match="longer than"):
            await api.proxy("team", "endless", 9470, "/v1/status", 3, most_bytes=MOST_BYTES)
        with pytest.raises(aiohttp.ClientError, match="refused to be redirected"):
            await api.proxy("team", "redirects", 9470, "/v1/status", 3, most_bytes=MOST_BYTES)
    finally:
        await api.close()
        await runner.cleanup()
    assert len(asked) == 2


async def test_a_trainer_that_answers_no_more_is_known_for_how_long_until_it_does(setting: Setting) -> None:
    setting.answers(body(step=1))
    await setting.news()
    assert setting.puller.silent_seconds(KEY) == 0
    setting.answers(b"nonsense")
    await setting.asked_again(3)
    first = setting.puller.silent_seconds(KEY)
    await setting.asked_again(1)
    assert setting.puller.silent_seconds(KEY) > first > 0
    setting.answers(body(step=2))
    await setting.asked_again(3)
    assert setting.puller.silent_seconds(KEY) == 0


async def test_a_trainer_that_stops_to_answer_is_told_of_once(setting: Setting) -> None:
    setting.answers(body(step=1))
    await setting.news()
    setting.answers(b"nonsense")
    await setting.news()
    await setting.asked_again(3)
    assert setting.told.empty()


async def test_a_first_report_that_tells_nothing_new_is_told_when_there_is_time(setting: Setting) -> None:
    setting.follow_one_that_was_heard()
    setting.has_time = False
    setting.answers(body(step=7))
    await setting.asked_again(3)
    assert setting.told.empty()
    setting.has_time = True  # the report is the same as before
    assert (await setting.news()).step == 7
    await setting.asked_again(3)
    assert setting.told.empty()


async def test_a_first_report_with_news_does_not_wait(setting: Setting) -> None:
    setting.follow_one_that_was_heard()
    setting.has_time = False
    setting.answers(body(step=7, warnings=["look"]))
    assert (await setting.news()).warnings == ["look"]


async def test_one_that_never_answers_this_operator_is_told_of_once(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_pull, "SILENT_SECONDS", 0.1)
    setting.answers(b"nonsense")
    assert await asyncio.wait_for(setting.told.get(), 10) == KEY
    assert setting.puller.silent_seconds(KEY) >= 0.1
    await setting.asked_again(2)
    assert setting.told.empty()


async def test_a_stall_is_news_and_so_is_its_end(setting: Setting) -> None:
    stall = {"since": "2030-01-01T00:00:00Z", "deadlineSeconds": 300, "state": "training"}
    setting.answers(body(step=1))
    await setting.news()
    setting.answers(body(step=1, stall=stall))
    assert (await setting.news()).stall is not None
    setting.answers(body(step=2))
    assert (await setting.news()).stall is None
