"""What holds for every step of reward shaping, and how steps are applied one after the other."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from plumbline_api.methods.shaping.choice import ShapingChoice
from plumbline_api.methods.shaping.family import Shaping
from plumbline_api.methods.shaping.gating import ComponentGate, Posterior
from plumbline_api.methods.shaping.length import LinearLength, Truncated
from plumbline_api.methods.shaping.noise import BackwardCorrection, ForwardCorrection
from plumbline_api.methods.shaping.thinking import LengthCompression, SolutionEfficiency
from plumbline_api.methods.shaping.weights import GradientWeighting
from plumbline_trainer.rollout.judged import JudgedRollout, judged
from plumbline_trainer.shaping import SHAPINGS, Evidence, apply_shaping, credited, step_names
from plumbline_trainer.shaping.progress import segment_ends

NEEDED = {
    "constrained": {
        "constraints": [
            {"component": "first", "threshold": 0.4},
            {"component": "second", "threshold": 0, "kind": "equal"},
        ]
    },
    "componentGate": {"component": "first", "threshold": 0.5},
    "posterior": {"component": "second"},
    "trust": {"component": "second"},
    "sigmoidGate": {"component": "second"},
    "exactLengthTarget": {"column": "want"},
    "maximumLengthTarget": {"column": "want"},
    "truncated": {"action": "add", "value": -0.5},
    "solutionEfficiency": {"weight": 1.0},
    "backwardCorrection": {"falsePositiveRate": 0.1, "appeal": {"component": "first"}},
    "refinementGain": {"rounds": ["first", "second"]},
    "hypervolumeWeighting": {"objectives": [{"component": "first"}, {"component": "second"}]},
    "gradientWeighting": {"components": ["first", "second"]},
}
STEPS = [ShapingChoice.of(member.member_key, **NEEDED.get(member.member_key, {})).value for member in Shaping.members()]
STEPS += [Truncated(), BackwardCorrection(component="first", false_negative_rate=0.2)]
every_step = pytest.mark.parametrize("parameters", STEPS, ids=lambda step: step.member_key)

TEXTS = [
    "so 1 then 2\n\nhence 2</think>2",
    "2, wait\n\n1 or 2</think>\\boxed{2}",
    "I do not know\n\nmaybe 0",
    "",
    "arm 1 \\boxed{2} again \\boxed{2}",
    "0",
]


def random_rollout(seed: int) -> JudgedRollout:
    """Six groups of four with everything that a step may look at; what is not valid holds NaN."""
    generator = torch.Generator().manual_seed(seed)
    count, limit = 24, 40

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    valid = uniform() < 0.85
    correct = (uniform() < 0.5) & valid
    texts = [TEXTS[int(index)] for index in torch.randint(0, len(TEXTS), (count,), generator=generator)]
    lengths = [len(text) for text in texts]
    groups = torch.arange(6).repeat_interleave(4)[torch.randperm(count, generator=generator)]
    nothing = torch.tensor(torch.nan, dtype=torch.float64)
    rows = [
        {"answer": "2", "want": 5 + group, "means": [0.1, 0.5, 0.3], "arms": 3, "history": [[0, 1.0]]}
        for group in range(6)
    ]
    return judged(
        torch.where(valid, correct.double(), 0.0),
        groups,
        valid,
        lengths,
        correct=correct,
        truncated=uniform() < 0.2,
        components={name: torch.where(valid, uniform(), nothing) for name in ("first", "second")},
        texts=texts,
        columns=[rows[int(group)] for group in groups],
        step=7,
        steps=20,
        max_completion_tokens=limit,
    )


def evidence_for(rollout: JudgedRollout) -> Evidence:
    segments = [len(segment_ends(text, r"\n\n", 16)) for text in rollout.texts]
    return Evidence(
        token_ends=[range(1, len(text) + 1) for text in rollout.texts],
        gradient_products={"first": {"first": 2.0, "second": 0.5}, "second": {"first": 0.5, "second": 1.0}},
        prefix_values=[[index / (count + 1) for index in range(count + 1)] for count in segments],
    )


def shaped(parameters: Shaping, rollout: JudgedRollout, states=None):
    return apply_shaping([parameters], rollout, states or {}, evidence_for(rollout))


def reordered(rollout: JudgedRollout, order: Tensor) -> JudgedRollout:
    changed = {
        "components": {name: values[order] for name, values in rollout.components.items()},
        "texts": [rollout.texts[index] for index in order],
        "columns": [rollout.columns[index] for index in order],
    }
    tensors = {one.name: getattr(rollout, one.name) for one in fields(rollout)}
    changed |= {name: value[order] for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(rollout, **changed)


def numbers(rollout: JudgedRollout) -> list[Tensor]:
    found = [rollout.rewards, rollout.groups, rollout.valid, rollout.lengths, rollout.correct, rollout.truncated]
    return [*(values.clone() for values in found), *(values.clone() for values in rollout.components.values())]


def test_every_step_of_the_api_is_implemented() -> None:
    assert SHAPINGS.missing() == []


@every_step
def test_rewards_are_finite_and_zero_where_no_reward_exists(parameters: Shaping) -> None:
    for seed in range(5):
        rollout = random_rollout(seed)
        after, _, metrics = shaped(parameters, rollout)
        assert after.rewards.dtype == torch.float64
        assert after.rewards.isfinite().all()
        assert (after.rewards[~after.valid] == 0).all()
        assert not (after.valid & ~rollout.valid).any(), "a step cannot make a missing reward exist"
        if after.token_rewards is not None:
            assert after.token_rewards.shape == rollout.logprobs.shape
            assert (after.token_rewards[~rollout.mask] == 0).all()
            assert (after.token_rewards[~after.valid] == 0).all()
        assert all(metric.value == metric.value for metric in metrics.values()), metrics


@every_step
def test_the_input_is_left_as_it_is(parameters: Shaping) -> None:
    rollout = random_rollout(0)
    _, states, _ = shaped(parameters, rollout)
    before, kept = numbers(rollout), copy.deepcopy(states)
    shaped(parameters, rollout, states)
    for one, other in zip(before, numbers(rollout), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)
    assert states == kept


@every_step
def test_what_a_step_remembers_survives_json_exactly(parameters: Shaping) -> None:
    states: dict = {}
    for seed in range(3):
        _, states, _ = shaped(parameters, random_rollout(seed), states)
    straight = shaped(parameters, random_rollout(3), states)
    resumed = shaped(parameters, random_rollout(3), json.loads(json.dumps(states)))
    assert torch.equal(straight[0].rewards, resumed[0].rewards)
    assert straight[1] == resumed[1]


@every_step
def test_the_order_of_completions_does_not_matter(parameters: Shaping) -> None:
    _, states, _ = shaped(parameters, random_rollout(1))
    rollout = random_rollout(0)
    order = torch.randperm(len(rollout.rewards), generator=torch.Generator().manual_seed(0))
    plain, after, _ = shaped(parameters, rollout, states)
    other, other_after, _ = shaped(parameters, reordered(rollout, order), states)
    assert torch.allclose(other.rewards, plain.rewards[order], atol=1e-12)
    assert torch.equal(other.valid, plain.valid[order])
    if plain.token_rewards is not None:
        assert other.token_rewards is not None
        assert torch.allclose(other.token_rewards, plain.token_rewards[order], atol=1e-12)
    assert flat(other_after) == pytest.approx(flat(after))


def flat(states) -> list[float]:
    if isinstance(states, dict):
        return [number for key in sorted(states) for number in flat(states[key])]
    if isinstance(states, list):
        return [number for item in states for number in flat(item)]
    return [states]


@every_step
def test_completions_without_reward_change_no_other(parameters: Shaping) -> None:
    rollout = random_rollout(0)
    invalid = ~rollout.valid
    shuffled = replace(
        rollout,
        lengths=torch.where(invalid, 1, rollout.lengths),
        correct=rollout.correct | invalid,
        truncated=rollout.truncated | invalid,
        components={name: torch.where(invalid, 1e6, values) for name, values in rollout.components.items()},
    )
    plain, states, _ = shaped(parameters, rollout)
    other, other_states, _ = shaped(parameters, shuffled)
    assert torch.equal(plain.rewards, other.rewards)
    assert states == other_states


@every_step
def test_a_step_needs_no_other_components_and_columns_than_it_names(parameters: Shaping) -> None:
    rollout = random_rollout(0)
    only = replace(
        rollout,
        components={name: rollout.components[name] for name in parameters.component_names},
        columns=[{name: row[name] for name in parameters.columns} for row in rollout.columns],
    )
    assert torch.isfinite(shaped(parameters, only)[0].rewards).all()


def test_steps_are_applied_in_order() -> None:
    rollout = judged(
        [1.0], [0], components={"format": torch.tensor([0.0]).double(), "thinking": torch.tensor([0.5]).double()}
    )
    gate, bonus = ComponentGate(component="format", otherwise=-1), Posterior(component="thinking")
    assert apply_shaping([gate, bonus], rollout, {})[0].rewards.tolist() == [-0.5]
    assert apply_shaping([bonus, gate], rollout, {})[0].rewards.tolist() == [-1]


def test_the_second_use_of_a_step_has_its_own_state_and_metrics() -> None:
    steps = [LinearLength(coefficient=0.5), LinearLength(coefficient=0.25), Truncated()]
    assert step_names(steps) == ["linearLength", "linearLength_2", "truncated"]
    rollout = judged([1.0], [0], lengths=[10], max_completion_tokens=10)
    after, states, metrics = apply_shaping(steps, rollout, {})
    assert after.rewards.tolist() == [0.25]
    assert metrics["shaping/linearLength"].value == -0.5
    assert metrics["shaping/linearLength_2"].value == -0.25
    assert set(states) == set(step_names(steps))


def test_without_steps_the_rollout_stays() -> None:
    rollout = random_rollout(0)
    after, states, metrics = apply_shaping([], rollout, {})
    assert after is rollout
    assert (states, metrics) == ({}, {})


def test_token_rewards_of_the_rollout_are_kept_and_added_to() -> None:
    text = "5, 5</think>5"
    before = torch.full((1, len(text)), 0.25, dtype=torch.float64)
    rollout = judged([1.0], [0], lengths=[len(text)], texts=[text], columns=[{"answer": "5"}], token_rewards=before)
    evidence = Evidence(token_ends=[range(1, len(text) + 1)])
    after, _, _ = apply_shaping([LengthCompression()], rollout, {}, evidence)
    assert after.token_rewards is not None
    changed = (after.token_rewards - before)[0]
    assert changed.nonzero().flatten().tolist() == [1]
    assert float(changed[1]) == pytest.approx(1 / 4 - 1)
    assert after.token_credits is not None
    assert after.token_credits.tolist() == changed[None].tolist(), "a single token has its reward undivided"
    assert (before == 0.25).all()


def test_a_place_behind_all_tokens_belongs_to_the_last_one() -> None:
    # the end of thinking is written, but the sequence was cut behind the third token
    text = "1</think>"
    rollout = judged([1.0], [0], lengths=[3], texts=[text], columns=[{"answer": "5"}])
    after, _, _ = apply_shaping([LengthCompression()], rollout, {}, Evidence(token_ends=[[0, 0, 1]]))
    assert after.token_rewards is not None
    assert after.token_rewards.tolist() == [[0, 0, -1]]


def test_what_parts_earned_is_added_to_advantages_that_know_no_rewards_of_tokens() -> None:
    own = torch.tensor([[0.5, 0, 0], [0, 0, -0.25], [0, 9, 0]], dtype=torch.float64)
    rollout = judged([1, 0, 0], [0] * 3, [True, True, False], lengths=[2, 3, 3], token_credits=own)
    each = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    expected = [[1.5, 1, 0], [-1, -1, -1.25], [0, 0, 0]]
    assert credited(each, rollout).tolist() == expected
    assert credited(each[:, None].expand(3, 3), rollout).tolist() == expected
    without = credited(each, replace(rollout, token_credits=None))
    assert without.tolist() == [[1, 1, 0], [-1, -1, -1], [0, 0, 0]]


def test_what_steps_need_is_declared() -> None:
    rollout = random_rollout(0)
    for parameters in STEPS:
        needs = (
            parameters.needs_token_positions or parameters.needs_component_gradients or parameters.needs_prefix_values
        )
        if needs:
            with pytest.raises(ValueError, match="need"):
                apply_shaping([parameters], rollout, {})
        else:
            apply_shaping([parameters], rollout, {})
    assert ForwardCorrection().removed_by_baselines
    assert not SolutionEfficiency().needs_token_positions
    assert GradientWeighting(components=["first", "second"]).component_names == ("first", "second")
