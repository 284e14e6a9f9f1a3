"""COPO: groups that end alike still teach, and groups that disagree are GRPO's."""

import math
from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.policy.clipped import Grpo
from plumbline_api.methods.policy.consistency import Copo
from plumbline_trainer.objectives.policy.consistency import entropy_in_bits
from plumbline_trainer.objectives.policy.preparation import prepared
from plumbline_trainer.rollout.judged import judged
from tests.trainer.policy.records import loss_of, tokens


def batch_and_rollout(rewards: list[float], groups: list[int], texts: list[str] | None = None):
    """One token a completion; advantages are centred rewards over the group's deviation."""
    values, index = torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups)
    advantages = torch.zeros(len(rewards), dtype=torch.float64)
    for group in index.unique():
        members = index == group
        spread = values[members].std()
        if spread > 0:
            advantages[members] = (values[members] - values[members].mean()) / spread
    rollout = judged(values, index, texts=texts or ())
    batch = tokens([[-1.0]] * len(rewards), advantages.tolist())
    return batch, rollout


def gradient(parameters, batch, rollout) -> torch.Tensor:
    loss, _ = loss_of(parameters, replace(batch, prepared=prepared(parameters, rollout, batch.advantages)))
    return torch.autograd.grad(loss, batch.logprobs)[0][:, 0]


def test_groups_that_end_alike_teach_only_under_copo():
    """All right, all wrong: GRPO's gradient is 0; COPO raises the first group's completions and lowers the second's."""
    batch, rollout = batch_and_rollout([1, 1, 1, 0, 0, 0], [7, 7, 7, 3, 3, 3])
    assert gradient(Grpo(), batch, rollout).abs().max() == 0
    found = gradient(Copo(), batch, rollout)
    assert (found[:3] < 0).all() and (found[3:] > 0).all()
    expected = 0.5 / (math.sqrt(0.5) + 1e-6)  # success rates 1 and 0, sample deviation sqrt(1/2)
    assert found.tolist() == pytest.approx([-expected / 6] * 3 + [expected / 6] * 3, rel=1e-5)


def test_a_group_that_disagrees_is_grpos():
    batch, rollout = batch_and_rollout([1, 0, 1, 0, 1, 1, 1, 1], [0] * 4 + [1] * 4)
    found, plain = gradient(Copo(), batch, rollout), gradient(Grpo(), batch, rollout)
    torch.testing.assert_close(found[:4], plain[:4], rtol=0, atol=1e-4)
    assert (found[4:] < 0).all()


def test_the_blend_by_hand():
    """Three of four right: H = 0.811 bits; at threshold 0.811 both losses weigh the same."""
    batch, rollout = batch_and_rollout([1, 1, 1, 0, 0, 0, 0, 0], [0] * 4 + [1] * 4)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    tensors = prepared(Copo(entropy_threshold=entropy), rollout, batch.advantages)
    assert tensors["local_share"].tolist() == pytest.approx([0.5] * 4 + [0.0] * 4)
    compared = 0.375 / (math.sqrt(2 * 0.375**2) + 1e-6)
    assert tensors["global_advantages"].tolist() == pytest.approx([compared] * 4 + [-compared] * 4)


def test_answers_are_told_apart_by_their_text():
    """Two wrong answers of different text are a disagreement that rewards do not show."""
    texts = ["answer: 5", "answer: 5", "answer: 6", "nothing", "answer: 1", "answer: 1", "answer: 2", "answer: 1"]
    _, rollout = batch_and_rollout([1, 1, 0, 0, 0, 0, 0, 0], [0] * 4 + [1] * 4, texts)
    one = prepared(Copo(answer=r"answer: (\d+)", sharpness=2.0), rollout, torch.zeros(8))
    entropy = 1.5  # shares 1/2, 1/4, 1/4
    assert one["local_share"][0].item() == pytest.approx(1 / (1 + math.exp(-2 * (entropy - 0.5))))
    assert one["local_share"][4].item() == 0  # equal rewards have no advantage within the group


def test_disagreement_discounts_a_prompt():
    """Four different answers leave a quarter of the success rate."""
    texts = ["a1", "a2", "a3", "a4", "a1", "a1", "a1", "a1"]
    _, rollout = batch_and_rollout([1, 1, 1, 1, 1, 1, 1, 1], [0] * 4 + [1] * 4, texts)
    parameters = Copo(answer=r"a\d", discount_disagreement=True)
    found = prepared(parameters, rollout, torch.zeros(8))["global_advantages"]
    expected = 0.375 / (math.sqrt(2 * 0.375**2) + 1e-6)
    assert found[0].item() == pytest.approx(-expected) and found[4].item() == pytest.approx(expected)


def test_what_was_not_judged_is_left_out():
    rollout = judged([1, 1, 0, 0, 5], [0, 0, 1, 1, 1], [True, True, True, True, False])
    found = prepared(Copo(), rollout, torch.zeros(5))["global_advantages"]
    assert found[-1] == 0 and found[0] == -found[2]
    alone = prepared(Copo(), judged([1, 1], [0, 0]), torch.zeros(2))
    assert alone["global_advantages"].tolist() == [0, 0]


def test_entropy_in_bits():
    assert entropy_in_bits(["a", "b", "a", "b"]) == 1
    assert entropy_in_bits([]) == entropy_in_bits(["a"]) == 0
