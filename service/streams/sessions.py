"""The streams of one model: a fold over its records (DESIGN §2). Serving and recovery make the same calls.

Only streams that are in use are in memory; `table` has them, and states.db all. What is not in memory has not changed
since it was saved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.bounds import SLACK
from model.network import Network
from model.spec import ModelSpec
from service.common import limits
from service.common.names import ModelKey, Origin
from service.engine.session import StepSession
from service.journal.records import (
    ModelDelete,
    Paused,
    Promote,
    Record,
    Reset,
    Resumed,
    Rollback,
    Skip,
    StateDelete,
    StatePut,
    StreamOpened,
    Swap,
    Window,
)
from service.journal.skips import Skips
from service.journal.sources import Sources
from service.storage.snapshot import STORED, Gathering, Part
from service.storage.states import AnswerBlock, ModelRow, StreamRow
from service.streams.answers import Answer, AnswerLog
from service.streams.table import ABSENT, Rows, StreamTable

Array = NDArray[np.float32]


class Session:
    """One stream in memory, seen as an object: a view of its row, good while the stream stays in memory."""

    __slots__ = ("_model", "id", "number", "row")

    def __init__(self, model: ServedModel, row: int) -> None:
        self._model, self.row = model, row
        self.id, self.number = model.table.ids[row], int(model.table.number[row])

    @property
    def epoch(self) -> int:
        """One higher at each takeover."""
        return int(self._model.table.epoch[self.row])

    @property
    def last_seq(self) -> int:
        """The stream's last tick; 0 before the first."""
        return int(self._model.table.last_seq[self.row])

    @property
    def durable_seq(self) -> int:
        """Ticks up to here are on disk."""
        return int(self._model.table.durable_seq[self.row])

    @property
    def last_time(self) -> float:
        """Of the last tick that had a time, seconds since 1970; NaN: none."""
        return float(self._model.table.last_time[self.row])

    @property
    def origin(self) -> Origin:
        """What the next Welcome says of the state."""
        return Origin(int(self._model.table.origin[self.row]))

    @property
    def judged(self) -> int:
        """The seq through which labels are judged."""
        return int(self._model.judged(self.row))

    @property
    def answers(self) -> list[Answer]:
        """What is kept of the stream's answers, oldest first."""
        return self._model.log.chain(int(self._model.table.newest[self.row]))

    def find(self, seq: int) -> Answer | None:
        """The kept answer to tick `seq`."""
        return self._model.log.find(int(self._model.table.newest[self.row]), seq)


