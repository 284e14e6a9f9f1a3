"""From rows to tokens: chat template, prompt and completion ids, length limits.

With a chat template, a prompt (messages, or text wrapped as one user message) is rendered up to the point where the
assistant speaks, and a completion is what the template adds when the assistant has spoken. Without one, both are raw
text. Template text already holds every special token, so it is tokenized without adding any: no double BOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
from transformers import PreTrainedTokenizerBase as Tokenizer

from plumbline_trainer.data.batches import TokenSequence
from plumbline_trainer.data.rows import Message, Prompt, listed
from plumbline_trainer.failures import DataError, ModelError

Overlong = Literal["refuse", "drop", "truncate"]


class Renderer:
    """Turns prompts and completions into token ids the way the model was taught to see them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.has_template = bool(tokenizer.chat_template)
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._special_tokens = tuple(tokenizer.all_special_tokens)

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt as the model reads it, ending where the completion begins."""
        if not self.has_template:
            return _as_text(prompt)
        return self._template(_as_messages(prompt), add_generation_prompt=True)

    def completion_text(self, prompt: Prompt, completion: str, prefix: str = "") -> str:
        """The completion as the model should write it, with whatever ends the assistant's turn in the template.

        `prefix` is what the assistant has said already. Templates that rewrite earlier turns make prompt and
        conversation diverge; then the plain completion is used.
        """
        return self._turn(self.prompt_text(prompt), prompt, completion, prefix) if self.has_template else completion

    def _turn(self, prompt_text: str, prompt: Prompt, completion: str, prefix: str) -> str:
        before = prompt_text + prefix
        answer = {"role": "assistant", "content": prefix + completion}
        whole = self._template([*_as_messages(prompt), answer], add_generation_prompt=False)
        turn = whole[len(before) :]
        if not whole.startswith(before) or completion.strip() not in turn:
            return completion
        # what stands between the end of the turn and the next one is not the assistant's to write
        return turn.rstrip() if turn.rstrip().endswith(self._special_tokens) else turn

    def prompt_ids(
        self,
        prompts: Sequence[Prompt],
        places: Sequence[str] | None = None,
        prefixes: Sequence[str] | None = None,
    ) -> list[list[int]]:
        """Token ids of prompts, each at least one token long.

        `places` says where each prompt stands, for the `DataError` when the template refuses one. `prefixes` are
        beginnings of the assistant's answers: each stands after its prompt, in a turn that is still open.
        """
        rendered = []
        for index, prompt in enumerate(prompts):
            with _placed(places, index):
                rendered.append(self.prompt_text(prompt) + (prefixes[index] if prefixes else ""))
        every = self._tokenize(rendered, add_special_tokens=not self.has_template)
        eos = self.tokenizer.eos_token_id
        if not self.has_template:
            every = [_without_last(ids, eos) for ids in every]
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else eos
        return [ids or [start] for ids in every]

    def completion_ids(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        places: Sequence[str] | None = None,
        prefixes: Sequence[str] | None = None,
        final: Sequence[bool] | None = None,
    ) -> list[list[int]]:
        """Token ids of completions; each ends with the special token that ends the assistant's turn, else with EOS.

        `prefixes` are what the assistant has said before each completion. Where `final` is false the completion is a
        step after which the answer goes on: it is taken as it stands, and nothing ends it.
        """
        texts: list[str] = []
        ends = final or [True] * len(completions)
        last: tuple[Prompt, str] | None = None
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            if not self.has_template or not ends[index]:
                texts.append(completion)
                continue
            with _placed(places, index):
                if last is None or last[0] is not prompt:  # completions of one prompt stand side by side
                    last = (prompt, self.prompt_text(prompt))
                texts.append(self._turn(last[1], prompt, completion, prefixes[index] if prefixes else ""))
        every = self._tokenize(texts, add_special_tokens=False)
        return [self._ended(ids) if end else ids for ids, end in zip(every, ends, strict=True)]

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids and ids[-1] in self._special_ids else [*ids, self.tokenizer.eos_token_id]

    def _tokenize(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        if not texts:
            return []
        # the tokenizer's own limit would only warn; limits are the job's and are enforced by `fit`
        encoded = self.tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _template(self, messages: list[Message], *, add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"the chat template is malformed: {error.message} (line {error.lineno})") from error
        except jinja2.TemplateError as error:
            raise DataError(f"the chat template refuses a conversation: {error}") from error
        return str(text)


@dataclass(frozen=True)
class Limits:
    """Longest prompt and completion in tokens, and what happens to longer ones."""

    prompt: int
    completion: int
    overlong: Overlong = "refuse"


@dataclass(frozen=True)
class Fitted:
    """Rows that fit the limits."""

    rows: list[Any]
    sequences: list[list[TokenSequence]]
    """The sequences of each row of `rows`."""

    dropped: int = 0
    truncated: int = 0


def fit(rows: Sequence[Any], sequences: Sequence[Sequence[TokenSequence]], limits: Limits) -> Fitted:
    """Applies `limits` to rows (which have a `place`) and their sequences.

    refuse raises `DataError` naming the first overlong rows with both numbers; drop leaves out the row; truncate cuts
    the beginning of the prompt and the end of the completion. Raises `DataError` when no row is left.
    """
    kept_rows: list[Any] = []
    kept: list[list[TokenSequence]] = []
    problems: list[str] = []
    truncated = 0
    for row, items in zip(rows, sequences, strict=True):
        problem = _overlong(items, limits)
        if problem is None:
            kept_rows.append(row)
            kept.append(list(items))
        elif limits.overlong == "truncate":
            truncated += 1
            kept_rows.append(row)
            kept.append(
                [TokenSequence(s.prompt_ids[-limits.prompt :], s.completion_ids[: limits.completion]) for s in items]
            )
        else:
            problems.append(f"{row.place}: {problem}")
    if problems and limits.overlong == "refuse":
        raise DataError(listed(problems, "rows that are too long (data.overlong is refuse)"))
    if not kept_rows:
        count = len(problems)
        raise DataError(f"no row is left: all {count} are too long (data.overlong is drop), such as {problems[0]}")
    return Fitted(kept_rows, kept, len(problems), truncated)


def _overlong(sequences: Sequence[TokenSequence], limits: Limits) -> str | None:
    for sequence in sequences:
        if len(sequence.prompt_ids) > limits.prompt:
            return f"prompt has {len(sequence.prompt_ids)} tokens, training.maxPromptTokens is {limits.prompt}"
        if len(sequence.completion_ids) > limits.completion:
            return (
                f"completion has {len(sequence.completion_ids)} tokens, "
                f"training.maxCompletionTokens is {limits.completion}"
            )
    return None


def _as_messages(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _as_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    raise DataError("prompt is a list of chat messages, but the tokenizer has no chat template: set model.chatTemplate")


@contextmanager
def _placed(places: Sequence[str] | None, index: int) -> Iterator[None]:
    """Puts the place of the row in front of a `DataError`."""
    try:
        yield
    except DataError as error:
        raise (error if places is None else DataError(f"{places[index]}: {error}")) from error.__cause__


def _without_last(ids: list[int], token: int) -> list[int]:
    """Some tokenizers end every text with EOS; a prompt that goes on must not."""
    return ids[:-1] if ids and ids[-1] == token else ids
