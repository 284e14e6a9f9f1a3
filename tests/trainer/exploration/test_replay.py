"""The replay buffer: the law of its draws, what it forgets, that it resumes, and what it is good for."""

import json
import math

import numpy as np
import pytest
import torch

from plumbline_api.methods.exploration.replay import PossibilityPassRate, Selective
from plumbline_trainer.exploration import REPLAYS
from plumbline_trainer.rollout.experience import Experience


def sample(row, advantage=1.0, reward=1.0, logprobs=(-0.5,), old=None):
    length = len(logprobs)
    return Experience(
        slot=row,
        sample=3,
        row=row,
        tokens=list(range(length)),
        sampled_logprobs=torch.tensor(logprobs),
        advantages=torch.full((length,), advantage),
        reward=reward,
        old_logprobs=None if old is None else torch.tensor(old),
    )


def opened(parameters, seed=0):
    return REPLAYS.of(parameters)(parameters, seed)


def rows(experiences):
    return [experience.row for experience in experiences]


def test_every_replay_of_the_api_is_implemented():
    assert REPLAYS.missing() == []


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_single_draws_follow_the_absolute_advantage_to_the_power_of_alpha(alpha):
    buffer = opened(Selective(alpha=alpha, max_age=100_000))
    sizes = [0.25, -0.5, 1.0, -2.0]
    buffer.add(0, [sample(row, size) for row, size in enumerate(sizes)])
    counts = np.zeros(4)
    for number in range(1, 1501):
        [drawn] = buffer.draw(number, learnt=0, silent=1, first_slot=0)
        counts[drawn.row] += 1
    weights = np.abs(sizes) ** alpha
    expected = 1500 * weights / weights.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square with 3 degrees of freedom, p = 0.001


def test_draws_do_not_repeat_and_the_second_follows_what_is_left():
    buffer = opened(Selective(max_age=100_000))
    buffer.add(0, [sample(row, size) for row, size in enumerate([1.0, 2.0, 5.0])])
    pairs = [rows(buffer.draw(number, learnt=0, silent=2, first_slot=0)) for number in range(1, 1501)]
    assert all(len(set(pair)) == 2 for pair in pairs)
    # P(5 then 2) = 5/8 * 2/3
    assert sum(pair == [2, 1] for pair in pairs) / 1500 == pytest.approx(5 / 8 * 2 / 3, abs=4 * math.sqrt(0.24 / 1500))


def test_p2_value_by_hand():
    buffer = opened(PossibilityPassRate(alpha=0.25))
    [right, half, above] = [
        sample(0, reward=1.0, logprobs=(-1.0, -3.0)),
        sample(1, reward=0.5, logprobs=(-0.1,)),
        sample(2, reward=7.0, logprobs=(-50.0,)),
    ]
    assert buffer.priority(right) == pytest.approx(0.25 * math.exp(-2) + 0.75)
    assert buffer.priority(half) == pytest.approx(0.25 * math.exp(-0.1) + 0.375)
    assert buffer.priority(above) == pytest.approx(0.75)
    assert opened(PossibilityPassRate(alpha=0.0)).priority(sample(3, reward=-1.0)) == 0


def test_failed_samples_are_replayed_too_but_what_has_no_priority_is_not_kept():
    buffer = opened(PossibilityPassRate(alpha=0.5, share=1.0))
    buffer.add(0, [sample(0, reward=0.0)])
    assert rows(buffer.draw(1, learnt=4, silent=0, first_slot=0)) == [0]
    silent = opened(Selective(alpha=0.0))
    silent.add(0, [sample(0, advantage=0.0), sample(1)])
    assert [stored.experience.row for stored in silent.stored] == [1]


def test_the_lowest_priority_goes_first_and_of_equal_ones_the_oldest():
    buffer = opened(Selective(capacity=3))
    buffer.add(0, [sample(0, 1.0), sample(1, 3.0)])
    buffer.add(1, [sample(2, 1.0), sample(3, 2.0), sample(4, 0.5)])
    assert [stored.experience.row for stored in buffer.stored] == [1, 2, 3]


def test_what_is_too_old_is_forgotten():
    buffer = opened(Selective(max_age=2))
    buffer.add(0, [sample(0)])
    buffer.add(1, [sample(1)])
    assert sorted(rows(buffer.draw(2, learnt=0, silent=5, first_slot=0))) == [0, 1]
    assert rows(buffer.draw(3, learnt=0, silent=5, first_slot=0)) == [1]
    assert buffer.draw(9, learnt=0, silent=5, first_slot=0) == []