class ServedModel:
    """One model: its streams in memory, their last answers, and which version serves them."""

    def __init__(self, number: int, tenant: str, name: str, spec: ModelSpec) -> None:
        self.number, self.tenant, self.name, self.spec = number, tenant, name, spec
        self.key = ModelKey(tenant, name)
        self.network = Network(spec)
        self.row_work, self.step_rows = limits.row_work(self.network), limits.step_rows(self.network)
        self.champion = 0
        self.anchor = 0
        self.paused = self.deleted = False
        self.judged_offset = 0
        self.begun = 0  # offset just after the last record that named a version to go on from, since the start
        self.sources, self.skips = Sources(), Skips()
        self.table = StreamTable(self.network.state_size)
        self.log = AnswerLog(len(spec.channels), spec.outputs)
        self.known = 0  # streams, in memory or not
        self._last_number = 0
        self._deleted: list[int] = []  # numbers, since the last snapshot that is on disk
        self.saves = 0  # snapshots of this model that are on disk, since the start
        self.is_changed = True  # since the last snapshot
        self.changed_models: set[int] = set()  # numbers of those that are; one set for all models that are served
        self._rewrite = False  # the next snapshot has to write all answers anew
        self._saving: list[str] = []  # ids of the streams that a snapshot under way will hold
        self._gathering: Gathering | None = None  # of their states, while some are not copied yet
        self._judged_position = self._saved_position = 0  # in the log
        self.losses = 0  # how often an owner has lost a stream to another, or to its deletion
        self._owners: dict[int, Callable[[], None]] = {}
        self._last_owner = 0

    # ---- records

    def apply(self, record: Record, offset: int) -> None:
        """Apply any record but ticks (see `advance`) and the one that begins a model; offset: just after it.

        A stream that the record names must be in memory.
        """
        self.change()
        match record:
            case StreamOpened(stream=number, id=id, epoch=epoch):
                self._opened(number, id, epoch)
            case Reset(stream=number):
                self._reset(self.table.row_of(number))
            case StatePut():
                self._put(self.table.row_of(record.stream), record, offset)
            case StateDelete(stream=number):
                self._about_to_change(self.table.row_of(number))
                self.table.remove(self.table.row_of(number))
                self.known -= 1
                self._deleted.append(number)
            case Swap(version=version, offset=learned):
                self._serve(version, learned)
                self.anchor = self.anchor or version
            case Rollback(version=version) | Promote(version=version):
                # What had learned from the labels before this record is thrown away: they are judged with it.
                self._serve(version, offset)
                self.anchor, self.begun = version, offset
            case Paused():
                self.paused = True
            case Resumed():
                self.paused = False
            case Window(source=source, window_seq=seq):
                self.sources.accept(source, seq)
            case Skip(first, end):
                self.skips.add(first, end)
            case ModelDelete():
                self.deleted = True
                self.table.epoch[:] = 0  # whoever has a stream open finds itself fenced
            case _:
                pass  # labels touch no stream

    def change(self) -> None:
        """The next snapshot has to write of this model."""
        self.is_changed = True
        self.changed_models.add(self.number)

    def _opened(self, number: int, id: str, epoch: int) -> None:
        row = self.table.row_of(number)
        if row == ABSENT:
            row = self.table.add(id, number, epoch, 0.0)
            self.table.origin[row] = Origin.FRESH
            self._last_number = max(self._last_number, number)
            self.known += 1
        self.table.epoch[row] = epoch
        self.table.changed[row] = True

    def _reset(self, row: int) -> None:
        t = self.table
        self._about_to_change(row)
        t.state[row] = 0
        t.last_time[row], t.origin[row], t.changed[row] = math.nan, Origin.FRESH, True

    def _put(self, row: int, put: StatePut, offset: int) -> None:
        t = self.table
        self._about_to_change(row)
        possible = self.network.problem(put.state) is None  # not always, before 0.2 refused the others
        t.state[row] = put.state if possible else 0
        t.last_seq[row] = t.judged[row] = put.last_seq
        t.last_time[row], t.last_offset[row] = put.last_time, offset
        t.origin[row], t.changed[row] = Origin.IMPORTED if possible else Origin.LOST, True

    def _serve(self, version: int, offset: int) -> None:
        self.champion = version
        self.judge(offset)

    def judge(self, offset: int) -> None:
        """Labels up to `offset` are judged."""
        if offset <= self.judged_offset:
            return
        self.change()
        self.judged_offset = offset
        self._judged_position, streams, seqs = self.log.judged_part(self._judged_position, offset)
        rows = self.table.rows_of(streams)
        here = rows != ABSENT
        self.table.judged[rows[here]] = seqs[here]  # of a stream's several, the last

    def judged(self, rows: Any) -> Any:
        """Seqs through which labels are judged; rows: one or an array."""
        t = self.table
        whole = t.last_offset[rows] <= self.judged_offset
        if isinstance(rows, int):
            return t.last_seq[rows] if whole else t.judged[rows]
        return np.where(whole, t.last_seq[rows], t.judged[rows])

    def next_number(self) -> int:
        """A stream number that was never used in this model."""
        return self._last_number + 1

    # ---- ticks

    def step(self, runner: StepSession, rows: Any, time: NDArray[np.float64], x: Array) -> tuple[Array, Array]:
        """Compute one tick of distinct streams; changes nothing. rows: one or an array of B; time [B] seconds,
        x [B, C] → y [B, O], states [B, S]. For B = 1 the results are the runner's buffers (see `StepSession.run`).
        """
        if isinstance(rows, int):
            rows = slice(rows, rows + 1)
        return runner.run(x, calendar.inputs(time, self.spec.interval), self.table.state[rows])

    def advance(self, rows: Any, seq: Any, time: Any, x: Array, y: Array, state: Array, offset: Any) -> Any:
        """Apply computed ticks of distinct streams: states are written, answers kept. Returns their judged_through.

        rows, seq, time, offset: scalars with x [C], y [O], state [S], or arrays of n with [n, …]. offset: the
        journal's, just after each tick.
        """
        if not self.is_changed:
            self.change()
        t, one = self.table, isinstance(rows, int)
        judged = self.judged(rows)
        t.newest[rows] = self.log.append(
            None if one else len(rows), stream=t.number[rows], version=self.champion, seq=seq, judged=judged,
            offset=offset, previous=t.newest[rows], time=time, x=x, y=y,
        )  # fmt: skip
        t.judged[rows] = judged
        if self._gathering is not None:
            self._about_to_change(rows)
        t.state[rows] = state
        t.last_seq[rows], t.last_offset[rows] = seq, offset
        t.origin[rows], t.changed[rows] = Origin.RESUMED, True
        if not one:
            t.last_time[rows] = np.where(np.isnan(time), t.last_time[rows], time)
        elif not math.isnan(time):
            t.last_time[rows] = time
        return judged

    # ---- owners

    def owner(self, wake: Callable[[], None]) -> int:
        """A new owner of streams, for the table's column; `wake` is called when one of its streams has progressed."""
        self._last_owner += 1
        self._owners[self._last_owner] = wake
        return self._last_owner

    def release(self, owner: int) -> None:
        """The owner has left: whatever it still owned is nobody's, and may leave memory."""
        self._owners.pop(owner, None)
        t = self.table
        mine = t.owner == owner
        t.owner[mine], t.pinned[mine] = 0, False

    @property
    def open(self) -> int:
        """Streams in memory that somebody has open."""
        return int(np.count_nonzero(self.table.owner))

    def lose(self, owner: int) -> None:
        """The owner has lost a stream: it is woken, to find out which."""
        self.losses += 1
        if owner in self._owners:
            self._owners[owner]()

    def deleted_among(self, numbers: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which of the stream numbers have been deleted since the last snapshot that is on disk."""
        return np.isin(numbers, self._deleted)

    def deleted_numbers(self) -> set[int]:
        """Numbers of the streams deleted since the last snapshot that is on disk: states.db still has their lines."""
        return set(self._deleted)

    def wake(self, rows: Any = None) -> None:
        """Wake the owners of these rows, of all for None."""
        owners = list(self._owners) if rows is None else np.unique(self.table.owner[rows]).tolist()
        for owner in owners:
            if owner in self._owners:
                self._owners[owner]()

    def owns(self, session: Session, epoch: int) -> bool:
        """Whether the row is still that stream's, and no later call has taken it over."""
        row = session.row
        return int(self.table.number[row]) == session.number and int(self.table.epoch[row]) == epoch

    def durable(self, streams: NDArray[np.uint32], seqs: NDArray[np.uint64]) -> None:
        """Ticks are on disk: those of streams that are gone meanwhile are passed over."""
        rows = self.table.rows_of(streams)
        if (rows == ABSENT).any():
            seqs, rows = seqs[rows != ABSENT], rows[rows != ABSENT]
        self.table.durable_seq[rows] = seqs  # of a stream's several, the last
        self.wake(rows)

    # ---- streams in memory

    def session(self, id: str) -> Session:
        """A view of a stream that is in memory. Raises KeyError."""
        return Session(self, self.table.by_id[id])

    def sessions(self) -> list[Session]:
        """Views of all streams in memory, by number."""
        rows = self.table.rows()
        return [Session(self, row) for row in rows[np.argsort(self.table.number[rows])].tolist()]

    def state(self, session: Session) -> Array:
        """A copy of the stream's state row, [S]."""
        row: Array = self.table.state[session.row].copy()
        return row

    def row(self, row: int, with_state: bool = True) -> StreamRow:
        """A stream in memory as it would be stored now; its state empty if that is not asked for."""
        t = self.table
        return StreamRow(
            self.number, int(t.number[row]), t.ids[row], int(t.epoch[row]), int(t.last_seq[row]),
            float(t.last_time[row]), int(t.origin[row]), int(self.judged(row)), int(t.last_offset[row]),
            int(t.newest[row]) + 1, t.state[row].tobytes() if with_state else b"",
        )  # fmt: skip

    def unsaved(self) -> list[str]:
        """Ids of streams in memory that are not on disk as they are, in no order; some may be named twice."""
        return [self.table.ids[row] for row in self.table.changed_rows().tolist()] + self._saving

    def restore(self, stored: StreamRow, now: float = 0.0) -> None:
        """Take a stream back into memory, unless it is there; without a state, or with an impossible one, it is lost.

        Raises ValueError where a length is not this spec's.
        """
        if stored.id in self.table.by_id:
            return
        if stored.state and len(stored.state) != 4 * self.network.state_size:
            raise ValueError(
                f"stream {stored.id}: state of {len(stored.state)} bytes, expected {4 * self.network.state_size}"
            )
        t = self.table
        row = t.add(stored.id, stored.stream, stored.epoch, now)
        t.last_seq[row] = t.durable_seq[row] = stored.last_seq
        t.last_time[row], t.origin[row] = stored.last_time, stored.origin
        t.last_offset[row], t.newest[row] = stored.last_offset, stored.answers_end - 1
        t.judged[row] = max(stored.judged, self.log.judged_seq(stored.answers_end - 1, self.judged_offset))
        state = np.frombuffer(stored.state, np.float32)
        if stored.state and self.network.bounds.outside(state, SLACK) is None:
            t.state[row] = state
        else:
            self.lost(row)

    def lost(self, rows: Any) -> None:
        """The states of these rows are lost: they begin anew, and whoever opens the streams is told."""
        self.change()
        t = self.table
        self._about_to_change(rows)
        t.state[rows], t.newest[rows] = 0, -1
        t.origin[rows], t.changed[rows] = Origin.LOST, True

    def pass_over(self, rows: Any, seq: Any, time: Any, offset: Any) -> None:
        """Ticks of distinct streams whose answers cannot be computed again, as arrays: their states are lost."""
        t = self.table
        t.last_seq[rows], t.last_offset[rows] = seq, offset
        t.last_time[rows] = np.where(np.isnan(time), t.last_time[rows], time)
        self.lost(rows)

    def evict(self, now: float, idle_s: float, most: int, at_once: int) -> int:
        """Let go of streams that are saved, not pinned, and idle for `idle_s`, or the idlest beyond `most`; how many:
        up to `at_once`.

        To be called between snapshots: only what the last one holds may go. What is judged of a stream that is not in
        memory is derived from the log when it returns, so it stays while some of it is not judged.
        """
        t, rows = self.table, self.table.rows()
        settled = t.last_offset[rows] <= self.judged_offset
        may_go = rows[~t.changed[rows] & ~t.pinned[rows] & settled]
        order = may_go[np.argsort(t.touched[may_go], kind="stable")]
        idle = int(np.searchsorted(t.touched[order], now - idle_s, side="right"))
        gone = order[: min(max(idle, len(rows) - most), at_once)]
        for row in gone.tolist():
            t.remove(row)
        if 0 < len(gone) < at_once:
            t.shrink()
        return len(gone)

    def oldest(self) -> float:
        """When the stream in memory that is not pinned ticked that has been idle for longest, clock seconds; infinite
        without one."""
        t, rows = self.table, self.table.rows()
        return float(t.touched[rows[~t.pinned[rows]]].min(initial=math.inf))

    # ---- snapshots

    def snapshot(self, offset: int) -> Part:
        """What the next snapshot has to write of this model, copied, but for the states, which `gather` copies as they
        are now; offset: its journal entries so far."""
        t, rows = self.table, self.table.changed_rows()
        self.is_changed = False
        self.changed_models.discard(self.number)
        t.changed[rows] = False
        self._saving = list(itemgetter(*rows.tolist())(t.ids)) if len(rows) > 1 else [t.ids[row] for row in rows]
        columns = {name: getattr(t, name)[rows] for name in STORED}
        self._gathering = Gathering(rows, t.state)
        columns["judged"] = self.judged(rows)
        first, data = self.log.pack(0 if self._rewrite else self._saved_position)
        block = AnswerBlock(self.number, first, self.log.end, data)
        model = ModelRow(
            self.number, self.tenant, self.name, json.dumps(self.spec.to_stored()), offset, self.champion, self.anchor,
            self.paused, self.judged_offset, self._last_number, json.dumps(self.sources.pack()),
            json.dumps(self.skips.pack()),
        )  # fmt: skip
        deleted, start = list(self._deleted), self.log.start
        return Part(model, self._saving, columns, self._gathering, deleted, block, start, self._rewrite)

    def gather(self) -> bool:
        """Copy some more of the states that the snapshot is to hold; whether there are others left."""
        if self._gathering is not None:
            self._gathering.some(self.table.state)
            if self._gathering.whole:
                self._gathering = None
        return self._gathering is not None

    def _about_to_change(self, rows: Any) -> None:
        """The states of these rows, one or an array, are wanted as they are, if a snapshot has not copied them yet."""
        if self._gathering is not None:
            self._gathering.keep(rows, self.table.state)

    def saved(self, part: Part) -> None:
        """The part is on disk."""
        self.saves += 1
        self._saved_position, self._saving = part.block.end, []
        self._rewrite = self._rewrite and not part.rewritten
        self._deleted = self._deleted[len(part.deleted) :]

    def forget_answers(self, streams: Sequence[int]) -> None:
        """Remove what streams that are gone said and were answered; the next snapshot writes the whole log anew."""
        self.log.forget(streams)
        self._rewrite = True
        self.change()

    def not_saved(self, part: Part) -> None:
        """The part could not be saved: the next snapshot has to write it, or would claim to hold it."""
        self.change()
        rows = self.table.rows_of(part.columns["number"])
        self.table.changed[rows[rows != ABSENT]] = True
        self._saving, self._gathering = [], None

    def restore_model(self, row: ModelRow, known: int, blocks: list[AnswerBlock]) -> None:
        """Take the model's own facts back from a snapshot; known: its streams."""
        self.is_changed = False
        self.champion, self.anchor, self.paused = row.champion, row.anchor, row.paused
        self.judged_offset, self._last_number, self.known = row.judged_offset, row.last_stream, known
        self.sources, self.skips = Sources(json.loads(row.sources)), Skips(json.loads(row.skips))
        for block in blocks:
            self.log.unpack(block.first, block.data)
        self._saved_position = self.log.end
        self._judged_position, _, _ = self.log.judged_part(self.log.start, row.judged_offset)


def rows_in_memory(model: ServedModel, numbers: NDArray[np.uint32]) -> Rows:
    """Rows of streams that must be in memory. Raises KeyError naming one that is not."""
    rows = model.table.rows_of(numbers)
    if (rows == ABSENT).any():
        raise KeyError(f"stream {int(numbers[rows == ABSENT][0])} of model {model.name} is not in memory")
    return rows
