"""Which samples stay: by hand, by brute force, and in whatever order they come."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.exploration.selection import MaxVariance, ProcessConsistency
from plumbline_trainer.advantages import advantages
from plumbline_trainer.exploration import SELECTIONS, select
from plumbline_trainer.rollout.judged import judged

NAN = float("nan")


def scored(rewards, scores, groups=None, valid=None):
    groups = [0] * len(rewards) if groups is None else groups
    return judged(rewards, groups, valid, components={"steps": torch.tensor(scores, dtype=torch.float64)})


def kept(parameters, rollout):
    return torch.nonzero(select(parameters, rollout).valid).flatten().tolist()


def prof(keep, **more):
    return ProcessConsistency(component="steps", keep=keep, **more)


def test_every_selection_of_the_api_is_implemented():
    assert SELECTIONS.missing() == []


def test_without_parameters_all_stay():
    rollout = scored([1, 0], [0.1, 0.2])
    assert select(None, rollout) is rollout


def test_right_ones_of_high_and_wrong_ones_of_low_process_score_stay():
    rewards = [1, 1, 1, 1, 1, 0, 0, 0]
    scores = [0.9, 0.1, 0.5, 0.8, 0.3, 0.7, 0.2, 0.4]
    assert kept(prof(4), scored(rewards, scores)) == [0, 3, 6, 7]
    assert kept(prof(6), scored(rewards, scores)) == [0, 2, 3, 5, 6, 7]
    assert kept(prof(5), scored(rewards, scores)) == [0, 2, 3, 6, 7]  # the odd one is of the larger side


def test_a_side_with_too_few_keeps_all_and_the_other_fills_up():
    scores = [0.9, 0.1, 0.5, 0.8, 0.3, 0.7]
    assert kept(prof(4), scored([0, 0, 1, 0, 0, 0], scores)) == [1, 2, 4, 5]
    assert kept(prof(4), scored([1, 1, 1, 1, 1, 0], scores)) == [0, 2, 3, 5]
    assert kept(prof(2), scored([1] * 6, scores)) == [0, 3]
    assert kept(prof(2), scored([0] * 6, scores)) == [1, 4]


def test_without_balance_the_proportion_stays():
    rollout = scored([1, 1, 1, 1, 1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert kept(prof(4, balance=False), rollout) == [3, 4, 5, 6]
    assert kept(prof(4), rollout) == [4, 5, 6, 7]


def test_a_failed_process_score_is_the_first_of_its_side_to_go():
    assert kept(prof(2), scored([1, 1, 0, 0], [NAN, 0.0, NAN, 1.0])) == [1, 3]


def test_groups_are_chosen_from_apart_and_what_is_not_valid_does_not_count():
    rewards, groups = [1, 0, 1, 0, 0, 1, 0, 0], [7, 3, 7, 3, 7, 3, 7, 3]
    scores = [0.9, 0.1, 0.2, 0.5, 0.3, 0.5, 0.4, 0.0]
    rollout = scored(rewards, scores, groups, [True] * 7 + [False])
    assert kept(prof(2), rollout) == [0, 1, 4, 5]


def test_keeping_all_is_grpo():
    rollout = scored([1, 0, 0, 1], [0.9, 0.1, 0.8, 0.3])
    for parameters in (prof(4), prof(9), MaxVariance(keep=4)):
        chosen = select(parameters, rollout)
        assert torch.equal(advantages(GroupRelative(), chosen), advantages(GroupRelative(), rollout))


def test_advantages_are_of_the_kept_ones_alone():
    rollout = scored([1, 1, 1, 0], [0.9, 0.1, 0.2, 0.3])
    found = advantages(GroupRelative(normalize="none"), select(prof(2), rollout))
    assert found.tolist() == [0.5, 0, 0, -0.5]


def test_an_unknown_component_is_named():
    with pytest.raises(KeyError, match="no reward component is named steps"):
        select(prof(2), judged([1, 0, 1], [0, 0, 0]))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), min_size=3, max_size=12), st.integers(2, 11))
def test_balance_never_gets_worse_and_the_number_is_right(samples, keep):
    rewards = [float(right) for right, _ in samples]
    rollout = scored(rewards, [score / 50 for _, score in samples])
    chosen = kept(prof(keep), rollout)
    assert len(chosen) == min(keep, len(samples))
    right = sum(rewards[place] for place in chosen)
    all_right = sum(rewards)
    assert abs(2 * right - len(chosen)) <= max(1, abs(2 * all_right - len(samples)))


distinct = st.lists(st.integers(0, 10_000), min_size=4, max_size=9, unique=True)


@given(distinct, st.data())
@pytest.mark.parametrize("parameters", [prof(3), MaxVariance(keep=3)], ids=["prof", "maxVariance"])
def test_what_stays_does_not_depend_on_the_order(parameters, values, data):
    order = data.draw(st.permutations(range(len(values))))
    rewards = [float(value) for value in values]
    rollout = scored(rewards, [value / 1e4 for value in values])
    rollout = replace(rollout, correct=torch.tensor([value % 2 == 0 for value in values]))
    shuffled = scored([rewards[place] for place in order], [values[place] / 1e4 for place in order])
    shuffled = replace(shuffled, correct=rollout.correct[list(order)])
    here, there = kept(parameters, rollout), sorted(order[place] for place in kept(parameters, shuffled))
    if isinstance(parameters, MaxVariance):  # several subsets may have the largest variance
        found = [torch.tensor([rewards[place] for place in chosen]).double().var() for chosen in (here, there)]
        torch.testing.assert_close(*found)
    else:
        assert here == there


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.integers(2, 8))
def test_no_other_subset_has_a_larger_variance(rewards, keep):
    count = min(keep, len(rewards))
    values = torch.tensor(rewards, dtype=torch.float64)
    chosen = kept(MaxVariance(keep=keep), judged(rewards, [0] * len(rewards)))
    assert len(chosen) == count
    best = max(float(values[list(some)].var(correction=0)) for some in combinations(range(len(rewards)), count))
    assert float(values[chosen].var(correction=0)) == pytest.approx(best, abs=1e-9)


def test_binary_rewards_are_split_in_halves():
    assert kept(MaxVariance(keep=4), judged([1, 0, 0, 0, 0, 1, 1, 0], [0] * 8)) in ([0, 1, 2, 5], [1, 2, 5, 6])
    few = select(MaxVariance(keep=4), judged([1, 0, 0, 0, 0, 0, 0, 0], [0] * 8))
    assert few.valid.sum() == 4 and few.valid[0]


def test_a_noisy_process_score_is_hacked_by_blending_but_not_by_filtering():
    """Three ways to answer: right, wrong, and wrong with a high process score. Expected GRPO updates, two ways."""

    def learn(reward_of, selection, steps=300):
        generator = torch.Generator().manual_seed(0)
        logits = torch.zeros(3, dtype=torch.float64)
        for _ in range(steps):
            probabilities = logits.softmax(0)
            drawn = torch.multinomial(probabilities, 8, replacement=True, generator=generator)
            process = torch.tensor([0.4, 0.2, 1.0], dtype=torch.float64)[drawn]
            right = (drawn == 0).double()
            rollout = judged(reward_of(right, process), [0] * 8, components={"steps": process})
            rollout = select(selection, replace(rollout, correct=right.bool()))
            estimated = advantages(GroupRelative(), rollout)
            for answer, advantage in zip(drawn.tolist(), estimated.tolist(), strict=True):
                logits += 0.02 * advantage * (torch.nn.functional.one_hot(torch.tensor(answer), 3) - probabilities)
        return logits.softmax(0)

    blended = learn(lambda right, process: right + 2 * process, None)
    filtered = learn(lambda right, process: right, prof(4))
    assert blended[2] > 0.8
    assert filtered[0] > 0.9
