"""Prompts and completions as they stand in a row: text, chat messages, whole conversations, transcripts.

A prompt may be left out where the completions are whole conversations: it then is everything before the last message,
which must be the assistant's. Text alone does not say where a prompt ends, since two answers may begin with the same
words; only transcripts do, which mark every turn with "Human:" or "Assistant:" after an empty line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plumbline_trainer.data.files import json_type

Message = dict[str, str]
Prompt = str | list[Message]
"""Plain text, or chat messages `{"role": ..., "content": ...}` of which the last is not the assistant's."""

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class BadRow(Exception):
    """What is wrong with a row, without its place."""


def present(values: Mapping[str, Any], column: str) -> Any:
    """The value of a column that a row must have."""
    if values.get(column) is None:
        raise BadRow(f"{column} is missing")
    return values[column]


def read_prompt(values: Mapping[str, Any], column: str) -> Prompt:
    """The prompt of a row that has one."""
    value = present(values, column)
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"{column} is empty")
        return value
    if not isinstance(value, list):
        raise BadRow(f"{column} must be text or a list of chat messages, found {json_type(value)}")
    messages = read_messages(value, column)
    if messages[-1]["role"] == "assistant":
        raise BadRow(f"{column} must not end with an assistant message: that is the completion")
    return messages


def read_exchange(values: Mapping[str, Any], prompt_column: str, columns: list[str]) -> tuple[Prompt, list[str]]:
    """The prompt of a row and its completions, one a column; the prompt may be implicit.

    A completion is text, one assistant message, or a conversation that begins with the prompt and ends with an
    assistant message.
    """
    if values.get(prompt_column) is not None:
        prompt = read_prompt(values, prompt_column)
        return prompt, [read_completion(present(values, column), column, prompt) for column in columns]
    conversations = [_conversation(present(values, column), column, prompt_column) for column in columns]
    first = conversations[0][:-1]
    for column, conversation in zip(columns, conversations, strict=True):
        if conversation[:-1] != first:
            raise BadRow(
                f"{prompt_column} is missing, and {columns[0]} and {column} differ before their last message: "
                "they do not answer the same prompt"
            )
    answers = [conversation[-1]["content"] for conversation in conversations]
    return first, [_content(answer, column) for answer, column in zip(answers, columns, strict=True)]


def read_completion(value: Any, column: str, prompt: Prompt) -> str:
    """A completion of a prompt that is known."""
    if isinstance(value, list):
        messages = read_messages(value, column)
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if messages[-1]["role"] != "assistant" or messages[:-1] not in ([], before):
            raise BadRow(
                f"{column} must be text, a list of one assistant message, or the prompt's messages and one assistant "
                f"message; found {len(messages)} messages"
            )
        value = messages[-1]["content"]
    if not isinstance(value, str):
        raise BadRow(f"{column} must be text, found {json_type(value)}")
    return _content(value, column)


def read_messages(value: list[Any], column: str) -> list[Message]:
    """Chat messages, of which only role and content are kept."""
    if not value:
        raise BadRow(f"{column} is an empty list")
    messages = []
    for index, message in enumerate(value):
        if not isinstance(message, dict):
            raise BadRow(f"{column}[{index}] must be a message with role and content, found {json_type(message)}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise BadRow(f"{column}[{index}].{key} must be text, found {json_type(message.get(key))}")
        messages.append({"role": message["role"], "content": message["content"]})
    return messages


def read_transcript(text: str) -> list[Message] | None:
    """The messages of "Human: ... Assistant: ..." with each turn after an empty line; None for other text."""
    turns = list(_TURN.finditer(text))
    if not turns or turns[0].start() != 0:
        return None
    ends = [turn.start() for turn in turns[1:]] + [len(text)]
    return [
        {"role": _ROLES[turn[1]], "content": text[turn.end() : end].strip()}
        for turn, end in zip(turns, ends, strict=True)
    ]


def _conversation(value: Any, column: str, prompt_column: str) -> list[Message]:
    """A whole conversation: a prompt of at least one message, and the assistant's answer."""
    messages = read_messages(value, column) if isinstance(value, list) else None
    if isinstance(value, str):
        messages = read_transcript(value)
    if messages is None:
        raise BadRow(
            f"{prompt_column} is missing; it may be left out only where {column} is a list of chat messages, or a "
            'transcript of turns "Human:" and "Assistant:" after empty lines'
        )
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or messages[-2]["role"] == "assistant":
        raise BadRow(f"{prompt_column} is missing, and {column} is not a prompt followed by one assistant message")
    return messages


def _content(text: str, column: str) -> str:
    if not text:
        raise BadRow(f"{column} is empty")
    return text
