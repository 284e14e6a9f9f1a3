"""How recorded search trees and step values become pairs of steps that continue the same prefix."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from plumbline_api.methods.pairing import Pairing


class SearchTree(Pairing, key="searchTree"):
    """From recorded searches with a checker of steps: a step on a path to a solution against one that the checker refused in the same state (BFS-Prover: Xin et al. 2025, arXiv:2502.03438)."""

    reads: ClassVar = "trees"
    needs_scores: ClassVar = False
    gives_scores: ClassVar = False

    rejected: Literal["error", "offPath"] = Field(
        "error",
        description="Steps that lose: error, those that the checker refused; offPath, every step on no path to a solution, refused or not.",
    )
    pairs_per_state: int = Field(
        8, ge=1, le=4096, description="Most pairs of one state; the first losing steps in the row's order are used."
    )


class ValueGap(Pairing, key="valueGap"):
    """From recorded searches with values: of the steps tried in one state, the one with the highest value against the one with the lowest; a step's refined text, where it has one, stands for it as chosen (LongDPO: Ping et al. 2025, arXiv:2502.02095)."""

    reads: ClassVar = "trees"
    needs_scores: ClassVar = False

    min_gap: float = Field(0.0, ge=0, lt=1, description="The values must differ by more than this.")
    states: Literal["all", "bestPath", "widest"] = Field(
        "all",
        description="Which states give a pair: all; those on the path that always takes the step with the highest value; or only the state whose values lie furthest apart.",
    )


class StepAdvantage(Pairing, key="stepAdvantage"):
    """From solutions whose every prefix has a success rate: the first step at which the rate falls, against the best alternative after the same prefix; the advantages of both become their scores (Setlur et al. 2024, arXiv:2406.14532)."""

    reads: ClassVar = "steps"
    needs_scores: ClassVar = False

    threshold: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="The success rate must fall by more than this at the step that loses, and be higher by more than this after its alternative. Rates from N completions differ by about sqrt(1 / (2 N)) by chance: choose two or three times that.",
    )
    pairs_per_row: int = Field(
        1, ge=1, le=4096, description="Most alternatives of the step that loses; the best are used first."
    )
