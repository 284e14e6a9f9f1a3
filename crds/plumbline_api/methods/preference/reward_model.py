"""Objectives of reward models: scalar scores instead of log-probabilities."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from plumbline_api.methods.preference.family import PreferenceObjective
from plumbline_api.rules import Rule, field


class ScalarHead(PreferenceObjective):
    """Base of the objectives that train a reward model."""

    needs_reference = False
    trains_scalar_head = True


class PairwiseReward(ScalarHead):
    """Base of the objectives on pairs: the likelihood fixes differences of rewards only, so all of them can be centred."""

    centering_coefficient: float = Field(
        0.0, ge=0, le=10, description="Weight of the squared sum of both rewards, which keeps the mean reward at zero."
    )


class BradleyTerryReward(PairwiseReward):
    """Base of the objectives whose pairs carry no scores."""

    rules: ClassVar = (
        Rule(
            field("labelSmoothing") < 0.5,
            "labelSmoothing must be below 0.5: at 0.5 the labels say nothing",
            path="labelSmoothing",
        ),
    )

    margin: float = Field(
        0.0, ge=0, le=100, description="By how much a chosen reward should at least exceed the rejected one."
    )
    label_smoothing: float = Field(
        0.0, ge=0, le=0.5, description="Share of the pairs whose labels are taken to be swapped."
    )


class RewardModel(BradleyTerryReward, key="rewardModel"):
    """Bradley-Terry reward model: a scalar head trained so that chosen scores above rejected (Ouyang et al. 2022, arXiv:2203.02155, eq. 1; centring: Eisenstein et al. 2023, arXiv:2312.09244; margin and label smoothing: Wang et al. 2024, arXiv:2401.06080)."""


class RewardStep(BradleyTerryReward, key="rewardStep"):
    """Bradley-Terry reward model of single steps: which of two next steps is better, given the steps before, which both share (Ma et al. 2024, "What Are Step-Level Reward Models Rewarding? Counterintuitive Findings from MCTS-Boosted Mathematical Reasoning")."""

    needs_prefix = True


class RewardMargin(PairwiseReward, key="rewardMargin"):
    """Bradley-Terry reward model with a margin for each pair that grows with the difference of its scores in the data (Touvron et al. 2023, arXiv:2307.09288, eq. 2)."""

    needs_scores = True

    margin_scale: float = Field(
        1.0, gt=0, le=1000, description="Margin of a pair, divided by the difference of its scores."
    )


class RewardSoftLabels(PairwiseReward, key="rewardSoftLabels"):
    """Reward model on soft labels: the probability that the chosen completion wins is the Bradley-Terry probability of the scores in the data, and the loss is the cross-entropy with it (Bradley & Terry 1952). Equal scores teach that neither is better."""

    needs_scores = True

    temperature: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Difference of scores at which the chosen completion wins with odds e : 1; larger is softer.",
    )


class RewardListwise(ScalarHead, key="rewardListwise"):
    """Plackett-Luce reward model: the likelihood of the whole order of K completions by score, picked one after the other from the best down (Plackett 1975; Luce 1959; as a loss: Xia et al. 2008, "Listwise approach to learning to rank"). Completions of equal score are not compared."""

    data_shape = "lists"
    needs_scores = True


class RewardRegression(ScalarHead, key="rewardRegression"):
    """Reward model by regression: squared error between reward and the data's score (Wang et al. 2024, arXiv:2406.08673)."""

    data_shape = "lists"
    needs_scores = True


class RewardRegressionCompatible(ScalarHead, key="rewardRegressionCompatible"):
    """Calibrated reward model of correctness: cross-entropy of each completion's label plus a ranking loss within the list that has the same minimiser, so that the sigmoid of a reward is the probability of being right (Bai et al. 2022, arXiv:2211.01494). Scores are labels between 0 and 1."""

    data_shape = "lists"
    needs_scores = True
    scores_are_probabilities = True

    ranking_weight: float = Field(
        0.5, ge=0, le=1, description="Share of the ranking loss; the rest is the cross-entropy of single completions."
    )
