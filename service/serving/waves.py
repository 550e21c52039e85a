"""Packed ticks: waves of distinct streams of one model, answered in one step, and runs of one stream, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common import limits
from service.common.errors import Refusal
from service.observe.serving_metrics import ServingMetrics
from service.serving.admission import Admission, Outcome
from service.serving.batcher import Batcher
from service.serving.catalog import Catalog
from service.serving.loading import Champions
from service.serving.stepping import Stepped, Stepper
from service.serving.steps import Piece, Turns
from service.serving.ticks import Fenced, SingleTicks, Tick
from service.streams.runs import Run
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import At, listed, span

Array = NDArray[np.float32]
RUN_STEPS, RUNS = 16, 16  # ticks of one stream, and streams, in one turn of the loop: about 2 ms


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
        self, model: ServedModel, rows: At, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array
    ) -> Wave:
        """Answer one tick each of distinct streams that are in memory and owned. All sound ticks take one step.

        rows: n, at most the model's `step_rows`, see `span`; seq, time: (n,); x: [n, C], contiguous. Raises what the
        step raises, Unavailable, and NotFound for a deleted model; nothing has changed then.
        """
        self._catalog.check_there(model)
        now, decide = self._clock(), self._admission.decide
        sound = self._admission.sound(model, rows, seq, time, x, now)
        taken, others, late = np.flatnonzero(sound), dict[int, Outcome | None](), np.zeros(0, np.intp)
        if len(taken) < len(seq):
            unsound, each = np.flatnonzero(~sound), listed(rows)
            late = unsound[limits.MAX_DECIDED :]
            others = {
                int(i): decide(model, Session(model, int(each[i])), int(seq[i]), float(time[i]), x[i], now)
                for i in unsound[: limits.MAX_DECIDED]
            }
            sound[[i for i, outcome in others.items() if outcome is None]] = True
            taken = np.flatnonzero(sound)
            rows, seq, time, x = span(each[taken]), seq[taken], time[taken], x[taken]
        if not len(taken):
            return Wave(Stepped.none(model), others, late)
        t = model.table
        t.touched[rows] = now  # so that other streams leave memory first
        if not self._stepper.fits_turn(model, len(seq)):
            each = listed(rows)
            beside = await self._stepper.submit(Piece(model, t.number[each], t.epoch[each], seq, time, x))
            left = np.concatenate([late, np.delete(taken, beside.at)])
            return Wave(beside._replace(at=taken[beside.at]), others, left)
        y, states = self._stepper.compute(model, rows, time, x)
        if len(seq) == 1:
            y = y.copy()  # from a buffer that the next step overwrites
        judged = self._stepper.commit(model, rows, seq, time, x, y, states)
        return Wave(Stepped(taken, y, judged, model.champion), others, late)


class Answered(NamedTuple):
    """What became of n ticks of one stream: k of them have an answer, the others are in `refused`, in order of seq."""

    y: Array  # [k, A]
    version: NDArray[np.uint64]  # (k,)
    judged: NDArray[np.uint64]  # (k,) judged_through of each
    refused: list[Refusal]


class Outcomes:
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


class Part(NamedTuple):
    """Ticks first, first + 1 … of a message, on their way; see `Runs.answer`. outcomes: to be added to."""

    model: ServedModel
    session: Session
    epoch: int
    first: int
    time: NDArray[np.float64]
    x: Array
    arrived: float
    outcomes: Outcomes


class Runs:
    """Answers runs: ticks of one stream that came together. Each tick has the outcome that it would have alone.

    Runs of several streams that are there in the same turn of the loop share steps.
    """

    def __init__(
        self,
        admission: Admission,
        champions: Champions,
        stepper: Stepper,
        ticks: SingleTicks,
        turns: Turns,
        metrics: ServingMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._admission, self._champions, self._stepper = admission, champions, stepper
        self._ticks, self._turns, self._metrics, self._clock = ticks, turns, metrics, clock
        self._batcher: Batcher[Part, int] = Batcher(self._step, RUNS)

    async def answer(
        self, model: ServedModel, session: Session, epoch: int, first: int, time: NDArray[np.float64], x: Array,
        arrived: float, whole: bool = True,
    ) -> Answered:  # fmt: skip
        """Answer ticks first, first + 1 … of a stream that is in memory, and stays there.

        time: (n,) seconds, NaN: none; x: [n, row]; arrived: clock seconds; whole: False to end with the first refusal.
        Ticks of small models are stepped here, a few in each turn of the loop, those of others as single ones are.
        Raises what `SingleTicks.answer` raises; the ticks before are stepped then, and get their answers when they are
        sent again.
        """
        outcomes, at, n = Outcomes(), 0, len(x)
        most = min(RUN_STEPS, limits.MAX_LONE_WORK // model.row_work)
        while at < n and (whole or not outcomes.refused):
            if not most:
                await self._turns.wait()
                tick = Tick(model, session, epoch, first + at, float(time[at]), x[at], arrived)
                outcomes.add(await self._ticks.answer(tick))
                at += 1
                continue
            if self._champions.loaded(model) is None:
                await self._champions.bring(model)
            these = slice(at, at + most)
            part = Part(model, session, epoch, first + at, time[these], x[these], arrived, outcomes)
            at += await self._batcher.submit(part)
        return outcomes.answered(model.network.answer_size)

    def _step(self, parts: list[Part]) -> list[int | Exception]:
        """Answer the first ticks of each part, as many as have no other outcome than a step, or one that has. Returns
        how many."""
        taken: list[int | Exception] = []
        runs: dict[int, list[tuple[int, Run]]] = {}  # by model, with the place of the part
        now = self._clock()
        for i, part in enumerate(parts):
            n = self._decide(part, now)
            taken.append(abs(n) if isinstance(n, int) else n)
            if isinstance(n, int) and n > 0:
                seq = np.arange(part.first, part.first + n, dtype=np.uint64)
                run = Run(part.session, seq, part.time[:n], np.ascontiguousarray(part.x[:n]))
                runs.setdefault(part.model.number, []).append((i, run))
                self._metrics.queue_seconds.observe_same(now - part.arrived, n)
        for group in runs.values():
            most = parts[group[0][0]].model.step_rows
            for some in [group[i : i + most] for i in range(0, len(group), most)]:
                self._advance(parts, some, taken)
        return taken

    def _decide(self, part: Part, now: float) -> int | Exception:
        """Return how many ticks of a part are to be stepped; -1: the first has another outcome, which is added."""
        model, session, _, first, time, x, _, outcomes = part
        if not model.owns(session, part.epoch):
            return Fenced(session.id)
        if n := self._admission.sound_run(model, session, first, time, x, now):
            return n
        outcome = self._admission.decide(model, session, first, float(time[0]), x[0], now)
        if outcome is None:
            return 1
        outcomes.add(outcome)
        return -1

    def _advance(self, parts: list[Part], runs: list[tuple[int, Run]], taken: list[int | Exception]) -> None:
        """Step and commit runs of one model. An exception is put into `taken`, at the places of their parts."""
        model = parts[runs[0][0]].model
        try:
            answered = self._stepper.runs(model, [run for _, run in runs])
        except Exception as error:  # a failing model fails its own streams alone
            for i, _ in runs:
                taken[i] = error
            return
        for (i, run), (y, judged) in zip(runs, answered, strict=True):
            model.table.touched[run.session.row] = parts[i].arrived
            parts[i].outcomes.add_run(len(y), y.tobytes(), model.champion, judged)
