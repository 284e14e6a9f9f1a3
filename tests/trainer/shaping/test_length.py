"""Length rewards against the papers' formulas and hand-computed numbers."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline_api.methods.shaping.length import (
    CosineLength,
    ExactLengthTarget,
    GatedLength,
    KimiLength,
    LinearLength,
    MaximumLengthTarget,
    SoftOverlong,
    Truncated,
)
from plumbline_trainer.failures import DataError
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import apply_shaping


def shaped(parameters, rewards, lengths, groups=None, limit=100, **more):
    groups = [0] * len(rewards) if groups is None else groups
    rollout = judged(rewards, groups, lengths=lengths, max_completion_tokens=limit, **more)
    return apply_shaping([parameters], rollout, {})[0]


def rewards_of(*arguments, **more):
    return shaped(*arguments, **more).rewards.tolist()


def test_linear_penalty_is_a_share_of_the_limit():
    assert rewards_of(LinearLength(coefficient=0.5), [1, 0], [50, 50]) == [0.75, 0]
    assert rewards_of(LinearLength(coefficient=0.5, only_correct=False), [1, 0], [50, 100]) == [0.75, -0.5]


def test_cosine_reaches_the_papers_ends_and_their_mean_in_the_middle():
    assert rewards_of(CosineLength(), [1, 1, 1, 0, 0, 0], [0, 50, 100, 0, 50, 100]) == pytest.approx(
        [2, 1.5, 1, -10, -5, 0]
    )


def test_cosine_gives_what_was_cut_off_a_value_of_its_own():
    cut = torch.tensor([True, True, False])
    assert rewards_of(CosineLength(exceeded=-10), [1, 0, 0], [100, 100, 100], truncated=cut) == [-10, -10, 0]


def test_cosine_keeps_other_components():
    # 1 for the answer and 0.1 for the format: the 1 becomes 1.5, the 0.1 stays
    assert rewards_of(CosineLength(), [1.1], [50]) == pytest.approx([1.6])


@pytest.mark.parametrize("parameters", [CosineLength(), MaximumLengthTarget(tokens=40, coefficient=0.01)])
def test_right_completions_earn_less_the_longer_they_are(parameters):
    rewards = rewards_of(parameters, [1] * 101, range(101))
    assert all(later <= earlier for earlier, later in itertools.pairwise(rewards))
    assert rewards[-1] < rewards[0]


def test_cosine_makes_wrong_completions_lose_less_the_longer_they_are():
    rewards = rewards_of(CosineLength(), [0] * 101, range(101))
    assert all(later > earlier for earlier, later in itertools.pairwise(rewards))


@settings(deadline=None)
@given(length=st.integers(0, 100), cache=st.integers(1, 100))
def test_soft_overlong_is_equation_13_of_dapo_as_trl_has_it(length, cache):
    from trl.rewards import get_soft_overlong_punishment

    [expected] = get_soft_overlong_punishment(100, cache)([[1] * length])
    [found] = rewards_of(SoftOverlong(buffer_fraction=cache / 100), [0], [length])
    assert found == pytest.approx(expected, abs=1e-9)


def test_overlong_filtering_takes_completions_out_of_everything():
    result = shaped(Truncated(), [1, 0, 1], [5, 100, 5], truncated=torch.tensor([False, True, False]))
    assert result.valid.tolist() == [True, False, True]
    assert result.rewards.tolist() == [1, 0, 1]


def test_truncated_completions_are_fined_or_get_a_reward_of_their_own():
    cut = torch.tensor([True, False])
    assert rewards_of(Truncated(action="add", value=-0.5), [1, 1], [9, 9], truncated=cut) == [0.5, 1]
    assert rewards_of(Truncated(action="replace", value=-0.5), [1, 1], [9, 9], truncated=cut) == [-0.5, 1]


def test_kimi_rewards_the_shortest_and_never_a_wrong_one():
    # lengths 10, 20, 30 give 1/2, 0, -1/2
    assert rewards_of(KimiLength(), [1, 1, 1], [10, 20, 30]) == [1.5, 1, 0.5]
    assert rewards_of(KimiLength(), [0, 0, 0], [10, 20, 30]) == [0, 0, -0.5]
    assert rewards_of(KimiLength(weight=2), [1, 0], [10, 30]) == [2, -1]


def test_kimi_compares_within_the_group_and_needs_two_lengths():
    assert rewards_of(KimiLength(), [1, 1, 1, 1], [10, 1000, 20, 1000], groups=[0, 1, 0, 1]) == [1.5, 1, 0.5, 1]


def test_kimi_waits_for_its_start():
    settings = {"step": 9, "steps": 100}
    assert rewards_of(KimiLength(start_fraction=0.1), [1, 1], [1, 9], **settings) == [1, 1]
    assert rewards_of(KimiLength(start_fraction=0.1), [1, 1], [1, 9], **{**settings, "step": 10}) == [1.5, 0.5]


def test_exact_target_subtracts_the_distance():
    parameters = ExactLengthTarget(tokens=1000, coefficient=0.0003)
    assert rewards_of(parameters, [1, 1, 0], [1000, 900, 1200]) == pytest.approx([1, 0.97, -0.06])


def test_maximum_target_is_clipped_and_only_for_right_completions():
    parameters = MaximumLengthTarget(tokens=1000, coefficient=0.001, offset=0.5)
    assert rewards_of(parameters, [1, 1, 1, 1, 0], [1000, 100, 900, 1700, 100]) == pytest.approx([0.5, 1, 0.6, 0, 0])


@pytest.mark.parametrize("parameters", [ExactLengthTarget(column="want"), MaximumLengthTarget(column="want")])
def test_a_row_without_a_target_keeps_its_reward(parameters):
    assert rewards_of(parameters, [1, 0], [7, 7], columns=[{}, {"want": None}]) == [1, 0]


def test_targets_come_from_the_row():
    columns = [{"want": 10}, {"want": 20}]
    assert rewards_of(ExactLengthTarget(column="want", coefficient=0.01), [1, 1], [20, 20], columns=columns) == [0.9, 1]


@pytest.mark.parametrize("value", ["ten", True, -1])
def test_a_target_that_is_no_length_is_refused(value):
    with pytest.raises(DataError, match="want"):
        shaped(ExactLengthTarget(column="want"), [1], [1], columns=[{"want": value}])


@pytest.mark.parametrize("model", [ExactLengthTarget, MaximumLengthTarget])
@pytest.mark.parametrize("fields", [{}, {"tokens": 5, "column": "want"}])
def test_a_target_is_one_number_or_one_column(model, fields):
    with pytest.raises(ValidationError, match="tokens"):
        model(**fields)


def test_gated_penalty_by_ratio_leaves_hard_groups_alone():
    # ten completions a group: one right in the first, nine in the second
    rewards = [1, *[0] * 9, *[1] * 9, 0]
    lengths = [10 + index for index in range(20)]
    found = rewards_of(GatedLength(min_correct_ratio=0.8), rewards, lengths, groups=[0] * 10 + [1] * 10)
    assert found[:10] == rewards[:10]
    assert found[19] == 0
    gated = found[10:19]
    assert gated == sorted(gated, reverse=True)
    assert len(set(gated)) == 9


def test_gated_penalty_by_hand():
    # right lengths 10 and 30: mean 20, deviation 10; the wrong one does not count
    found = rewards_of(GatedLength(alpha=0.2, top_fraction=1), [1, 1, 0], [10, 30, 500])
    assert found == pytest.approx([1 - 0.2 / (1 + math.e), 1 - 0.2 / (1 + math.exp(-1)), 0])


def test_gated_penalty_by_rank_takes_the_best_share_and_its_ties():
    rewards = [1, 0, 1, 1, 1, 1, 0, 0, 1, 0]
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    found = shaped(GatedLength(top_fraction=0.2), rewards, [1, 2] * 5, groups=groups)
    changed = found.rewards != torch.tensor(rewards, dtype=torch.float64)
    assert changed.tolist() == [False, False, True, True, True, True, False, False, False, False]


def test_a_gate_of_a_fifth_opens_one_of_five_groups():
    rewards = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    found = shaped(GatedLength(top_fraction=0.2), rewards, [1, 2] * 5, groups=[0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    assert (found.rewards != torch.tensor(rewards, dtype=torch.float64)).nonzero().flatten().tolist() == [0, 1]


# A policy chooses among lengths. Longer answers are right more often; half of the prompts are easy.
LENGTHS = torch.tensor([10, 20, 40, 80])
RIGHT_IF_EASY = torch.tensor([0.9, 0.95, 0.98, 1.0])
RIGHT_IF_HARD = torch.tensor([0.0, 0.1, 0.4, 0.8])


def trained(parameters, seed):
    """Accuracy and mean length after policy-gradient steps with group-relative advantages on sampled groups."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.zeros(2, 4, dtype=torch.float64)
    chances = torch.stack([RIGHT_IF_EASY, RIGHT_IF_HARD]).double()
    prompts, samples = 16, 16
    groups = torch.arange(prompts).repeat_interleave(samples)
    kind = groups % 2
    for _ in range(300):
        policy = logits.softmax(-1)
        actions = torch.multinomial(policy[kind], 1, generator=generator).flatten()
        right = torch.rand(len(actions), generator=generator) < chances[kind, actions]
        result = shaped(parameters, right.double(), LENGTHS[actions], groups=groups)
        rewards = result.rewards.view(prompts, samples)
        advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
        scores = torch.nn.functional.one_hot(actions, 4).double() - policy[kind]
        logits.index_add_(0, kind, advantages[:, None] * scores, alpha=4.0 / len(actions))
    policy = logits.softmax(-1)
    return (policy * chances).sum(1), (policy * LENGTHS).sum(1)


def test_gating_shortens_easy_answers_and_keeps_the_accuracy_on_hard_ones():
    free, free_length = trained(GatedLength(alpha=0), seed=0)
    penalty = 1.5
    always, always_length = trained(GatedLength(alpha=penalty, top_fraction=1), seed=0)
    gated, gated_length = trained(GatedLength(alpha=penalty, min_correct_ratio=0.85), seed=0)
    assert free[1] > 0.7
    assert always[1] < free[1] - 0.3, "without a gate the penalty makes hard prompts collapse"
    assert gated[1] > free[1] - 0.1
    assert gated_length[0] < free_length[0] * 0.6
    assert always_length[1] < free_length[1] * 0.6
