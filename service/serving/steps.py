"""Large steps: computed in a thread beside the event loop, one after another, in turns between tenants by their work.

The loop freezes a step's inputs when its turn has come, and looks at them again when it is computed: what has changed
meanwhile is the caller's to see to. So whatever may happen to streams and models may happen during a step.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model import calendar
from service.engine.session import StepSession
from service.streams.sessions import ServedModel
from service.streams.table import ABSENT, Rows

Array = NDArray[np.float32]
Result = TypeVar("Result")
TURN_S = 0.002  # of the loop's time, in one of its turns, for all packed messages together
NICENESS = 5  # of the thread, above the loop's: the loop comes first wherever both want to run


class Piece:
    """One step of distinct streams of a model that is computed beside the loop: their next ticks, and, from `begin` on,
    its inputs as they were then. numbers, epochs, seq, time: (n,); x: [n, C], the piece's own.
    """

    def __init__(
        self,
        model: ServedModel,
        numbers: NDArray[np.uint32],
        epochs: NDArray[np.uint64],
        seq: NDArray[np.uint64],
        time: NDArray[np.float64],
        x: Array,
    ) -> None:
        self.model, self.numbers, self.epochs = model, numbers, epochs
        self.seq, self.time, self.x = seq, time, x
        self.index = np.arange(len(seq))  # (k,) which of the ticks are computed
        self.version, self.seconds = 0, 0.0
        self._runner: StepSession | None = None
        self._state = self._y = self._states = np.zeros((0, 0), np.float32)

    def rows(self) -> Rows:
        """(n,) the rows of the ticks that are still the next of streams under the same ownership; ABSENT for others."""
        table = self.model.table
        rows = table.rows_of(self.numbers)
        here = (rows != ABSENT) & (table.epoch[rows] == self.epochs)
        here &= self.seq == table.last_seq[rows] + np.uint64(1)
        rows[~here] = ABSENT
        return rows

    def begin(self, runner: StepSession) -> bool:
        """On the loop: freeze the inputs, for the version that serves now; False if no tick is left to compute."""
        rows = self.rows()
        self.index = np.flatnonzero(rows != ABSENT)
        self._runner, self.version = runner, self.model.champion
        self._state = self.model.table.state[rows[self.index]]
        return bool(len(self.index))

    def compute(self) -> None:
        """In the thread: the step, from what is frozen alone."""
        assert self._runner is not None
        started = time.perf_counter()
        u = calendar.inputs(self.time[self.index], self.model.spec.interval)
        self._y, self._states = self._runner.compute(self.x[self.index], u, self._state)
        self.seconds = time.perf_counter() - started

    def answers(self, rows: Rows) -> tuple[Array, Array] | None:
        """On the loop: y [m, O] and next states [m, S] of the ticks with a row, if they still follow from what there
        is: the version serves, and the states are those that were stepped. None if not. rows: of `rows`.
        """
        computed = np.full(len(rows), -1)
        computed[self.index] = np.arange(len(self.index))
        at = computed[rows != ABSENT]
        if self.version != self.model.champion or (at < 0).any():
            return None
        stands = self.model.table.state[rows[rows != ABSENT]]
        if not np.array_equal(stands.view(np.uint32), self._state[at].view(np.uint32)):
            return None
        return self._y[at], self._states[at]


class Waiting(NamedTuple):
    """A step that waits for its turn: what to do on the loop, in the thread, on the loop; and who gets the result."""

    work: float
    begin: Callable[[], bool]
    compute: Callable[[], None]
    finish: Callable[[], Any]
    done: asyncio.Future[Any]


class Steps:
    """Runs steps in one thread. The next is of the tenant that has had the least work, of those that wait: whoever asks
    for much waits for itself. For the event loop alone. A call has one step here at a time, which bounds what waits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="steps", initializer=_behind)
        self._waiting: dict[str, deque[Waiting]] = {}  # by tenant, in order of arrival
        self._had: dict[str, float] = {}  # work, by tenant; forgotten once nothing waits
        self._least = 0.0  # what the tenant of the last step had had: who comes anew has had as much
        self._busy = False

    def submit(
        self,
        tenant: str,
        work: float,
        begin: Callable[[], bool],
        compute: Callable[[], None],
        finish: Callable[[], Result],
    ) -> asyncio.Future[Result]:
        """Have a step computed when the tenant's turn comes; the future gets what `finish` returns, or the exception of
        any of the three. work: multiply-adds.

        `begin` and `finish` run on the loop, `compute` between them in the thread, if `begin` says so. A step whose
        future is cancelled before its turn is left out; one that has begun is finished all the same.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if tenant not in self._waiting:
            self._had[tenant] = max(self._had.get(tenant, 0.0), self._least)
        self._waiting.setdefault(tenant, deque()).append(Waiting(work, begin, compute, finish, done))
        if not self._busy:
            self._next()
        return done

    def close(self) -> None:
        """Compute nothing more; what waits is cancelled."""
        for queue in self._waiting.values():
            for step in queue:
                step.done.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=True)

    def _next(self) -> None:
        """Begin the step whose turn it is, if one waits."""
        self._busy = False
        while self._waiting and not self._busy:
            tenant = min(self._waiting, key=self._had.__getitem__)
            step = self._waiting[tenant].popleft()
            if not self._waiting[tenant]:
                del self._waiting[tenant]
            if step.done.cancelled():
                continue
            self._least = self._had[tenant]
            self._had[tenant] += step.work
            try:
                self._busy = step.begin()
            except Exception as error:  # of a model that cannot be stepped: its callers' affair
                step.done.set_exception(error)
                continue
            if not self._busy:
                self._finish(step)
                continue
            computed = asyncio.get_running_loop().run_in_executor(self._thread, step.compute)
            computed.add_done_callback(partial(self._computed, step))
        if not self._busy:
            self._had.clear()
            self._least = 0.0

    def _computed(self, step: Waiting, computed: asyncio.Future[None]) -> None:
        if computed.cancelled():  # the loop ends
            step.done.cancel()
        elif error := computed.exception():
            if not step.done.done():
                step.done.set_exception(error)
        else:
            self._finish(step)
        self._next()

    def _finish(self, step: Waiting) -> None:
        try:
            result = step.finish()
        except Exception as error:  # as above
            if not step.done.done():
                step.done.set_exception(error)
        else:
            if not step.done.done():  # or its caller has left
                step.done.set_result(result)


class Turns:
    """Shares the loop's time between calls that can fill it: in each turn of the loop they go on for `TURN_S` together,
    then one of those that wait, in the order in which they came. What else the loop has to do comes in between."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: float | None = None  # the first of this turn, clock seconds
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def mine(self) -> None:
        """Return in a turn of the loop that has room for more; at once, if this one has."""
        loop = asyncio.get_running_loop()
        if self._waiting or (self._began is not None and self._clock() - self._began > TURN_S):
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
        if self._began is None:
            self._began = self._clock()
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._began = None
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # or its call has ended
                turn.set_result(None)
                return


def _behind() -> None:
    """Let this thread run where the loop does not. (Elsewhere than on Linux niceness is the whole process's.)"""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
