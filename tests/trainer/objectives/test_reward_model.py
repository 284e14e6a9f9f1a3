"""Objectives of reward models: by hand, against other derivations, at their optima, at limits, and against TRL."""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from plumbline_api.methods.preference.reward_model import (
    RewardListwise,
    RewardMargin,
    RewardModel,
    RewardRegression,
    RewardRegressionCompatible,
    RewardSoftLabels,
    RewardStep,
)
from plumbline_trainer.objectives.preference.inputs import Completions, Scores
from plumbline_trainer.objectives.preference.measures import reference_metrics
from plumbline_trainer.objectives.preference.reward_model import (
    reward_listwise,
    reward_margin,
    reward_model,
    reward_regression,
    reward_regression_compatible,
    reward_soft_labels,
    reward_step,
)
from plumbline_trainer.objectives.registry import implementation_of
from plumbline_trainer.reporting.metrics import Metric
from tests.trainer.objectives.records import scores_of, vector

reward = st.floats(-8, 8)

PAIRWISE = [
    RewardModel(margin=0.5, label_smoothing=0.1, centering_coefficient=0.1),
    RewardStep(margin=0.5),
    RewardMargin(margin_scale=0.7, centering_coefficient=0.1),
    RewardSoftLabels(temperature=2.0, centering_coefficient=0.1),
]
LISTWISE = [RewardListwise(), RewardRegression(), RewardRegressionCompatible(ranking_weight=0.3)]


def matrix(*rows: tuple[float, ...]) -> torch.Tensor:
    """[B, K] float64."""
    return torch.tensor(rows, dtype=torch.float64)


def listed(values: torch.Tensor, labels: torch.Tensor, present: torch.Tensor | None = None) -> Scores:
    return Scores(values, torch.ones_like(values, dtype=torch.bool) if present is None else present, labels)


def values_of(metrics: dict[str, Metric]) -> dict[str, float]:
    return {name: metric.value for name, metric in metrics.items()}


def name_of(parameters: Any) -> str:
    return parameters.member_key


# --- numbers worked out by hand ---------------------------------------------------------------------------------------


def test_bradley_terry_with_margin_smoothing_and_centring_by_hand() -> None:
    """d = 3 - 1 - 1 = 1: 0.8 x 0.3132617 + 0.2 x 1.3132617 + 0.1 x (3 + 1)^2."""
    parameters = RewardModel(margin=1, label_smoothing=0.2, centering_coefficient=0.1)
    losses, metrics = reward_model(parameters, scores_of(vector(3), vector(1)))
    assert losses.tolist() == pytest.approx([2.11326168751822286], abs=1e-12)
    assert values_of(metrics) == pytest.approx(
        {"rewards/chosen": 3, "rewards/rejected": 1, "rewards/margin": 2, "rewards/accuracy": 1}
    )


def test_the_margin_of_a_pair_by_hand() -> None:
    """Scores 5 and 3, scale 0.5: margin 1, so d = 3 - 1 - 1 = 1."""
    scores = scores_of(vector(3), vector(1), labels=matrix((5, 3)))
    assert reward_margin(RewardMargin(margin_scale=0.5), scores)[0].tolist() == pytest.approx([0.31326168751822286])


def test_soft_labels_by_hand() -> None:
    """Scores log 9 apart at temperature 2: p = sigma(log 3) = 3/4; d = 1: 3/4 x 0.3132617 + 1/4 x 1.3132617."""
    scores = scores_of(vector(3), vector(2), labels=matrix((math.log(9), 0)))
    losses, _ = reward_soft_labels(RewardSoftLabels(temperature=2), scores)
    assert losses.tolist() == pytest.approx([0.56326168751822286], abs=1e-12)


def test_plackett_luce_by_hand() -> None:
    """exp r = (1, 2, 3), order by score 3, 1, 2: the first is picked with 3/6, the next with 1/3, together 1/6."""
    values = matrix((0, math.log(2), math.log(3)))
    losses, metrics = reward_listwise(RewardListwise(), listed(values, matrix((2, 1, 3))))
    assert losses.tolist() == pytest.approx([math.log(6)], abs=1e-12)
    # of the pairs (3rd, 1st), (3rd, 2nd), (1st, 2nd) the last is ranked wrongly
    assert metrics["rewards/accuracy"].value == pytest.approx(2 / 3)


