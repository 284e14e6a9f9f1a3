"""How a prompt with several completions becomes pairs."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.base import Family
from plumbline_api.methods.regular_expression import RegularExpression

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


class SolutionRounds(Pairing, key="solutionRounds"):
    """Against overthinking: of sampled traces that go through several solutions, a right one that is cut short is preferred to the longest right one ("Do NOT Think That Much for 2+3=? On the Overthinking of o1-Like LLMs", Chen et al. 2024, arXiv:2412.21187). Wrong traces are left out, and so are prompts without a shorter one."""

    gives_scores: ClassVar = False

    chosen: Literal["shortest", "firstCorrect", "firstCorrectWithReflection", "greedyDiverse"] = Field(
        "firstCorrectWithReflection",
        description="What is preferred: shortest, the shortest right trace as it is; of all right traces, cut off behind the first right solution (firstCorrect) or behind the second (firstCorrectWithReflection), or without solutions that repeat earlier ones (greedyDiverse), the shortest.",
    )
    threshold: float = Field(
        0.5, ge=-1e9, le=1e9, description="Traces with at least this score are right: their last answer is the answer."
    )
    pattern: RegularExpression = Field(
        r"\\boxed\{([^{}]*)\}(?:\s*\\[\])])?\$*\.?",
        min_length=1,
        max_length=512,
        description="Regular expression of what ends a solution, with the marks that close a formula; its first group, or else the whole match, is the answer.",
    )
    end_of_thinking: str | None = Field(
        "</think>",
        min_length=1,
        max_length=128,
        description="Text at which thinking ends: only solutions before it are taken away. A trace without it is thinking as a whole.",
    )
    similarity: float = Field(
        0.6,
        gt=0,
        le=1,
        description="With greedyDiverse, share of common words (Jaccard index) from which on a solution repeats another.",
    )
    min_length_ratio: float = Field(
        1.0,
        ge=1,
        le=1000,
        description="The longest trace must have more than so many times the characters of the chosen text.",
    )
