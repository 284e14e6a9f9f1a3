"""Completions scored by a service over HTTP, many requests at a time, each with a time limit and several attempts.

Nothing that the service does can hold up the trainer for longer than the component's limit, and nothing but a number
within the judge's scale is ever taken for a score: a request that fails makes its completions errors of the component.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx2

from plumbline_api.methods.verifiers.judges import ANSWER, COMPLETION, PROMPT, HttpJudge
from plumbline_trainer.failures import ConfigError
from plumbline_trainer.rewards.pool import Outcome
from plumbline_trainer.rewards.scoring import Sample
from plumbline_trainer.service_requests import (
    RETRIED_STATUSES,
    PassingFailure,
    attempted,
    beginning,
    finished,
    retry_after,
)

MAX_REPLY_BYTES = 2**20
"""More is no reply of a judge, and must not fill the trainer's memory."""

_PLACEHOLDER = re.compile("|".join(re.escape(name) for name in (PROMPT, COMPLETION, ANSWER)))


class _Final(Exception):
    """A request failed, and would fail again."""


class HttpJudgeComponent:
    """One component of the reward that asks a service. Implements `scoring.BatchComponent`."""

    def __init__(self, name: str, parameters: HttpJudge, timeout_seconds: float) -> None:
        """Raises `ConfigError` where the environment lacks the variable with the authorization."""
        self._judge = parameters
        self._timeout = timeout_seconds
        self._headers = _headers(name, parameters)
        self._secrets = _secrets(self._headers)
        chat = parameters.chat_completions
        self._pattern = re.compile(chat.score_pattern, re.DOTALL) if chat else None

    def score(
        self,
        samples: Sequence[Sample],
        poll: Callable[[], None] = lambda: None,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> list[Outcome]:
        """The outcome of every sample, in order. `poll` and `on_outcome` end the run by raising."""
        return asyncio.run(self._score(samples, poll, on_outcome))

    def close(self) -> None:
        """Connections live as long as a call of `score` only."""

    async def _score(
        self, samples: Sequence[Sample], poll: Callable[[], None], on_outcome: Callable[[Outcome], None]
    ) -> list[Outcome]:
        size = self._judge.batch_size
        requests = [samples[start : start + size] for start in range(0, len(samples), size)]
        slots = asyncio.Semaphore(self._judge.concurrency)
        limits = httpx2.Limits(max_connections=self._judge.concurrency)
        async with httpx2.AsyncClient(headers=self._headers, limits=limits, timeout=None) as client:
            judged = [self._judged(client, slots, request) for request in requests]

            def settle(outcomes: list[Outcome]) -> None:
                for outcome in outcomes:
                    on_outcome(outcome)

            found = await finished(judged, poll, settle)
        return [outcome for outcomes in found for outcome in outcomes]

    async def _judged(
        self, client: httpx2.AsyncClient, slots: asyncio.Semaphore, samples: Sequence[Sample]
    ) -> list[Outcome]:
        """The outcomes of the samples of one request; time runs from when the request has its turn."""
        async with slots:
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout):
                    body = self._body(samples)
                    reply = await attempted(
                        lambda: self._attempt(client, body), self._judge.attempts, self._judge.backoff_seconds
                    )
                    scores = self._scores(reply, len(samples))
            except TimeoutError:
                problem = f"the judge did not answer within {self._timeout:g} s"
                return [Outcome(None, problem, timed_out=True, seconds=self._timeout)] * len(samples)
            except (_Final, PassingFailure) as error:
                problem = self._without_secrets(str(error))
                return [Outcome(None, problem, seconds=time.monotonic() - started)] * len(samples)
            seconds = (time.monotonic() - started) / len(samples)
            return [self._outcome(score, seconds) for score in scores]

    def _without_secrets(self, text: str) -> str:
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
            raise _Final(f"the judge's URL is malformed: {error}") from error
        content = self._without_secrets(content)
        if response.status_code != 200:
            problem = f"the judge answered with status {response.status_code}: {beginning(content)}"
            if response.status_code in RETRIED_STATUSES:
                raise PassingFailure(problem, retry_after(response.headers))
            raise _Final(problem)
        try:
            return json.loads(content)
        except ValueError:
            raise PassingFailure(f"the judge's reply is no JSON: {beginning(content)}") from None

    def _body(self, samples: Sequence[Sample]) -> Any:
        chat = self._judge.chat_completions
        if chat is not None:
            [sample] = samples
            content = filled(chat.template, sample)
            return {
                "model": chat.model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": chat.max_tokens,
                "temperature": chat.temperature,
            }
        items = [{"prompt": one.prompt, "completion": one.completion, "answer": one.answer} for one in samples]
        return items[0] if self._judge.batch_size == 1 else {"items": items}

    def _scores(self, reply: Any, count: int) -> list[Any]:
        """What the reply says of each sample. Raises `_Final` where it does not have the form of the protocol."""
        if self._pattern is not None:
            return [self._score_in_text(_message(reply))]
        if self._judge.batch_size == 1:
            return [_member(reply, "score")]
        scores = _member(reply, "scores")
        if not isinstance(scores, list) or len(scores) != count:
            found = f"{len(scores)} scores" if isinstance(scores, list) else "no list of scores"
            raise _Final(f"the judge's reply has {found} for {count} completions")
        return scores

    def _score_in_text(self, text: str) -> float:
        assert self._pattern is not None
        matches = list(self._pattern.finditer(text))
        found = matches[-1].group(1 if self._pattern.groups else 0) if matches else None
        try:
            return float(found or "")
        except ValueError:
            raise _Final(f"the judge's reply holds no score: {beginning(text)}") from None

    def _outcome(self, score: Any, seconds: float) -> Outcome:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            said = self._without_secrets(json.dumps(score))
            return Outcome(None, f"the judge's score is {beginning(said)}, not a number", seconds=seconds)
        low, high = self._judge.lowest, self._judge.highest
        if low is None or high is None:
            return Outcome(float(score), seconds=seconds)
        if not low <= score <= high:
            return Outcome(None, f"the judge's score {score:g} is outside of {low:g} to {high:g}", seconds=seconds)
        return Outcome((score - low) / (high - low), seconds=seconds)


def filled(template: str, sample: Sample) -> str:
    """The template with prompt, completion and answer in it; braces within these stay as they are."""
    values = {PROMPT: _as_text(sample.prompt), COMPLETION: sample.completion, ANSWER: sample.answer or ""}
    return _PLACEHOLDER.sub(lambda match: values[match[0]], template)


def _as_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _headers(name: str, parameters: HttpJudge) -> dict[str, str]:
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
    """The body as text. Raises `_Final` where it is longer than a reply can be."""
    content = b""
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            raise _Final(f"the judge's reply is longer than {MAX_REPLY_BYTES} bytes")
    return content.decode(errors="replace")


def _message(reply: Any) -> str:
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        content = None
    if not isinstance(content, str):
        raise _Final(f"the judge's reply is no chat completion: {beginning(json.dumps(reply))}")
    return content


def _member(reply: Any, name: str) -> Any:
    if not isinstance(reply, dict) or name not in reply:
        raise _Final(f"the judge's reply has no {name}: {beginning(json.dumps(reply))}")
    return reply[name]
