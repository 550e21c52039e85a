"""Objects loaded at start are not searched for garbage while the server runs."""

from __future__ import annotations

import gc

from service.server.shard import memory as heap


def test_frozen_objects_are_not_searched_and_later_ones_are():
    there = [[n] for n in range(1000)]
    heap.freeze()
    try:
        searched = gc.get_objects()
        assert not {id(one) for one in there} & {id(one) for one in searched}
        later: list[object] = []
        later.append(later)
        assert any(one is later for one in gc.get_objects())
    finally:
        gc.unfreeze()
