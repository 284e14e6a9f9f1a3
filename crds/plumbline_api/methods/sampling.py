"""How completions are sampled from the policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from plumbline_api.base import ApiModel


class Sampling(ApiModel):
    """How completions are sampled."""

    temperature: float = Field(1.0, gt=0, le=10, description="Softmax temperature.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Nucleus: sample from the smallest set with this probability mass."
    )
    top_k: int | None = Field(
        None, ge=1, le=1_000_000, description="Sample from the k most likely tokens; default: all."
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default_factory=list,
        max_length=16,
        description="Strings that end a completion, besides the end-of-sequence token.",
    )
