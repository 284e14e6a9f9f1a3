"""Batched generation: prompts in, completions with log-probabilities out.

A prompt is computed once and its cache copied to its samples. Rows that end leave the batch, and waiting rows take
their places, so that a step costs what its unfinished rows cost. What a row generates follows from the model, its
prompt and its stream of random numbers alone (see `sampling`): the batch around it only moves the last bits of its
logits.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from plumbline_api.methods.sampling import Sampling
from plumbline_trainer.failures import Diverged
from plumbline_trainer.modeling.logprobs import causal_model, logits_function
from plumbline_trainer.modeling.scoring import evaluating
from plumbline_trainer.rollout.cache import RowCache, left_padding_mask
from plumbline_trainer.rollout.decoder import DirectDecoder, direct_decoder, padding_bias
from plumbline_trainer.rollout.guidance import Guide, GuidedRows
from plumbline_trainer.rollout.limits import Limits
from plumbline_trainer.rollout.requests import Completion, GenerationFigures, Request
from plumbline_trainer.rollout.sampling import Stream, choose, uniforms
from plumbline_trainer.rollout.score_edits import ScoreEdits

_DRAWN_AHEAD = 64
"""Random numbers are computed for so many tokens of every row at once."""

_BIAS_AHEAD = 64
"""The mask of the rows' padding is made for so many columns more than there are."""

_DROP_FRACTION = 8
"""Ended rows are dropped when they are at least one in so many, so that the cache is not copied for each of them."""

_PREFILL_TOKENS = 32_768
"""Most prompt tokens, padding included, in one forward pass."""


class _Predicted(NamedTuple):
    """What the model says about the next token of every row."""

    logits: Tensor
    """[B, V]."""

    states: Tensor | None
    """[B, H], which the logits are made of; None where no guide asks for them."""

    def rows(self, index: Tensor) -> _Predicted:
        """Those of the rows `index`, in that order."""
        return _Predicted(self.logits[index], None if self.states is None else self.states[index])

    def above(self, below: _Predicted) -> _Predicted:
        """Those of both, `below` behind these."""
        states = None
        if self.states is not None and below.states is not None:
            states = torch.cat([self.states, below.states])
        return _Predicted(torch.cat([self.logits, below.logits]), states)


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer, and only for stop strings."""

    def decode(self, token_ids: list[int], **options: Any) -> str: ...


@dataclass
class _Wanted:
    """A run of samples of one prompt that enters the batch together."""

    request: int
    first: int
    streams: Sequence[Stream]


class Engine:
    """Generates with a causal language model of `transformers` (plain or wrapped by peft).

    Not for several threads. The model is switched to evaluation mode for the time of a call.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: Tokenizer, limits: Limits, guide: Guide | None = None
    ) -> None:
        """With a `guide` completions are sampled from the policy that it guides, as far as their request says."""
        self._model = model
        self._guide = guide
        self._tokenizer = tokenizer
        self._limits = limits
        inner: Any = causal_model(model)
        self._config = inner.config
        accepted = inspect.signature(inner.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._end_tokens = torch.tensor(sorted(limits.stop_tokens), dtype=torch.long)
        self._decoder: DirectDecoder | None = None
        self._asked_for_decoder = False
        self.last_figures = GenerationFigures()
        """Of the latest call of `generate` that came to its end."""

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling | None, poll: Callable[[], None] = lambda: None
    ) -> list[list[Completion]]:
        """The completions of every request, in order; greedy without `sampling` (the streams are then only counted).

        `poll` is called between tokens and ends the call by raising, which is how a stop request gets through.
        """
        with evaluating(self._model):
            if not self._asked_for_decoder:
                self._decoder = direct_decoder(self._model, self.forward)
                self._asked_for_decoder = True
            generation = _Generation(self, requests, sampling, poll)
            completions = generation.run()
        self.last_figures = generation.figures
        return completions

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    @property
    def limits(self) -> Limits:
        return self._limits

    def new_cache(self) -> RowCache:
        return RowCache(self._config)

    def new_edits(self) -> ScoreEdits | None:
        """What changes the logits of a batch; None where nothing does."""
        limits = self._limits
        if limits.repetition_penalty == 1.0 and limits.min_tokens <= 1 and limits.grammar is None:
            return None
        return ScoreEdits(limits.repetition_penalty, limits.min_tokens, self._end_tokens, limits.grammar)

    def new_guidance(self) -> GuidedRows | None:
        """What guides the rows of a batch; None without a guide."""
        return None if self._guide is None else GuidedRows(self._guide)

    def forward(self, tokens: Tensor, starts: Tensor, cache: RowCache) -> Tensor:
        """Runs `tokens` [B, T] after the cached columns and returns the logits [B, V] of the last position.

        `starts` [B] is the first real column of every row, counted over cached and new columns together.
        """
        arguments = self._arguments(tokens, starts, cache)
        return self._model(**arguments, **self._last_only).logits[:, -1]

    def predict(self, tokens: Tensor, starts: Tensor, cache: RowCache) -> _Predicted:
        """As `forward`, with what a guide needs."""
        if self._guide is None:
            return _Predicted(self.forward(tokens, starts, cache), None)
        body: Any = causal_model(self._model).get_decoder()
        states = body(**self._arguments(tokens, starts, cache)).last_hidden_state[:, -1]
        return _Predicted(logits_function(self._model)(states), states)

    def advance(self, tokens: Tensor, starts: Tensor, cache: RowCache, bias: Tensor | None) -> _Predicted:
        """What follows one more token [B] of every row; `bias` as `DirectDecoder.states` takes it."""
        if self._decoder is None:
            return self.predict(tokens[:, None], starts, cache)
        states = self._decoder.states(tokens, cache.length - starts, cache, bias)
        return _Predicted(self._decoder.logits_of(states), None if self._guide is None else states)

    def _arguments(self, tokens: Tensor, starts: Tensor, cache: RowCache) -> dict[str, Any]:
        width = cache.length + tokens.shape[1]
        arguments: dict[str, Any] = {
            "input_ids": tokens,
            "past_key_values": cache.cache,
            "use_cache": True,
            "attention_mask": left_padding_mask(starts, width),
        }
        if self._takes_positions:
            columns = torch.arange(cache.length, width, device=tokens.device)
            arguments["position_ids"] = (columns - starts[:, None]).clamp(min=0)
        return arguments

    def is_end(self, tokens: Tensor) -> Tensor:
        """Which of `tokens` [B] end a completion."""
        return torch.isin(tokens, self._end_tokens.to(tokens.device))

    def contains_stop_string(self, tail: list[int]) -> bool:
        text = self._tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self._limits.stop_strings)


