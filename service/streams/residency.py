"""Which streams are in memory: brought from disk when they are needed, evicted when they are idle."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bounds import SLACK
from service.storage.states import States, StreamRow
from service.streams.served import ServedModel
from service.streams.table import ABSENT
from service.streams.totals import Totals

EVICTED_AT_ONCE = 2048  # streams per turn of the loop


@dataclass(frozen=True, slots=True)
class ResidencySettings:
    """Which streams are kept in memory."""

    idle_s: float  # a stream without a tick for this long may leave
    max_resident: int  # streams of all models together; beyond that, the idlest leave earlier


class Residency:
    """Moves streams between memory and states.db. For the event loop."""

    def __init__(
        self,
        settings: ResidencySettings,
        states: States,
        models: Mapping[int, ServedModel],
        totals: Totals,
        clock: Callable[[], float],
        moved: Callable[[ServedModel, int], None],
    ) -> None:
        """models: by number, changed by its owner as models come and go. clock: monotonic seconds.

        moved: called after streams of a model have moved, with how many of them have left memory.
        """
        self._settings, self._states, self._models, self._clock = settings, states, models, clock
        self._totals, self._moved = totals, moved
        self._look: set[int] = set()  # models some of whose streams may now leave
        self._idle_at: list[tuple[float, int]] = []  # a heap of (when a model may have an idle stream, its number)
        self._expected: dict[int, float] = {}  # by model: its valid time in the heap

    async def bring(self, model: ServedModel, ids: Sequence[str]) -> None:
        """Bring stored streams into memory, unless they are there. They stay until the caller awaits."""
        while model.known > len(model.table):
            absent = [id for id in ids if id not in model.table.by_id]
            removals, gone = model.table.removals, model.saving.deleted_numbers()
            found = await asyncio.to_thread(self._states.by_id, model.number, absent) if absent else []
            if removals == model.table.removals:  # otherwise the rows may be out of date: read again
                self._restore(model, found, gone)
                return

    async def bring_numbers(self, model: ServedModel, numbers: NDArray[np.uint32]) -> None:
        """`bring`, by stream number."""
        while (absent := numbers[model.table.rows_of(numbers) == ABSENT]).size:
            removals, gone = model.table.removals, model.saving.deleted_numbers()
            found = await asyncio.to_thread(self._states.by_number, model.number, np.unique(absent).tolist())
            if removals == model.table.removals:
                self._restore(model, found, gone)
                return

    async def names(self, model: ServedModel, numbers: NDArray[np.uint32]) -> dict[int, str]:
        """Return the ids of streams by number, without deleted ones."""
        await self.bring_numbers(model, numbers)
        rows = model.table.rows_of(numbers)
        here = rows != ABSENT
        return {int(n): model.table.ids[row] for n, row in zip(numbers[here], rows[here].tolist(), strict=True)}

    def _restore(self, model: ServedModel, found: list[StreamRow], gone: set[int]) -> None:
        """Restore rows. gone: streams that were deleted before the rows were read, which may still include them."""
        for stored in found:
            if stored.stream not in gone:
                restore(model, stored, self._clock())
        if found:
            self.look_at(model)
            self._moved(model, 0)

    async def page(self, model: ServedModel, after: str, limit: int) -> tuple[list[tuple[StreamRow, int]], str]:
        """Return at most `limit` streams after the id `after`, in the order of ids, each with its durable seq.

        Also the id after which the next page begins, empty for none. A page may be shorter than the limit.
        """
        saves, t = -1, model.table
        while saves != model.saving.saves:  # a snapshot meanwhile makes the page, or `unsaved`, out of date
            saves = model.saving.saves
            stored = await asyncio.to_thread(self._states.page, model.number, after, limit)
            full = len(stored) == limit
            end = stored[-1].id if full else ""  # after a full page, more may be stored
            names = [row.id for row in stored]
            page = await asyncio.to_thread(_merged, names, model.saving.unsaved(), after, end, limit)
        gone = model.saving.deleted_among(np.array([row.stream for row in stored], np.uint32))
        ids = {row.id: row for row, deleted in zip(stored, gone, strict=True) if not deleted}
        more = page[limit - 1] if len(page) > limit else end
        there = [id for id in page[:limit] if id in t.by_id or id in ids]
        rows = [model.row(t.by_id[id], with_state=False) if id in t.by_id else ids[id] for id in there]
        return [(r, int(t.durable_seq[t.by_id[r.id]]) if r.id in t.by_id else r.last_seq) for r in rows], more

    def look_at(self, model: ServedModel) -> None:
        """Note that streams of the model may now leave, as after its call has ended."""
        self._look.add(model.number)

    async def evict(self, saved: Iterable[int]) -> int:
        """Remove idle streams from memory; returns how many. To be called after each snapshot, and to its end
        before the next.

        saved: the models that the snapshot wrote. Visits only models that may have a stream to evict: these, those
        of `look_at`, and those with a stream that has become idle; or all, while more than `max_resident` streams are
        in memory.
        """
        total = 0
        now, excess = self._clock(), self._totals.resident - self._settings.max_resident
        for number in [*self._models] if excess > 0 else self._due(now, saved):
            model = self._models.get(number)
            if model is None:
                self._expected.pop(number, None)
                continue
            gone = EVICTED_AT_ONCE
            while gone == EVICTED_AT_ONCE:
                await asyncio.sleep(0)
                most = len(model.table) - max(0, excess)
                gone = model.table.evict(model.judged_offset, now, self._settings.idle_s, most, EVICTED_AT_ONCE)
                excess -= gone
                total += gone
                if gone:
                    self._moved(model, gone)
            self._expect(model, now)
        return total

    def _due(self, now: float, saved: Iterable[int]) -> list[int]:
        """Return the models that may have a stream to evict, each once, ascending."""
        due = self._look | set(saved)
        self._look = set()
        while self._idle_at and self._idle_at[0][0] <= now:
            at, number = heapq.heappop(self._idle_at)
            if self._expected.get(number) == at:
                due.add(number)
        return sorted(due)

    def _expect(self, model: ServedModel, now: float) -> None:
        """Note when the model may next have an idle stream. An idle stream that cannot leave waits for a change."""
        at = model.table.oldest() + self._settings.idle_s
        if not now < at < math.inf:
            self._expected.pop(model.number, None)
        elif self._expected.get(model.number) != at:
            self._expected[model.number] = at
            heapq.heappush(self._idle_at, (at, model.number))


def restore(model: ServedModel, stored: StreamRow, now: float = 0.0) -> None:
    """Bring a stored stream into memory, unless it is there. now: clock seconds.

    A missing or impossible state counts as lost. Raises ValueError for a state of another spec's length.
    """
    t, size = model.table, 4 * model.network.state_size
    if stored.id in t.by_id:
        return
    if stored.state and len(stored.state) != size:
        raise ValueError(f"stream {stored.id}: state of {len(stored.state)} bytes, expected {size}")
    row = t.add(stored.id, stored.stream, stored.epoch, now)
    t.last_seq[row] = t.durable_seq[row] = stored.last_seq
    t.last_time[row], t.origin[row] = stored.last_time, stored.origin
    t.last_offset[row], t.newest[row] = stored.last_offset, stored.answers_end - 1
    t.judged[row] = max(stored.judged, model.log.judged_seq(stored.answers_end - 1, model.judged_offset))
    state = np.frombuffer(stored.state, np.float32)
    if stored.state and model.network.bounds.outside(state, SLACK) is None:
        t.state[row] = state
    else:
        model.lose_states(np.array([row]))


def _merged(stored: list[str], unsaved: list[str], after: str, end: str, limit: int) -> list[str]:
    """Return the first `limit` + 1 ids after `after`, in order; of the unsaved only those up to `end`, empty: all.

    To be run in a thread: there may be 100,000 unsaved streams.
    """
    fresh = {id for id in unsaved if id > after and not (end and id > end)}
    return heapq.nsmallest(limit + 1, fresh.union(stored))
