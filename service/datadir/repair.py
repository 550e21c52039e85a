"""Report what a stopped server's journal holds, and cut a damaged one: nothing after damage is used again.

`check` only reads. `repair` first copies what it changes to DATA/quarantine-…, durably. If it is killed, the journal is
refused as before, or is completely repaired.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from service.journal.examine import Examined, examine, salvage, segment_files
from service.journal.log import lock
from service.journal.records import SHARD, Chunk, ModelCreate, decode_chunk
from service.journal.segments import create_segment
from service.storage.disk import sync_directory
from service.storage.states import States
from service.trainer.placing import checkpoint_files

Span = tuple[int, int]  # logical offsets of a model: the first, and the one after the last
STATES = "states.db"
POSITION, TRAINER_POSITION = "SELECT journal_end FROM snapshot", "SELECT position FROM checkpoint"
NAMES = "SELECT model, tenant, name FROM models"


class RepairRefused(RuntimeError):
    """A file beside the journal cannot be read; nothing was changed. The text names it and the remedy."""


class Report(NamedTuple):
    """The result of `check`."""

    segments: int
    start: int  # position of the oldest frame
    end: int  # position after the last intact frame
    held: dict[int, Span]  # by model
    torn_bytes: int  # of a commit that was never acknowledged: the next start cuts them off
    damage: str  # empty if there is none
    lost: dict[int, Span]  # by model: entries that can still be read after the damage
    ahead: dict[str, int]  # files with a position after `end`, and that position
    names: dict[int, str]  # TENANT/NAME by model, from records and the last snapshot

    @property
    def problem(self) -> str:
        """Why a server refuses this journal; empty if it does not."""
        where = ", ".join(f"{name} names position {position}" for name, position in self.ahead.items())
        older = f"the journal ends at position {self.end}, but {where}: restore both from the same moment"
        return self.damage or (older if where else "")


def check(data: Path) -> Report:
    """Report on the journal in a data directory. Changes nothing but lock files.

    Raises JournalLocked while a server runs, JournalFormat, OSError (FileNotFoundError: there is no journal).
    """
    with closing(_Locked(data)):
        return _report(data, examine(data / "journal"))


def repair(data: Path, name: str) -> tuple[Report, Path | None]:
    """Cut a damaged journal before the damage; move what is cut to the directory `name` in `data`.

    If states.db contains more than would be left, the streams keep these states: the whole journal is moved aside, and
    a new one begins at the position where it ended when they were saved. A trainer's file that is ahead of the rest is
    moved aside too. Returns the report and the directory; `end` and `lost` are those of the remaining journal. The
    directory is None, and nothing is changed, if there is no damage. Raises as `check`.
    """
    with closing(_Locked(data)):
        found = examine(data / "journal")
        report = _report(data, found)
        if found.damage is None:
            return report, None
        end = report.ahead.get(STATES, report.end)
        ahead = [path.name for path in checkpoint_files(data).values() if report.ahead.get(path.name, 0) > end]
        trainer = [path for name in ahead for path in sorted(data.glob(f"{name}*"))]
        gone = segment_files(data / "journal") if STATES in report.ahead else found.broken
        states = sorted(data.glob(f"{STATES}*")) if STATES in report.ahead else []
        _copy([*gone, *trainer, *states], data / name)
        for path in reversed(trainer):  # while the journal is still refused; SQLite's log before its database
            path.unlink()
        sync_directory(data)
        if STATES in report.ahead:
            offsets = _start_at(data, end, gone)
            spans = ((model, (offsets.get(model, first), last)) for model, (first, last) in report.lost.items())
            report = report._replace(end=end, lost={model: span for model, span in spans if span[0] < span[1]})
        else:
            _cut(found)
        return report, data / name


class _Locked:
    """Holds the journal's lock until it is closed."""

    def __init__(self, data: Path) -> None:
        if not (data / "journal").is_dir():
            raise FileNotFoundError(f"{data}: holds no journal; give the directory that freshet serve --data was given")
        self._fd = lock(data / "journal")

    def close(self) -> None:
        os.close(self._fd)


