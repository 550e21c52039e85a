"""Rows of streams keep what they hold while the table grows and shrinks."""

from __future__ import annotations

import numpy as np
import pytest

from service.streams import table
from service.streams.table import ABSENT, FIRST_ROWS, MappedRows, StreamTable, listed, span

WIDTH = 300


def filled(t: StreamTable, ids: range) -> None:
    for n in ids:
        row = t.add(f"s{n}", n + 1, 1, 0.0)
        assert not t.state[row].any(), "a new row is zero"
        t.state[row] = n + 1


def holds(t: StreamTable, ids: range) -> bool:
    return all((t.state[t.by_id[f"s{n}"]] == n + 1).all() for n in ids)


@pytest.mark.parametrize("mapped", [1, 1 << 16, 1 << 40])
def test_states_stay_as_they_are_while_the_table_grows_shrinks_and_grows_again(monkeypatch, mapped):
    monkeypatch.setattr(table, "MAPPED_BYTES", mapped)
    t = StreamTable(WIDTH)
    filled(t, range(1000))
    assert holds(t, range(1000))
    for n in range(100, 1000):
        t.remove(t.by_id[f"s{n}"])
    t.shrink()
    assert len(t.state) < 300
    assert holds(t, range(100))
    filled(t, range(1000, 3000))
    assert holds(t, range(100))
    assert holds(t, range(1000, 3000))
    assert len(t.state) == len(t.number)


def test_growing_moves_pages_and_copies_only_where_somebody_looks_on():
    rows = MappedRows(FIRST_ROWS, WIDTH)
    rows.array[:] = 7
    rows.resize(1000)
    assert (rows.array[:FIRST_ROWS] == 7).all()
    assert not rows.array[FIRST_ROWS:].any()
    looked_at = rows.array[3]
    rows.resize(2000)

    assert (looked_at == 7).all()
    assert (rows.array[:FIRST_ROWS] == 7).all()
    rows.array[3] = 9
    assert (looked_at == 7).all(), "the one who looks has the old map"
    assert rows.array.shape == (2000, WIDTH)
    assert np.shares_memory(rows.array, rows._view())


@pytest.mark.parametrize(
    "rows", [[], [3], [0, 1], [4, 5, 6], [5, 4], [0, 2], [0, 5, 1, 3], [0, 2, 1, 3], [ABSENT, 0], [ABSENT, 0, 1]]
)
def test_a_span_indexes_what_its_rows_do_and_is_a_slice_only_for_neighbours_in_order(rows):
    at, column = np.array(rows, np.intp), np.arange(10.0, 20.0)
    np.testing.assert_array_equal(column[span(at)], column[at])
    np.testing.assert_array_equal(listed(span(at)), at)
    neighbours = len(rows) > 1 and rows == list(range(max(rows[0], 0), max(rows[0], 0) + len(rows)))
    assert isinstance(span(at), slice) == neighbours
