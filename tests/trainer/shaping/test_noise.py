"""Corrections for noisy verifiers: unbiased by enumeration, by sampling, and in what a policy learns."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline_api.methods.advantage.group import GroupRelative, NoBaseline
from plumbline_api.methods.shaping.noise import BackwardCorrection, ForwardCorrection
from plumbline_trainer.advantages import advantages
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import apply_shaping
from plumbline_trainer.shaping.noise import appealed

RATES = {"false_positive_rate": 0.1, "false_negative_rate": 0.3}
rate = st.floats(0, 0.45)


def shaped(parameters, verdicts, **more):
    return apply_shaping([parameters], judged(verdicts, [0] * len(verdicts), **more), {})[0].rewards


@settings(deadline=None)
@given(false_positive=rate, false_negative=rate, clean=st.sampled_from([0.0, 1.0]))
def test_backward_correction_has_the_clean_reward_as_its_mean(false_positive, false_negative, clean):
    parameters = BackwardCorrection(false_positive_rate=false_positive, false_negative_rate=false_negative)
    of_wrong, of_right = shaped(parameters, [0, 1]).tolist()
    called_right = 1 - false_negative if clean else false_positive
    assert called_right * of_right + (1 - called_right) * of_wrong == pytest.approx(clean, abs=1e-12)


@settings(deadline=None)
@given(false_positive=rate, false_negative=rate)
def test_forward_weights_have_mean_0_for_right_and_a_negative_one_for_wrong(false_positive, false_negative):
    parameters = ForwardCorrection(false_positive_rate=false_positive, false_negative_rate=false_negative)
    called_wrong, called_right = shaped(parameters, [0, 1]).tolist()
    assert (called_wrong, called_right) == pytest.approx((false_negative - 1, false_negative))
    assert (1 - false_negative) * called_right + false_negative * called_wrong == pytest.approx(0, abs=1e-12)
    of_wrong = false_positive * called_right + (1 - false_positive) * called_wrong
    assert of_wrong == pytest.approx(-(1 - false_positive - false_negative))


def test_a_perfect_verifier_is_left_alone():
    assert shaped(BackwardCorrection(), [0, 1, 1]).tolist() == [0, 1, 1]


def test_rates_of_a_verifier_that_says_nothing_are_refused():
    with pytest.raises(ValidationError, match="says nothing"):
        BackwardCorrection(false_positive_rate=0.5, false_negative_rate=0.5)


def noisy_gradients(count, seed):
    """Scores of sampled actions, clean rewards and noisy verdicts of a bandit whose second half of arms is right."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.tensor([1.0, 0.5, 0.0, -0.5], dtype=torch.float64)
    policy = logits.softmax(-1)
    actions = torch.multinomial(policy.expand(count, -1), 1, generator=generator).flatten()
    clean = (actions >= 2).double()
    flips = torch.rand(count, generator=generator, dtype=torch.float64)
    called_right = torch.where(clean > 0, 1 - RATES["false_negative_rate"], RATES["false_positive_rate"])
    return torch.nn.functional.one_hot(actions, 4).double() - policy, clean, (flips < called_right).double()


def test_on_a_bandit_both_corrections_point_where_the_clean_gradient_does():
    scores, clean, verdicts = noisy_gradients(200_000, seed=0)
    exact = (clean[:, None] * scores).mean(0)
    backward = (shaped(BackwardCorrection(**RATES), verdicts)[:, None] * scores).mean(0)
    assert torch.allclose(backward, exact, atol=0.005)
    forward = (shaped(ForwardCorrection(**RATES), verdicts)[:, None] * scores).mean(0)
    assert torch.allclose(forward / 0.6, exact, atol=0.005)
    raw = (verdicts[:, None] * scores).mean(0)
    assert (raw - exact).norm() > 0.3 * exact.norm(), "without a correction the step is too short"


def test_errors_that_know_no_action_shorten_the_expected_gradient_and_do_not_turn_it():
    """E[R | r] is rho0 + c r: what a correction by constant rates restores is the scale."""
    scores, clean, verdicts = noisy_gradients(1_000_000, seed=1)
    exact = (clean[:, None] * scores).mean(0)
    for rewards in (
        verdicts,
        shaped(BackwardCorrection(**RATES), verdicts),
        shaped(ForwardCorrection(**RATES), verdicts),
    ):
        found = (rewards[:, None] * scores).mean(0)
        assert float(torch.nn.functional.cosine_similarity(found, exact, dim=0)) > 0.9999
    raw = (verdicts[:, None] * scores).mean(0)
    assert float(raw.norm() / exact.norm()) == pytest.approx(0.6, abs=0.01)


def test_a_deviation_of_the_group_removes_the_backward_and_a_baseline_the_forward_correction():
    verdicts = torch.tensor([1.0, 0, 0, 1, 0], dtype=torch.float64)
    plain = judged(verdicts, [0] * 5)
    for parameters, estimator in [
        (BackwardCorrection(**RATES), GroupRelative(epsilon=1e-12)),
        (ForwardCorrection(**RATES), GroupRelative(normalize="none")),
    ]:
        corrected, _, _ = apply_shaping([parameters], plain, {})
        assert torch.allclose(advantages(estimator, corrected), advantages(estimator, plain))
    assert ForwardCorrection.removed_by_baselines
    corrected, _, _ = apply_shaping([ForwardCorrection(**RATES)], plain, {})
    assert not torch.allclose(advantages(NoBaseline(), corrected), advantages(NoBaseline(), plain))


