"""Best-first search: the order of expansions, its budget, what it exports, and a round of expert iteration with it.

The task of the last tests is to rewrite a word of a's and b's to the empty word. A step drops a first letter, which the
checker refuses where the word begins with the other one, or pushes a letter in front, which is allowed and leads away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline_api.methods.pairing_trees import SearchTree
from plumbline_api.methods.preference.direct import StepDpo
from plumbline_api.sources import Dataset
from plumbline_trainer.data.pairing.registry import make_pairs
from plumbline_trainer.data.rows import load_rows
from plumbline_trainer.objectives.preference.direct import step_dpo
from plumbline_trainer.search.best_first import (
    Budget,
    Proposal,
    Reached,
    Refused,
    Search,
    Solved,
    best_first_search,
    drop_solved,
    score,
)
from tests.trainer.objectives.records import pairs_of

# --- a graph by hand --------------------------------------------------------------------------------------------------

GRAPH: dict[str, list[tuple[str, float]]] = {
    "": [("a", -1.0), ("b", -1.5), ("x", -0.1)],
    "a": [("ac", -0.8)],
    "b": [("bd", -0.2)],
    "ac": [("goal", -0.1)],
    "bd": [("b", -0.1), ("goal", -3.0)],
}
"""State -> its steps: the state that each leads to, which names it, and its log-probability."""


def walk(alpha: float, **budget: Any) -> tuple[Search, list[str]]:
    """A search of the graph, and the states in the order in which they were expanded; `x` is refused."""
    order = []

    def expand(state: str) -> Iterable[Proposal]:
        order.append(state)
        return [Proposal(to, logprob) for to, logprob in GRAPH[state]]

    def check(state: str, text: str) -> Reached[str] | Solved | Refused:
        if text == "x":
            return Refused("no such rule")
        return Solved() if text == "goal" else Reached(text)

    found = best_first_search("", expand, check, budget=Budget(**{"expansions": 100} | budget), alpha=alpha)
    return found, order


def test_scores_by_hand() -> None:
    """Two steps of -1 and -2: -3, -3 / sqrt 2, -1.5."""
    assert [score(-3, 2, alpha) for alpha in (0, 0.5, 1)] == pytest.approx([-3, -3 / math.sqrt(2), -1.5])
    assert score(0, 0, 0.5) == 0


def test_the_state_with_the_highest_score_is_expanded_next() -> None:
    """Sums: a -1, b -1.5, bd -1.7, ac -1.8. Means: a -1, ac -0.9, b -1.5."""
    assert walk(alpha=0)[1] == ["", "a", "b", "bd"]
    assert walk(alpha=0, solutions=2)[1] == ["", "a", "b", "bd", "ac"]
    assert walk(alpha=1)[1] == ["", "a", "ac"]


def test_a_search_records_what_it_tried_and_what_it_found() -> None:
    found, _ = walk(alpha=0)
    assert found.solutions == (("b", "bd", "goal"),)
    assert (found.solved, found.expansions, found.solutions_per_expansion) == (True, 4, 0.25)
    assert found.to_row("prove it") == {
        "prompt": "prove it",
        "nodes": [
            {"id": 1, "parent": None, "text": "a"},
            {"id": 2, "parent": None, "text": "b", "onPath": True},
            {"id": 3, "parent": None, "text": "x", "error": "no such rule"},
            {"id": 4, "parent": 1, "text": "ac"},
            {"id": 5, "parent": 2, "text": "bd", "onPath": True},
            {"id": 6, "parent": 5, "text": "b"},
            {"id": 7, "parent": 5, "text": "goal", "onPath": True},
        ],
    }


def test_the_budget_ends_a_search() -> None:
    found, order = walk(alpha=0, expansions=3)
    assert (found.solved, found.expansions, order) == (False, 3, ["", "a", "b"])
    assert walk(alpha=0, solutions=5)[0].solutions == (("b", "bd", "goal"), ("a", "ac", "goal"))
    assert walk(alpha=0, depth=2)[1] == ["", "a", "b"], "steps beyond the depth are tried by nobody"


def test_no_state_is_expanded_twice() -> None:
    assert walk(alpha=0, solutions=5)[1].count("b") == 1


def test_a_state_with_two_paths_is_expanded_once_and_on_the_better_one() -> None:
    """Both paths to m are open before it is expanded: p m has -2, found first; q m has -1.6."""
    graph = {"": [("p", -1.0), ("q", -1.1)], "p": [("m", -1.0)], "q": [("m", -0.5)], "m": [("goal", -0.1)]}
    order = []

    def expand(state: str) -> list[Proposal]:
        order.append(state)
        return [Proposal(to, logprob) for to, logprob in graph[state]]

    found = best_first_search(
        "",
        expand,
        lambda _, text: Solved() if text == "goal" else Reached(text),
        budget=Budget(9, solutions=2),
        alpha=0,
    )
    assert order == ["", "p", "q", "m"]
    assert found.solutions == (("q", "m", "goal"),)


def test_lengths_can_be_tokens() -> None:
    """Two first steps of the same probability a token: with alpha = 1 they tie, and the first found goes first."""

    def expanded(alpha: float) -> str:
        order: list[str] = []

        def expand(state: str) -> list[Proposal]:
            order.append(state)
            return [Proposal("long", -4.0, 4), Proposal("short", -1.5, 1)] if state == "" else []

        best_first_search("", expand, lambda _, text: Reached(text), budget=Budget(3), alpha=alpha)
        return order[1]

    assert (expanded(0), expanded(1)) == ("short", "long")


@pytest.mark.parametrize(
    ("alpha", "budget", "proposal", "message"),
    [
        (1.5, Budget(1), Proposal("a", -1), "alpha must be from 0 to 1"),
        (0.5, Budget(0), Proposal("a", -1), "must be at least 1"),
        (0.5, Budget(1, depth=0), Proposal("a", -1), "must be at least 1"),
        (0.5, Budget(1), Proposal("a", 0.5), "log-probability 0.5"),
        (0.5, Budget(1), Proposal("a", math.nan), "log-probability nan"),
        (0.5, Budget(1), Proposal("a", -1, 0), "length 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(alpha: float, budget: Budget, proposal: Proposal, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_first_search("", lambda _: [proposal], lambda _, text: Reached(text), budget=budget, alpha=alpha)


# --- rewriting words --------------------------------------------------------------------------------------------------

STEPS = ("drop a;", "drop b;", "push a;", "push b;")


def rewrite(word: str, step: str) -> Reached[str] | Solved | Refused:
    action, letter = step.removesuffix(";").split()
    if action == "push":
        return Reached(letter + word)
    if not word.startswith(letter):
        return Refused(f"the word does not begin with {letter}")
    return Reached(word[1:]) if word[1:] else Solved()


def untrained() -> torch.Tensor:
    """[2, 4] logits of the steps for each first letter: dropping it has probability 0.4, everything else 0.2."""
    table = torch.full((2, 4), 0.2, dtype=torch.float64)
    table[0, 0] = table[1, 1] = 0.4
    return table.log()


def proposals(logits: torch.Tensor) -> Callable[[str], list[Proposal]]:
    table = logits.log_softmax(1).tolist()
    return lambda word: [Proposal(step, table["ab".index(word[0])][k]) for k, step in enumerate(STEPS)]


def search(logits: torch.Tensor, word: str, alpha: float, expansions: int) -> Search:
    return best_first_search(word, proposals(logits), rewrite, budget=Budget(expansions), alpha=alpha)


def words(longest: int) -> list[str]:
    return [("abba" * longest)[:length] for length in range(1, longest + 1)]


def longest_proof(alpha: float) -> int:
    found = [search(untrained(), word, alpha, expansions=30) for word in words(16)]
    return max(len(proof) for result in found for proof in result.solutions)


def test_normalising_by_length_finds_longer_proofs_with_as_many_expansions() -> None:
    lengths = [longest_proof(alpha) for alpha in (0, 0.5, 1)]
    assert lengths[0] < lengths[1] < lengths[2] == 16


def most_probable_paths(word: str, least: float) -> dict[str, float]:
    """The log-probability of the most probable path to each word that has one of at least `least`."""
    best, pending = {word: 0.0}, [word]
    while pending:
        current = pending.pop()
        for step, logprob, _ in proposals(untrained())(current):
            outcome, total = rewrite(current, step), best[current] + logprob
            if isinstance(outcome, Reached) and total > max(least, best.get(outcome.state, -math.inf) + 1e-9):
                best[outcome.state] = total
                pending.append(outcome.state)
    return best


def test_without_normalisation_every_more_probable_path_is_expanded_before_a_deep_proof() -> None:
    """alpha = 0 is the search by lowest cost: all words that are more probable than the last one come before it."""
    word = "abbaab"
    last = (len(word) - 1) * math.log(0.4)
    paths = most_probable_paths(word, last - 1e-6)
    more_probable = sum(total > last + 1e-6 for total in paths.values())
    assert more_probable < search(untrained(), word, 0, expansions=10_000).expansions <= len(paths)
    assert more_probable > 2 * len(word)
    assert search(untrained(), word, 1, expansions=10_000).expansions == len(word)


def invalid_rate(logits: torch.Tensor) -> float:
    """Probability of a proposal that the checker refuses, as a mean over the first letters of words."""
    refused = [[isinstance(rewrite(letter + "a", step), Refused) for step in STEPS] for letter in "ab"]
    return (logits.softmax(1) * torch.tensor(refused)).sum(1).mean().item()


def learn(logits: torch.Tensor, path: Path) -> torch.Tensor:
    """DPO on the pairs of the search trees in a file, read as a job reads them."""
    dataset = Dataset.model_validate({"source": {"path": {"path": str(path)}}})
    made = make_pairs(SearchTree(), load_rows(str(path), dataset, "trees").rows, seed=0)

    def table(pair: Any, step: str) -> tuple[int, int]:
        word = pair.prompt
        for earlier in pair.prefix.split(";")[:-1]:
            outcome = rewrite(word, earlier + ";")
            assert isinstance(outcome, Reached), "a prefix is a path that the checker accepted"
            word = outcome.state
        return "ab".index(word[0]), STEPS.index(step)

    won = torch.tensor([table(pair, pair.chosen) for pair in made.rows]).T
    lost = torch.tensor([table(pair, pair.rejected) for pair in made.rows]).T
    reference = logits.log_softmax(1)
    trained = logits.clone().requires_grad_()
    optimizer = torch.optim.SGD([trained], lr=2.0)
    for _ in range(100):
        policy = trained.log_softmax(1)
        losses, _ = step_dpo(
            StepDpo(beta=0.5),
            pairs_of(
                policy[tuple(won)],
                policy[tuple(lost)],
                reference_chosen=reference[tuple(won)],
                reference_rejected=reference[tuple(lost)],
            ),
        )
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return trained.detach()


def written(searches: dict[str, Search], path: Path) -> Path:
    path.write_text("".join(json.dumps(found.to_row(word)) + "\n" for word, found in searches.items()))
    return path


def test_a_round_of_search_and_dpo_lowers_the_rate_of_refused_steps_and_drops_easy_problems(tmp_path: Path) -> None:
    problems, policy, budget = words(14), untrained(), 30
    first = {word: search(policy, word, 0.5, budget) for word in problems}
    trained = learn(policy, written(first, tmp_path / "round-1.jsonl"))
    assert invalid_rate(policy) == pytest.approx(0.2)
    assert invalid_rate(trained) < 0.02

    def found_per_expansion(logits: torch.Tensor) -> float:
        results = [search(logits, word, 0.5, budget) for word in problems]
        return sum(len(result.solutions) for result in results) / sum(result.expansions for result in results)

    assert found_per_expansion(trained) > found_per_expansion(policy)

    second = drop_solved(problems, lambda word: search(trained, word, 0.5, expansions=5).solved)
    assert second == [word for word in problems if len(word) > 5], "what takes five steps is solved at sight"
    solved = [word for word, found in first.items() if found.solved]
    solved_now = [word for word in second if search(trained, word, 0.5, budget).solved]
    assert max(map(len, solved_now)) > max(map(len, solved)), "the second round gets further"
