"""Where answers stand in a text: LC-R1's rewards and the metrics of overthinking, on traces made by hand."""

import itertools

import pytest
import torch

from plumbline_api.methods.shaping.thinking import LengthCompression, SolutionEfficiency
from plumbline_trainer.data.solution_rounds import answers, same
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import Evidence, apply_shaping
from plumbline_trainer.shaping.thinking import distinct_share

SHORT = "2+3 is 5</think>5"
CHECKED = "2+3 is 5. Wait, 2+3? 5. Again: 5. So 5</think>5"
REMOVED = "2+3, I know that</think>5"
UNTHOUGHT = "The answer is 5"


def compress(texts, correct=None, groups=None, **parameters):
    """The shaped rollout of completions in which every character is a token."""
    lengths = [len(text) for text in texts]
    correct = [True] * len(texts) if correct is None else correct
    rollout = judged(
        [float(right) for right in correct],
        [0] * len(texts) if groups is None else groups,
        lengths=lengths,
        correct=torch.tensor(correct),
        texts=texts,
        columns=[{"answer": "5"}] * len(texts),
    )
    evidence = Evidence(token_ends=[range(1, length + 1) for length in lengths])
    return apply_shaping([LengthCompression(**parameters)], rollout, {}, evidence)


def test_the_place_behind_the_first_right_answer_loses_by_what_follows():
    after, _, metrics = compress([SHORT, CHECKED, REMOVED, UNTHOUGHT], length_weight=0)
    rewards = after.token_rewards
    place, thinking = CHECKED.index("5") + 1, CHECKED.index("</think>")
    assert float(rewards[1, place]) == pytest.approx(place / thinking - 1)
    assert float(rewards[2, REMOVED.index("</think>")]) == -1
    assert rewards.sum(1).tolist() == pytest.approx([0, place / thinking - 1, -1, 0])
    assert (rewards != 0).sum(1).tolist() == [0, 1, 1, 0]
    assert metrics["shaping/lengthCompression/answer_found"].value == pytest.approx(2 / 3)
    assert metrics["shaping/lengthCompression/valid_thinking"].value == pytest.approx((1 + place / thinking) / 2)


def test_short_traces_earn_more_than_checked_ones_and_those_more_than_none():
    after, _, _ = compress([SHORT, CHECKED, REMOVED], length_weight=0)
    short, checked, removed = after.token_rewards.sum(1).tolist()
    assert short > checked > removed


def test_length_reward_is_relative_to_the_longest_right_completion():
    after, _, _ = compress(["5" * 10, "5" * 40, "5" * 80], correct=[True, True, False])
    assert after.rewards.tolist() == [1 + 0.75, 1, 0]


def test_wrong_completions_get_nothing():
    after, _, _ = compress([CHECKED], correct=[False])
    assert after.rewards.tolist() == [0]
    assert after.token_rewards is None


def test_stopping_where_the_answer_is_found_becomes_likelier():
    """A policy that thinks on with probability q behind the answer, up to nine characters; exact gradient ascent."""
    logit = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    chance = []
    for _ in range(60):
        on = torch.sigmoid(logit)
        chance.append(on.item())
        value = torch.zeros(1, dtype=torch.float64)
        for more in range(10):
            after, _, _ = compress(["5" + "." * more + "</think>5"], length_weight=0)
            reward = float(after.token_rewards[0, 1]) if after.token_rewards is not None else 0.0
            probability = on**more * (1 - on if more < 9 else 1)
            value = value + probability * reward
        (gradient,) = torch.autograd.grad(value, logit)
        logit = (logit + 2 * gradient).detach().requires_grad_()
    assert all(later < earlier for earlier, later in itertools.pairwise(chance))
    assert chance[-1] < 0.1


@pytest.mark.parametrize(
    ("found", "answer", "expected"),
    [
        ("5", "5", True),
        ("5.0", "5", True),
        ("1,000", "1000", True),
        (" x + 1", "x+1", True),
        ("6", "5", False),
        ("a", "5", False),
    ],
)
def test_equal_answers(found, answer, expected):
    assert same(found, answer) is expected


def test_answers_are_the_first_group_or_the_whole_match():
    assert list(answers("a 5 b 66", r"\d+")) == [(3, "5"), (8, "66")]
    assert list(answers(r"\boxed{5}", r"\\boxed\{([^{}]*)\}")) == [(9, "5")]
    assert list(answers("abc", r"x*")) == []


# Two equal solutions and one that differs, each ended by a box; 25 characters each.
FIRST = r"two plus three: \boxed{5}"
AGAIN = r"three plus two: \boxed{5}"
OTHER = r"count fingers!! \boxed{5}"
WRONG = r"two minus three \boxed{1}"


def efficiencies(texts, correct, **parameters):
    rollout = judged(
        [float(right) for right in correct],
        [0] * len(texts),
        correct=torch.tensor(correct),
        texts=texts,
        columns=[{"answer": "5"}] * len(texts),
    )
    after, _, metrics = apply_shaping([SolutionEfficiency(**parameters)], rollout, {})
    name = "shaping/solutionEfficiency/"
    return after.rewards.tolist(), metrics[name + "outcome"].value, metrics[name + "process"].value


def test_efficiencies_of_traces_made_by_hand():
    assert {len(text) for text in (FIRST, AGAIN, OTHER, WRONG)} == {25}
    assert efficiencies([FIRST], [True])[1:] == (1, 1)
    # the first of three solutions is right, and the second repeats it
    assert efficiencies([FIRST + AGAIN + OTHER], [True])[1:] == pytest.approx((1 / 3, 2 / 3))
    # right only at the second attempt, which differs
    assert efficiencies([WRONG + OTHER], [True])[1:] == (1, 1)
    # a wrong completion has no outcome efficiency
    assert efficiencies([FIRST + AGAIN], [False])[1:] == (0, 0.5)
    assert efficiencies([FIRST, FIRST + AGAIN], [True, True])[1:] == (0.75, 0.75)


def test_efficiency_is_a_reward_only_with_a_weight():
    texts = [FIRST + AGAIN, WRONG]
    assert efficiencies(texts, [True, False])[0] == [1, 0]
    assert efficiencies(texts, [True, False], weight=0.5)[0] == [1.25, 0]


def test_what_follows_the_last_answer_belongs_to_the_last_solution():
    assert distinct_share(FIRST + AGAIN + " done", r"\\boxed\{([^{}]*)\}", 0.6) == pytest.approx(25 / 55)
    assert distinct_share("no answer at all", r"\\boxed\{([^{}]*)\}", 0.6) == 1
