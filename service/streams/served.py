"""One model and its streams: a fold over its records (DESIGN §2). Serving and recovery make the same calls.

Only streams in use are in memory, in `table`; states.db holds all. A stream that is not in memory has not changed since
it was saved.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from model.spec import ModelSpec
from service.common import limits
from service.common.names import ModelKey, Origin
from service.engine.session import StepSession
from service.journal.records import (
    Gathered,
    ModelChange,
    ModelDelete,
    Paused,
    Promote,
    Record,
    Reset,
    Resumed,
    Rollback,
    Skip,
    Slice,
    StateDelete,
    StatePut,
    StreamOpened,
    Swap,
    Window,
)
from service.journal.skips import Skips
from service.journal.slices import Slices
from service.journal.sources import Sources
from service.storage.snapshot import Part
from service.storage.states import AnswerBlock, ModelRow, StreamRow
from service.streams.answers import AnswerLog
from service.streams.owners import Owners
from service.streams.saving import Saving
from service.streams.session import Session
from service.streams.specs import pack_specs
from service.streams.table import ABSENT, At, Rows, StreamTable, listed

Array = NDArray[np.float32]
Times = NDArray[np.float64]
Seqs = NDArray[np.uint64]
Offsets = NDArray[np.integer[Any]]


class ServedModel:
    """One model as serving has it: the version that serves, its streams in memory, and their last answers."""

    def __init__(self, number: int, tenant: str, name: str, spec: ModelSpec) -> None:
        self.number, self.tenant, self.name, self.spec = number, tenant, name, spec
        self.created_as = spec  # the spec at the creation
        self.key = ModelKey(tenant, name)
        self.network = Network(spec)
        self.row_work, self.step_rows = limits.row_work(self.network), limits.step_rows(self.network)
        self.champion = self.anchor = 0  # versions
        self.paused = self.deleted = False
        self.judged_offset = 0  # labels up to this journal offset are judged
        self._judged_position = 0  # the same in the log of answers
        self.restarted = 0  # offset just after the last record since the start that named a version to learn from
        self.sources, self.skips, self.slices = Sources(), Skips(), Slices()
        self.table = StreamTable(self.network.state_size)
        self.log = AnswerLog(self.network.row, self.network.answer_size)
        self.owners, self.saving = Owners(self.table), Saving(number, self.table, self.log)
        self.known = 0  # streams, in memory or not
        self.shadows: list[ServedModel] = []  # models that learn from this one's ticks
        self._last_number = 0  # of a stream

    def __repr__(self) -> str:
        facts = f"champion {self.champion}, anchor {self.anchor}, {len(self.table)} of {self.known} streams in memory"
        stands = ", deleted" if self.deleted else ", paused" if self.paused else ""
        return f"ServedModel({self.tenant}/{self.name}, number {self.number}, {facts}{stands})"

    # ---- records

    def apply(self, record: Record, offset: int) -> None:
        """Apply any record but ticks (see `advance`) and ModelCreate; labels touch no stream. offset: just after it.

        A stream that the record names must be in memory.
        """
        self.saving.change()
        match record:
            case Reset(stream=number) | StateDelete(stream=number) | StatePut(stream=number) if self.follows:
                self.follow(number)
            case StreamOpened(stream=number, id=id, epoch=epoch):
                self._open(number, id, epoch)
            case Reset(stream=number):
                self._reset(self.table.row_of(number))
            case StatePut():
                self._put(self.table.row_of(record.stream), record, offset)
            case StateDelete(stream=number):
                self._delete(number)
            case Swap(version=version, offset=learned):
                self._serve(version, learned)
                self.anchor = self.anchor or version
            case Rollback(version=version) | Promote(version=version):
                # What was learned from the labels before this record is discarded, so they are judged with it.
                self._serve(version, offset)
                self.anchor, self.restarted = version, offset
            case ModelChange(spec=spec):
                self.spec = self.network.spec = ModelSpec.from_stored(json.loads(spec))
            case Paused() | Resumed():
                self.paused = isinstance(record, Paused)
            case Window(source=source, window_seq=seq):
                self.sources.accept(source, seq)
            case Skip(first, end):
                self.skips.add(first, end)
            case Slice() | Gathered():
                self.slices.apply(record, offset)
            case ModelDelete():
                self.deleted = True
                self.table.epoch[:] = 0  # fences every owner

    @property
    def follows(self) -> bool:
        """Whether its entries are about streams that other models serve."""
        return bool(self.spec.shadow or self.slices.count)

    def follow(self, stream: int) -> None:
        """Note an entry about a stream of another model: it is not kept, but its number must not get another one."""
        self.saving.change()
        self._last_number = max(self._last_number, stream)

    def _open(self, number: int, id: str, epoch: int) -> None:
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
        self.saving.keep(row)
        t.state[row] = 0
        t.last_time[row], t.origin[row], t.changed[row] = math.nan, Origin.FRESH, True

    def _put(self, row: int, put: StatePut, offset: int) -> None:
        t = self.table
        self.saving.keep(row)
        possible = self.network.problem(put.state) is None  # before 0.2, impossible states were accepted too
        t.state[row] = put.state if possible else 0
        t.last_seq[row] = t.judged[row] = put.last_seq
        t.last_time[row], t.last_offset[row] = put.last_time, offset
        t.origin[row], t.changed[row] = Origin.IMPORTED if possible else Origin.LOST, True

    def _delete(self, number: int) -> None:
        row = self.table.row_of(number)
        self.saving.keep(row)
        self.table.remove(row)
        self.known -= 1
        self.saving.delete(number)

    def _serve(self, version: int, offset: int) -> None:
        self.champion = version
        self.judge(offset)

    def judge(self, offset: int) -> None:
        """Mark labels up to journal offset `offset` as judged."""
        if offset <= self.judged_offset:
            return
        self.saving.change()
        self.judged_offset = offset
        self._judged_position, streams, seqs = self.log.judged_part(self._judged_position, offset)
        rows = self.table.rows_of(streams)
        here = rows != ABSENT
        self.table.judged[rows[here]] = seqs[here]  # if a stream repeats, its last value wins

    def judged_seq(self, row: int) -> int:
        """Return the seq through which labels of a stream are judged."""
        t = self.table
        return (t.last_seq if t.last_offset.item(row) <= self.judged_offset else t.judged).item(row)

    def judged_seqs(self, rows: At) -> Seqs:
        """`judged_seq` of each row, (n,), new."""
        t = self.table
        return np.where(t.last_offset[rows] <= self.judged_offset, t.last_seq[rows], t.judged[rows])

    def next_number(self) -> int:
        """Return a stream number that this model has never used."""
        return self._last_number + 1

    # ---- ticks

    def step(self, session: StepSession, rows: int | list[int] | At, time: Times, x: Array) -> tuple[Array, Array]:
        """Compute one tick each of distinct streams; changes nothing.

        rows: one, or B of them, see `span`; time: [B] seconds; x: [B, row] → y [B, A], next states [B, S]. For B = 1
        the results are the session's buffers (see `StepSession.run`).
        """
        at = slice(rows, rows + 1) if isinstance(rows, int) else rows
        return session.run(*self.network.inputs(time, x), self.table.state[at])

    def advance_one(self, row: int, seq: int, time: float, x: Array, y: Array, state: Array, offset: int) -> int:
        """`advance` for one tick: x [C], y [A], state [S]; returns its judged_through."""
        t, saving = self.table, self.saving
        if not saving.is_changed:
            saving.change()
        judged, newest = self.judged_seq(row), t.newest
        newest[row] = self.log.add(
            t.number.item(row), self.champion, seq, judged, offset, newest.item(row), time, x, y
        )  # fmt: skip
        t.judged[row] = judged
        if saving.gathering is not None:  # a call less on the hot path
            saving.keep(row)
        t.state[row] = state
        t.last_seq[row], t.last_offset[row] = seq, offset
        t.origin[row], t.changed[row] = Origin.RESUMED, True
        if not math.isnan(time):
            t.last_time[row] = time
        return judged

    def advance(self, rows: At, seq: Seqs, time: Times, x: Array, y: Array, states: Array, offset: Offsets) -> Seqs:
        """Apply n computed ticks of distinct streams: write their states, keep their answers.

        rows: n of them, see `span`; seq, time: (n,), time NaN where there is none; x: [n, C]; y: [n, A]; states:
        [n, S]; offset: (n,), the journal's, just after each tick. Returns their judged_through, (n,), new.
        """
        self.saving.change()
        t, judged = self.table, self.judged_seqs(rows)
        t.newest[rows] = self.log.append(
            len(seq), stream=t.number[rows], version=self.champion, seq=seq, judged=judged,
            offset=offset, previous=t.newest[rows], time=time, x=x, y=y,
        )  # fmt: skip
        t.judged[rows] = judged
        self.saving.keep(listed(rows))
        t.state[rows] = states
        t.last_seq[rows], t.last_offset[rows] = seq, offset
        t.origin[rows], t.changed[rows] = Origin.RESUMED, True
        if not (untimed := np.isnan(time)).all():
            t.last_time[rows] = np.where(untimed, t.last_time[rows], time)
        return judged

    def pass_over(self, rows: Rows, seq: Seqs, time: Times, offset: Offsets) -> None:
        """Apply ticks of distinct streams whose answers cannot be computed again: their states are lost."""
        t = self.table
        t.last_seq[rows], t.last_offset[rows] = seq, offset
        t.last_time[rows] = np.where(np.isnan(time), t.last_time[rows], time)
        self.lose_states(rows)

    def lose_states(self, rows: Rows) -> None:
        """Reset the states of these rows and mark them as lost, which the next call that opens them reports."""
        self.saving.change()
        t = self.table
        self.saving.keep(rows)
        t.state[rows], t.newest[rows] = 0, ABSENT
        t.origin[rows], t.changed[rows] = Origin.LOST, True

    # ---- streams in memory

    def session(self, id: str) -> Session:
        """Return a view of a stream. Raises KeyError if it is not in memory."""
        return Session(self, self.table.by_id[id])

    def sessions(self) -> list[Session]:
        """Return views of all streams in memory, by number."""
        rows = self.table.rows()
        return [Session(self, row) for row in rows[np.argsort(self.table.number[rows])].tolist()]

    def owns(self, session: Session, epoch: int) -> bool:
        """Whether the stream is still in that row, and no later call has taken it over."""
        row, table = session.row, self.table
        return table.number.item(row) == session.number and table.epoch.item(row) == epoch

    def row(self, row: int, with_state: bool = True) -> StreamRow:
        """Return a stream in memory as it would be stored now, its state only if asked for."""
        t = self.table
        return StreamRow(
            self.number, int(t.number[row]), t.ids[row], int(t.epoch[row]), int(t.last_seq[row]),
            float(t.last_time[row]), int(t.origin[row]), self.judged_seq(row), int(t.last_offset[row]),
            int(t.newest[row]) + 1, t.state[row].tobytes() if with_state else b"",
        )  # fmt: skip

    # ---- snapshots

    def snapshot(self, offset: int) -> Part:
        """Begin a snapshot and return this model's part; see `Saving.begin`. offset: its journal entries so far."""
        row = ModelRow(
            self.number, self.tenant, self.name, pack_specs(self.spec, self.created_as, self.slices.pack()),
            offset, self.champion, self.anchor, self.paused, self.judged_offset, self._last_number,
            json.dumps(self.sources.pack()), json.dumps(self.skips.pack()),
        )  # fmt: skip
        return self.saving.begin(row, self.judged_seqs)

    def restore_model(self, row: ModelRow, known: int, blocks: list[AnswerBlock]) -> None:
        """Restore the model itself from a snapshot. known: the number of its streams; blocks: its log of answers."""
        self.champion, self.anchor, self.paused = row.champion, row.anchor, row.paused
        self.judged_offset, self._last_number, self.known = row.judged_offset, row.last_stream, known
        self.sources, self.skips = Sources(json.loads(row.sources)), Skips(json.loads(row.skips))
        for block in blocks:
            self.log.unpack(block.first, block.data)
        self._judged_position, _, _ = self.log.judged_part(self.log.start, row.judged_offset)
        self.saving.restored()


def rows_in_memory(model: ServedModel, numbers: NDArray[np.uint32]) -> Rows:
    """Return rows of streams that must be in memory. Raises KeyError naming one that is not."""
    rows = model.table.rows_of(numbers)
    if (rows == ABSENT).any():
        raise KeyError(f"stream {int(numbers[rows == ABSENT][0])} of model {model.name} is not in memory")
    return rows
