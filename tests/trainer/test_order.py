"""The order of rows: pure, complete, and the same after any interruption."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.data.order import DataOrder, derive_seed

sizes = st.integers(1, 40)


@given(rows=sizes, batch=sizes, seed=st.integers(0, 2**32 - 1), shuffle=st.booleans(), epoch=st.integers(0, 3))
def test_an_epoch_visits_every_row_exactly_once(rows: int, batch: int, seed: int, shuffle: bool, epoch: int) -> None:
    order = DataOrder(rows, batch, seed, shuffle)
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    visited = [row for step in steps for row in order.rows_of(step)]
    assert sorted(visited) == list(range(rows))
    assert all(len(order.rows_of(step)) == batch for step in list(steps)[:-1])
    if not shuffle:
        assert visited == list(range(rows))


@given(rows=sizes, batch=sizes, step=st.integers(0, 50), world=st.integers(1, 5))
def test_the_shares_of_all_ranks_are_the_step(rows: int, batch: int, step: int, world: int) -> None:
    order = DataOrder(rows, batch, seed=1)
    shares = [order.share_of(step, rank, world) for rank in range(world)]
    assert sorted(row for share in shares for row in share) == sorted(order.rows_of(step))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_steps_depend_on_nothing_but_their_number() -> None:
    order = DataOrder(100, 8, seed=3)
    forwards = [order.rows_of(step) for step in range(30)]
    backwards = [DataOrder(100, 8, seed=3).rows_of(step) for step in reversed(range(30))]
    assert forwards == backwards[::-1]


def test_epochs_and_seeds_shuffle_differently() -> None:
    order = DataOrder(100, 100, seed=3)
    assert order.rows_of(0) != order.rows_of(1)
    assert order.rows_of(0) != DataOrder(100, 100, seed=4).rows_of(0)
    assert order.rows_of(0) != list(range(100))


def test_the_last_batch_of_an_epoch_holds_what_is_left() -> None:
    order = DataOrder(10, 4, seed=0)
    assert [len(order.rows_of(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]
    assert order.position(4) == (1, 4)
    assert order.max_steps(steps=None, epochs=2) == 6
    assert order.max_steps(steps=5, epochs=None) == 5
    with pytest.raises(ValueError, match="one of steps and epochs"):
        order.max_steps(steps=None, epochs=None)


def test_derived_seeds_keep_purposes_apart() -> None:
    seeds = {
        derive_seed(seed, purpose, step) for seed in range(10) for purpose in ("order", "dropout") for step in range(10)
    }
    assert len(seeds) == 200
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed(1, "order") != derive_seed("1", "order")
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "order", 0) == derive_seed(0, "order", 0)
