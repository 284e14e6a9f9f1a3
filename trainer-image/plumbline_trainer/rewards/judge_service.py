"""Questions to a judge behind HTTP, many at a time, each with a time limit and several attempts.

Nothing that the service does can hold up the trainer for longer than the component's limit, and a question without a
usable reply has a problem instead of one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2

from plumbline_api.methods.verifiers.judges import ChatModel, Judge
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.service_requests import (
    RETRIED_STATUSES,
    PassingFailure,
    attempted,
    beginning,
    finished,
    retry_after,
)

T = TypeVar("T")

MAX_REPLY_BYTES = 2**20
"""More is no reply of a judge, and must not fill the trainer's memory."""


class Unusable(Exception):
    """A reply, or the lack of one, that another attempt would not change."""


@dataclass(frozen=True)
class Reply(Generic[T]):
    """What came of a question: what was read out of the reply, or a problem in one line."""

    value: T | None
    seconds: float
    """Wall time from when the question had its turn."""

    problem: str = ""
    timed_out: bool = False


class JudgeService:
    """The service of one component of the reward."""

    def __init__(self, name: str, parameters: Judge, timeout_seconds: float) -> None:
        """Raises `ConfigError` where the environment lacks the variable with the authorization."""
        self._judge = parameters
        self._timeout = timeout_seconds
        self._headers = _headers(name, parameters)
        self._secrets = _secrets(self._headers)

    def ask(
        self,
        bodies: Sequence[Any],
        read: Callable[[Any], T],
        poll: Callable[[], None],
        on_reply: Callable[[int, Reply[T]], None] = lambda place, reply: None,
    ) -> list[Reply[T]]:
        """The replies to all `bodies`, in order; `on_reply` gets each, with its place, when it is there.

        `read` takes what it needs out of a reply's JSON and raises `Unusable` where that is not there. `poll` and
        `on_reply` end the run by raising.
        """
        return asyncio.run(self._ask(bodies, read, poll, on_reply))

    async def _ask(
        self,
        bodies: Sequence[Any],
        read: Callable[[Any], T],
        poll: Callable[[], None],
        on_reply: Callable[[int, Reply[T]], None],
    ) -> list[Reply[T]]:
        slots = asyncio.Semaphore(self._judge.concurrency)
        limits = httpx2.Limits(max_connections=self._judge.concurrency)
        async with httpx2.AsyncClient(headers=self._headers, limits=limits, timeout=None) as client:

            async def replied(place: int, body: Any) -> tuple[int, Reply[T]]:
                async with slots:
                    return place, await self._reply(client, body, read)

            asked = [replied(place, body) for place, body in enumerate(bodies)]
            found = await finished(asked, poll, lambda placed: on_reply(*placed))
        return [reply for _, reply in found]

    async def _reply(self, client: httpx2.AsyncClient, body: Any, read: Callable[[Any], T]) -> Reply[T]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                document = await attempted(
                    lambda: self._attempt(client, body), self._judge.attempts, self._judge.backoff_seconds
                )
            return Reply(read(document), time.monotonic() - started)
        except TimeoutError:
            problem = f"the judge did not answer within {self._timeout:g} s"
            return Reply(None, self._timeout, problem, timed_out=True)
        except (Unusable, PassingFailure) as error:
            return Reply(None, time.monotonic() - started, self.without_secrets(str(error)))

    def without_secrets(self, text: str) -> str:
        """A server that refuses a key often repeats it, and what it says goes into logs and into the job's status."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def _attempt(self, client: httpx2.AsyncClient, body: Any) -> Any:
        try:
            async with client.stream("POST", self._judge.url, json=body) as response:
                content = await _content(response)
        except httpx2.HTTPError as error:
            raise PassingFailure(f"the judge could not be reached: {error or type(error).__name__}") from error
        except httpx2.InvalidURL as error:
            raise Unusable(f"the judge's URL is malformed: {error}") from error
        content = self.without_secrets(content)
        if response.status_code != 200:
            problem = f"the judge answered with status {response.status_code}: {beginning(content)}"
            if response.status_code in RETRIED_STATUSES:
                raise PassingFailure(problem, retry_after(response.headers))
            raise Unusable(problem)
        try:
            return json.loads(content)
        except ValueError:
            raise PassingFailure(f"the judge's reply is no JSON: {beginning(content)}") from None


def chat_body(model: ChatModel, message: str) -> dict[str, Any]:
    """The request to a language model with one message."""
    return {
        "model": model.model,
        "messages": [{"role": "user", "content": message}],
        "max_tokens": model.max_tokens,
        "temperature": model.temperature,
    }


def chat_message(reply: Any) -> str:
    """What a language model said. Raises `Unusable`."""
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    if not isinstance(content, str):
        raise Unusable(f"the judge's reply is no chat completion: {beginning(json.dumps(reply))}")
    return content


def last_match(pattern: re.Pattern[str], text: str) -> str | None:
    """The first group of the pattern's last match, or the whole match without groups; None without a match."""
    matches = list(pattern.finditer(text))
    return matches[-1].group(1 if pattern.groups else 0) if matches else None


def member(reply: Any, name: str) -> Any:
    """A member of a reply's object. Raises `Unusable` where it is not there."""
    if not isinstance(reply, dict) or name not in reply:
        raise Unusable(f"the judge's reply has no {name}: {beginning(json.dumps(reply))}")
    return reply[name]


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with each name, braces included, replaced by its value; braces within values stay as they are."""
    return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], template)


def as_text(prompt: Any) -> str:
    """A prompt, which may be a conversation, as a template shows it."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _headers(name: str, parameters: Judge) -> dict[str, str]:
    variable = parameters.authorization_variable
    if variable is None:
        return {}
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"reward {name}: the environment variable {variable} is not set; the runtime must set it")
    return {parameters.authorization_header: value}


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """What must not be repeated: the header as a whole, and its last word, which is the key itself."""
    return [secret for value in headers.values() for secret in (value, *value.split()[-1:])]


async def _content(response: httpx2.Response) -> str:
    """The body as text. Raises `Unusable` where it is longer than a reply can be."""
    content = b""
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise Unusable(f"the judge's reply is longer than {MAX_REPLY_BYTES} bytes")
    return content.decode(errors="replace")
