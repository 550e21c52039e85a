"""Large steps, computed in a thread beside the event loop, one at a time, shared fairly between tenants.

The loop freezes a step's inputs when its turn comes and compares them again when it is computed. Streams and models may
change in between; the caller handles that.
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

from service.engine.session import StepSession
from service.streams.served import ServedModel
from service.streams.table import ABSENT, Rows

Array = NDArray[np.float32]
Result = TypeVar("Result")
TURN_S = 0.002  # time of one turn of the loop for all packed messages together
NICENESS = 5  # of the thread, above the loop's: the loop runs first where both compete


class Piece:
    """One step beside the loop: the next ticks of distinct streams of a model and, from `begin` on, frozen inputs.

    numbers (of streams), epochs, seq, time: (n,); x: [n, row]. The piece owns the arrays.
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
        self.index = np.arange(len(seq))  # (k,) the ticks that are computed
        self.version, self.seconds = 0, 0.0
        self._runner: StepSession | None = None
        self._state = self._y = self._states = np.zeros((0, 0), np.float32)

    def rows(self) -> Rows:
        """Return the row of each tick, (n,); ABSENT if it is not its stream's next, or the stream has another owner."""
        table = self.model.table
        rows = table.rows_of(self.numbers)
        here = (rows != ABSENT) & (table.epoch[rows] == self.epochs)
        here &= self.seq == table.last_seq[rows] + np.uint64(1)
        rows[~here] = ABSENT
        return rows

    def begin(self, runner: StepSession) -> bool:
        """Freeze the inputs for the version that serves now. Returns False if no tick is left. On the loop."""
        rows = self.rows()
        self.index = np.flatnonzero(rows != ABSENT)
        self._runner, self.version = runner, self.model.champion
        self._state = self.model.table.state[rows[self.index]]
        return bool(len(self.index))

    def compute(self) -> None:
        """Compute the step from the frozen inputs. In the thread."""
        assert self._runner is not None
        started = time.perf_counter()
        x, u = self.model.network.inputs(self.time[self.index], self.x[self.index])
        self._y, self._states = self._runner.compute(x, u, self._state)
        self.seconds = time.perf_counter() - started

    def answers(self, rows: Rows) -> tuple[Array, Array] | None:
        """Return y [m, O] and next states [m, S] of the ticks with a row; None if they are out of date. On the loop.

        They are unless the version still serves and the streams still have the states that were stepped. rows: from
        `rows`.
        """
        computed = np.full(len(rows), -1)
        computed[self.index] = np.arange(len(self.index))
        at = computed[rows != ABSENT]
        if self.version != self.model.champion or (at < 0).any():
            return None
        state = self.model.table.state[rows[rows != ABSENT]]
        if not np.array_equal(state.view(np.uint32), self._state[at].view(np.uint32)):
            return None
        return self._y[at], self._states[at]


class Waiting(NamedTuple):
    """A step that waits for its turn: `begin` on the loop, `compute` in the thread, `finish` on the loop."""

    work: float  # multiply-adds
    begin: Callable[[], bool]
    compute: Callable[[], None]
    finish: Callable[[], Any]
    done: asyncio.Future[Any]


class Steps:
    """Runs steps in one thread; next is a step of the waiting tenant that has had the least work. For the event loop.

    A call has at most one step here, which bounds the queue.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="steps", initializer=_lower_priority)
        self._waiting: dict[str, deque[Waiting]] = {}  # by tenant, in order of arrival
        self._had: dict[str, float] = {}  # work done, by tenant; reset when nothing waits
        self._least = 0.0  # work of the last step's tenant before that step: a new tenant starts with it
        self._busy = False

    def submit(
        self,
        tenant: str,
        work: float,
        begin: Callable[[], bool],
        compute: Callable[[], None],
        finish: Callable[[], Result],
    ) -> asyncio.Future[Result]:
        """Queue a step; returns a future of the result of `finish`, or of the exception of any of the three.

        work: multiply-adds. `begin` and `finish` run on the loop; `compute` runs between them in the thread if `begin`
        returns True. A step whose future is cancelled before its turn is dropped; one that has begun is finished.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if tenant not in self._waiting:
            self._had[tenant] = max(self._had.get(tenant, 0.0), self._least)
        self._waiting.setdefault(tenant, deque()).append(Waiting(work, begin, compute, finish, done))
        if not self._busy:
            self._next()
        return done

    def close(self) -> None:
        """Cancel the waiting steps and end the thread."""
        for queue in self._waiting.values():
            for step in queue:
                step.done.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=True)

    def _next(self) -> None:
        """Begin the next waiting step."""
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
            except Exception as error:  # the model cannot be stepped: its callers handle that
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
        if computed.cancelled():  # the loop is closing
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
            if not step.done.done():  # otherwise its caller has left
                step.done.set_result(result)


class Turns:
    """Shares the loop's time between calls that could fill it.

    In each turn of the loop they run for `TURN_S` together. Beyond that one waiting call runs per turn, in order of
    arrival, so that the loop's other work is done in between.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began: float | None = None  # start of the first call of this turn, clock seconds
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return in a turn of the loop that has time left: at once, if this one has."""
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
            if not turn.done():  # otherwise its call has ended
                turn.set_result(None)
                return


def _lower_priority() -> None:
    """Lower this thread's priority. (Only on Linux does a thread have its own.)"""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
