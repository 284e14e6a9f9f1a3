"""Rewards that depend on how long a completion is."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.shaping.family import ColumnName, Shaping
from plumbline_api.rules import Rule, field, has

_EXACTLY_ONE_TARGET = (
    Rule(
        has("tokens") | has("column"),
        "tokens or column must be set: what is the length that is asked for?",
        path="tokens",
    ),
    Rule(
        ~(has("tokens") & has("column")),
        "tokens and column must not both be set: the length asked for is either one number or each prompt's own",
        path="column",
    ),
)


class LinearLength(Shaping, key="linearLength"):
    """Subtracts a coefficient times the length, as a share of training.maxCompletionTokens."""

    coefficient: float = Field(0.5, ge=0, le=1000, description="What a completion of the greatest length loses.")
    only_correct: bool = Field(True, description="Whether only right completions lose by their length.")


class CosineLength(Shaping, key="cosineLength"):
    """Cosine length reward in place of the 1 of a right answer: right answers earn more the shorter they are, wrong ones lose less the longer they are, truncated ones get a value of their own (Yeo et al. 2025, arXiv:2502.03373)."""

    correct_shortest: float = Field(2.0, ge=-1000, le=1000, description="Reward of a right completion of length 0.")
    correct_longest: float = Field(
        1.0, ge=-1000, le=1000, description="Reward of a right completion of the greatest length."
    )
    wrong_shortest: float = Field(-10.0, ge=-1000, le=1000, description="Reward of a wrong completion of length 0.")
    wrong_longest: float = Field(
        0.0, ge=-1000, le=1000, description="Reward of a wrong completion of the greatest length."
    )
    exceeded: float = Field(-10.0, ge=-1000, le=1000, description="Reward of a completion that was cut off.")


class SoftOverlong(Shaping, key="softOverlong"):
    """Soft overlong punishment: nothing up to a buffer before training.maxCompletionTokens, from there linearly down to the whole penalty at the limit (DAPO; Yu et al. 2025, arXiv:2503.14476, eq. 13)."""

    buffer_fraction: float = Field(
        0.2, gt=0, le=1, description="Length of the buffer as a share of training.maxCompletionTokens."
    )
    penalty: float = Field(1.0, ge=0, le=1000, description="What a completion loses at the limit.")


class Truncated(Shaping, key="truncated"):
    """What becomes of completions that were cut off at training.maxCompletionTokens: left out of loss and baselines (overlong filtering; Yu et al. 2025, arXiv:2503.14476, sec. 3.4), fined, or given a fixed reward."""

    action: Literal["exclude", "add", "replace"] = Field(
        "exclude",
        description="exclude leaves them out, add adds value to their rewards, replace makes value their reward.",
    )
    value: float = Field(0.0, ge=-1000, le=1000, description="What is added, or the new reward.")


class KimiLength(Shaping, key="kimiLength"):
    """Length reward within a group: from 1/2 for its shortest completion to -1/2 for its longest, for wrong completions never above 0 (Kimi Team 2025, arXiv:2501.12599, sec. 2.3.3)."""

    weight: float = Field(1.0, ge=0, le=1000, description="Factor of the length reward.")
    start_fraction: float = Field(
        0.0, ge=0, lt=1, description="Share of the job's steps before lengths begin to count: first right, then short."
    )


class ExactLengthTarget(Shaping, key="exactLengthTarget"):
    """LCPO-Exact: subtracts a coefficient times the distance to the length that the prompt asks for, in tokens (L1; Aggarwal and Welleck 2025, arXiv:2503.04697, eq. 1)."""

    rules: ClassVar = _EXACTLY_ONE_TARGET

    coefficient: float = Field(0.0003, gt=0, le=1000, description="What a token of distance costs.")
    tokens: int | None = Field(None, ge=0, le=10_000_000, description="Length that is asked for.")
    column: ColumnName | None = Field(
        None, description="Column with each prompt's own length in tokens; rows with null there are left as they are."
    )

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.column is None else (self.column,)


class MaximumLengthTarget(Shaping, key="maximumLengthTarget"):
    """LCPO-Max: in place of the 1 of a right answer, a number that falls from 1 to 0 around the greatest length that the prompt allows (L1; Aggarwal and Welleck 2025, arXiv:2503.04697, eq. 2)."""

    rules: ClassVar = _EXACTLY_ONE_TARGET

    coefficient: float = Field(0.0003, gt=0, le=1000, description="What a token more costs.")
    offset: float = Field(
        0.5, ge=0, le=1, description="Reward of a right completion of exactly the length that is allowed."
    )
    tokens: int | None = Field(None, ge=0, le=10_000_000, description="Greatest length that is allowed.")
    column: ColumnName | None = Field(
        None, description="Column with each prompt's own limit in tokens; rows with null there are left as they are."
    )

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.column is None else (self.column,)


class GatedLength(Shaping, key="gatedLength"):
    """GRPO-lambda: right completions lose by their length only in the groups that are mostly right, the best share of a rollout; all others keep rewards that know no length (Dai, Liu and Si 2025, arXiv:2505.18086)."""

    rules: ClassVar = (
        Rule(
            ~(has("minCorrectRatio") & field("topFraction").differs(0.2)),
            "topFraction must not be set beside minCorrectRatio: groups are chosen either by rank or by their ratio",
            path="topFraction",
        ),
    )

    alpha: float = Field(0.2, ge=0, le=1000, description="The most that a completion can lose by its length.")
    top_fraction: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the rollout's groups, those with the most right completions, in which length counts.",
    )
    min_correct_ratio: float | None = Field(
        None, ge=0, le=1, description="Instead of topFraction: length counts in every group with at least this ratio."
    )
