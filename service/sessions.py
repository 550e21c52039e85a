"""The streams of one model: a fold over its records (DESIGN §2). Serving and recovery make the same calls."""

from __future__ import annotations

import enum
import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.network import Network
from model.spec import ModelSpec
from service.engine import StepSession
from service.sequence import KEPT_ANSWERS, Answer, pack_answers, unpack_answers
from service.sources import Sources
from service.storage.states import ModelRow, StreamRow

Array = NDArray[np.float32]


class Origin(enum.IntEnum):
    """Where a stream's state comes from; the numbers are those of the wire's Welcome.StateOrigin."""

    FRESH = 1
    RESUMED = 2
    IMPORTED = 3
    LOST = 4


# Journal offsets remembered per stream to tell what is judged; beyond it, judged_through lags and never leads.
MAX_MARKS = 512


@dataclass(slots=True, eq=False)
class Session:
    """One stream: where it stands in its sequence, and where its state row is."""

    number: int  # unique within the model; what the journal calls it
    id: str
    row: int
    epoch: int = 1  # one higher at each takeover
    last_seq: int = 0
    durable_seq: int = 0
    last_time: float = math.nan  # of the last tick that had a time, seconds since 1970; NaN: none
    origin: Origin = Origin.FRESH  # what the next Welcome says of the state
    judged_through: int = 0
    answers: deque[Answer] = field(default_factory=deque)  # the last ones, for repeats; bounded by `Sessions.add`
    marks: deque[tuple[int, int]] = field(default_factory=deque)  # (journal offset, seq) not yet judged
    progressed: Callable[[], None] | None = None  # wakes the call that has the stream open

    def judged(self, offset: int) -> int:
        """The seq through which labels are judged, the model being judged up to `offset`."""
        marks = self.marks
        while marks and marks[0][0] <= offset:
            self.judged_through = marks.popleft()[1]
        return self.judged_through

    def mark(self, offset: int, seq: int) -> None:
        """Remember that tick `seq` ends at journal offset `offset`."""
        if len(self.marks) >= MAX_MARKS:
            self.marks.pop()
        self.marks.append((offset, seq))

    def pack_ring(self) -> bytes:
        """Answers, and what of their ticks is judged, as bytes for a snapshot."""
        marks: Any = np.array([(self.judged_through, len(self.marks)), *self.marks], "<u8")
        return bytes(marks.tobytes() + pack_answers(self.answers))

    def unpack_ring(self, data: bytes, outputs: int) -> None:
        """The inverse of `pack_ring`. Raises ValueError on a length that does not fit."""
        self.judged_through, count = np.frombuffer(data, "<u8", 2).tolist()
        marks = np.frombuffer(data, "<u8", 2 * count, 16).reshape(-1, 2)
        self.marks = deque((offset, seq) for offset, seq in marks.tolist())
        self.answers = unpack_answers(data[16 * (1 + count) :], outputs)


