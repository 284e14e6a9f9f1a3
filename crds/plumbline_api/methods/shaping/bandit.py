"""Rewards of a policy that plays multi-armed bandits, one pull a completion."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from plumbline_api.methods.regular_expression import RegularExpression
from plumbline_api.methods.shaping.family import ColumnName, Shaping


class BanditStep(Shaping):
    """How the arm that a completion chooses is read."""

    arm_pattern: RegularExpression = Field(
        r"\d+",
        min_length=1,
        max_length=512,
        description="Regular expression whose last match (its first group, or else the whole match) is the number of the chosen arm, from 0.",
    )
    weight: float = Field(1.0, ge=0, le=1000, description="Factor of the reward.")
    invalid: float = Field(
        -1.0, ge=-1000, le=1000, description="Reward, before the factor, of a completion that chooses no arm."
    )
    history_column: ColumnName = Field(
        "history", description="Column with the list of pulls so far, each a list of arm and reward."
    )


class BanditRegret(BanditStep, key="banditRegret"):
    """Regret-shaped reward of a bandit's pull: minus the gap between the best arm's mean and the chosen one's, which lacks the noise of the pull itself (Chen et al. 2025, arXiv:2509.24923). Evaluations show how often the best and the greedy arm are chosen, and how often the best one is given up."""

    measures_held_out = True

    means_column: ColumnName = Field("means", description="Column with the list of the arms' true means.")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.means_column,)


class OracleImitation(BanditStep, key="oracleImitation"):
    """Algorithmic reward of a bandit's pull: 1 if it is the arm that an oracle would choose after the same history, else 0 (Chen et al. 2025, arXiv:2509.24923)."""

    oracle: Literal["ucb", "greedy"] = Field(
        "ucb", description="ucb adds an exploration bonus to an arm's mean reward, greedy does not."
    )
    exploration: float = Field(
        1.0, ge=0, le=1000, description="Factor c of the bonus c sqrt(2 ln t / n) of an arm pulled n of t times."
    )
    arms_column: ColumnName = Field("arms", description="Column with the number of arms.")

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.arms_column, self.history_column)
