"""Packed ticks: waves of distinct streams of one model, answered in one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common import limits
from service.serving.admission import Admission, Outcome
from service.serving.catalog import Catalog
from service.serving.stepping import Stepped, Stepper
from service.serving.steps import Piece
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import Rows

Array = NDArray[np.float32]


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
