"""Which streams are in memory: brought from disk when they are wanted, let go when they are idle."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.config import ServeConfig
from service.sessions import Sessions
from service.storage.states import States, StreamRow
from service.table import ABSENT

EVICTED_AT_ONCE = 2048  # streams, before others have their turn of the loop


class Residency:
    """Moves streams between memory and states.db. models: by number, as they come and go; evicted: told how many."""

    def __init__(
        self,
        config: ServeConfig,
        states: States,
        models: Mapping[int, Sessions],
        clock: Callable[[], float],
        evicted: Callable[[Sessions, int], None],
    ) -> None:
        self._config, self._states, self._models, self._clock = config, states, models, clock
        self._evicted = evicted

    async def bring(self, model: Sessions, ids: Sequence[str]) -> None:
        """Bring into memory those of the streams that are stored and not there. Until the caller awaits, they stay."""
        while model.known > len(model.table):
            absent = [id for id in ids if id not in model.table.by_id]
            removals, gone = model.table.removals, model.deleted_numbers()
            found = await asyncio.to_thread(self._states.by_id, model.number, absent) if absent else []
            if removals == model.table.removals:  # or what was read may be out of date
                self._restore(model, found, gone)
                return

    async def bring_numbers(self, model: Sessions, numbers: NDArray[np.uint32]) -> None:
        """`bring`, by stream number."""
        while (absent := numbers[model.table.rows_of(numbers) == ABSENT]).size:
            removals, gone = model.table.removals, model.deleted_numbers()
            found = await asyncio.to_thread(self._states.by_number, model.number, np.unique(absent).tolist())
            if removals == model.table.removals:
                self._restore(model, found, gone)
                return

    def _restore(self, model: Sessions, found: list[StreamRow], gone: set[int]) -> None:
        """gone: stream numbers that were deleted before the lines were read, which may hold them still."""
        for stored in found:
            if stored.stream not in gone:
                model.restore(stored, self._clock())

    async def page(self, model: Sessions, after: str, limit: int) -> tuple[list[tuple[StreamRow, int]], str]:
        """At most `limit` streams behind the id `after` in the order of ids, each with its durable seq; and the id
        behind which the next page begins, empty for none. A page may be shorter than the limit."""
        saves, t = -1, model.table
        while saves != model.saves:  # a snapshot that came between makes out of date what was read, or what is unsaved
            saves = model.saves
            stored = await asyncio.to_thread(self._states.page, model.number, after, limit)
            full = len(stored) == limit
            # Of a full page, what is stored behind it is not known here.
            end = stored[-1].id if full else ""
            names = [row.id for row in stored]
            page = await asyncio.to_thread(_merged, names, model.unsaved(), after, end, limit)
        gone = model.deleted_among(np.array([row.stream for row in stored], np.uint32))
        ids = {row.id: row for row, deleted in zip(stored, gone, strict=True) if not deleted}
        more = page[limit - 1] if len(page) > limit else end
        there = [id for id in page[:limit] if id in t.by_id or id in ids]
        rows = [model.row(t.by_id[id], with_state=False) if id in t.by_id else ids[id] for id in there]
        return [(r, int(t.durable_seq[t.by_id[r.id]]) if r.id in t.by_id else r.last_seq) for r in rows], more

    async def evict(self) -> int:
        """Let idle streams leave memory, and say how many; to be called when a snapshot has been saved, and to its end
        before the next one."""
        total = 0
        now, excess = self._clock(), sum(len(m.table) for m in self._models.values()) - self._config.max_resident
        for model in list(self._models.values()):
            gone = EVICTED_AT_ONCE
            while gone == EVICTED_AT_ONCE:
                await asyncio.sleep(0)
                most = len(model.table) - max(0, excess)
                gone = model.evict(now, self._config.idle_s, most, EVICTED_AT_ONCE)
                excess -= gone
                total += gone
                if gone:
                    self._evicted(model, gone)
        return total


def _merged(stored: list[str], unsaved: list[str], after: str, end: str, limit: int) -> list[str]:
    """In a thread, as there may be 100,000 unsaved ones: the first `limit` + 1 of the ids behind `after`, in order; of
    the unsaved those up to `end`, empty: all."""
    fresh = {id for id in unsaved if id > after and not (end and id > end)}
    return heapq.nsmallest(limit + 1, fresh.union(stored))
