"""Completions from a vLLM server, over its OpenAI-compatible protocol with token ids in and out.

A request asks for consecutive samples of one prompt. vLLM gives sample i of a request the seed `seed + i`; seeds are
made so that a completion's is a function of its stream of random numbers alone, however samples are put together.
With one seed a server repeats a completion as far as its kernels do not depend on the batch; log-probabilities are
the server's own, and differ from the trainer's in rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, TypeGuard

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.failures import ConfigError, Diverged, InfrastructureError
from plumbline_trainer.rollout.limits import Limits
from plumbline_trainer.rollout.requests import Completion, GenerationFigures, Request
from plumbline_trainer.rollout.sampling import Stream
from plumbline_trainer.rollout.vllm_server import Call, Reply, Server
from plumbline_trainer.rollout.vllm_weights import ServedWeights

_PATH = "/v1/completions"

_SEED_BITS = 62
"""Of the part of a seed that samples of one prompt share: the number of the sample, 32 bits, still fits into int64."""


@dataclass(frozen=True)
class _Part:
    """Consecutive samples of a request."""

    request: Request
    streams: Sequence[Stream]


class VllmEngine:
    """Generates with a vLLM server that has the weights of `weights`. Implements `protocol.CompletionEngine`."""

    def __init__(self, server: Server, weights: ServedWeights, limits: Limits, constraint: Sampling) -> None:
        """`constraint` says what completions must match, also greedy ones; `limits.max_batch_size` is not used: the
        server batches as it sees fit."""
        self._server, self._weights, self._limits = server, weights, limits
        self._structured = structured_outputs(constraint)
        self.last_figures = GenerationFigures()
        """Of the latest call of `generate` that came to its end; all time counts as decoding, and a request, which is
        for several samples of a prompt, as one completion in `alone_seconds`."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling | None, poll: Callable[[], None] = lambda: None
    ) -> list[list[Completion]]:
        """The completions of every request, in order; greedy without `sampling` (the streams are then only counted).

        `poll` is called about ten times a second and ends the call by raising, which is how a stop request gets
        through. Raises `ConfigError` where the server refuses a request or does not speak the protocol,
        `InfrastructureError` where it fails, `Diverged` for log-probabilities that are not finite.
        """
        self._weights.confirm(poll)
        started = time.perf_counter()
        parts = [part for request in requests for part in self._parts(request, sampling)]
        ends: list[float] = []
        results = iter(self._server.run([self._call(part, sampling, ends) for part in parts], poll))
        groups: list[list[Completion]] = []
        for request in requests:
            group: list[Completion] = []
            while len(group) < len(request.streams):
                found = next(results)
                # greedy completions of one prompt are equal, and vLLM makes only one
                group += found if sampling is not None else found * len(request.streams)
            groups.append(group)
        lengths = [len(completion.tokens) for group in groups for completion in group]
        self.last_figures = GenerationFigures(
            completions=len(lengths),
            tokens=sum(lengths),
            longest=max(lengths, default=0),
            prompt_tokens=sum(len(request.prompt) for request in requests),
            decode_seconds=time.perf_counter() - started,
            alone_seconds=_last_alone(started, ends),
        )
        return groups

    def _parts(self, request: Request, sampling: Sampling | None) -> Iterator[_Part]:
        if sampling is None:
            if request.streams:
                yield _Part(request, request.streams[:1])
            return
        for run in consecutive(request.streams):
            yield _Part(request, run)

    def _call(self, part: _Part, sampling: Sampling | None, ends: list[float]) -> Call[list[Completion]]:
        """The request for `part`; adds the time of its reply to `ends`."""
        most = min(part.request.max_tokens or self._limits.max_tokens, self._limits.max_tokens)
        body = {
            "model": self._weights.model,
            "prompt": list(part.request.prompt),
            "n": len(part.streams),
            "max_tokens": most,
            **sampling_fields(sampling, self._limits),
            **self._structured,
        }
        if sampling is not None:
            body["seed"] = seed_of(part.streams[0])
        expected = self._weights.model if self._weights.by_adapter else None
        understand = partial(
            completions_in, prompt=part.request.prompt, count=len(part.streams), most=most, model=expected
        )

        def read(reply: Reply) -> list[Completion]:
            ends.append(time.perf_counter())
            return understand(reply)

        return Call(_PATH, body, read, {404: self._unknown_model})

    def _unknown_model(self, reply: Reply) -> InfrastructureError:
        """The model was there when the job started, or when its adapter was loaded."""
        return InfrastructureError(
            f"{reply.url} does not know the model {self._weights.model!r} any more: was the server started anew?"
        )


def _last_alone(started: float, ends: list[float]) -> float:
    """Seconds for which only the last of the requests that ended at `ends` was under way."""
    *_, before, last = sorted([started, started, *ends])
    return last - before


