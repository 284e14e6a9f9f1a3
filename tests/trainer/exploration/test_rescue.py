"""Groups that failed: which are helped, what becomes of the rollout, and that help teaches what sampling cannot."""

import math
from dataclasses import replace

import pytest
import torch

from plumbline_api.methods.advantage.group import GroupRelative
from plumbline_api.methods.exploration.rescue import Demonstration, Gold, Guidance
from plumbline_api.methods.policy.clipped import Grpo
from plumbline_trainer.advantages import advantages
from plumbline_trainer.exploration import RESCUES, plan_rescue, without_groups
from plumbline_trainer.exploration.rescue import failed_groups, success_rates
from plumbline_trainer.objectives.policy.inputs import PolicyTokens, StepCounts
from plumbline_trainer.objectives.policy.loss import policy_loss
from plumbline_trainer.rollout.judged import judged

MIXED = judged([0, 0, 0, 1, 1, 1, 0, 0, 0], [5, 5, 5, 2, 2, 2, 8, 8, 8], [True] * 6 + [True, False, True])
"""Group 5 fails, 2 succeeds, 8 fails with a completion that could not be judged."""


def test_every_rescue_of_the_api_is_implemented():
    assert RESCUES.missing() == []


def test_without_parameters_nobody_is_helped():
    assert not plan_rescue(None, MIXED, {5, 2, 8})


def test_only_groups_without_any_right_completion_failed():
    assert failed_groups(MIXED) == [5, 8]
    nothing_judged = judged([0, 0, 0, 1], [0, 0, 1, 1], [False, False, True, True])
    assert failed_groups(nothing_judged) == [] and success_rates(nothing_judged) == {1: 0.5}


def test_hints_go_to_failed_groups_that_have_one():
    assert plan_rescue(Guidance(samples=3), MIXED, {5, 2}).hinted == {5: 3}
    assert not plan_rescue(Guidance(), MIXED, set())


def test_gold_replaces_the_last_judged_completion_of_failed_groups_alone():
    assert plan_rescue(Gold(), MIXED, {5, 2, 8}).solved == {5: 2, 8: 8}
    last_is_unjudged = judged([0, 0], [1, 1], [True, False])
    assert plan_rescue(Gold(), last_is_unjudged, {1}).solved == {1: 0}


@pytest.mark.parametrize(
    ("threshold", "gated"), [(0.0, [0]), (0.124, [0]), (0.125, [0, 1]), (0.5, [0, 1, 4]), (0.99, [0, 1, 4])]
)
def test_the_gate_opens_above_the_threshold(threshold, gated):
    counts = [0, 1, 4, 8]
    rewards = [float(sample < right) for right in counts for sample in range(8)]
    rollout = judged(rewards, [right for right in counts for _ in range(8)])
    plan = plan_rescue(Demonstration(threshold=threshold), rollout, set(counts))
    assert list(plan.demonstrated) == gated


def test_without_groups_their_completions_count_nowhere():
    rest = without_groups(MIXED, [5])
    assert rest.valid.tolist() == [False] * 3 + [True] * 3 + [True, False, True]
    assert torch.equal(without_groups(MIXED, []).valid, MIXED.valid)


def with_reward(rollout, places, reward=1.0):
    """The rollout with right completions of this reward in some places."""
    index = torch.tensor(list(places))
    right = rollout.correct.index_fill(0, index, True)
    return replace(rollout, rewards=rollout.rewards.index_fill(0, index, reward), correct=right)


def test_a_failed_group_has_an_advantage_only_with_gold_and_mixed_groups_stay_as_they_were():
    rollout = judged([0, 0, 0, 0, 1, 0, 0, 1], [0] * 4 + [1] * 4)
    before = advantages(GroupRelative(), rollout)
    places = plan_rescue(Gold(), rollout, {0, 1}).solved.values()
    after = advantages(GroupRelative(), with_reward(rollout, places))
    assert (before[:4] == 0).all() and (after[:3] < 0).all() and after[3] > 0
    assert torch.equal(before[4:], after[4:])


ARMS = 6


def policy_gradient(logits, drawn, old, estimated):
    """Gradient of GRPO's loss over one-token completions with behaviour log-probabilities `old`."""
    tokens = PolicyTokens(
        logits.log_softmax(0)[drawn][:, None],
        torch.ones(len(drawn), 1, dtype=torch.bool),
        estimated.float()[:, None],
        old_logprobs=old[:, None],
        sampled_logprobs=old[:, None],
        rewards=torch.zeros(len(drawn)),
        groups=torch.zeros(len(drawn), dtype=torch.long),
    )
    count = float(len(drawn))
    loss, _ = policy_loss(Grpo(), tokens, StepCounts(count, count, 1), kl=None, aggregation=None)
    return torch.autograd.grad(loss, logits)[0]


