"""Estimators for completions that start from prefixes of known trees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from plumbline_api.methods.advantage.trees import PrefixTree
from plumbline_trainer.advantages.group import centred_in
from plumbline_trainer.advantages.registry import ESTIMATORS
from plumbline_trainer.failures import DataError
from plumbline_trainer.rollout.groups import Groups
from plumbline_trainer.rollout.judged import JudgedRollout

Node = tuple[str, tuple[str, ...]]
"""A tree's name and a prefix in it, as steps or as single characters."""

_VALUES: dict[str, Callable[[Sequence[float]], float]] = {"expectation": fmean, "optimistic": max, "pessimistic": min}


@ESTIMATORS.implements(PrefixTree)
def prefix_tree(parameters: PrefixTree, rollout: JudgedRollout) -> Tensor:
    """R - alpha V(prefix), minus its mean over the tree; Tree-OPO (Huang et al. 2025, arXiv:2509.09284). [N].

    V(p) is read off the rewards of the valid completions that start at p or at a descendant of p in the same tree:
    their mean (expectation), their highest (optimistic: can it be solved from here?) or their lowest (pessimistic: is
    it always solved?). A completion is thus compared with others that had at least as much given to them, not with all
    of the tree. With alpha = 1 and `expectation` it is, up to the tree's mean, what the completion's own subtree does
    not explain. The paper also projects advantages onto constraints of the tree's order by a quadratic program; that
    is not done here. Raises `DataError` where a row lacks one of the columns.
    """
    nodes = [_node(parameters, row) for row in rollout.columns]
    if len(nodes) != len(rollout.rewards):
        raise ValueError("prefix trees need the columns of every completion's row")
    values = _subtree_values(nodes, rollout, parameters.baseline)
    names = {name: number for number, name in enumerate(dict.fromkeys(tree for tree, _ in nodes))}
    tree = Groups(torch.tensor([names[name] for name, _ in nodes], dtype=torch.long), rollout.valid)
    above = torch.where(rollout.valid, rollout.rewards - parameters.alpha * values, 0.0)
    # a tree whose rewards are all the same teaches nothing, whatever its baselines say
    signal = rollout.valid & tree.differs(rollout.rewards)
    centred = torch.where(signal, centred_in(tree, above, rollout.valid), 0.0)
    if parameters.normalize == "none":
        return centred
    return centred / (tree.deviation(above) + parameters.epsilon)


def _node(parameters: PrefixTree, row: Any) -> Node:
    for column in parameters.columns:
        if row.get(column) is None:
            raise DataError(f"a row of data has no column {column}, which advantage.prefixTree reads")
    prefix = row[parameters.prefix_column]
    return str(row[parameters.tree_column]), tuple(prefix)


def _subtree_values(nodes: Sequence[Node], rollout: JudgedRollout, baseline: str) -> Tensor:
    """[N] float64: the value of each completion's node; 0 where nothing below it is valid.

    Every completion is counted at all prefixes of its own that occur, which takes as many steps as prefixes are long.
    """
    occurring = set(nodes)
    below: dict[Node, list[float]] = defaultdict(list)
    for (tree, prefix), reward, valid in zip(nodes, rollout.rewards.tolist(), rollout.valid.tolist(), strict=True):
        if valid:
            for length in range(len(prefix) + 1):
                if (tree, prefix[:length]) in occurring:
                    below[tree, prefix[:length]].append(reward)
    value_of = _VALUES[baseline]
    return torch.tensor([value_of(below[node]) if below[node] else 0.0 for node in nodes], dtype=torch.float64)
