"""How completions are sampled from the policy."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from plumbline_api.base import ApiModel
from plumbline_api.rules import Rule, any_of, field, has


class EntropyDescent(ApiModel):
    """EM-INF: logits of the next token, divided by the temperature, move down the gradient of their entropy before the token is drawn; the model stays as it is (Agarwal et al. 2025, arXiv:2505.15134). The likeliest token stays the likeliest. Log-probabilities of the sampler are those of the surer distribution, which an off-policy correction may use."""

    floor: float = Field(0.1, ge=0, le=20, description="Entropy in nats below which no token's distribution is taken.")
    learning_rate: float = Field(0.1, gt=0, le=1000, description="Length of a step along the gradient.")
    max_steps: int = Field(10, ge=1, le=1000, description="Most steps for a token; each costs a pass over its logits.")


class Sampling(ApiModel):
    """How completions are sampled."""

    rules: ClassVar = (
        Rule(
            ~(has("regex") & has("jsonSchema")),
            "regex and jsonSchema must not both be set: a completion follows one of them",
            path="regex",
        ),
        Rule(
            field("minTokens").equals(0).when(any_of([has("regex"), has("jsonSchema")])),
            "minTokens must be 0 with regex or jsonSchema, which say themselves when a completion may end",
            path="minTokens",
        ),
    )

    temperature: float = Field(1.0, gt=0, le=10, description="Softmax temperature.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Nucleus: sample from the smallest set with this probability mass (Holtzman et al. 2019, arXiv:1904.09751).",
    )
    top_k: int | None = Field(
        None, ge=1, le=1_000_000, description="Sample from the k most likely tokens; default: all."
    )
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Sample from tokens that are at least this times as likely as the most likely one (Nguyen et al. 2024, arXiv:2407.01082).",
    )
    repetition_penalty: float = Field(
        1.0,
        ge=1,
        le=10,
        description="Logits of tokens that the prompt or the completion already has are divided by it where positive and multiplied where negative (Keskar et al. 2019, arXiv:1909.05858); 1 changes nothing.",
    )
    min_tokens: int = Field(
        0, ge=0, le=1_000_000, description="A completion does not end before it has so many tokens, its end included."
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list,
        max_length=16,
        description="Strings that end a completion, besides the end-of-sequence token.",
    )
    stop_tokens: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list,
        max_length=16,
        description="Tokens that end a completion, written as in the tokenizer's vocabulary, such as <|im_end|>.",
    )
    stop_token_ids: list[Annotated[int, Field(ge=0, le=100_000_000)]] = Field(
        default_factory=list, max_length=64, description="Ids of tokens that end a completion."
    )
    regex: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Regular expression that every completion matches as a whole: tokens that would leave it are never sampled. Without anchors, look-around and back-references.",
    )
    json_schema: dict[str, Any] | None = Field(
        None,
        max_length=256,
        description="JSON schema: every completion is a document that it accepts, unless the limit of tokens cuts it off. Tokens that would leave it are never sampled; {} allows any JSON.",
    )
    entropy_descent: EntropyDescent | None = Field(
        None, description="Makes the model surer of each token while it samples; default: as sure as it is."
    )
