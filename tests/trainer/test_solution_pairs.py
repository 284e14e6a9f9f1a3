"""Pairs against overthinking: what is cut off which trace, what is rejected, and that training on them shortens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from plumbline_api.methods.pairing import SolutionRounds
from plumbline_api.methods.preference.reference_free import Simpo
from plumbline_trainer.data.pairing.registry import make_pairs
from plumbline_trainer.data.rows import ListRow, PairRow
from plumbline_trainer.objectives.preference.reference_free import simpo
from tests.trainer.objectives.records import pairs_of

WRONG = r"two minus three \boxed{1}. "
FIRST = r"two plus three: \boxed{5}. "
AGAIN = r"three plus two: \boxed{5}. "
OTHER = r"count fingers!! \boxed{5}. "


def pair(traces: list[str], scores: list[float] | None = None, **parameters: Any) -> PairRow | None:
    row = ListRow("train.jsonl:1", "p", traces, scores or [1.0] * len(traces))
    made = make_pairs(SolutionRounds(**parameters), [row], 0)
    return made.rows[0] if made.rows else None


def chosen(trace: str, kind: str, **parameters: Any) -> str | None:
    """What the trace is cut down to, with a longer one beside it."""
    made = pair([trace, trace + "." * 500], chosen=kind, **parameters)
    return None if made is None else made.chosen


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("shortest", WRONG + FIRST + AGAIN + OTHER + AGAIN),
        ("firstCorrect", WRONG + FIRST[:-1]),
        ("firstCorrectWithReflection", WRONG + FIRST + AGAIN[:-1]),
        ("greedyDiverse", WRONG + FIRST + OTHER[:-1]),
    ],
)
def test_what_each_choice_keeps_of_a_trace(kind: str, expected: str) -> None:
    assert chosen(WRONG + FIRST + AGAIN + OTHER + AGAIN, kind) == expected


def test_marks_that_close_a_formula_stay_with_their_answer() -> None:
    assert chosen(r"so \(\boxed{5}\). Wait, \(\boxed{5}\).", "firstCorrect") == r"so \(\boxed{5}\)."
    assert chosen(r"so $$\boxed{5}$$ Wait, $\boxed{5}$", "firstCorrect") == r"so $$\boxed{5}$$"


def test_only_thinking_is_cut_and_the_answer_is_that_behind_it() -> None:
    trace = WRONG + FIRST + AGAIN + r"</think>The answer is \boxed{5.0}"
    assert chosen(trace, "firstCorrect") == WRONG + FIRST.rstrip() + r"</think>The answer is \boxed{5.0}"
    assert chosen(trace, "firstCorrect", end_of_thinking="<end>") == WRONG + FIRST.rstrip(), "all of it is thinking"
    assert chosen(WRONG + r"</think>\boxed{5}", "firstCorrect") is None, "the thinking never comes to the answer"


def test_a_trace_without_answers_cannot_be_cut() -> None:
    assert pair(["no box", "no box at all"], chosen="firstCorrect") is None


def test_diverse_solutions_end_with_a_right_one_and_hold_the_first() -> None:
    """A wrong end is left away, and a right solution in the words of a wrong one is kept."""
    assert chosen(FIRST + AGAIN + WRONG + AGAIN, "greedyDiverse", similarity=0.8) == FIRST.rstrip()
    near = r"two minus three \boxed{5}. "
    assert chosen(WRONG + near + near, "greedyDiverse", similarity=0.7) == (WRONG + near).rstrip()


def test_wrong_traces_are_neither_chosen_nor_rejected() -> None:
    made = pair([FIRST, FIRST + AGAIN, WRONG, WRONG * 9], [1.0, 0.5, 0.4, 0.0], chosen="shortest")
    assert made == PairRow("train.jsonl:1 (completion 0 shortened and 1)", "p", FIRST, FIRST + AGAIN)
    assert pair([FIRST, FIRST + AGAIN], [0.0, 0.0]) is None


def test_the_longest_must_be_longer_by_the_ratio() -> None:
    assert pair([FIRST, FIRST + AGAIN], chosen="firstCorrect", min_length_ratio=2.5) is None
    assert pair([FIRST], chosen="firstCorrect", min_length_ratio=1.5) is None
    made = pair([FIRST + AGAIN + OTHER], chosen="firstCorrect", min_length_ratio=2.5)
    assert made is not None and made.rejected == FIRST + AGAIN + OTHER


def test_training_on_the_pairs_shortens_a_generator_that_repeats_itself_and_keeps_it_right() -> None:
    """A policy that is right with probability 0.7 and writes another round with probability q, up to eight; simpo."""
    generator = torch.Generator().manual_seed(5)
    more = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    skill = torch.tensor(0.7, dtype=torch.float64).logit().requires_grad_()
    optimizer = torch.optim.SGD([more, skill], lr=0.05)

    def expected_rounds() -> float:
        return float((torch.sigmoid(more.detach()) ** torch.arange(8)).sum())

    before, accuracy = expected_rounds(), float(torch.sigmoid(skill.detach()))
    for _ in range(150):
        traces, scores = [], []
        for _ in range(8):
            right = torch.rand((), generator=generator) < torch.sigmoid(skill.detach())
            rounds = 1
            while rounds < 8 and torch.rand((), generator=generator) < torch.sigmoid(more.detach()):
                rounds += 1
            traces.append((FIRST if right else WRONG) * rounds)
            scores.append(float(right))
        made = pair(traces, scores, chosen="firstCorrectWithReflection")
        if made is None:
            continue

        def logprob(text: str) -> tuple[torch.Tensor, torch.Tensor]:
            rounds = text.count("boxed")
            own = logsigmoid(skill) + (rounds - 1) * logsigmoid(more) + (rounds < 8) * logsigmoid(-more)
            return own[None], torch.tensor([float(rounds)], dtype=torch.float64)

        (won, won_tokens), (lost, lost_tokens) = logprob(made.chosen), logprob(made.rejected)
        losses, _ = simpo(Simpo(), pairs_of(won, lost, won_tokens, lost_tokens))
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    assert before > 4 and expected_rounds() < 2.5
    assert float(torch.sigmoid(skill.detach())) >= accuracy - 0.01
