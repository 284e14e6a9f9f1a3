"""Pulling status reports: over a real connection, from trainers that are slow, wordy or broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from plumbline_api.contract import StatusReport
from plumbline_operator import status_pull
from plumbline_operator.model import Observed
from plumbline_operator.pods import PodView
from plumbline_operator.resources import JobKey
from plumbline_operator.status_pull import MOST_BYTES, StatusPuller

KEY = JobKey("PreferenceJob", "team", "tune")
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Setting:
    """One puller and one trainer, whose answers the test writes."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[JobKey] = asyncio.Queue()
        self.asked = 0
        self.answer: Answer
        self.puller = StatusPuller(
            None,  # type: ignore[arg-type]
            self.told.put_nowait,
            through_api_server=False,
            progress_interval=60,
            pull_seconds=0.02,
        )
        pod = PodView("tune-trainer-1-0", "pod-uid", attempt=1, rank=0, phase="Running", ip="127.0.0.1")
        self.observed = Observed(job={}, pods=(pod,))
        self.puller.follow(KEY, self.observed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
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
async def setting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setting]:
    setting = Setting()
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