def test_how_many_are_replayed():
    some = [sample(row) for row in range(40)]
    filling, sharing = opened(Selective()), opened(PossibilityPassRate(share=0.25))
    for buffer in (filling, sharing):
        buffer.add(0, some)
    assert len(filling.draw(1, learnt=6, silent=26, first_slot=0)) == 26
    assert len(filling.draw(1, learnt=32, silent=0, first_slot=0)) == 0
    assert len(filling.draw(1, learnt=0, silent=64, first_slot=0)) == 40
    assert len(sharing.draw(1, learnt=32, silent=0, first_slot=0)) == 8


def test_replayed_samples_have_slots_of_their_own_and_behaviour_logprobs():
    buffer = opened(Selective())
    buffer.add(0, [sample(0, old=(-0.7,)), sample(1, logprobs=(-0.2, -0.3))])
    drawn = {experience.row: experience for experience in buffer.draw(1, learnt=0, silent=2, first_slot=16)}
    assert sorted(experience.slot for experience in drawn.values()) == [16, 17]
    assert {experience.sample for experience in drawn.values()} == {0}
    torch.testing.assert_close(drawn[0].old_logprobs, torch.tensor([-0.7]))
    torch.testing.assert_close(drawn[1].old_logprobs, torch.tensor([-0.2, -0.3]))


@pytest.mark.parametrize("parameters", [Selective(capacity=6, max_age=3), PossibilityPassRate(capacity=6, max_age=3)])
def test_a_resumed_buffer_goes_on_exactly(parameters):
    def run(buffer, numbers):
        drawn = []
        for number in numbers:
            fresh = [
                sample(10 * number + place, 0.3 * place + 0.1, place / 4, (-0.1 * place, -1 / 3)) for place in range(4)
            ]
            drawn.append([(one.row, one.slot, one.old_logprobs.tolist()) for one in buffer.draw(number, 8, 3, 32)])
            buffer.add(number, fresh)
        return drawn

    whole, first = opened(parameters), opened(parameters)
    everything = run(whole, range(8))
    before = run(first, range(4))
    state = first.state_dict()
    text = json.dumps(state)
    resumed = opened(parameters)
    resumed.load_state_dict(json.loads(text))
    assert before + run(resumed, range(4, 8)) == everything
    run(first, range(4, 8))
    assert json.dumps(state) == text, "a state changed after it was given out"
    assert resumed.state_dict() == whole.state_dict()
    assert opened(parameters, seed=1).state_dict() != whole.state_dict()


def test_share_and_age_are_metrics():
    buffer = opened(Selective(capacity=8))
    buffer.add(0, [sample(0), sample(1)])
    buffer.add(3, [sample(2), sample(3)])
    metrics = {name: metric.value for name, metric in buffer.metrics().items()}
    assert metrics == {"replay/full": 0.5, "replay/age": 1.5}


def learn(replay, seed, steps=10, groups=10, size=4):
    """A policy gradient with importance ratios on a bandit whose right arm is rare, so that most groups fail.

    Returns the right arm's probability at the end, and the share of the batch that had an advantage."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.tensor([-4.2, 0.0], dtype=torch.float64)
    learnt = 0
    for number in range(steps):
        logprobs = logits.log_softmax(0)
        drawn = torch.multinomial(logprobs.exp(), groups * size, replacement=True, generator=generator)
        rewards = (drawn == 0).double().view(groups, size)
        centred = (rewards - rewards.mean(dim=1, keepdim=True)).flatten().tolist()
        fresh = [
            Experience(0, 0, place, [token], logprobs[[token]].float(), torch.tensor([centred[place]]), 0.0)
            for place, token in enumerate(drawn.tolist())
            if centred[place]
        ]
        replayed = replay.draw(number, len(fresh), groups * size - len(fresh), groups) if replay else []
        for one in [*fresh, *replayed]:
            [token] = one.tokens
            old = one.sampled_logprobs if one.old_logprobs is None else one.old_logprobs
            ratio = min(float((logprobs[token] - old[0]).exp()), 2.0)
            direction = torch.nn.functional.one_hot(torch.tensor(token), 2) - logprobs.exp()
            logits = logits + 0.1 * ratio * float(one.advantages[0]) * direction
        learnt += len(fresh) + len(replayed)
        if replay:
            replay.add(number, fresh)
    return float(logits.softmax(0)[0]), learnt / (steps * groups * size)


def test_where_nearly_all_groups_are_silent_replay_fills_batches_and_learns_faster():
    plain = [learn(None, seed) for seed in range(10)]
    replayed = [learn(opened(Selective(), seed), seed) for seed in range(10)]
    assert sum(share for _, share in plain) / 10 < 0.15
    assert sum(share for _, share in replayed) / 10 > 3 * sum(share for _, share in plain) / 10
    assert sum(rate for rate, _ in replayed) > 4 * sum(rate for rate, _ in plain)
