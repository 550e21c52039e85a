"""Copy models into a new data directory, with other numbers: records into its journal, rows into its databases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from service.cluster.moving.source import EVERYTHING, Source
from service.datadir.backup import STATES, VERSIONS
from service.journal.log import SegmentLog
from service.journal.records import renumbered
from service.storage.states import AnswerBlock, ModelRow, States, StreamRow
from service.storage.versions import Versions
from service.trainer.checkpoint import Checkpoints
from service.trainer.placing import checkpoint_file

COMMIT_BYTES = 4 << 20  # of records in one commit: an entry of a store
PAGE = 1000  # streams


class Part(NamedTuple):
    """Models of one directory that are copied. numbers: by number there, the number in the copy."""

    source: Source
    numbers: Mapping[int, int]


class Span(NamedTuple):
    """Positions of a written journal."""

    needed: int  # from which the databases continue
    end: int


def numbered(sources: Sequence[tuple[Source, Sequence[int]]]) -> list[Part]:
    """Number models of several directories from 1, in their order."""
    parts, last = [], 0
    for source, models in sources:
        parts.append(Part(source, {model: last + n for n, model in enumerate(models, 1)}))
        last += len(models)
    return parts


def copy_records(parts: Sequence[Part], log: SegmentLog) -> Span:
    """Append the records of all parts: first those that the databases contain, then those that they continue with.

    The order of each model's records stays. Raises as `log.write`.
    """
    for part in parts:
        _append(log, _renumbered(part, 0, part.source.needed))
    needed = log.end
    for part in parts:
        _append(log, _renumbered(part, part.source.needed, EVERYTHING))
    return Span(needed, log.end)


def copy_databases(parts: Sequence[Part], folder: Path, span: Span) -> None:
    """Make the databases of the folder, whose journal is written. Raises NoSpace, sqlite3.Error."""
    with closing(States(folder / STATES)) as states, closing(Versions(folder / VERSIONS)) as versions:
        for source, numbers in parts:
            models = [replace(row, model=numbers[row.model]) for row in _rows(source, numbers)]
            answers = [replace(block, model=numbers[block.model]) for block in _answers(source, numbers)]
            states.save(span.needed, models, _streams(source, numbers), (), span.end, answers)
            for model, number in numbers.items():
                versions.take_over(model, source.versions, number)
    machines = [checkpoints.machine() for part in parts for checkpoints in part.source.checkpoints]
    if not machines:
        return
    with closing(Checkpoints(folder / checkpoint_file(0))) as checkpoints:
        checkpoints.set_position(span.needed, machines[0])
        for source, numbers in parts:
            for model, number in numbers.items():
                learned = source.learned(model)
                if learned is not None:
                    checkpoints.take_over(model, learned, number)
    (folder / checkpoint_file(0)).with_suffix(".lock").unlink(missing_ok=True)


def _renumbered(part: Part, after: int, through: int) -> Iterator[bytes]:
    """Yield the records of a part that end after a position, and at or before another one."""
    for _, model, data in part.source.chunks(part.numbers, after, through):
        yield renumbered(data, part.numbers[model])


def _append(log: SegmentLog, payloads: Iterator[bytes]) -> None:
    """Write chunks in commits of about COMMIT_BYTES."""
    batch, size = list[bytes](), 0
    for data in payloads:
        batch.append(data)
        size += len(data)
        if size >= COMMIT_BYTES:
            log.write(batch)
            batch, size = [], 0
    if batch:
        log.write(batch)


def _rows(source: Source, numbers: Mapping[int, int]) -> list[ModelRow]:
    return [row for row in source.snapshot.models if row.model in numbers]


def _answers(source: Source, numbers: Mapping[int, int]) -> list[AnswerBlock]:
    return [block for block in source.snapshot.answers if block.model in numbers]


def _streams(source: Source, numbers: Mapping[int, int]) -> Iterator[StreamRow]:
    for row in _rows(source, numbers):
        after = ""
        while page := source.states.page(row.model, after, PAGE):
            for stream in page:
                yield replace(stream, model=numbers[row.model])
            after = page[-1].id
