"""How a prompt with several completions becomes pairs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Family

PairedShape = Literal["lists", "trees", "steps"]


class Pairing(Family):
    """Turns rows with several completions of one prompt into pairs."""

    reads: ClassVar[PairedShape] = "lists"
    """Rows it pairs: (prompt, K completions, K scores), a recorded search, or a solution with the values of its steps."""

    needs_scores: ClassVar[bool] = True
    """Whether every row must carry the scores of its completions."""

    needs_safe: ClassVar[bool] = False
    """Whether every row must say which of its completions are safe."""

    gives_scores: ClassVar[bool] = True
    """Whether its pairs have scores, of which the preferred completion's is never the lower."""


class BestWorst(Pairing, key="bestWorst"):
    """One pair a prompt: the completion with the highest score and the one with the lowest."""

    min_gap: float = Field(0.0, ge=0, le=1e9, description="The scores must differ by more than this.")


class AllPairs(Pairing, key="allPairs"):
    """Every two completions whose scores differ: K (K - 1) / 2 pairs of K different scores."""

    min_gap: float = Field(0.0, ge=0, le=1e9, description="The scores must differ by more than this.")


class GapSampled(Pairing, key="gapSampled"):
    """Pairs drawn with probability proportional to a power of their score gap, so that clear preferences are seen more often (ScoreFlow: Wang et al. 2025, arXiv:2502.04306)."""

    power: float = Field(3.0, ge=0, le=16, description="Exponent of the gap; 0 draws every pair equally often.")
    pairs_per_prompt: int = Field(
        1, ge=1, le=4096, description="Pairs drawn for each prompt, with replacement: a pair may be drawn twice."
    )


class CorrectWrong(Pairing, key="correctWrong"):
    """Pairs of a correct with a wrong completion; prompts that are all correct or all wrong are dropped and counted (iterative reasoning preference optimization: Pang et al. 2024, arXiv:2404.19733, sec. 2)."""

    threshold: float = Field(0.5, ge=-1e9, le=1e9, description="Completions with at least this score are correct.")
    pairs_per_prompt: int = Field(
        10, ge=1, le=4096, description="Most pairs of each prompt; drawn without replacement where there are more."
    )


class SafeAndShorter(Pairing, key="safeAndShorter"):
    """Safe completions are preferred to unsafe ones, and of two safe ones the shorter (length-controlled preference optimization of ERPO: Feng et al. 2025, "ERPO: Advancing Safety Alignment via Ex-Ante Reasoning Preference Optimization")."""

    needs_scores: ClassVar = False
    needs_safe: ClassVar = True
    gives_scores: ClassVar = False

    min_length_ratio: float = Field(
        1.25,
        gt=1,
        le=1000,
        description="Of two safe completions the longer must have at least so many times the words of the shorter.",
    )
    pairs_per_prompt: int = Field(
        4, ge=1, le=4096, description="Most pairs of each prompt; drawn without replacement where there are more."
    )
