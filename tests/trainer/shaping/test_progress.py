"""Progress bonuses on success rates made by hand."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline_api.methods.advantage.group import NoBaseline
from plumbline_api.methods.shaping.progress import Progress
from plumbline_trainer.advantages import advantages
from plumbline_trainer.rollout.judged import judged
from plumbline_trainer.shaping import Evidence, apply_shaping, credited
from plumbline_trainer.shaping.progress import segment_ends

NAN = float("nan")
TEXT = "ab\n\ncde\n\nf"


def bonuses(values, text=TEXT, token_ends=None, **parameters):
    ends = range(1, len(text) + 1) if token_ends is None else token_ends
    rollout = judged([1.0], [0], lengths=[len(ends)], texts=[text])
    evidence = Evidence(token_ends=[ends], prefix_values=[values])
    return apply_shaping([Progress(**parameters)], rollout, {}, evidence)


def test_segments_end_behind_matches_and_at_the_end():
    assert segment_ends(TEXT, r"\n\n", 16) == [4, 9, 10]
    assert segment_ends(TEXT, r"\n\n", 2) == [4, 10]
    assert segment_ends(TEXT, r"\n\n", 1) == [10]
    assert segment_ends("ab\n\n", r"\n\n", 16) == [4]
    assert segment_ends("ab", r"\n\n", 16) == [2]
    assert segment_ends("", r"\n\n", 16) == []


def test_a_segment_earns_what_it_adds_to_the_success_rate():
    after, _, metrics = bonuses([0.1, 0.1, 0.6, 0.4], coefficient=0.5)
    # one token a character: nothing for the first segment, 0.25 over five tokens, -0.1 for the last token
    assert after.token_rewards[0].tolist() == pytest.approx([0] * 4 + [0.05] * 5 + [-0.1])
    assert after.rewards.tolist() == [1]
    assert metrics["shaping/progress/gain"].value == pytest.approx(0.3)
    assert metrics["shaping/progress/segments"].value == 3


def test_a_token_that_writes_parts_of_two_segments_answers_for_both():
    # tokens "ab", "\n\ncd", "e\n", "\nf": the first and second segment meet in one, the second and third in another
    after, _, _ = bonuses([0, 0.25, 0.5, 1], token_ends=[2, 6, 8, 10], coefficient=1)
    assert after.token_rewards[0].tolist() == pytest.approx([0.125, 0.125 + 0.25 / 3, 0.25 / 3, 0.25 / 3 + 0.5])


def test_as_an_advantage_every_token_has_the_progress_of_its_segment_in_full():
    after, _, _ = bonuses([0.1, 0.1, 0.6, 0.4], coefficient=0.5)
    estimated = credited(torch.tensor([2.0]), after)[0]
    assert estimated.tolist() == pytest.approx([2] * 4 + [2.25] * 5 + [1.9])


def test_credited_advantages_have_the_gradient_of_outcome_and_bonuses():
    """The expectation over all texts of two segments, of one token and of three, by automatic differentiation."""
    generator = torch.Generator().manual_seed(0)
    texts = ["".join(letters) for letters in product("ab", repeat=4)]
    outcomes = torch.rand(len(texts), generator=generator, dtype=torch.float64)
    prefixes = sorted({text[:end] for text in texts for end in range(5)})
    rates = dict(zip(prefixes, torch.rand(len(prefixes), generator=generator).tolist(), strict=True))
    logits = {
        prefix: torch.randn(2, generator=generator, dtype=torch.float64, requires_grad=True)
        for prefix in prefixes
        if len(prefix) < 4
    }
    alpha = 0.7

    def token_logprobs(text):
        return torch.stack([logits[text[:at]].log_softmax(0)["ab".index(text[at])] for at in range(4)])

    logprobs = torch.stack([token_logprobs(text) for text in texts])
    probabilities = logprobs.sum(dim=1).exp()
    objective = probabilities @ outcomes
    for text, probability in zip(texts, probabilities, strict=True):
        # the first segment follows the prompt, the second one what the sampling policy wrote before it
        second = logprobs[texts.index(text), :1].detach().sum() + logprobs[texts.index(text), 1:].sum()
        objective = objective + alpha * probability * (rates[text[:1]] - rates[""])
        objective = objective + alpha * second.exp() * (rates[text] - rates[text[:1]])
    expected = torch.autograd.grad(objective, list(logits.values()), retain_graph=True)

    rollout = judged(outcomes, [0] * len(texts), lengths=[4] * len(texts), texts=texts)
    evidence = Evidence(
        token_ends=[range(1, 5)] * len(texts),
        prefix_values=[[rates[""], rates[text[0]], rates[text]] for text in texts],
    )
    after, _, _ = apply_shaping([Progress(coefficient=alpha, segment_end="^.")], rollout, {}, evidence)
    estimated = credited(advantages(NoBaseline(), after), after)
    surrogate = (probabilities.detach()[:, None] * estimated * logprobs).sum()
    found = torch.autograd.grad(surrogate, list(logits.values()))
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_bonuses_telescope(values):
    after, _, _ = bonuses(values, coefficient=2)
    total = 0.0 if after.token_rewards is None else float(after.token_rewards.sum())
    assert total == pytest.approx(2 * (values[-1] - values[0]), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "gains"),
    [
        ([0.25, NAN, 0.5, 1], [0, 0.25, 0.5]),
        ([NAN, NAN, 0.5, 0.75], [0, 0, 0.25]),
        ([0.25, 0.5, NAN, NAN], [0.25, 0, 0]),
        ([NAN] * 4, [0, 0, 0]),
    ],
)
def test_where_no_forced_answer_could_be_judged_the_gain_shows_at_the_next_rate(values, gains):
    after, _, _ = bonuses(values, coefficient=1)
    rewards = torch.zeros(10) if after.token_rewards is None else after.token_rewards[0]
    found = [float(rewards[start:end].sum()) for start, end in ((0, 4), (4, 9), (9, 10))]
    assert found == pytest.approx(gains)


def test_without_a_coefficient_nothing_changes():
    after, _, _ = bonuses([0, 1, 0, 1], coefficient=0)
    assert after.token_rewards is None


def test_missing_or_misfitting_success_rates_are_refused():
    rollout = judged([1.0], [0], texts=[TEXT])
    with pytest.raises(ValueError, match="success rates of prefixes"):
        apply_shaping([Progress()], rollout, {})
    with pytest.raises(ValueError, match="3 segments and 2 success rates"):
        bonuses([0, 1])


def test_completions_without_reward_get_no_bonus():
    rollout = judged([0.0], [0], valid=torch.tensor([False]), lengths=[10], texts=[TEXT])
    evidence = Evidence(token_ends=[range(1, 11)], prefix_values=[[]])
    assert apply_shaping([Progress()], rollout, {}, evidence)[0].token_rewards is None