class _Generation:
    """One call of `Engine.generate`: the rows in the batch and what they have produced."""

    def __init__(
        self, engine: Engine, requests: Sequence[Request], sampling: Sampling | None, poll: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._limits = engine.limits
        self._requests = requests
        self._sampling = sampling
        self._poll = poll
        self._device = engine.device
        self._tail = max((len(stop.encode()) for stop in self._limits.stop_strings), default=0)
        self._waiting = deque(self._in_admission_order())
        self._edits = engine.new_edits()
        self._guidance = engine.new_guidance()
        self.figures = GenerationFigures()

        offsets = np.concatenate([[0], np.cumsum([len(request.streams) for request in requests])]).astype(int)
        self._offsets = offsets
        total = int(offsets[-1])
        self._streams = [stream for request in requests for stream in request.streams]
        self._tokens = torch.zeros(total, self._limits.max_tokens, dtype=torch.long, device=self._device)
        self._logprobs = torch.zeros(total, self._limits.max_tokens, device=self._device)
        self._most = np.repeat(
            [min(request.max_tokens or self._limits.max_tokens, self._limits.max_tokens) for request in requests],
            [len(request.streams) for request in requests],
        )
        self._guided: list[int] = [0] * total
        if self._guidance is not None:
            self._guided = [number for request in requests for number in self._guided_tokens(request)]
        self._lengths = np.zeros(total, dtype=np.int64)
        self._stopped = np.zeros(total, dtype=bool)

        # the batch: one entry a row, aligned with the cache's rows
        self._cache: RowCache | None = None
        self._rows = np.zeros(0, dtype=np.int64)
        self._starts = torch.zeros(0, dtype=torch.long, device=self._device)
        self._bias: Tensor | None = None
        self._bias_columns = 0
        self._predicted = _Predicted(torch.zeros(0, 0, device=self._device), None)
        self._ended = np.zeros(0, dtype=bool)
        self._produced = np.zeros(0, dtype=np.int64)
        self._draws = torch.zeros(0, _DRAWN_AHEAD, dtype=torch.float64, device=self._device)
        self._drawn = _DRAWN_AHEAD
        self._next = torch.zeros(0, dtype=torch.long, device=self._device)

    def run(self) -> list[list[Completion]]:
        started = time.perf_counter()
        alone_since: float | None = None
        while self._waiting or len(self._rows):
            self._poll()
            self._admit()
            if alone_since is None and not self._waiting and len(self._rows) - self._ended.sum() == 1:
                alone_since = time.perf_counter()
            self._take_tokens()
            self._drop_ended()
            if len(self._rows):
                self._advance()
        # asked once and at the end, because asking waits for the device
        if not bool(self._logprobs.isfinite().all()):
            raise Diverged("generation: the model's log-probabilities are not finite")
        tokens, logprobs = self._tokens.tolist(), self._logprobs.tolist()
        completions = [
            Completion(
                tokens[row][:length], logprobs[row][:length], "stop" if stopped else "length", min(guided, length)
            )
            for row, (length, stopped, guided) in enumerate(
                zip(self._lengths.tolist(), self._stopped, self._guided, strict=True)
            )
        ]
        self.figures.completions = len(completions)
        self.figures.tokens = int(self._lengths.sum())
        self.figures.longest = int(self._lengths.max(initial=0))
        ended = time.perf_counter()
        self.figures.decode_seconds = ended - started - self.figures.prefill_seconds
        if alone_since is not None:
            self.figures.alone_seconds = ended - (started if len(completions) == 1 else alone_since)
        return [completions[self._offsets[index] : self._offsets[index + 1]] for index in range(len(self._requests))]

    def _in_admission_order(self) -> list[_Wanted]:
        """Longest prompts first: rows that join later then rarely lengthen the cache. Ties keep the given order."""
        order = sorted(range(len(self._requests)), key=lambda index: -len(self._requests[index].prompt))
        most = self._limits.max_batch_size
        return [
            _Wanted(index, first, self._requests[index].streams[first : first + most])
            for index in order
            for first in range(0, len(self._requests[index].streams), most)
        ]

    def _admit(self) -> None:
        """Fills free places. Joining copies the cache, so it waits until a quarter of the places is free."""
        free = self._limits.max_batch_size - len(self._rows)
        if not self._waiting or (len(self._rows) and free < self._limits.max_batch_size // 4):
            return
        admitted: list[_Wanted] = []
        width = len(self._requests[self._waiting[0].request].prompt)
        most_prompts = max(1, _PREFILL_TOKENS // width)
        while self._waiting and len(self._waiting[0].streams) <= free and len(admitted) < most_prompts:
            admitted.append(self._waiting.popleft())
            free -= len(admitted[-1].streams)
        if not admitted:
            return
        started = time.perf_counter()
        cache, starts, predicted = self._prefill(admitted)
        if self._cache is None:
            self._cache, self._starts, self._predicted = cache, starts, predicted
        else:
            longer = cache.length - self._cache.length
            self._cache.append_rows(cache)
            self._starts = torch.cat([self._starts + max(longer, 0), starts + max(-longer, 0)])
            self._predicted = self._predicted.above(predicted)
        rows = [
            self._offsets[wanted.request] + wanted.first + sample
            for wanted in admitted
            for sample in range(len(wanted.streams))
        ]
        self._rows = np.concatenate([self._rows, np.array(rows, dtype=np.int64)])
        self._ended = np.concatenate([self._ended, np.zeros(len(rows), dtype=bool)])
        self._produced = np.concatenate([self._produced, np.zeros(len(rows), dtype=np.int64)])
        self._drawn = _DRAWN_AHEAD
        self._bias_columns = 0
        prompts = [self._requests[wanted.request].prompt for wanted in admitted]
        if self._edits is not None:
            of_rows = [prompt for prompt, wanted in zip(prompts, admitted, strict=True) for _ in wanted.streams]
            self._edits.admit(of_rows, predicted.logits.shape[-1], self._device)
        if self._guidance is not None:
            self._guidance.admit([self._guided[row] for row in rows])
        self.figures.prompt_tokens += sum(len(prompt) for prompt in prompts)
        self.figures.prefill_seconds += time.perf_counter() - started

    def _guided_tokens(self, request: Request) -> Sequence[int]:
        return [self._limits.max_tokens] * len(request.streams) if request.guided is None else request.guided

    def _prefill(self, admitted: list[_Wanted]) -> tuple[RowCache, Tensor, _Predicted]:
        """Computes each prompt once and repeats its cache for its samples."""
        prompts = [self._requests[wanted.request].prompt for wanted in admitted]
        width = max(len(prompt) for prompt in prompts)
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        starts = torch.tensor([width - len(prompt) for prompt in prompts], device=self._device)
        cache = self._engine.new_cache()
        predicted = self._engine.predict(torch.tensor(padded, device=self._device), starts, cache)
        repeats = torch.tensor([len(wanted.streams) for wanted in admitted], device=self._device)
        parents = torch.repeat_interleave(torch.arange(len(admitted), device=self._device), repeats)
        cache.select(parents)
        return cache, starts[parents], predicted.rows(parents)

    def _take_tokens(self) -> None:
        """Chooses the next token of every row, records it and marks the rows that end with it."""
        live = np.flatnonzero(~self._ended)
        logits, states = self._predicted
        scores = None if self._edits is None else self._edits.apply(logits, self._produced, live)
        if self._guidance is not None and states is not None:
            scores = self._guidance.apply(logits, states, self._produced, scores)
        self._next, logprobs = choose(logits, self._sampling, self._next_uniforms(), scores)
        taken = self._next
        if len(live) < len(self._rows):
            index = torch.from_numpy(live).to(self._device)
            taken, logprobs = taken[index], logprobs[index]
        rows = torch.from_numpy(self._rows[live]).to(self._device)
        positions = torch.from_numpy(self._produced[live]).to(self._device)
        self._tokens[rows, positions] = taken
        self._logprobs[rows, positions] = logprobs
        self._produced[live] += 1
        lengths = self._produced[live]
        stopped = self._engine.is_end(taken).cpu().numpy()
        if self._edits is not None:
            stopped |= self._edits.take(taken, live)
        if self._tail:
            stopped |= self._reached_stop_string(live) & (lengths >= self._limits.min_tokens)
        self._ended[live] = stopped | (lengths >= self._most[self._rows[live]])
        self._lengths[self._rows[live]] = lengths
        self._stopped[self._rows[live]] = stopped

    def _next_uniforms(self) -> Tensor | None:
        if self._sampling is None:
            return None
        if self._drawn == _DRAWN_AHEAD:
            positions = self._produced[:, None] + np.arange(_DRAWN_AHEAD)
            drawn = uniforms([self._streams[row] for row in self._rows], positions)
            self._draws = torch.from_numpy(drawn).to(self._device)
            self._drawn = 0
        self._drawn += 1
        return self._draws[:, self._drawn - 1]

    def _reached_stop_string(self, live: np.ndarray) -> np.ndarray:
        """Looks at the text of the last tokens: a stop string of n bytes ends within n tokens, one byte each at least.

        One token more is decoded, because a tokenizer may drop the space before the first.
        """
        reached = np.zeros(len(live), dtype=bool)
        for index, place in enumerate(live):
            produced = int(self._produced[place])
            tail = self._tokens[self._rows[place], max(0, produced - self._tail - 1) : produced].tolist()
            reached[index] = self._engine.contains_stop_string(tail)
        return reached

    def _drop_ended(self) -> None:
        ended = int(self._ended.sum())
        if ended * _DROP_FRACTION < len(self._rows):
            return
        kept = np.flatnonzero(~self._ended)
        index = torch.from_numpy(kept).to(self._device)
        self._rows, self._produced, self._ended = self._rows[kept], self._produced[kept], self._ended[kept]
        self._next = self._next[index]
        if self._sampling is not None:
            self._draws = self._draws[index]
        self._starts = self._starts[index]
        self._bias_columns = 0
        if self._edits is not None:
            self._edits.keep(kept)
        if self._guidance is not None:
            self._guidance.keep(kept)
        if not len(kept):
            self._cache = None
            return
        assert self._cache is not None
        padding = int(self._starts.min())
        self._cache.select(index, padding)
        self._starts = self._starts - padding

    def _advance(self) -> None:
        assert self._cache is not None
        columns = self._cache.length + 1
        if columns > self._bias_columns:
            self._bias_columns = columns + _BIAS_AHEAD
            self._bias = padding_bias(self._starts, self._bias_columns, self._predicted.logits.dtype)
        self._predicted = self._engine.advance(self._next, self._starts, self._cache, self._bias)
        self.figures.decode_steps += 1
        self.figures.decode_rows += len(self._rows)