def test_a_component_is_corrected_added_and_shown_to_later_steps():
    component = torch.tensor([1.0, 0.0], dtype=torch.float64)
    rollout = judged([0.5, 0.5], [0, 0], components={"correct": component})
    parameters = BackwardCorrection(component="correct", weight=2, **RATES)
    after, _, _ = apply_shaping([parameters], rollout, {})
    corrected = [0.9 / 0.6, -0.1 / 0.6]
    assert after.components["correct"].tolist() == pytest.approx(corrected)
    assert after.rewards.tolist() == pytest.approx([0.5 + 2 * value for value in corrected])
    assert component.tolist() == [1.0, 0.0]


def test_beside_another_component_only_the_corrected_verdict_keeps_the_best_action():
    """An action that is right beats one that pleases by 0.9; noise halves the first part and turns the order round."""
    right = torch.tensor([1.0, 0.0], dtype=torch.float64)
    pleasing = torch.tensor([0.0, 0.9], dtype=torch.float64)
    called = torch.where(right > 0, 1 - RATES["false_negative_rate"], RATES["false_positive_rate"])

    def expected(parameters):
        def total(verdict):
            rollout = judged([0, 0.9], [0, 0], components={"correct": torch.full((2,), verdict, dtype=torch.float64)})
            return apply_shaping([parameters], rollout, {})[0].rewards

        return called * total(1.0) + (1 - called) * total(0.0)

    corrected = expected(BackwardCorrection(component="correct", **RATES))
    raw = expected(BackwardCorrection(component="correct"))
    assert corrected.tolist() == pytest.approx((right + pleasing).tolist())
    assert raw[0] < raw[1], "0.7 against 1.0"
    assert corrected[0] > corrected[1]


def test_appeals_by_hand():
    # 4 called right; of 6 called wrong 3 are judged again and 1 is overturned: 2 missed of 6
    verdict = torch.tensor([1.0] * 4 + [0.0] * 6)
    opinion = torch.tensor([1.0] * 4 + [1, 0, 0, torch.nan, torch.nan, torch.nan])
    valid = torch.ones(10, dtype=torch.bool)
    assert appealed(verdict, opinion, valid, 0.0) == (2, 6)
    # a fifth of the wrong ones is called right: the 4 others called wrong stand for 1 among the 4
    assert appealed(verdict, opinion, valid, 0.2) == pytest.approx((2, 5))
    nobody = torch.full((10,), torch.nan)
    assert appealed(verdict, nobody, valid, 0.0) == (0, 4)


def appeal_parameters(momentum):
    return BackwardCorrection(
        false_positive_rate=0.1, false_negative_rate=0.05, appeal={"component": "judge", "momentum": momentum}
    )


def noisy_rollout(seed, count=200):
    generator = torch.Generator().manual_seed(seed)
    clean = (torch.rand(count, generator=generator) < 0.4).double()
    flips = torch.rand(count, generator=generator)
    verdict = (flips < torch.where(clean > 0, 0.7, 0.1)).double()
    return judged(verdict, [0] * count, components={"judge": clean}), clean


def test_appeals_find_the_rate_and_the_mean_of_corrected_rewards_becomes_the_clean_one():
    states: dict = {}
    for seed in range(300):
        rollout, _ = noisy_rollout(seed)
        _, states, metrics = apply_shaping([appeal_parameters(0.99)], rollout, states)
    found = metrics["shaping/backwardCorrection/false_negative_rate"].value
    assert found == pytest.approx(0.3, abs=0.02)
    means = []
    for seed in range(300, 500):
        rollout, clean = noisy_rollout(seed)
        after, _, _ = apply_shaping([appeal_parameters(0.99)], rollout, states)
        means.append(float(after.rewards.mean() - clean.mean()))
    assert sum(means) / len(means) == pytest.approx(0, abs=0.02)


def test_the_rate_begins_as_given_and_continues_exactly_from_a_checkpoint():
    first, _ = noisy_rollout(0)
    _, states, metrics = apply_shaping([appeal_parameters(0.9)], first, {})
    assert metrics["shaping/backwardCorrection/false_negative_rate"].value == 0.05
    second, _ = noisy_rollout(1)
    straight = apply_shaping([appeal_parameters(0.9)], second, states)
    resumed = apply_shaping([appeal_parameters(0.9)], second, json.loads(json.dumps(states)))
    assert straight[0].rewards.tolist() == resumed[0].rewards.tolist()
    assert straight[1] == resumed[1]


def test_an_estimated_rate_never_makes_the_verifier_useless():
    everything_missed = judged([0.0] * 4, [0] * 4, components={"judge": torch.ones(4, dtype=torch.float64)})
    _, states, _ = apply_shaping([appeal_parameters(0.5)], everything_missed, {})
    after, _, _ = apply_shaping(
        [appeal_parameters(0.5)], judged([1.0, 0.0], [0, 0], components={"judge": torch.ones(2)}), states
    )
    assert after.rewards.tolist() == pytest.approx([0.9 / 0.05, -0.1 / 0.05])