def test_regression_by_hand() -> None:
    """Errors 1 and -2: (1 + 4) / 2; the absent third completion does not count."""
    present = torch.tensor([[True, True, False]])
    scores = listed(matrix((2, 1, 9)), matrix((1, 3, 0)), present)
    assert reward_regression(RewardRegression(), scores)[0].tolist() == pytest.approx([2.5])


def test_regression_compatible_by_hand() -> None:
    """p = (3/4, 1/4), y = (1, 0): cross-entropy (-log 3/4 - log 3/4) / 2, ranking (-log 3/4) / 2."""
    scores = listed(matrix((math.log(3), -math.log(3))), matrix((1, 0)))
    [loss] = reward_regression_compatible(RewardRegressionCompatible(ranking_weight=0.25), scores)[0].tolist()
    assert loss == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4 / 3) / 2, abs=1e-12)


# --- other derivations ------------------------------------------------------------------------------------------------


@given(st.lists(reward, min_size=2, max_size=4))
def test_plackett_luce_is_a_distribution_over_orders(values: list[float]) -> None:
    """exp(-loss) over all orders of the list adds up to 1."""
    orders = torch.tensor(list(itertools.permutations(range(len(values)))), dtype=torch.float64)
    rows = torch.tensor([values] * len(orders), dtype=torch.float64)
    losses, _ = reward_listwise(RewardListwise(), listed(rows, orders))
    assert float((-losses).exp().sum()) == pytest.approx(1.0, abs=1e-9)


@given(reward, reward)
def test_plackett_luce_of_two_is_bradley_terry(chosen: float, rejected: float) -> None:
    scores = scores_of(vector(chosen), vector(rejected), labels=matrix((2, 1)))
    assert reward_listwise(RewardListwise(), scores)[0].tolist() == pytest.approx(
        reward_model(RewardModel(), scores)[0].tolist(), abs=1e-12
    )


@given(reward, reward, st.floats(0, 3))
def test_both_forms_of_the_likelihood_are_the_same_function(chosen: float, rejected: float, margin: float) -> None:
    expected = math.log1p(math.exp(rejected - chosen + margin))
    losses, _ = reward_model(RewardModel(margin=margin), scores_of(vector(chosen), vector(rejected)))
    assert losses.tolist() == pytest.approx([expected], abs=1e-12)


def test_the_loss_of_steps_is_that_of_pairs() -> None:
    scores = scores_of(vector(1, -2), vector(0.5, 3))
    expected, _ = reward_model(RewardModel(margin=0.3, label_smoothing=0.1), scores)
    assert torch.equal(reward_step(RewardStep(margin=0.3, label_smoothing=0.1), scores)[0], expected)


# --- optima -----------------------------------------------------------------------------------------------------------


def test_smoothed_labels_have_their_optimum_at_the_odds() -> None:
    """d = m + log((1 - e) / e)."""
    difference = vector(1 + math.log(0.9 / 0.1)).requires_grad_()
    parameters = RewardModel(margin=1, label_smoothing=0.1)
    reward_model(parameters, scores_of(difference, torch.zeros_like(difference)))[0].sum().backward()
    assert difference.grad is not None
    assert difference.grad.abs().item() < 1e-12


def test_soft_labels_have_their_optimum_where_rewards_differ_as_scores() -> None:
    chosen = vector(1.5, -0.5).requires_grad_()
    scores = scores_of(chosen, torch.zeros(2, dtype=torch.float64), labels=matrix((4, 1), (0, 1)))
    reward_soft_labels(RewardSoftLabels(temperature=2), scores)[0].sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.abs().max().item() < 1e-12


TRUTH = (0.9, 0.2, 0.5, 0.65)
"""Probabilities of the labels of four completions."""