class Sessions:
    """All streams of one model: sessions by id and number, state rows in one matrix, and what serves them."""

    def __init__(self, number: int, tenant: str, name: str, spec: ModelSpec) -> None:
        self.number, self.tenant, self.name, self.spec = number, tenant, name, spec
        self.network = Network(spec)
        self.champion = 0
        self.anchor = 0
        self.paused = False
        self.judged_offset = 0
        self.sources = Sources()
        self.by_id: dict[str, Session] = {}
        self.by_number: dict[int, Session] = {}
        self.changed: set[int] = set()  # stream numbers since the last snapshot
        self._rows: Array = np.zeros((4, self.network.state_size), np.float32)
        self._used = 0
        self._last_number = 0

    def add(self, id: str, number: int, epoch: int) -> Session:
        """A new stream with an empty state."""
        if self._used == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        answers: deque[Answer] = deque(maxlen=KEPT_ANSWERS)
        session = Session(number, id, self._used, epoch, answers=answers)
        self._used += 1
        self.by_id[id] = self.by_number[number] = session
        self._last_number = max(self._last_number, number)
        self.changed.add(number)
        return session

    def opened(self, number: int, id: str, epoch: int) -> Session:
        """Apply a StreamOpened record: a new stream, or a new owner of a known one."""
        session = self.by_number.get(number) or self.add(id, number, epoch)
        session.epoch = epoch
        self.changed.add(number)
        return session

    def next_number(self) -> int:
        """A stream number that was never used in this model."""
        return self._last_number + 1

    def step(
        self, runner: StepSession, sessions: Sequence[Session], time: NDArray[np.float64], x: Array
    ) -> tuple[Array, Array]:
        """Compute one tick of distinct sessions; changes nothing. time [B] seconds, x [B, C] → y [B, O], states [B, S].

        For B = 1 the results are the runner's buffers (see `StepSession.run`).
        """
        u = calendar.inputs(time, self.spec.interval)
        if len(sessions) == 1:
            row = sessions[0].row
            return runner.run(x, u, self._rows[row : row + 1])
        return runner.run(x, u, self._rows[[s.row for s in sessions]])

    def advance(
        self, session: Session, seq: int, time: float, payload: int, y: Array, state: Array, offset: int
    ) -> Answer:
        """Apply one computed tick: its state row is written, its answer kept. offset: the journal's, after the tick."""
        self._rows[session.row] = state
        judged = session.judged(self.judged_offset)
        session.last_seq, session.origin = seq, Origin.RESUMED
        if not math.isnan(time):
            session.last_time = time
        session.mark(offset, seq)
        answer = Answer(seq, payload, y.tobytes(), self.champion, judged)
        session.answers.append(answer)
        self.changed.add(session.number)
        return answer

    def reset(self, session: Session) -> None:
        """Apply a Reset record: the state begins anew, the sequence goes on."""
        self._rows[session.row] = 0
        session.last_time, session.origin = math.nan, Origin.FRESH
        self.changed.add(session.number)

    def serve(self, version: int, offset: int) -> None:
        """Apply a Swap record: another version answers from here on, with labels up to `offset` judged."""
        self.champion = version
        self.judged_offset = max(self.judged_offset, offset)

    def state(self, session: Session) -> Array:
        """A copy of the stream's state row, [S]."""
        row: Array = self._rows[session.row].copy()
        return row

    def snapshot_model(self, offset: int) -> ModelRow:
        """The model's line of a snapshot; offset: its journal entries so far."""
        spec = json.dumps(self.spec.to_mapping())
        return ModelRow(
            self.number,
            self.tenant,
            self.name,
            spec,
            offset,
            self.champion,
            self.anchor,
            self.paused,
            self.judged_offset,
            json.dumps(self.sources.pack()),
        )

    def snapshot_streams(self) -> list[StreamRow]:
        """Lines of the streams that changed since the last call."""
        changed, self.changed = self.changed, set()
        return [self._snapshot_stream(self.by_number[n]) for n in sorted(changed) if n in self.by_number]

    def _snapshot_stream(self, session: Session) -> StreamRow:
        session.judged(self.judged_offset)  # what is judged needs no mark
        return StreamRow(
            self.number,
            session.number,
            session.id,
            session.epoch,
            session.last_seq,
            session.last_time,
            session.origin,
            self._rows[session.row].tobytes(),
            session.pack_ring(),
        )

    def restore(self, row: StreamRow) -> None:
        """Take a stream back from a snapshot. Raises ValueError where a length is not this spec's."""
        if len(row.state) != 4 * self.network.state_size:
            raise ValueError(
                f"stream {row.id}: state of {len(row.state)} bytes, expected {4 * self.network.state_size}"
            )
        session = self.add(row.id, row.stream, row.epoch)
        self.changed.discard(row.stream)
        self._rows[session.row] = np.frombuffer(row.state, np.float32)
        session.last_seq = session.durable_seq = row.last_seq
        session.last_time, session.origin = row.last_time, Origin(row.origin)
        session.unpack_ring(row.answers, self.spec.outputs)
