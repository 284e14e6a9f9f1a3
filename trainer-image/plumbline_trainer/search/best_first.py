"""Best-first search over the steps of a policy, checked one by one (BFS-Prover: Xin et al. 2025, arXiv:2502.03438).

The policy proposes steps in a state; the checker says what each leads to. The open state with the highest score is
expanded next. The score of a state is the log-probability of the path to it, divided by a power of the path's length:

    score = sum_t log p(a_t | s_t) / L^alpha        with L the path's length

With alpha = 0 every further step lowers the score, so that the search stays shallow wherever there are many cheap first
steps. alpha = 1 is the mean log-probability, which does not depend on depth. In between, deep paths are favoured the
more the higher alpha is. The search is deterministic: of equal scores the state that was found first is expanded.

What was tried becomes a search tree in the form that `data/search_trees.py` reads, so that its pairs (a step on the
proof against a step that the checker refused in the same state) can be learned from, and the next round begins with
the problems that are not solved yet.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

from plumbline_trainer.data.search_trees import Step, Tree

State = TypeVar("State", bound=Hashable)
Problem = TypeVar("Problem")


class Proposal(NamedTuple):
    """A step that the policy proposes."""

    text: str

    logprob: float
    """log p(step | state), at most 0."""

    length: int = 1
    """What the step adds to the path's length L: 1 counts steps; the number of its tokens counts tokens."""


@dataclass(frozen=True)
class Reached(Generic[State]):
    """The checker accepts the step, which leads to a state."""

    state: State


@dataclass(frozen=True)
class Solved:
    """The checker accepts the step, and nothing is left to do."""


@dataclass(frozen=True)
class Refused:
    """The checker refuses the step."""

    error: str


Expand = Callable[[State], Iterable[Proposal]]
Check = Callable[[State, str], "Reached[State] | Solved | Refused"]


@dataclass(frozen=True)
class Budget:
    """When a search ends without having found what it looks for."""

    expansions: int
    """Most states whose steps are asked for; at least 1."""

    solutions: int = 1
    """The search ends once it has found so many."""

    depth: int | None = None
    """Longest path, in steps; None for no limit."""


@dataclass(frozen=True)
class Search:
    """What a search tried and found."""

    tree: Tree
    """Every proposed step, in the order of the proposals; those on the way to a solution are `on_path`."""

    solutions: tuple[tuple[str, ...], ...]
    """The steps of each solution, in the order in which they were found."""

    expansions: int
    """States whose steps were asked for."""

    @property
    def solved(self) -> bool:
        return bool(self.solutions)

    @property
    def solutions_per_expansion(self) -> float:
        """What the search found for what it cost."""
        return len(self.solutions) / self.expansions

    def to_row(self, prompt: Any) -> dict[str, Any]:
        """The search tree as a row of a data set, whose prompt (text or chat messages) is that of the problem."""
        return {"prompt": prompt, "nodes": [_node(step) for step in self.tree.steps]}


def score(logprob: float, length: int, alpha: float) -> float:
    """sum log p / L^alpha of a path of `length` > 0; 0 for the empty path, which every path follows."""
    return logprob / length**alpha if length else 0.0


def best_first_search(
    start: State, expand: Expand[State], check: Check[State], *, budget: Budget, alpha: float = 0.5
) -> Search:
    """Searches from `start` until the budget is spent, enough solutions are found or no state is open.

    `alpha` in [0, 1] is the power of the length in the score of a path. A state is expanded once, on the best path
    to it that is known by then; a step that leads to it again is kept in the tree and not followed. Raises `ValueError`
    for an alpha or a budget out of range, a log-probability above 0 and a length below 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, found {alpha}")
    if budget.expansions < 1 or budget.solutions < 1 or (budget.depth is not None and budget.depth < 1):
        raise ValueError(f"expansions, solutions and depth must be at least 1, found {budget}")
    tried = _Tried()
    expanded: set[State] = set()
    open_states: list[tuple[float, int, _Path[State]]] = [(0.0, 0, _Path(start))]
    arrival = count(1)
    while open_states and len(expanded) < budget.expansions and len(tried.solutions) < budget.solutions:
        path = heapq.heappop(open_states)[2]
        if path.state in expanded:
            continue
        expanded.add(path.state)
        for proposal in expand(path.state):
            _refuse_impossible(proposal)
            outcome = check(path.state, proposal.text)
            identity = tried.add(path.last, proposal.text, outcome)
            if not isinstance(outcome, Reached) or path.depth + 1 == budget.depth:
                continue
            if outcome.state in expanded:
                continue
            further = path.then(outcome.state, identity, proposal)
            heapq.heappush(open_states, (-score(further.logprob, further.length, alpha), next(arrival), further))
    return Search(tried.tree(), tuple(tried.steps_to(solution) for solution in tried.solutions), len(expanded))


def drop_solved(problems: Iterable[Problem], solves: Callable[[Problem], bool]) -> list[Problem]:
    """The problems that a cheap solver does not solve, in their order: what the next round of search is spent on.

    Xin et al. drop, in every round, what the present policy solves by beam search alone, so that the training data
    does not fill up with short proofs.
    """
    return [problem for problem in problems if not solves(problem)]


@dataclass(frozen=True)
class _Path(Generic[State]):
    """An open state and the way to it."""

    state: State
    last: int | None = None
    logprob: float = 0.0
    length: int = 0
    depth: int = 0

    def then(self, state: State, identity: int, proposal: Proposal) -> _Path[State]:
        return _Path(state, identity, self.logprob + proposal.logprob, self.length + proposal.length, self.depth + 1)


class _Tried:
    """All steps that were proposed; their ids are 1, 2, ... in that order."""

    def __init__(self) -> None:
        self._steps: list[tuple[int | None, str, str | None]] = []
        self.solutions: list[int] = []

    def add(self, parent: int | None, text: str, outcome: Reached[Any] | Solved | Refused) -> int:
        error = (outcome.error or "refused") if isinstance(outcome, Refused) else None
        self._steps.append((parent, text, error))
        identity = len(self._steps)
        if isinstance(outcome, Solved):
            self.solutions.append(identity)
        return identity

    def way_to(self, identity: int) -> list[int]:
        """The ids of a step and all steps before it, from the first."""
        way = []
        current: int | None = identity
        while current is not None:
            way.append(current)
            current = self._steps[current - 1][0]
        return way[::-1]

    def steps_to(self, identity: int) -> tuple[str, ...]:
        return tuple(self._steps[step - 1][1] for step in self.way_to(identity))

    def tree(self) -> Tree:
        on_path = {step for solution in self.solutions for step in self.way_to(solution)}
        return Tree(
            tuple(
                Step(identity, parent, text, on_path=identity in on_path, error=error)
                for identity, (parent, text, error) in enumerate(self._steps, start=1)
            )
        )


def _refuse_impossible(proposal: Proposal) -> None:
    if not proposal.logprob <= 0:
        raise ValueError(f"step {proposal.text!r} has log-probability {proposal.logprob}, which must not exceed 0")
    if proposal.length < 1:
        raise ValueError(f"step {proposal.text!r} has length {proposal.length}, which must be at least 1")


def _node(step: Step) -> dict[str, Any]:
    node: dict[str, Any] = {"id": step.id, "parent": step.parent, "text": step.text}
    if step.on_path:
        node["onPath"] = True
    if step.error is not None:
        node["error"] = step.error
    return node
