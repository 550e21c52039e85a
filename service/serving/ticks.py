"""Single ticks: each goes alone, or with all that arrive in the same turn of the loop.

Nothing awaits between validating a tick and having its row written, its record appended and its answer made (R3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.common import limits
from service.common.errors import Unavailable
from service.journal.writer import Journal, JournalFailed
from service.observe.serving_metrics import ServingMetrics
from service.serving.admission import Admission, Outcome, journal_failed
from service.serving.batcher import Batcher, forward, resolve
from service.serving.loading import Champions
from service.serving.stepping import Stepped, Stepper, mirror_tick
from service.serving.steps import Piece
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session

Array = NDArray[np.float32]
# A tick this long after the last step is not one of many: reading another stream's message and writing its answer takes
# this long or less, and ticks of busy streams are that far apart although more of them wait already.
ALONE_S = 500e-6


class Fenced(Exception):
    """The stream has another owner now; this call must end."""


@dataclass(slots=True)  # frozen would cost a microsecond per tick
class Tick:
    """One tick on its way: its stream, the epoch its call opened that with, and its arrival (clock seconds)."""

    model: ServedModel
    session: Session
    epoch: int
    seq: int
    time: float
    x: Array
    arrived: float


class SingleTicks:
    """Answers single ticks, batched by turns of the event loop."""

    def __init__(
        self,
        admission: Admission,
        champions: Champions,
        stepper: Stepper,
        journal: Journal,
        metrics: ServingMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._admission, self._champions, self._stepper = admission, champions, stepper
        self._journal, self._metrics, self._clock = journal, metrics, clock
        self._answered_at = 0.0  # clock seconds: the end of the last step
        self._answered: Session | None = None  # the only stream in it
        self._batcher: Batcher[Tick, Outcome] = Batcher(self._step)
        # Steps beside the loop that hold single ticks, by model and stream number.
        self._stepping: dict[tuple[int, int], asyncio.Future[Stepped]] = {}

    async def answer(self, tick: Tick) -> Outcome:
        """Answer a tick, at once or with all that arrive in the same turn of the loop. Raises Fenced, Unavailable,
        NotFound, and what the step raises.

        A tick is answered at once if no other stream's was in the last moment: a turn of the loop costs as much as a
        step. The ticks right after it share a step.
        """
        if self._champions.loaded(tick.model) is None:
            await self._champions.bring(tick.model)
        now = self._clock()
        alone = now - self._answered_at > ALONE_S or self._answered is tick.session
        if not alone or self._stepping or tick.model.row_work > limits.MAX_LONE_WORK:
            return await self._batcher.submit(tick)
        self._metrics.queue_seconds.observe(now - tick.arrived)
        outcome = self._decide(tick, now)
        if outcome is None:
            (outcome,) = self._advance([tick])
        self._answered_at, self._answered = self._clock(), tick.session
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def submit(self, tick: Tick) -> asyncio.Future[Outcome]:
        """Answer a tick with all others of this turn of the loop."""
        return self._batcher.submit(tick)

    def _step(self, batch: list[Tick]) -> list[Outcome | Exception | asyncio.Future[Outcome]]:
        """Answer a batch in waves of distinct streams, each model's part of a wave in one step.

        A step that is too large for the loop gives futures as outcomes.
        """
        outcomes: list[Outcome | Exception | asyncio.Future[Outcome] | None] = [None] * len(batch)
        started = self._clock()
        left: Sequence[int] = range(len(batch))
        while left:
            wave, left = self._next_wave(batch, left, outcomes, started)
            for rows in wave.values():
                most = batch[rows[0]].model.step_rows
                for part in [rows[i : i + most] for i in range(0, len(rows), most)]:
                    for i, outcome in zip(part, self._advance_or_wait([batch[i] for i in part]), strict=True):
                        outcomes[i] = outcome
        for tick in batch:
            self._metrics.queue_seconds.observe(started - tick.arrived)
        self._answered_at, self._answered = self._clock(), batch[-1].session if len(batch) == 1 else None
        return [outcome for outcome in outcomes if outcome is not None]

    def _next_wave(
        self, batch: list[Tick], left: Sequence[int], outcomes: list[Any], now: float
    ) -> tuple[dict[int, list[int]], list[int]]:
        """Decide on the first tick of each stream in `left`; returns those to step, by model, and the later ones.

        outcomes: of the batch; those that are decided are filled in. now: clock seconds.
        """
        wave: dict[int, list[int]] = {}
        seen: set[tuple[int, int]] = set()
        later = []
        for i in left:
            tick = batch[i]
            stream = tick.model.number, tick.session.row
            if stream in seen:
                later.append(i)
                continue
            seen.add(stream)
            if self._stepping and (step := self._stepping.get((tick.model.number, tick.session.number))):
                outcomes[i] = self._after(step, tick)
                continue
            outcomes[i] = self._decide(tick, now)
            if outcomes[i] is None:
                wave.setdefault(tick.model.number, []).append(i)
        return wave, later

    def _decide(self, tick: Tick, now: float) -> Outcome | Exception | None:
        """Return the outcome of a tick that needs no step: fenced, refused, repeated; None: step it.

        now: clock seconds.
        """
        session, model = tick.session, tick.model
        if not model.owns(session, tick.epoch):
            return Fenced(session.id)
        return self._admission.decide(model, session, tick.seq, tick.time, tick.x, now)

    # ---- on the loop

    def _advance(self, ticks: list[Tick]) -> list[Outcome | Exception]:
        """Step distinct streams of one model here and commit their ticks."""
        outcomes: list[Outcome | Exception] = []
        model = ticks[0].model
        try:
            rows: Any = ticks[0].session.row
            times, x = np.array([ticks[0].time]), ticks[0].x[None]
            if len(ticks) > 1:
                rows = [tick.session.row for tick in ticks]
                times, x = np.array([tick.time for tick in ticks]), np.array([tick.x for tick in ticks])
            y, states = self._stepper.compute(model, rows, times, x)
            for i, tick in enumerate(ticks):
                outcomes.append(self._commit(tick, y[i], states[i]))
        except Exception as error:  # a failing model fails its own streams alone
            outcomes += [error] * (len(ticks) - len(outcomes))
        return outcomes

    def _commit(self, tick: Tick, y: Array, state: Array) -> Outcome | Exception:
        """Journal a computed tick, write its state, keep and return its answer."""
        model, row = tick.model, tick.session.row
        try:
            offset = self._journal.append_tick(model.number, tick.session.number, tick.seq, tick.time, tick.x)
            if model.shadows:
                mirror_tick(self._journal, model, tick.session.number, tick.seq, tick.time, tick.x)
        except JournalFailed:
            return journal_failed()
        judged = model.advance_one(row, tick.seq, tick.time, tick.x, y, state, offset)
        model.table.touched[row] = tick.arrived
        metrics = self._metrics.of(model.key)
        metrics.staleness.observe(tick.seq - judged)
        metrics.ticks.inc()
        return Answer(tick.seq, tick.time, tick.x.tobytes(), y.tobytes(), model.champion, judged)

    # ---- beside the loop

    def _advance_or_wait(self, ticks: list[Tick]) -> Sequence[Outcome | Exception | asyncio.Future[Outcome]]:
        """Step distinct streams of one model here, or have it done beside the loop."""
        if self._stepper.fits_turn(ticks[0].model, len(ticks)):
            return self._advance(ticks)
        model, sessions = ticks[0].model, [tick.session for tick in ticks]
        piece = Piece(
            model,
            np.array([session.number for session in sessions], np.uint32),
            np.array([tick.epoch for tick in ticks], np.uint64),
            np.array([tick.seq for tick in ticks], np.uint64),
            np.array([tick.time for tick in ticks]),
            np.array([tick.x for tick in ticks]),
        )
        step = self._stepper.submit(piece)
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in ticks]
        streams = [(model.number, session.number) for session in sessions]
        self._stepping.update(dict.fromkeys(streams, step))

        def stepped(step: asyncio.Future[Stepped]) -> None:
            for stream in streams:
                del self._stepping[stream]
            for answer, outcome in zip(answers, self._outcomes(ticks, step), strict=True):
                resolve(answer, outcome)

        step.add_done_callback(stepped)
        return answers

    def _outcomes(self, ticks: list[Tick], step: asyncio.Future[Stepped]) -> list[Outcome | Exception]:
        """Return the outcomes of the ticks of a finished step beside the loop."""
        if step.cancelled():
            return [Unavailable("service", "draining", "connect again in a moment", retry_s=1.0) for _ in ticks]
        if error := step.exception():
            return [error if isinstance(error, Exception) else RuntimeError(str(error)) for _ in ticks]
        stepped, outcomes = step.result(), dict[int, Outcome | Exception]()
        for i, y, judged in zip(stepped.at.tolist(), stepped.y, stepped.judged.tolist(), strict=True):
            tick = ticks[i]
            outcomes[i] = Answer(tick.seq, tick.time, tick.x.tobytes(), y.tobytes(), stepped.version, judged)
        # The streams of the other ticks have changed meanwhile: another owner, or another tick. Decide again.
        return [
            outcomes.get(i) or self._decide(tick, self._clock()) or self._advance([tick])[0]
            for i, tick in enumerate(ticks)
        ]

    def _after(self, step: asyncio.Future[Stepped], tick: Tick) -> asyncio.Future[Outcome]:
        """Answer a tick after the step beside the loop that its stream is in."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def submit(_: asyncio.Future[Stepped]) -> None:
            self._batcher.submit(tick).add_done_callback(partial(forward, answer))

        step.add_done_callback(submit)
        return answer
