"""Verifiers that ask another service."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, field, has

PROMPT, COMPLETION, ANSWER = "{prompt}", "{completion}", "{answer}"
"""Where a template names what is judged."""

_TEMPLATE = f"""\
Judge the answer to the problem below.

Problem:
{PROMPT}

Answer:
{COMPLETION}

Give reasons in a sentence or two. End with a line `Score: n`, where n is a whole number from 0 (useless) to 10 (perfect)."""


class ChatModel(ApiModel):
    """A language model behind the OpenAI protocol for chat completions."""

    model: str = Field(min_length=1, max_length=256, description="Name of the model, as the server knows it.")
    max_tokens: int = Field(256, ge=1, le=65_536, description="Longest reply in tokens.")
    temperature: float = Field(0.0, ge=0, le=2, description="Temperature of the judge's sampling.")


class ChatJudge(ChatModel):
    """A language model that scores one completion."""

    rules: ClassVar = (
        Rule(
            field("template").matches(r"\{completion\}"),
            "template must contain {completion}, where the judged text is put",
            path="template",
        ),
    )

    template: str = Field(
        _TEMPLATE,
        min_length=1,
        max_length=16_384,
        description="The message to the judge. {prompt}, {completion} and {answer} stand for what is judged.",
    )
    score_pattern: RegularExpression = Field(
        r"(?i:score)\W{0,8}(-?\d+(?:\.\d+)?)",
        min_length=1,
        max_length=512,
        description="Regular expression whose first group in the judge's reply is the score; the last match counts, and without a match the call is an error.",
    )


class Judge(Verifier):
    """Asks a service over HTTP."""

    needs_answer = False
    in_batches = True

    url: str = Field(
        min_length=8,
        max_length=2048,
        pattern=r"^https?://[^\s]+$",
        description="Where requests are posted to; with chatCompletions usually http://host/v1/chat/completions.",
    )
    concurrency: int = Field(8, ge=1, le=1024, description="Most requests at the same time, from each pod.")
    attempts: int = Field(
        3,
        ge=1,
        le=20,
        description="How often a request is sent before it has failed: after errors of the connection, replies that are no JSON, and the statuses 408, 425, 429 and 5xx.",
    )
    backoff_seconds: float = Field(
        0.5,
        ge=0,
        le=600,
        description="Pause before the second attempt; it doubles with every further one, and a server that sends Retry-After is obeyed.",
    )
    authorization_variable: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable of the runtime, set from a Secret, whose value is sent as the header, such as `Bearer ...`.",
    )
    authorization_header: str = Field(
        "Authorization",
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Name of the header that carries it.",
    )


class HttpJudge(Judge, key="httpJudge"):
    """Score that an HTTP service gives: a language model behind the OpenAI protocol, or any service that answers `{prompt, completion, answer}` with `{score}`. `timeoutSeconds` of the component is the limit for a request with all of its attempts; what fails is an error of the component and never a score."""

    rules: ClassVar = (
        Rule(
            field("batchSize").equals(1).when(has("chatCompletions")),
            "batchSize must be 1 with chatCompletions, which judges one completion a request",
            path="batchSize",
        ),
        Rule(
            ~has("lowest").differs(has("highest")),
            "lowest and highest must be set together: they are the ends of the judge's scale",
            path="lowest",
        ),
        Rule(
            (field("lowest") < field("highest")).when(has("lowest") & has("highest")),
            "lowest must be below highest",
            path="lowest",
        ),
    )

    chat_completions: ChatJudge | None = Field(
        None,
        description="Ask a language model. Default: post JSON to a service of one's own, which answers with `score`.",
    )
    batch_size: int = Field(
        1,
        ge=1,
        le=1024,
        description='Completions in one request to a service of one\'s own; above 1 it gets {"items": [...]} and answers {"scores": [...]}, with null for what it could not judge.',
    )
    lowest: float | None = Field(
        None, ge=-1e9, le=1e9, description="Least score of the judge's scale: it becomes 0. Other scores are errors."
    )
    highest: float | None = Field(None, ge=-1e9, le=1e9, description="Greatest score: it becomes 1.")
