"""Wins and calibration: by hand, on data drawn from the stated probabilities, and at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.evaluation import calibration, label_calibration

margins = st.lists(st.floats(-20, 20), min_size=1, max_size=30)


def logit(*probabilities: float) -> torch.Tensor:
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64))


def test_pairs_by_hand() -> None:
    """Stated 0.8, 0.8, 0.3 and 0.5: right, right, wrong with confidence 0.7, and a tie.

    Bins of width 0.1 from 0.5 (five of them): 0.8 twice |2 - 1.6| = 0.4; 0.7 once 0.7; the tie |1/2 - 1/2| = 0.
    """
    found = calibration(logit(0.8, 0.8, 0.3, 0.5), bins=5)
    assert found == pytest.approx(
        {
            "win_accuracy": 2.5 / 4,
            "calibration/ece": (0.4 + 0.7) / 4,
            "calibration/overconfidence": (0.8 + 0.8 + 0.7 + 0.5 - 2.5) / 4,
            "calibration/brier": (0.04 + 0.04 + 0.49 + 0.25) / 4,
            "calibration/log_loss": -math.log(0.8 * 0.8 * 0.3 * 0.5) / 4,
        }
    )


def test_labels_by_hand() -> None:
    """Stated 0.9 and 0.3 for desirable rows, 0.3 for an undesirable one: |1 - 0.9| + |(1 - 0.3) + (0 - 0.3)|."""
    found = label_calibration(logit(0.9, 0.3, 0.3), torch.tensor([True, True, False]), bins=4)
    assert found == pytest.approx(
        {
            "label_accuracy": 2 / 3,
            "calibration/ece": (0.1 + 0.4) / 3,
            "calibration/overconfidence": (0.9 + 0.7 + 0.7 - 2) / 3,
            "calibration/brier": (0.01 + 0.49 + 0.09) / 3,
            "calibration/log_loss": -math.log(0.9 * 0.3 * 0.7) / 3,
        }
    )


def test_probabilities_that_come_true_are_calibrated() -> None:
    """Nine of ten pairs stated at 0.9 are won, three of four at 0.75: no error, whatever the accuracy."""
    stated = logit(*[0.9] * 9, 0.1, *[0.75] * 3, 0.25)
    found = calibration(stated)
    assert found["calibration/ece"] == pytest.approx(0, abs=1e-12)
    assert found["calibration/overconfidence"] == pytest.approx(0, abs=1e-12)
    assert calibration(4 * stated)["calibration/ece"] > 0.05
    assert calibration(4 * stated)["calibration/overconfidence"] > 0.05
    assert calibration(stated / 4)["calibration/overconfidence"] < -0.05


def test_a_model_that_knows_nothing() -> None:
    found = calibration(torch.zeros(7))
    assert found == pytest.approx(
        {
            "win_accuracy": 0.5,
            "calibration/ece": 0.0,
            "calibration/overconfidence": 0.0,
            "calibration/brier": 0.25,
            "calibration/log_loss": math.log(2),
        }
    )


@given(margins)
def test_exchanging_both_sides_exchanges_wins_and_losses(values: list[float]) -> None:
    forwards, backwards = calibration(torch.tensor(values)), calibration(-torch.tensor(values))
    assert forwards["win_accuracy"] + backwards["win_accuracy"] == pytest.approx(1)


@given(margins)
def test_one_bin_is_the_overall_difference_and_more_bins_never_less(values: list[float]) -> None:
    rows = torch.tensor(values)
    one, many = calibration(rows, bins=1), calibration(rows, bins=16)
    assert one["calibration/ece"] == pytest.approx(abs(one["calibration/overconfidence"]), abs=1e-12)
    assert many["calibration/ece"] >= one["calibration/ece"] - 1e-12
    assert 0 <= many["calibration/ece"] <= 1


@given(margins)
def test_pairs_are_labels_of_which_all_are_desirable(values: list[float]) -> None:
    """Brier score, log loss and accuracy are the same; only the bins differ."""
    rows = torch.tensor(values)
    pairs, labels = calibration(rows), label_calibration(rows, torch.ones(len(values), dtype=torch.bool))
    assert labels["label_accuracy"] == pairs["win_accuracy"]
    for name in ("brier", "log_loss", "overconfidence"):
        assert labels[f"calibration/{name}"] == pytest.approx(pairs[f"calibration/{name}"])


def test_huge_margins_stay_finite() -> None:
    found = calibration(torch.tensor([1e4, -1e4]))
    assert all(math.isfinite(value) for value in found.values())
    assert found["calibration/log_loss"] == pytest.approx(5e3)
    assert found["calibration/ece"] == pytest.approx(0.5)


def test_a_margin_that_is_no_number_shows() -> None:
    assert math.isnan(calibration(torch.tensor([1.0, math.nan]))["calibration/ece"])


def test_nothing_says_nothing() -> None:
    assert calibration(torch.zeros(0)) == {}
    assert label_calibration(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == {}