def seed_of(stream: Stream) -> int:
    """The seed of a stream's completion, within int64: consecutive samples of a prompt have consecutive seeds."""
    shared = repr((stream.seed, stream.purpose, stream.step, stream.prompt)).encode()
    base = int.from_bytes(blake2b(shared, digest_size=8).digest(), "big") % 2**_SEED_BITS
    return base + stream.sample


def consecutive(streams: Sequence[Stream]) -> Iterator[Sequence[Stream]]:
    """The streams cut into runs whose seeds count up by one."""
    first = 0
    for index in range(1, len(streams) + 1):
        if index == len(streams) or seed_of(streams[index]) != seed_of(streams[index - 1]) + 1:
            yield streams[first:index]
            first = index


def sampling_fields(sampling: Sampling | None, limits: Limits) -> dict[str, Any]:
    """The fields of a request about sampling, ends and what the reply holds.

    All are given, because a server takes those that are left out from the model's generation_config.json. `ignore_eos`
    leaves ends to `stop_token_ids`, where the job's own list stands. vLLM's `min_tokens` counts the tokens before an
    end, the job's counts the end as well.
    """
    return {
        "temperature": 0.0 if sampling is None else sampling.temperature,
        "top_p": 1.0 if sampling is None else sampling.top_p,
        "top_k": 0 if sampling is None or sampling.top_k is None else sampling.top_k,
        "min_p": 0.0 if sampling is None else sampling.min_p,
        "repetition_penalty": limits.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": max(limits.min_tokens - 1, 0),
        "stop": list(limits.stop_strings),
        "stop_token_ids": sorted(limits.stop_tokens),
        "ignore_eos": True,
        "skip_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
        "stream": False,
    }


def structured_outputs(constraint: Sampling) -> dict[str, Any]:
    """The field of a request that makes completions match; empty without a constraint."""
    if constraint.regex is not None:
        return {"structured_outputs": {"regex": constraint.regex}}
    if constraint.json_schema is not None:
        return {"structured_outputs": {"json": constraint.json_schema}}
    return {}


def completions_in(
    reply: Reply, *, prompt: Sequence[int], count: int, most: int, model: str | None
) -> list[Completion]:
    """The `count` completions of a reply, in the order of their numbers.

    Raises `ConfigError` where the reply lacks token ids or log-probabilities or is no completion of `prompt`,
    `InfrastructureError` where it is from another model than `model` (not looked at when None) or was broken off,
    `Diverged` for log-probabilities that are not finite.
    """
    document = reply.document()
    if not isinstance(document, dict) or not isinstance(document.get("choices"), list):
        raise ConfigError(f"{reply.url}: the reply is no text completion; is this a vLLM server?")
    if model is not None and document.get("model") != model:
        raise InfrastructureError(
            f"{reply.url} answered with the model {document.get('model')!r} to a request for {model!r}"
        )
    choices: dict[Any, Any] = {
        choice.get("index"): choice for choice in document["choices"] if isinstance(choice, dict)
    }
    if len(document["choices"]) != count or sorted(choices, key=str) != sorted(range(count), key=str):
        raise ConfigError(f"{reply.url}: the reply has {len(document['choices'])} completions, {count} were asked for")
    return [_completion(reply.url, choices[index], prompt, most) for index in range(count)]


def _completion(url: str, choice: dict[str, Any], prompt: Sequence[int], most: int) -> Completion:
    tokens = choice.get("token_ids")
    if not _numbers(tokens, int) or not tokens:
        raise ConfigError(f"{url}: the reply has no token ids (return_token_ids); vLLM has them since 0.10.2")
    seen = choice.get("prompt_token_ids")
    if seen is not None and list(seen) != list(prompt):
        raise ConfigError(f"{url}: the server completed another prompt than it was given; something between changes it")
    if len(tokens) > most:
        raise ConfigError(f"{url}: a completion has {len(tokens)} tokens, at most {most} were asked for")
    given = choice.get("logprobs")
    logprobs = given.get("token_logprobs") if isinstance(given, dict) else None
    if not _numbers(logprobs, (int, float)):
        raise ConfigError(
            f"{url}: the reply has no log-probabilities of the sampled tokens (logprobs), which importance ratios need"
        )
    if len(logprobs) != len(tokens):
        raise ConfigError(f"{url}: the reply has {len(logprobs)} log-probabilities for {len(tokens)} tokens")
    if not all(math.isfinite(value) for value in logprobs):
        raise Diverged(f"{url}: log-probabilities of a completion are not finite")
    reason = choice.get("finish_reason")
    if reason == "stop" or reason == "length":
        return Completion(list(tokens), [float(value) for value in logprobs], reason)
    raise InfrastructureError(f"{url}: a completion was broken off by the server (finish_reason {reason!r})")


def _numbers(values: Any, kind: type | tuple[type, ...]) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in values)
