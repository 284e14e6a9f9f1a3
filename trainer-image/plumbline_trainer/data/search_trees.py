"""Rows of recorded searches: the steps that were tried for a prompt, as a tree. Malformed trees are refused.

A row is one search for one prompt:

    {"prompt": "...", "nodes": [
        {"id": 1, "parent": null, "text": "first step\\n", "value": 0.5, "onPath": true},
        {"id": 2, "parent": 1, "text": "second step\\n", "error": "why the checker refused it"}]}

A node is a step: what the model wrote in the state that its parent led to. Nodes without parent are first steps. The
state after a node is the prompt and the texts of the steps to it, put together as they stand: steps bring their own
line ends and spaces. Fields of a node that are not listed here are left alone: searches record more than is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plumbline_trainer.data.conversations import BadRow, Prompt
from plumbline_trainer.data.files import json_type

NodeId = int | str


@dataclass(frozen=True)
class Step:
    """One node of a search tree."""

    id: NodeId
    parent: NodeId | None
    """The step before it; None for a first step."""

    text: str
    value: float | None = None
    """Estimated probability, 0 to 1, that the path succeeds from here on; None where the search estimated none."""

    on_path: bool = False
    """Whether it lies on a path to a solution."""

    error: str | None = None
    """Why the checker refused the step; None for a step that led to a state."""

    refined: str | None = None
    """The step rewritten after a critique; what follows it in the tree continues `text`."""


@dataclass(frozen=True)
class Tree:
    """The steps of one search, in the row's order. Every parent is a step of the tree, and no step its own ancestor."""

    steps: tuple[Step, ...]
    _by_id: dict[NodeId, Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {step.id: step for step in self.steps})

    def prefix(self, state: NodeId | None) -> str:
        """The texts of the steps that lead to a state, which is named by the last of them; None is the prompt's."""
        texts = []
        while state is not None:
            step = self._by_id[state]
            texts.append(step.text)
            state = step.parent
        return "".join(reversed(texts))

    def states(self) -> dict[NodeId | None, list[Step]]:
        """The steps that were tried in each state, states and steps in the row's order."""
        tried: dict[NodeId | None, list[Step]] = defaultdict(list)
        for step in self.steps:
            tried[step.parent].append(step)
        return dict(tried)


@dataclass(frozen=True)
class TreeRow:
    """A prompt with the tree of a search for it."""

    place: str
    prompt: Prompt
    tree: Tree


def read_tree(values: Mapping[str, Any]) -> Tree:
    """The search tree in the column `nodes` of a row. Raises `BadRow` naming the node for one that is no tree."""
    nodes = values.get("nodes")
    if nodes is None:
        raise BadRow("nodes is missing")
    if not isinstance(nodes, list):
        raise BadRow(f"nodes must be a list of steps, found {json_type(nodes)}")
    if not nodes:
        raise BadRow("nodes is an empty list")
    steps = tuple(_step(node, f"nodes[{index}]") for index, node in enumerate(nodes))
    _refuse_what_is_no_tree(steps)
    return Tree(steps)


def _step(node: Any, place: str) -> Step:
    if not isinstance(node, dict):
        raise BadRow(f"{place} must be an object with id, parent and text, found {json_type(node)}")
    parent = node.get("parent")
    return Step(
        _identity(node.get("id"), f"{place}.id"),
        None if parent is None else _identity(parent, f"{place}.parent"),
        read_text(node.get("text"), f"{place}.text"),
        None if node.get("value") is None else read_rate(node["value"], f"{place}.value"),
        _flag(node.get("onPath"), f"{place}.onPath"),
        _optional_text(node.get("error"), f"{place}.error"),
        _optional_text(node.get("refined"), f"{place}.refined"),
    )


def read_text(value: Any, place: str) -> str:
    """The text of a step."""
    if not isinstance(value, str):
        raise BadRow(f"{place} must be text, found {json_type(value)}")
    if not value:
        raise BadRow(f"{place} is empty")
    return value


def read_rate(value: Any, place: str) -> float:
    """An estimated probability of success."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadRow(f"{place} must be a number from 0 to 1, found {json_type(value)}")
    if not 0 <= value <= 1:
        raise BadRow(f"{place} must be a number from 0 to 1, found {value}")
    return float(value)


def _optional_text(value: Any, place: str) -> str | None:
    return None if value is None else read_text(value, place)


def _flag(value: Any, place: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise BadRow(f"{place} must be true or false, found {json_type(value)}")
    return bool(value)


def _identity(value: Any, place: str) -> NodeId:
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise BadRow(f"{place} must be text or a whole number, found {json_type(value)}")
    return value


def _refuse_what_is_no_tree(steps: Sequence[Step]) -> None:
    by_id: dict[NodeId, Step] = {}
    for index, step in enumerate(steps):
        if step.id in by_id:
            raise BadRow(f"nodes[{index}].id {step.id!r} is used twice")
        by_id[step.id] = step
    for index, step in enumerate(steps):
        place = f"nodes[{index}]"
        if step.on_path and step.error is not None:
            raise BadRow(f"{place} has an error and is onPath: a refused step leads nowhere")
        if step.parent is None:
            continue
        parent = by_id.get(step.parent)
        if parent is None:
            raise BadRow(f"{place}.parent {step.parent!r} is the id of no node")
        if parent.error is not None:
            raise BadRow(f"{place}.parent {step.parent!r} has an error: nothing can follow a refused step")
        if step.on_path and not parent.on_path:
            raise BadRow(f"{place} is onPath, and its parent {step.parent!r} is not")
    _refuse_cycles(steps)


def _refuse_cycles(steps: Sequence[Step]) -> None:
    """Every step has a parent that exists, so whatever first steps do not reach hangs on a cycle."""
    children: dict[NodeId | None, list[NodeId]] = defaultdict(list)
    for step in steps:
        children[step.parent].append(step.id)
    reached: set[NodeId] = set()
    pending = list(children[None])
    while pending:
        identity = pending.pop()
        reached.add(identity)
        pending += children[identity]
    for index, step in enumerate(steps):
        if step.id not in reached:
            raise BadRow(
                f"nodes[{index}].id {step.id!r} does not descend from a first step: its ancestors form a cycle"
            )
