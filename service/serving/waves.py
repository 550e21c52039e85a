"""Packed ticks: waves of distinct streams of one model, answered in one step, and runs of one stream, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common import limits
from service.common.errors import Refusal
from service.serving.admission import Admission, Outcome
from service.serving.catalog import Catalog
from service.serving.loading import Champions
from service.serving.stepping import Stepped, Stepper
from service.serving.steps import Piece, Turns
from service.serving.ticks import Fenced, SingleTicks, Tick
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import Rows

Array = NDArray[np.float32]
RUN_STEPS = 16  # of one stream, between two looks at the clock: under a millisecond


class Wave(NamedTuple):
    """The outcome of one wave. Its ticks are named by their indices."""

    stepped: Stepped
    others: dict[int, Outcome | None]  # answered before, or refused
    left: NDArray[np.intp]  # not handled: too many to decide at once, or their streams have changed meanwhile


class Waves:
    """Answers waves, on the loop or beside it."""

    def __init__(self, catalog: Catalog, admission: Admission, stepper: Stepper, clock: Callable[[], float]) -> None:
        self._catalog, self._admission, self._stepper, self._clock = catalog, admission, stepper, clock

    async def answer(
        self, model: ServedModel, rows: Rows, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array
    ) -> Wave:
        """Answer one tick each of distinct streams that are in memory and owned. All sound ticks take one step.

        rows, seq, time: (n,), n at most the model's `step_rows`; x: [n, C]. Raises what the step raises, Unavailable,
        and NotFound for a deleted model; nothing has changed then.
        """
        self._catalog.check_there(model)
        now, decide = self._clock(), self._admission.decide
        sound = self._admission.sound(model, rows, seq, time, x, now)
        unsound = np.flatnonzero(~sound)
        late = unsound[limits.MAX_DECIDED :]
        others = {
            int(i): decide(model, Session(model, int(rows[i])), int(seq[i]), float(time[i]), x[i], now)
            for i in unsound[: limits.MAX_DECIDED]
        }
        sound[[i for i, outcome in others.items() if outcome is None]] = True
        taken = np.flatnonzero(sound)
        if not len(taken):
            return Wave(Stepped.none(model), others, late)
        rows, seq, time, x = rows[taken], seq[taken], time[taken], np.ascontiguousarray(x[taken])
        t = model.table
        t.touched[rows] = now  # so that other streams leave memory first
        if not self._stepper.fits_turn(model, len(rows)):
            beside = await self._stepper.submit(Piece(model, t.number[rows], t.epoch[rows], seq, time, x))
            left = np.concatenate([late, np.delete(taken, beside.at)])
            return Wave(beside._replace(at=taken[beside.at]), others, left)
        y, states = self._stepper.compute(model, rows, time, x)
        if len(rows) == 1:
            y = y.copy()  # from a buffer that the next step overwrites
        judged = self._stepper.commit(model, rows, seq, time, x, y, states)
        return Wave(Stepped(taken, y, judged, model.champion), others, late)


class Answered(NamedTuple):
    """What became of n ticks of one stream: k of them have an answer, the others are in `refused`, in order of seq."""

    y: Array  # [k, A]
    version: NDArray[np.uint64]  # (k,)
    judged: NDArray[np.uint64]  # (k,) judged_through of each
    refused: list[Refusal]


class _Outcomes:
    """Collects `Answered`, in order."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []
        self._y: list[bytes] = []
        self._version: list[int] = []
        self._judged: list[int] = []

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of one tick."""
        if isinstance(outcome, Refusal):
            self.refused.append(outcome)
        else:
            self.add_run(1, outcome.y, outcome.version, outcome.judged_through)

    def add_run(self, n: int, y: bytes, version: int, judged: int) -> None:
        """Add n answers of one version. y: [n, A] float32."""
        self._y.append(y)
        self._version += [version] * n
        self._judged += [judged] * n

    def answered(self, answer_size: int) -> Answered:
        """Return all that was added."""
        y = np.frombuffer(b"".join(self._y), np.float32).reshape(-1, answer_size)
        return Answered(y, np.array(self._version, np.uint64), np.array(self._judged, np.uint64), self.refused)


class Runs:
    """Answers runs: ticks of one stream that came together. Each tick has the outcome that it would have alone."""

    def __init__(
        self,
        admission: Admission,
        champions: Champions,
        stepper: Stepper,
        ticks: SingleTicks,
        turns: Turns,
        clock: Callable[[], float],
    ) -> None:
        self._admission, self._champions, self._stepper = admission, champions, stepper
        self._ticks, self._turns, self._clock = ticks, turns, clock

    async def answer(
        self, model: ServedModel, session: Session, epoch: int, first: int, time: NDArray[np.float64], x: Array,
        arrived: float, whole: bool = True,
    ) -> Answered:  # fmt: skip
        """Answer ticks first, first + 1 … of a stream that is in memory, and stays there.

        time: (n,) seconds, NaN: none; x: [n, row]; arrived: clock seconds; whole: False to end with the first refusal.
        Steps of small models are computed here, a few in each turn of the loop, those of others as single ticks are.
        Raises what `SingleTicks.answer` raises; the ticks before are stepped then, and get their answers when they are
        sent again.
        """
        outcomes, at, n = _Outcomes(), 0, len(x)
        most = min(RUN_STEPS, limits.MAX_LONE_WORK // model.row_work)
        while at < n and (whole or not outcomes.refused):
            await self._turns.wait()
            if not most:
                tick = Tick(model, session, epoch, first + at, float(time[at]), x[at], arrived)
                outcomes.add(await self._ticks.answer(tick))
                at += 1
                continue
            if self._champions.loaded(model) is None:
                await self._champions.bring(model)
            piece = slice(at, at + most)
            at += self._piece(model, session, epoch, first + at, time[piece], x[piece], arrived, outcomes)
        return outcomes.answered(model.network.answer_size)

    def _piece(
        self, model: ServedModel, session: Session, epoch: int, seq: int, time: NDArray[np.float64], x: Array,
        arrived: float, outcomes: _Outcomes,
    ) -> int:  # fmt: skip
        """Answer the first of these ticks, or several, and return how many. Nothing awaits."""
        if not model.owns(session, epoch):
            raise Fenced(session.id)
        now = self._clock()
        n = self._admission.sound_run(model, session, seq, time, x, now)
        if not n:
            outcome = self._admission.decide(model, session, seq, float(time[0]), x[0], now)
            if outcome is not None:
                outcomes.add(outcome)
                return 1
            n = 1
        seqs = np.arange(seq, seq + n, dtype=np.uint64)
        y, judged = self._stepper.run(model, session, seqs, time[:n], np.ascontiguousarray(x[:n]), now - arrived)
        model.table.touched[session.row] = arrived
        outcomes.add_run(n, y.tobytes(), model.champion, judged)
        return n
