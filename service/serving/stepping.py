"""Steps of distinct streams of one model: computed on the loop or beside it, then committed.

To commit a tick is to append its record, write its state and keep its answer. Nothing awaits between validating a tick
and committing it. A step beside the loop runs on frozen inputs; its ticks are validated again when it is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common import limits
from service.journal.records import Ticks
from service.journal.writer import Journal, JournalFailed
from service.observe.serving_metrics import ServingMetrics
from service.serving.admission import journal_failed
from service.serving.loading import Champions
from service.serving.steps import Piece, Steps
from service.streams.runs import Run, advance_run, step_runs
from service.streams.served import ServedModel
from service.streams.table import ABSENT, At

Array = NDArray[np.float32]


class Stepped(NamedTuple):
    """Ticks that one version has stepped and that are committed."""

    at: NDArray[np.intp]  # (k,) their indices among the ticks asked for
    y: Array  # [k, A]
    judged: NDArray[np.uint64]  # (k,) judged_through of each
    version: int

    @classmethod
    def none(cls, model: ServedModel) -> Stepped:
        """No tick."""
        nothing = np.zeros((0, model.network.answer_size), np.float32)
        return cls(np.zeros(0, np.intp), nothing, np.zeros(0, np.uint64), model.champion)


class Stepper:
    """Computes and commits steps. `steps` runs those that are too large for the loop. For the event loop."""

    def __init__(
        self, journal: Journal, champions: Champions, metrics: ServingMetrics, clock: Callable[[], float], steps: Steps
    ) -> None:
        self._journal, self._champions, self._metrics, self._clock = journal, champions, metrics, clock
        self._steps = steps
        self._turn_work = 0  # multiply-adds that this turn of the loop has computed

    def fits_turn(self, model: ServedModel, rows: int) -> bool:
        """Whether this turn of the loop has time for a step of `rows` rows. If it has, the step is counted."""
        work = limits.step_work(model.row_work, rows)
        room = limits.MAX_TURN_WORK * (2 if work <= limits.MAX_SMALL_WORK else 1)
        if self._turn_work + work > room:
            return False
        if not self._turn_work:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._turn_work += work
        return True

    def _next_turn(self) -> None:
        self._turn_work = 0

    def compute(self, model: ServedModel, rows: Any, times: NDArray[np.float64], x: Array) -> tuple[Array, Array]:
        """Return answers [B, A] and next states [B, S] of distinct streams, computed here by the champion.

        rows: one or B of them, see `span`; times: [B] seconds; x: [B, C]. Changes nothing. For B = 1 the results are
        buffers that the next step overwrites.
        """
        session = self._champions.session(model)
        started = self._clock()
        computed = model.step(session, rows, times, x)
        self._metrics.compute_seconds.observe(self._clock() - started)
        self._metrics.batch_rows.observe(len(x))
        return computed

    def commit(
        self, model: ServedModel, rows: At, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array, y: Array,
        states: Array,
    ) -> NDArray[np.uint64]:  # fmt: skip
        """Commit computed ticks of distinct streams; returns the judged_through of each, (n,). rows: see `span`.

        Raises Unavailable if the journal has failed; nothing has changed then.
        """
        t, n = model.table, len(seq)
        try:
            ticks = Ticks(t.number[rows], seq, time, x)
            end = self._journal.append(model.number, ticks)
            mirror_ticks(self._journal, model, ticks)
        except JournalFailed as error:
            raise journal_failed() from error
        judged = model.advance(rows, seq, time, x, y, states, np.arange(end - n + 1, end + 1))
        metrics = self._metrics.of(model.key)
        metrics.staleness.observe_all(seq - judged)
        metrics.ticks.inc(n)
        return judged

    def runs(self, model: ServedModel, runs: list[Run]) -> list[tuple[Array, int]]:
        """Compute and commit runs of distinct streams; returns answers [n, A] and judged_through of each.

        Raises Unavailable if the journal has failed: the runs from that one on have changed nothing then.
        """
        started = self._clock()
        computed = step_runs(model, self._champions.session(model), runs)
        sizes = [len(run.seq) for run in runs]
        steps = max(sizes)
        self._metrics.compute_seconds.observe_same((self._clock() - started) / steps, steps)
        for t in range(steps):
            self._metrics.batch_rows.observe(sum(size > t for size in sizes))
        return [(y, self._commit_run(model, run, y, state)) for run, (y, state) in zip(runs, computed, strict=True)]

    def _commit_run(self, model: ServedModel, run: Run, y: Array, state: Array) -> int:
        session, seq, time, x = run
        try:
            ticks = Ticks(np.full(len(seq), session.number, np.uint32), seq, time, x)
            end = self._journal.append(model.number, ticks)
            mirror_ticks(self._journal, model, ticks)
        except JournalFailed as error:
            raise journal_failed() from error
        judged = advance_run(model, run, y, state, end)
        metrics = self._metrics.of(model.key)
        for one in seq.tolist():
            metrics.staleness.observe(one - judged)
        metrics.ticks.inc(len(seq))
        return judged

    # ---- beside the loop

    def submit(self, piece: Piece) -> asyncio.Future[Stepped]:
        """Have a step computed beside the loop and its ticks committed."""
        model, asked = piece.model, self._clock()

        def begin() -> bool:
            self._metrics.large_step_wait_seconds.observe(self._clock() - asked)
            return not model.deleted and piece.begin(self._champions.session(model))

        work = limits.step_work(model.row_work, len(piece.seq))
        return self._steps.submit(model.tenant, work, begin, piece.compute, partial(self._commit_piece, piece))

    def _commit_piece(self, piece: Piece) -> Stepped:
        """Commit the ticks of a computed step whose streams are as they were.

        If a stream's state, or the champion, has changed meanwhile, the ticks that are still the next of their streams
        are computed again, here.
        """
        model, rows = piece.model, piece.rows()
        index = np.flatnonzero(rows != ABSENT)
        if not len(index):
            return Stepped.none(model)
        self._metrics.compute_seconds.observe(piece.seconds)
        self._metrics.batch_rows.observe(len(index))
        seq, time, x = piece.seq[index], piece.time[index], piece.x[index]
        computed = piece.answers(rows)
        rows = rows[index]
        y, states = computed or self.compute(model, rows, time, x)
        judged = self.commit(model, rows, seq, time, x, y, states)
        return Stepped(index, y if computed else y.copy(), judged, model.champion)  # not the session's own buffer


def mirror_tick(journal: Journal, model: ServedModel, stream: int, seq: int, time: float, x: Array) -> None:
    """Journal one tick of a model for its shadows. Raises JournalFailed."""
    for shadow in model.shadows:
        journal.append_tick(shadow.number, stream, seq, time, x)
        shadow.follow(stream)


def mirror_ticks(journal: Journal, model: ServedModel, ticks: Ticks) -> None:
    """Journal ticks of a model for its shadows. Raises JournalFailed."""
    for shadow in model.shadows:
        journal.append(shadow.number, ticks)
        shadow.follow(int(ticks.stream.max()))