def train(rescue, steps=150, rate=2.0, start=-9.0, seed=1):
    """One prompt whose right arm (0) the policy all but never draws, unless with the hint. Returns its probability at
    the end, without the hint, and how many steps were helped."""
    torch.manual_seed(seed)
    logits = torch.tensor([start, *[0.0] * (ARMS - 1)], requires_grad=True)
    helped = 0
    for _ in range(steps):
        logprobs = logits.detach().log_softmax(0)
        hinted = torch.cat([logits.detach()[:1] - start, logits.detach()[1:]]).log_softmax(0)
        drawn = torch.multinomial(logprobs.exp(), 8, replacement=True)
        old = logprobs[drawn]
        rollout = judged((drawn == 0).double(), [0] * 8, logprobs=old[:, None])
        plan = plan_rescue(rescue, rollout, {0})
        helped += bool(plan)
        if plan.hinted:
            more = torch.multinomial(hinted.exp(), plan.hinted[0], replacement=True)
            drawn = torch.cat([drawn, more])
            old = torch.cat([old, (hinted if rescue.importance_correction else logprobs)[more]])
            rollout = judged((drawn == 0).double(), [0] * len(drawn))
        if plan.solved:
            drawn[plan.solved[0]] = 0
            old[plan.solved[0]] = logprobs[0] if rescue.behaviour == "policy" else 0.0
            rollout = with_reward(rollout, plan.solved.values(), rescue.reward)
        estimated = advantages(GroupRelative(), rollout)
        if plan.demonstrated:
            drawn = torch.cat([drawn, torch.zeros(1, dtype=torch.long)])
            old = torch.cat([old, logprobs[:1]])
            estimated = torch.cat([torch.zeros_like(estimated), torch.tensor([rescue.weight]).double()])
        if bool((estimated != 0).any()):
            gradient = policy_gradient(logits, drawn, old, estimated)
            with torch.no_grad():
                logits -= rate * gradient
    return float(logits.detach().softmax(0)[0]), helped


def test_what_sampling_never_finds_is_not_learnt_without_help():
    probability, helped = train(None)
    assert probability < 0.001 and helped == 0


@pytest.mark.parametrize(
    "rescue",
    [Guidance(importance_correction=False), Gold(), Demonstration()],
    ids=["guidance", "gold", "demonstration"],
)
def test_with_help_it_is_learnt_and_then_done_without(rescue):
    probability, helped = train(rescue)
    assert probability > 0.9
    assert 0 < helped < 100


@pytest.mark.parametrize("rescue", [Guidance(), Gold(behaviour="certain")], ids=["guidance", "gold"])
def test_a_corrected_ratio_stops_where_the_policy_finds_the_answer_hopeless(rescue):
    """The ratio is the right arm's own probability: what is hopeless without help stays so, as without bias it must."""
    probability, helped = train(rescue, steps=40)
    assert probability < 0.001 and helped == 40


def test_with_a_corrected_ratio_a_hard_answer_is_learnt_sooner_than_without_hints():
    """At one right completion in three hundred most groups fail; hinted ones tell where to go."""
    corrected = [train(Guidance(), steps=70, start=-4.0, seed=seed)[0] for seed in range(4)]
    without = [train(None, steps=70, start=-4.0, seed=seed)[0] for seed in range(4)]
    assert sum(corrected) > 1.3 * sum(without)


def test_the_corrected_gradient_is_that_of_the_prompt_without_the_hint():
    """sum_y pi(y|x,h) [pi(y|x) / pi(y|x,h)] A(y) grad log pi(y|x) = sum_y pi(y|x) A(y) grad log pi(y|x)."""
    logits = torch.tensor([-1.0, 0.3, 0.8], dtype=torch.float64, requires_grad=True)
    hinted = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    estimated = torch.tensor([1.0, -0.4, -0.6], dtype=torch.float64)
    ratio = (logits.log_softmax(0) - hinted.log()).exp()
    corrected = torch.autograd.grad((hinted * ratio * estimated).sum(), logits)[0]
    wanted = torch.autograd.grad((logits.softmax(0) * estimated).sum(), logits)[0]
    torch.testing.assert_close(corrected, wanted)
    uncorrected = torch.autograd.grad((hinted * logits.log_softmax(0) * estimated).sum(), logits)[0]
    assert not math.isclose(float(torch.cosine_similarity(uncorrected, wanted, dim=0)), 1.0, abs_tol=1e-3)
