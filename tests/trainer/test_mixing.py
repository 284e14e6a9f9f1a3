"""Sources with weights: shares of an epoch, fairness to rows, nothing that depends on what was asked before."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline_trainer.data.mixing import Part, epoch_rows, quotas
from plumbline_trainer.data.order import DataOrder

SOURCES = (Part("small", 3, 0.5), Part("large", 17, 0.5))
parts = st.lists(st.tuples(st.integers(1, 30), st.floats(0.5, 4.0)), min_size=2, max_size=4).map(
    lambda sizes: tuple(Part(f"s{index}", rows, weight) for index, (rows, weight) in enumerate(sizes))
)


@given(parts)
def test_quotas_add_up_and_are_within_one_row_of_the_weights(sources: tuple[Part, ...]) -> None:
    total, weights = sum(part.rows for part in sources), sum(part.weight for part in sources)
    exact = [total * part.weight / weights for part in sources]
    if min(exact) < 1:
        return
    counts = quotas(sources)
    assert sum(counts) == total
    assert all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))


def test_a_source_that_would_get_no_row_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="tiny gets no row of an epoch of 20"):
        quotas([Part("tiny", 10, 0.001), Part("other", 10, 1.0)])


@given(parts, st.integers(0, 5), st.booleans())
def test_an_epoch_has_each_source_as_often_as_its_quota(sources: tuple[Part, ...], epoch: int, shuffle: bool) -> None:
    try:
        expected = quotas(sources)
    except ValueError:
        return
    rows = epoch_rows(sources, 1, epoch, shuffle).tolist()
    bounds = [sum(part.rows for part in sources[:index]) for index in range(len(sources) + 1)]
    found = [sum(low <= row < high for row in rows) for low, high in pairwise(bounds)]
    assert found == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_over_a_run_every_row_of_a_source_is_used_equally_often(shuffle: bool) -> None:
    used: Counter[int] = Counter()
    for epoch in range(12):  # quotas 10 and 10: the small source is repeated, the large one sub-sampled
        used.update(epoch_rows(SOURCES, 5, epoch, shuffle).tolist())
        for low, high in ((0, 3), (3, 20)):
            counts = [used[row] for row in range(low, high)]
            assert max(counts) - min(counts) <= 1


def test_a_source_of_its_own_share_is_used_once_an_epoch() -> None:
    sources = (Part("a", 6, 6.0), Part("b", 14, 14.0))
    assert sorted(epoch_rows(sources, 0, 3, True).tolist()) == list(range(20))


def test_epochs_and_seeds_differ_and_nothing_depends_on_the_order_of_questions() -> None:
    order = DataOrder(20, 7, 3, True, SOURCES)
    forwards = [order.rows_of(step) for step in range(12)]
    epoch_rows.cache_clear()
    backwards = [DataOrder(20, 7, 3, True, SOURCES).rows_of(step) for step in reversed(range(12))]
    assert forwards == backwards[::-1]
    assert forwards[0] != forwards[3], "another epoch"
    assert forwards[0] != DataOrder(20, 7, 4, True, SOURCES).rows_of(0)
    assert sorted(row for rank in range(3) for row in order.share_of(1, rank, 3)) == sorted(forwards[1])


def test_without_shuffling_files_keep_their_order_and_sources_alternate_evenly() -> None:
    sources = (Part("a", 4, 1.0), Part("b", 4, 1.0))
    assert epoch_rows(sources, 0, 0, False).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert epoch_rows(SOURCES, 0, 0, False).tolist()[::2] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert epoch_rows(SOURCES, 0, 1, False).tolist()[::2][:3] == [1, 2, 0], "the next epoch goes on where one ended"


def test_parts_must_be_the_rows() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        DataOrder(21, 7, 3, True, SOURCES)
