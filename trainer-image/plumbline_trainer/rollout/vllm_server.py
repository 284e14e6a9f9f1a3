"""Requests to a vLLM server: many at a time, each with a time limit and several attempts.

Every failure names the address and says what the server answered. What may pass when tried again ends as an
`InfrastructureError`, what the server refuses as a `ConfigError`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2

from plumbline_api.methods.rollout_engine import Vllm
from plumbline_trainer.failures import ConfigError, InfrastructureError, TrainerFailure
from plumbline_trainer.service_requests import (
    RETRIED_STATUSES,
    PassingFailure,
    attempted,
    beginning,
    finished,
    retry_after,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    url: str
    status: int
    text: str

    def document(self) -> Any:
        """The JSON of the body. Raises `InfrastructureError` where it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            raise InfrastructureError(f"{self.url}: the reply is no JSON: {beginning(self.text)}") from None

    def refused(self, advice: str = "") -> ConfigError:
        """The failure that says that the server refuses the request."""
        return ConfigError(f"{self.url} answered with status {self.status}: {message_in(self.text)}{advice}")


def _document(reply: Reply) -> Any:
    return reply.document()


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its reply is read."""

    path: str
    body: Any = None
    """Sent by POST as JSON; without one the request is a GET."""

    read: Callable[[Reply], T] = _document
    """Turns a reply of status 200 into the result; what it raises ends the run."""

    unless: Mapping[int, Callable[[Reply], T | TrainerFailure]] | None = None
    """What other statuses mean: a result, or the failure that ends the run."""

    posts: bool = False
    """Whether the request is a POST without a body."""


class Server:
    """A vLLM server. Connections are kept for as long as a call of `run`."""

    def __init__(self, parameters: Vllm, environment: Mapping[str, str] = os.environ) -> None:
        """Raises `ConfigError` where the environment lacks the variable with the API key."""
        self._parameters = parameters
        self.url = parameters.url.rstrip("/")
        self._headers: dict[str, str] = {}
        variable = parameters.api_key_variable
        if variable is not None:
            key = environment.get(variable)
            if not key:
                raise ConfigError(
                    f"spec.rollout.engine.vllm.apiKeyVariable: the environment variable {variable} is not set; "
                    "the runtime must set it"
                )
            self._headers["Authorization"] = f"Bearer {key}"

    def run(self, calls: Sequence[Call[T]], poll: Callable[[], None] = lambda: None) -> list[T]:
        """The results of all calls, in order. `poll` is called about ten times a second and ends the run by raising.

        The first call that fails ends the others: their connections are closed, upon which vLLM drops the requests.
        """
        return asyncio.run(self._run(calls, poll))

    async def _run(self, calls: Sequence[Call[T]], poll: Callable[[], None]) -> list[T]:
        most = self._parameters.max_concurrent_requests
        slots = asyncio.Semaphore(most)
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most)
        async with httpx2.AsyncClient(headers=self._headers, limits=limits, timeout=None) as client:
            return await finished([self._result(client, slots, call) for call in calls], poll)

    async def _result(self, client: httpx2.AsyncClient, slots: asyncio.Semaphore, call: Call[T]) -> T:
        """The result of one call; time runs from when it has its turn."""
        limit = self._parameters.timeout_seconds
        async with slots:
            problems = [""]
            try:
                async with asyncio.timeout(limit):
                    return await attempted(
                        lambda: self._attempt(client, call),
                        self._parameters.attempts,
                        self._parameters.backoff_seconds,
                        on_failure=lambda failure: problems.append(str(failure)),
                    )
            except TimeoutError:
                before = f"; before that: {problems[-1]}" if problems[-1] else ""
                raise InfrastructureError(f"{self.url}{call.path}: no reply within {limit:g} s{before}") from None
            except PassingFailure as failure:
                attempts = "1 attempt" if self._parameters.attempts == 1 else f"{self._parameters.attempts} attempts"
                raise InfrastructureError(f"{self.url}{call.path}: {failure} ({attempts})") from failure

    async def _attempt(self, client: httpx2.AsyncClient, call: Call[T]) -> T:
        url = self.url + call.path
        method = "POST" if call.posts or call.body is not None else "GET"
        try:
            response = await client.request(method, url, json=call.body)
        except httpx2.HTTPError as error:
            raise PassingFailure(f"the server could not be reached: {error or type(error).__name__}") from error
        except httpx2.InvalidURL as error:
            raise ConfigError(f"spec.rollout.engine.vllm.url: {url} is malformed: {error}") from error
        reply = Reply(url, response.status_code, response.text)
        if reply.status == 200:
            return call.read(reply)
        if call.unless is not None and reply.status in call.unless:
            meaning = call.unless[reply.status](reply)
            if isinstance(meaning, TrainerFailure):
                raise meaning
            return meaning
        if reply.status in RETRIED_STATUSES:
            problem = f"the server answered with status {reply.status}: {message_in(reply.text)}"
            raise PassingFailure(problem, retry_after(response.headers))
        if reply.status in (401, 403):
            raise reply.refused("; spec.rollout.engine.vllm.apiKeyVariable names the variable with the key")
        raise reply.refused()


def message_in(text: str) -> str:
    """The message of vLLM's error document, or the beginning of a text that is none."""
    try:
        document = json.loads(text)
    except ValueError:
        return beginning(text)
    if isinstance(document, dict):
        error = document.get("error", document)
        for holder, name in ((error, "message"), (document, "detail")):
            if isinstance(holder, dict) and isinstance(holder.get(name), str):
                return beginning(holder[name])
        if isinstance(error, str):
            return beginning(error)
    return beginning(text)