def _report(data: Path, found: Examined) -> Report:
    held: dict[int, Span] = {}
    names = _names(data)
    for frame in found.frames():
        chunk = _extend(held, frame.payload)
        for record in chunk.records:
            if isinstance(record, ModelCreate):
                names[chunk.model] = f"{record.tenant}/{record.name}"
    lost: dict[int, Span] = {}
    for path in found.broken:
        cut_here = found.segments and path == found.segments[-1].path
        for payload in salvage(path, found.end if cut_here else None):
            _extend(lost, payload)
    begins = int((found.segments[0].path if found.segments else found.broken[0]).stem) if found.damage else 0
    for model, (first, end) in lost.items():  # from the end of the held entries; from 0 if none were dropped
        lost[model] = (held[model][1] if model in held else first if begins else 0, end)
    ahead = {name: at for name, at in _positions(data).items() if at > found.end}
    start = found.segments[0].start if found.segments else 0
    damage = str(found.damage or "")
    return Report(len(found.segments), start, found.end, held, found.torn_bytes, damage, lost, ahead, names)


def _extend(spans: dict[int, Span], payload: bytes) -> Chunk:
    chunk = decode_chunk(payload)
    if chunk.model == SHARD:
        return chunk
    first, end = spans.get(chunk.model, (chunk.offset, chunk.offset))
    spans[chunk.model] = (min(first, chunk.offset), max(end, chunk.end))
    return chunk


def _names(data: Path) -> dict[int, str]:
    """Return the names of the models in the last snapshot; none if it cannot be read."""
    path = data / STATES
    if not path.exists():
        return {}
    try:
        with closing(_read_only(path)) as sql:
            return {model: f"{tenant}/{name}" for model, tenant, name in sql.execute(NAMES)}
    except sqlite3.Error:
        return {}


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _positions(data: Path) -> dict[str, int]:
    """Return the journal positions of the databases. Raises RepairRefused for one that cannot be read."""
    found = {}
    for path in (data / STATES, *checkpoint_files(data).values()):
        query = POSITION if path.name == STATES else TRAINER_POSITION
        if path.exists():
            try:
                with closing(_read_only(path)) as sql:
                    row = sql.execute(query).fetchone()
            except sqlite3.Error as error:
                raise RepairRefused(f"{path}: {error}. Nothing was changed. Restore it from a copy first") from error
            found[path.name] = int(row[0]) if row else 0
    return found


def _copy(paths: Sequence[Path], quarantine: Path) -> None:
    """Copy files to a new directory, durable on return."""
    quarantine.mkdir(0o700)
    for path in paths:
        shutil.copy2(path, quarantine / path.name)
        with (quarantine / path.name).open("rb") as file:
            os.fsync(file.fileno())
    sync_directory(quarantine)
    sync_directory(quarantine.parent)


def _cut(found: Examined) -> None:
    """Delete broken files, the last first; of the segment with intact frames, cut off only the broken end."""
    kept = found.segments[-1].path if found.segments else None
    for path in reversed(found.broken):
        if path != kept:
            path.unlink()
            sync_directory(path.parent)
    if kept in found.broken:
        with kept.open("r+b") as file:
            file.truncate(found.segments[-1].file_offset(found.end))
            os.fsync(file.fileno())


def _start_at(data: Path, position: int, gone: Sequence[Path]) -> dict[int, int]:
    """Replace the journal by an empty one at `position`, where states.db continues; return the offsets by model.

    The new segment is created first: until the last old one is deleted, it does not continue them, which is damage.
    """
    new = create_segment(data / "journal", position, 0)
    with closing(States(data / STATES)) as states:
        states.set_position(position)
        offsets = {row.model: row.offset for row in states.load().models}
    for path in reversed(gone):
        if path != new.path:
            path.unlink()
            sync_directory(path.parent)
    return offsets