def expected_gradient(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], rewards: torch.Tensor
) -> torch.Tensor:
    """`[4]`: gradient of the mean of `loss(rewards, labels)` over all 2^4 labels, weighted by their probabilities."""
    rewards = rewards.detach().clone().requires_grad_()
    truth = vector(*TRUTH)
    total = torch.zeros((), dtype=torch.float64)
    for outcome in itertools.product((0.0, 1.0), repeat=len(TRUTH)):
        labels = vector(*outcome)
        probability = torch.where(labels > 0, truth, 1 - truth).prod()
        total = total + probability * loss(rewards, labels)
    return torch.autograd.grad(total, rewards)[0]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_both_regression_compatible_terms_are_minimal_at_the_true_probabilities(weight: float) -> None:
    """By enumeration of all labels, with sigma(r_k) = P(y_k = 1)."""
    parameters = RewardRegressionCompatible(ranking_weight=weight)

    def loss(rewards: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return reward_regression_compatible(parameters, listed(rewards[None], labels[None]))[0][0]

    optimum = torch.logit(vector(*TRUTH))
    assert expected_gradient(loss, optimum).abs().max().item() < 1e-12
    elsewhere = expected_gradient(loss, optimum + vector(0, 0.5, 0, 0))
    assert elsewhere[1].item() > 1e-3


def test_the_usual_listwise_loss_and_one_over_positives_have_other_minima() -> None:
    """What the objective avoids, so that the test above is seen to tell them apart."""
    optimum = torch.logit(vector(*TRUTH))

    def softmax(rewards: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -(labels * torch.log_softmax(rewards, dim=0)).mean()

    def over_positives(rewards: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        right = logsigmoid(rewards)
        return -(labels * (right - right.logsumexp(dim=0))).sum() / labels.sum().clamp(min=1)

    assert expected_gradient(softmax, optimum).abs().max().item() > 1e-2
    assert expected_gradient(over_positives, optimum).abs().max().item() > 1e-2


# --- limits -----------------------------------------------------------------------------------------------------------


def test_without_their_parameters_margins_and_soft_labels_are_bradley_terry() -> None:
    scores = scores_of(vector(1, -2), vector(0.5, 3), labels=matrix((2, 1), (7, 3)))
    expected = reward_model(RewardModel(), scores)[0]
    torch.testing.assert_close(reward_margin(RewardMargin(margin_scale=1e-12), scores)[0], expected)
    torch.testing.assert_close(reward_soft_labels(RewardSoftLabels(temperature=1e-3), scores)[0], expected)


def test_equal_scores_in_a_list_are_not_compared() -> None:
    values = matrix((1, 2, 3)).requires_grad_()
    losses, metrics = reward_listwise(RewardListwise(), listed(values, matrix((5, 5, 5))))
    losses.sum().backward()
    assert losses.tolist() == [0.0]
    assert values.grad is not None
    assert not values.grad.any()
    assert math.isnan(metrics["rewards/accuracy"].value)
    assert metrics["rewards/accuracy"].count == 0
    swapped = [
        reward_listwise(RewardListwise(), listed(matrix(row), matrix((1, 2, 2))))[0].item()
        for row in ((0.0, 1.0, 2.0), (0.0, 2.0, 1.0))
    ]
    assert swapped[0] == pytest.approx(swapped[1])


@pytest.mark.parametrize("parameters", LISTWISE, ids=name_of)
def test_absent_completions_change_nothing(parameters: Any) -> None:
    short = listed(matrix((1, -1)), matrix((1, 0)))
    present = torch.tensor([[True, True, False]])
    padded = listed(matrix((1, -1, 50)).requires_grad_(), matrix((1, 0, 0.5)), present)
    implementation = implementation_of(parameters)
    expected, expected_metrics = implementation(parameters, short)
    losses, metrics = implementation(parameters, padded)
    torch.testing.assert_close(losses, expected)
    assert values_of(metrics) == pytest.approx(values_of(expected_metrics))
    assert torch.autograd.grad(losses.sum(), padded.values)[0][0, 2] == 0


@pytest.mark.parametrize("parameters", [*PAIRWISE, *LISTWISE], ids=name_of)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_rewards_that_are_far_apart_stay_finite(parameters: Any, size: float) -> None:
    values = torch.tensor([[size, 0.0], [size, -size]], requires_grad=True)
    losses, _ = implementation_of(parameters)(parameters, listed(values, torch.tensor([[1.0, 0.0], [1.0, 0.0]])))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert values.grad is not None
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("parameters", [*PAIRWISE, *LISTWISE], ids=name_of)
def test_gradients(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = 2 if parameters in PAIRWISE else 4
    values = torch.randn(3, columns, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.rand(3, columns, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda v: implementation_of(parameters)(parameters, listed(v, labels))[0], [values])


@pytest.mark.parametrize("parameters", [p for p in [*PAIRWISE, *LISTWISE] if p.needs_scores], ids=name_of)
def test_missing_scores_are_refused(parameters: Any) -> None:
    with pytest.raises(ValueError, match="needs scores"):
        implementation_of(parameters)(parameters, scores_of(vector(1), vector(2)))


@pytest.mark.parametrize("parameters", [*PAIRWISE, *LISTWISE], ids=name_of)
def test_rows_do_not_see_each_other(parameters: Any) -> None:
    values, labels = matrix((1, 2), (-1, 3), (0.2, 0.1)), matrix((1, 0), (0.2, 0.7), (0.5, 0.4))
    implementation = implementation_of(parameters)
    together, metrics = implementation(parameters, listed(values, labels))
    parts = [implementation(parameters, listed(values[row, None], labels[row, None])) for row in range(3)]
    torch.testing.assert_close(together, torch.cat([losses for losses, _ in parts]))
    for name, metric in metrics.items():
        assert metric.value == pytest.approx(sum((part[name] for _, part in parts), Metric(0.0, 0.0)).value)


# --- TRL --------------------------------------------------------------------------------------------------------------


def trl_reward_loss(values: torch.Tensor, margin: torch.Tensor | None, centering: float | None) -> torch.Tensor:
    """`RewardTrainer`'s loss on rewards `[B, 2]`, from a model that returns them as its logits."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.trainer.reward_trainer import RewardTrainer

    trainer: Any = RewardTrainer.__new__(RewardTrainer)
    trainer.__dict__.update(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=centering),
        accelerator=SimpleNamespace(gather=lambda value: value, gather_for_metrics=lambda value: value),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    logits = values.T.reshape(-1, 1)
    inputs = {} if margin is None else {"margin": margin}
    return trainer.compute_loss(lambda **_: SimpleNamespace(logits=logits), dict(inputs))


@pytest.mark.parametrize("centering", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_trl_has_the_same_loss_and_gradient(centering: float | None, with_margin: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(6, 2, dtype=torch.float64, generator=generator).requires_grad_()
    margin = torch.rand(6, dtype=torch.float64, generator=generator)
    coefficient = centering or 0.0
    if with_margin:
        labels = torch.stack([margin, torch.zeros_like(margin)], dim=1)
        ours, _ = reward_margin(RewardMargin(centering_coefficient=coefficient), listed(values, labels))
    else:
        ours, _ = reward_model(RewardModel(centering_coefficient=coefficient), listed(values, torch.zeros(6, 2)))
    theirs = trl_reward_loss(values, margin if with_margin else None, centering)
    assert ours.mean().item() == pytest.approx(theirs.item(), abs=1e-12)
    gradients = [torch.autograd.grad(loss, values, retain_graph=True)[0] for loss in (ours.mean(), theirs)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_the_distance_to_the_reference_is_the_mean_log_ratio_of_all_completions() -> None:
    one = vector(1, 1)
    chosen = Completions(vector(-2, -4), one, reference=vector(-3, -3))
    rejected = Completions(vector(-9, -5), one, reference=vector(-5, -4))
    assert values_of(reference_metrics(chosen, rejected)) == pytest.approx({"kl": (1 - 1 - 4 - 1) / 4})
    assert reference_metrics(Completions(vector(-2), vector(1))) == {}
