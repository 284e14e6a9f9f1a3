"""Verifiers that are trained models."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.locations import SourceChoice
from plumbline_api.methods.verifiers.family import Verifier
from plumbline_api.rules import Rule, has


class RewardModelScore(Verifier, key="rewardModel"):
    """Score of a reward model, such as the output of a PreferenceJob with a reward objective: a Hugging Face directory of a sequence classification model with one label, its tokenizer and chat template. Each pod holds it beside the policy."""

    needs_answer = False
    in_batches = True

    rules: ClassVar = (
        Rule(
            ~has("source.configMap"),
            "source.configMap must not be set: a model is a directory, and a ConfigMap cannot hold one",
            path="source.configMap",
        ),
    )

    source: SourceChoice = Field(description="Where the reward model's directory is.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Type of weights and computation; auto is bfloat16 where the hardware has it, else float32."
    )
    squash: Literal["none", "sigmoid", "tanh"] = Field(
        "none",
        description="Function that the score, times scale, goes through: none leaves it as it is, sigmoid puts it between 0 and 1, tanh between -1 and 1.",
    )
    scale: float = Field(1.0, gt=0, le=1e6, description="Factor of the score before squash.")
