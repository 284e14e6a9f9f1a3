"""Pairs of steps out of recorded searches: siblings, which continue the same prefix.

Only a step's own tokens bear a loss: what leads to it is the pair's prefix. No method pairs equal texts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from operator import itemgetter

from plumbline_api.methods.pairing_trees import SearchTree, ValueGap
from plumbline_trainer.data.pairing.registry import PAIRINGS
from plumbline_trainer.data.rows import PairRow
from plumbline_trainer.data.search_trees import NodeId, Step, TreeRow


@PAIRINGS.implements(SearchTree)
def search_tree(parameters: SearchTree, row: TreeRow, generator: random.Random) -> list[PairRow]:
    """Steps on a path to a solution against refused steps of the same state (Xin et al. 2025, arXiv:2502.03438).

    With `rejected: offPath` every step of the state loses that lies on no such path. States, and in each the losing
    steps, come in the row's order.
    """
    pairs = []
    for state, steps in row.tree.states().items():
        # the same text may have been tried more than once
        winning = dict.fromkeys(step.text for step in steps if step.on_path)
        losing = dict.fromkeys(
            step.text for step in steps if step.text not in winning and (step.error or parameters.rejected == "offPath")
        )
        both = [(won, lost) for lost in losing for won in winning]
        prefix = row.tree.prefix(state) if both else ""
        pairs += [
            PairRow(row.place, row.prompt, won, lost, prefix, final=False)
            for won, lost in both[: parameters.pairs_per_state]
        ]
    return pairs


@PAIRINGS.implements(ValueGap)
def value_gap(parameters: ValueGap, row: TreeRow, generator: random.Random) -> list[PairRow]:
    """In each state the step with the highest value against that with the lowest (Ping et al. 2025, arXiv:2502.02095).

    Steps without a value take no part; of equal values the first in the row's order counts. A chosen step with a
    `refined` text is replaced by it; the values stay those of the steps as they were searched, and become the scores.
    Pairs come in the row's order of states, whichever of them `parameters.states` selects.
    """
    states = {state: _valued(steps) for state, steps in row.tree.states().items()}
    if parameters.states == "bestPath":
        states = _best_path(states)
    pairs: list[tuple[float, PairRow]] = []
    for state, steps in states.items():
        if not steps:
            continue
        (high, best), (low, worst) = max(steps, key=itemgetter(0)), min(steps, key=itemgetter(0))
        chosen = best.refined or best.text
        if high - low > parameters.min_gap and chosen != worst.text:
            prefix = row.tree.prefix(state)
            pairs.append((high - low, PairRow(row.place, row.prompt, chosen, worst.text, prefix, False, high, low)))
    if parameters.states == "widest":
        pairs = [max(pairs, key=itemgetter(0))] if pairs else []
    return [pair for _, pair in pairs]


def _valued(steps: Iterable[Step]) -> list[tuple[float, Step]]:
    return [(step.value, step) for step in steps if step.value is not None]


def _best_path(states: dict[NodeId | None, list[tuple[float, Step]]]) -> dict[NodeId | None, list[tuple[float, Step]]]:
    """The states on the path that always takes the step with the highest value."""
    path: dict[NodeId | None, list[tuple[float, Step]]] = {}
    state: NodeId | None = None
    while steps := states.get(state):
        path[state] = steps
        state = max(steps, key=itemgetter(0))[1].id
    return path
