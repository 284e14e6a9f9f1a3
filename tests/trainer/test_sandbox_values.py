"""Values across the border of the sandbox: the same at the other side, and never more than data."""

import json
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.rewards.sandbox.values import Exchange

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False)
)  # fmt: skip
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=12,
)


def no_handle(value):
    raise ValueError(f"{type(value).__name__} is no data")


def crossed(value):
    wire = json.loads(json.dumps(Exchange(no_handle, no_handle).encode(value)))
    return Exchange(no_handle, no_handle).decode(wire)


def same(one, other):
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return one == other


@given(VALUES)
def test_data_are_the_same_at_the_other_side(value):
    assert same(crossed(value), value)


@pytest.mark.parametrize(
    "value",
    [
        Counter("aab"), OrderedDict(b=1, a=2), deque([1, 2]), bytearray(b"x"), 2**4000, -(2**60), float("inf"),
        "\ud800", Decimal("1.10"), Fraction(1, 3),
    ],
)  # fmt: skip
def test_other_containers_and_numbers_keep_their_type(value):
    assert same(crossed(value), value)


def test_what_cannot_cross_whole_crosses_as_its_data():
    assert crossed(defaultdict(list, a=[1])) == {"a": [1]}
    assert same(crossed(numpy.float64(1.5)), 1.5)
    array = crossed(numpy.arange(6.0).reshape(2, 3))
    assert array.dtype == numpy.float64
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


class Agreeable:
    def __eq__(self, other):
        return True

    __hash__ = None


class AgreeableTuple(tuple):
    __slots__ = ()
    __eq__ = Agreeable.__eq__
    __hash__ = tuple.__hash__


@pytest.mark.parametrize("kind", [int, str, list, dict, set, float, bytes])
def test_subclasses_of_data_are_no_data(kind):
    value = type("Agreeable", (kind,), {"__eq__": Agreeable.__eq__, "__hash__": kind.__hash__})()
    with pytest.raises(ValueError, match="is no data"):
        crossed(value)
    with pytest.raises(ValueError, match="is no data"):
        crossed([Agreeable()])


def test_a_tuple_of_another_class_is_a_tuple():
    assert same(crossed(AgreeableTuple((1, 2))), (1, 2))


@pytest.mark.parametrize(
    "wire", [{"object": 3}, {"eval": "1"}, {}, {"int": "0x1", "list": []}, [1], {"array": ["|O", [1], ""]}]
)
def test_what_is_not_written_like_a_value_is_refused(wire):
    with pytest.raises(ValueError, match=r"no data|no value|no array"):
        Exchange(no_handle, no_handle).decode(wire)


def test_the_same_list_twice_is_the_same_list_and_cycles_close():
    inner = [1]
    cycle = [inner, inner]
    cycle.append(cycle)
    found = crossed(cycle)
    assert found[0] is found[1]
    assert found[2] is found


def test_changes_come_back_to_the_containers_that_were_sent():
    values, table, kept = [3, 1], {"a": [1]}, [0]
    here, there = Exchange(no_handle, no_handle), Exchange(no_handle, no_handle)
    got = [there.decode(wire) for wire in [here.encode(values), here.encode(table), here.encode(kept)]]
    before = there.snapshot()
    got[0].sort()
    got[1]["a"].append(got[0])
    del got[1]["a"][0]
    changes = there.changes(before)
    here.apply(changes)
    assert values == [1, 3]
    assert table == {"a": [[1, 3]]}
    assert table["a"][0] is values
    assert [number for number, _ in changes] == [0, 2]  # not the table, whose list is one of its own, nor `kept`
