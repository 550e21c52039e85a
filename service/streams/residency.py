"""Which streams are in memory: brought from disk when they are wanted, let go when they are idle."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.common.config import ServeConfig
from service.storage.states import States, StreamRow
from service.streams.sessions import ServedModel
from service.streams.table import ABSENT
from service.streams.totals import Totals

EVICTED_AT_ONCE = 2048  # streams, before others have their turn of the loop


class Residency:
    """Moves streams between memory and states.db.

    models: by number, as they come and go; moved: called after streams have moved, with how many have left memory.
    """

    def __init__(
        self,
        config: ServeConfig,
        states: States,
        models: Mapping[int, ServedModel],
        totals: Totals,
        clock: Callable[[], float],
        moved: Callable[[ServedModel, int], None],
    ) -> None:
        self._config, self._states, self._models, self._clock = config, states, models, clock
        self._totals, self._moved = totals, moved
        self._look: set[int] = set()  # models of which streams may go that could not before
        self._idle_at: list[tuple[float, int]] = []  # a heap: from when on a model may have an idle stream, its number
        self._expected: dict[int, float] = {}  # by model: the time in the heap that counts

    async def bring(self, model: ServedModel, ids: Sequence[str]) -> None:
        """Bring into memory those of the streams that are stored and not there. Until the caller awaits, they stay."""
        while model.known > len(model.table):
            absent = [id for id in ids if id not in model.table.by_id]
            removals, gone = model.table.removals, model.deleted_numbers()
            found = await asyncio.to_thread(self._states.by_id, model.number, absent) if absent else []
            if removals == model.table.removals:  # or what was read may be out of date
                self._restore(model, found, gone)
                return

    async def bring_numbers(self, model: ServedModel, numbers: NDArray[np.uint32]) -> None:
        """`bring`, by stream number."""
        while (absent := numbers[model.table.rows_of(numbers) == ABSENT]).size:
            removals, gone = model.table.removals, model.deleted_numbers()
            found = await asyncio.to_thread(self._states.by_number, model.number, np.unique(absent).tolist())
            if removals == model.table.removals:
                self._restore(model, found, gone)
                return

    def _restore(self, model: ServedModel, found: list[StreamRow], gone: set[int]) -> None:
        """gone: stream numbers that were deleted before the lines were read, which may hold them still."""
        for stored in found:
            if stored.stream not in gone:
                model.restore(stored, self._clock())
        if found:
            self.look_at(model)
            self._moved(model, 0)

    async def page(self, model: ServedModel, after: str, limit: int) -> tuple[list[tuple[StreamRow, int]], str]:
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

    def look_at(self, model: ServedModel) -> None:
        """Streams of the model may be let go that could not before."""
        self._look.add(model.number)

    async def evict(self, saved: Iterable[int]) -> int:
        """Let idle streams leave memory; returns how many. To be called when a snapshot has been saved, and to its end
        before the next one.

        saved: numbers of the models that it wrote. Only models that may have something to let go are visited: these,
        those of `look_at`, those whose streams have become idle since; all while there are more than `max_resident`.
        """
        total = 0
        now, excess = self._clock(), self._totals.resident - self._config.max_resident
        for number in [*self._models] if excess > 0 else self._due(now, saved):
            model = self._models.get(number)
            if model is None:
                self._expected.pop(number, None)
                continue
            gone = EVICTED_AT_ONCE
            while gone == EVICTED_AT_ONCE:
                await asyncio.sleep(0)
                most = len(model.table) - max(0, excess)
                gone = model.evict(now, self._config.idle_s, most, EVICTED_AT_ONCE)
                excess -= gone
                total += gone
                if gone:
                    self._moved(model, gone)
            self._expect(model, now)
        return total

    def _due(self, now: float, saved: Iterable[int]) -> list[int]:
        """Models that may have a stream to let go, each once, ascending."""
        due = self._look | set(saved)
        self._look = set()
        while self._idle_at and self._idle_at[0][0] <= now:
            at, number = heapq.heappop(self._idle_at)
            if self._expected.get(number) == at:
                due.add(number)
        return sorted(due)

    def _expect(self, model: ServedModel, now: float) -> None:
        """Note when the model may have an idle stream next; what is idle and cannot go waits for a change."""
        at = model.oldest() + self._config.idle_s
        if not now < at < math.inf:
            self._expected.pop(model.number, None)
        elif self._expected.get(model.number) != at:
            self._expected[model.number] = at
            heapq.heappush(self._idle_at, (at, model.number))


def _merged(stored: list[str], unsaved: list[str], after: str, end: str, limit: int) -> list[str]:
    """In a thread, as there may be 100,000 unsaved ones: the first `limit` + 1 of the ids behind `after`, in order; of
    the unsaved those up to `end`, empty: all."""
    fresh = {id for id in unsaved if id > after and not (end and id > end)}
    return heapq.nsmallest(limit + 1, fresh.union(stored))
