"""Rows of search trees, and the pairs of steps that are made of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_api.methods.pairing_trees import SearchTree, ValueGap
from plumbline_api.sources import DatasetColumns
from plumbline_trainer.data.files import FileRow
from plumbline_trainer.data.pairing.registry import PAIRINGS, make_pairs
from plumbline_trainer.data.pairing.trees import search_tree, value_gap
from plumbline_trainer.data.rows import PairRow, shape_rows
from plumbline_trainer.data.search_trees import Step, Tree, TreeRow
from plumbline_trainer.failures import DataError


def node(identity: int | str, parent: int | str | None, text: str, **fields: Any) -> dict[str, Any]:
    return {"id": identity, "parent": parent, "text": text, **fields}


PROOF = [
    node(1, None, "intro;", onPath=True),
    node(2, None, "ring;", error="ring failed"),
    node(3, None, "skip;"),
    node(4, 1, "omega;", error="omega could not"),
    node(5, 1, "simp;", onPath=True),
    node(6, 1, "linarith;", error="no"),
    node(7, 3, "simp;", error="no progress"),
]
"""A search that found the proof `intro; simp;`."""

VALUES = [
    node("a", None, "a ", value=0.6),
    node("b", None, "b ", value=0.5),
    node("aa", "a", "aa ", value=0.9, refined="AA "),
    node("ab", "a", "ab ", value=0.3),
    node("ac", "a", "ac "),
    node("ba", "b", "ba ", value=1.0),
    node("bb", "b", "bb ", value=0.1),
    node("aaa", "aa", "aaa ", value=0.7),
    node("aab", "aa", "aab ", value=0.7),
]
"""A search with values; the widest gap, 0.9, lies off the path of the best steps."""


def rows_of(*trees: Any, **fields: Any) -> list[TreeRow]:
    found = [FileRow(f"search.jsonl:{n}", {"prompt": "p", "nodes": tree} | fields) for n, tree in enumerate(trees, 17)]
    rows, _ = shape_rows(found, DatasetColumns(), "trees")
    return rows


def pairs_of(parameters: SearchTree | ValueGap, nodes: list[dict[str, Any]]) -> list[PairRow]:
    made: list[PairRow] = PAIRINGS.of(parameters)(parameters, rows_of(nodes)[0], random.Random(0))
    return made


def texts(pairs: list[PairRow]) -> list[tuple[str, str, str]]:
    return [(pair.prefix, pair.chosen, pair.rejected) for pair in pairs]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_tree_of_steps() -> None:
    (row,) = rows_of([node(1, None, "x", value=1, onPath=True, visits=12), node("y", 1, "y", error="bad")])
    first, second = Step(1, None, "x", 1.0, True), Step("y", 1, "y", error="bad")
    assert row == TreeRow("search.jsonl:17", "p", Tree((first, second)))
    assert row.tree.states() == {None: [first], 1: [second]}
    assert (row.tree.prefix(None), row.tree.prefix("y")) == ("", "xy")


def test_steps_may_stand_before_their_parents() -> None:
    (row,) = rows_of([node(2, 1, "b"), node(1, None, "a")])
    assert row.tree.prefix(2) == "ab"


def test_the_prompt_may_be_chat_messages_and_its_column_may_have_another_name() -> None:
    messages = [{"role": "user", "content": "prove it"}]
    row = FileRow("search.jsonl:3", {"theorem": messages, "nodes": PROOF})
    (read,), _ = shape_rows([row], DatasetColumns(prompt="theorem"), "trees")
    assert read.prompt == messages


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (None, "nodes is missing"),
        ({}, "nodes must be a list of steps, found an object"),
        ([], "nodes is an empty list"),
        (["x"], r"nodes\[0\] must be an object with id, parent and text, found text"),
        ([{"parent": None, "text": "x"}], r"nodes\[0\]\.id must be text or a whole number, found null"),
        ([node(True, None, "x")], r"nodes\[0\]\.id must be text or a whole number, found a boolean"),
        ([node(1, 0.5, "x")], r"nodes\[0\]\.parent must be text or a whole number, found a number"),
        ([node(1, None, "")], r"nodes\[0\]\.text is empty"),
        ([node(1, None, None)], r"nodes\[0\]\.text must be text, found null"),  # type: ignore[arg-type]
        ([node(1, None, "x", value="high")], r"nodes\[0\]\.value must be a number from 0 to 1, found text"),
        ([node(1, None, "x", value=True)], r"nodes\[0\]\.value must be a number from 0 to 1, found a boolean"),
        ([node(1, None, "x", value=1.5)], r"nodes\[0\]\.value must be a number from 0 to 1, found 1.5"),
        ([node(1, None, "x", value=float("nan"))], r"nodes\[0\]\.value must be a number from 0 to 1, found nan"),
        ([node(1, None, "x", onPath="yes")], r"nodes\[0\]\.onPath must be true or false, found text"),
        ([node(1, None, "x", error=7)], r"nodes\[0\]\.error must be text, found a number"),
        ([node(1, None, "x", refined=[])], r"nodes\[0\]\.refined must be text, found a list"),
        ([node(1, None, "x"), node(1, None, "y")], r"nodes\[1\]\.id 1 is used twice"),
        ([node(1, 9, "x")], r"nodes\[0\]\.parent 9 is the id of no node"),
        ([node(1, None, "x"), node(2, "1", "y")], r"nodes\[1\]\.parent '1' is the id of no node"),
        ([node(1, 1, "x")], r"nodes\[0\]\.id 1 does not descend from a first step: its ancestors form a cycle"),
        (
            [node(1, None, "x"), node(2, 3, "y"), node(3, 2, "z")],
            r"nodes\[1\]\.id 2 does not descend from a first step: its ancestors form a cycle",
        ),
        ([node(1, None, "x", onPath=True, error="no")], r"nodes\[0\] has an error and is onPath"),
        ([node(1, None, "x", error="no"), node(2, 1, "y")], r"nodes\[1\]\.parent 1 has an error"),
        ([node(1, None, "x"), node(2, 1, "y", onPath=True)], r"nodes\[1\] is onPath, and its parent 1 is not"),
    ],
)
def test_what_is_no_tree_is_refused_by_file_line_and_node(nodes: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"^search\.jsonl:17: " + message):
        rows_of(nodes)


def test_several_bad_trees_are_named_and_the_rest_counted() -> None:
    with pytest.raises(DataError) as caught:
        rows_of(PROOF, *[[node(1, 1, "x")]] * 7)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("search.jsonl:18: ")
    assert (len(lines), lines[-1]) == (6, "and 2 more bad rows")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_every_parent_function_is_either_a_tree_or_refused(parents: list[int]) -> None:
    """Node i hangs on parents[i], and node 0 stands for none: a tree is what leads to 0 from everywhere."""

    def leads_to_the_prompt(identity: int) -> bool:
        for _ in parents:
            if identity == 0:
                break
            if identity > len(parents):
                return False
            identity = parents[identity - 1]
        return identity == 0

    nodes = [node(index, parent or None, f"{index} ") for index, parent in enumerate(parents, 1)]
    if all(leads_to_the_prompt(identity) for identity in range(1, len(parents) + 1)):
        (row,) = rows_of(nodes)
        assert sum(len(steps) for steps in row.tree.states().values()) == len(parents)
    else:
        with pytest.raises(DataError, match=r"cycle|no node"):
            rows_of(nodes)


# --- pairs of searches with a checker ---------------------------------------------------------------------------------


def test_steps_of_the_proof_win_against_steps_with_an_error_in_the_same_state() -> None:
    pairs = pairs_of(SearchTree(), PROOF)
    assert texts(pairs) == [
        ("", "intro;", "ring;"),
        ("intro;", "simp;", "omega;"),
        ("intro;", "simp;", "linarith;"),
    ]
    assert all(pair.prompt == "p" and pair.place == "search.jsonl:17" for pair in pairs)
    assert not any(pair.final or pair.chosen_score is not None for pair in pairs), "a step is no end, and has no score"


def test_steps_on_no_path_can_lose_too() -> None:
    assert texts(pairs_of(SearchTree(rejected="offPath"), PROOF))[:2] == [
        ("", "intro;", "ring;"),
        ("", "intro;", "skip;"),
    ]


def test_pairs_of_a_state_are_limited() -> None:
    assert [pair.rejected for pair in pairs_of(SearchTree(pairs_per_state=1), PROOF)] == ["ring;", "omega;"]


def test_a_text_that_is_on_a_path_never_loses_and_repeats_count_once() -> None:
    nodes = [
        node(1, None, "a", onPath=True),
        node(2, None, "b", onPath=True),
        node(3, None, "a", error="ran out of time"),
        node(4, None, "c", error="no"),
        node(5, None, "c", error="no"),
    ]
    assert texts(pairs_of(SearchTree(), nodes)) == [("", "a", "c"), ("", "b", "c")]


def test_a_search_without_a_solution_gives_no_pair_and_is_counted() -> None:
    unsolved = [node(1, None, "x"), node(2, 1, "y", error="no")]
    made = make_pairs(SearchTree(), rows_of(PROOF, unsolved), seed=0)
    assert (len(made.rows), made.without_pair) == (3, 1)


# --- pairs of searches with values ------------------------------------------------------------------------------------


def test_each_state_gives_its_best_step_against_its_worst() -> None:
    pairs = pairs_of(ValueGap(), VALUES)
    assert texts(pairs) == [("", "a ", "b "), ("a ", "AA ", "ab "), ("b ", "ba ", "bb ")]
    assert [(pair.chosen_score, pair.rejected_score) for pair in pairs] == [(0.6, 0.5), (0.9, 0.3), (1.0, 0.1)]
    assert not any(pair.final for pair in pairs)


def test_gaps_must_exceed_the_smallest_one_wanted() -> None:
    assert [pair.prefix for pair in pairs_of(ValueGap(min_gap=0.3), VALUES)] == ["a ", "b "]
    assert pairs_of(ValueGap(min_gap=0.95), VALUES) == []


def test_the_best_path_follows_the_steps_as_they_were_searched() -> None:
    assert [pair.prefix for pair in pairs_of(ValueGap(states="bestPath"), VALUES)] == ["", "a "]


def test_a_refined_step_stands_for_the_one_that_was_searched_only_as_chosen() -> None:
    nodes = [
        node(1, None, "x", value=0.9, refined="X"),
        node(2, None, "y", value=0.1, refined="Y"),
        node(3, 1, "z", value=0.8),
        node(4, 1, "w", value=0.2),
    ]
    assert texts(pairs_of(ValueGap(), nodes)) == [("", "X", "y"), ("x", "z", "w")]


value = st.none() | st.floats(0, 1)


@given(st.lists(st.tuples(st.integers(0, 8), value), min_size=1, max_size=20))
def test_the_widest_pair_has_the_highest_gap_of_all_siblings(spec: list[tuple[int, float | None]]) -> None:
    """Against all pairs of siblings, compared one by one."""
    nodes = [
        node(index, min(parent, index - 1) or None, f"{index} ", value=rate)
        for index, (parent, rate) in enumerate(spec, 1)
    ]
    gaps = [
        one["value"] - other["value"]
        for one in nodes
        for other in nodes
        if one["parent"] == other["parent"] and None not in (one["value"], other["value"])
    ]
    pairs = pairs_of(ValueGap(states="widest"), nodes)
    if max(gaps, default=0) == 0:
        assert pairs == []
        return
    (pair,) = pairs
    assert pair.chosen_score is not None and pair.rejected_score is not None
    assert pair.chosen_score - pair.rejected_score == max(gaps)
    by_text = {entry["text"]: entry for entry in nodes}
    assert by_text[pair.chosen]["parent"] == by_text[pair.rejected]["parent"]


def test_pairings_are_pure() -> None:
    (row,) = rows_of(PROOF)
    assert search_tree(SearchTree(), row, random.Random(1)) == search_tree(SearchTree(), row, random.Random(2))
    (row,) = rows_of(VALUES)
    assert value_gap(ValueGap(), row, random.Random(1)) == value_gap(ValueGap(), row, random.Random(2))
