"""The order in which several processes run the tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import dealt


def items(long: int, others: int) -> list[Any]:
    """Tests in the order of their length; the marker stands for any."""
    return [SimpleNamespace(n=n, get_closest_marker=lambda name, n=n: n < long) for n in range(long + others)]


def test_each_process_begins_with_its_share_of_the_long_tests_and_keeps_neighbours_together():
    found: list[Any] = dealt(items(5, 10), 3)
    assert [item.n for item in found] == [0, 3, 5, 6, 7, 1, 4, 8, 9, 10, 2, 11, 12, 13, 14]


@pytest.mark.parametrize(("long", "others"), [(0, 0), (0, 7), (7, 0), (7, 1), (1, 7), (40, 300)])
@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_every_test_is_run_once(long, others, processes):
    found: list[Any] = dealt(items(long, others), processes)
    assert sorted(item.n for item in found) == list(range(long + others))
