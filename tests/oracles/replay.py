"""The answers and the learning that the files of a server imply: its surviving journal, read from the start.

Independent of the server's recovery: plain onnxruntime, one tick at a time, one state per stream in a dict. The version
of a tick is named by the last Swap or Rollback record before it. Snapshots are not read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.ahead import Ahead
from model.spec import ModelSpec
from service.common.gate import GateSettings
from service.engine.export import read_weights
from service.journal.records import Chunk, ModelCreate, Promote, Reset, Rollback, Skip, StreamOpened, Swap, Ticks
from service.journal.skips import Skips
from service.journal.writer import Journal
from service.trainer.hosting import HostedModel

Array = NDArray[np.float32]


def survivors(data: Path, copy: Path) -> list[Chunk]:
    """Return the chunks that a server would find in a data directory. Opens a copy; leaves the directory unchanged."""
    shutil.copytree(data / "journal", copy, dirs_exist_ok=True)
    return list(read(copy))


def read(directory: Path) -> Iterator[Chunk]:
    """Yield every chunk of a journal directory that no server has open."""
    journal = Journal.open(directory)
    try:
        for _, chunk in journal.chunks(0):
            yield chunk
    finally:
        journal.close()


def last_seqs(chunks: list[Chunk], model: int = 1) -> dict[str, int]:
    """Return the seq of the last tick in the journal, by stream id."""
    names: dict[int, str] = {}
    last: dict[str, int] = {}
    for chunk in chunks:
        for record in chunk.records if chunk.model == model else ():
            if isinstance(record, StreamOpened):
                names[record.stream] = record.id
            elif isinstance(record, Ticks):
                last |= {names[n]: s for n, s in zip(record.stream.tolist(), record.seq.tolist(), strict=True)}
    return last


@dataclass(frozen=True)
class Files:
    """The bytes of every version of a model, read before the server prunes them."""

    onnx: dict[int, bytes]
    weights: dict[int, bytes]

    @classmethod
    def of(cls, data: Path, model: int = 1) -> Files:
        """Read versions.db, which a server may have open. Asserts that the stored digests are those of the bytes."""
        sql = sqlite3.connect(f"file:{data / 'versions.db'}?mode=ro", uri=True)
        try:
            query = "SELECT number, digest, onnx, weights FROM versions WHERE model = ?"
            rows = sql.execute(query, (model,)).fetchall()
        finally:
            sql.close()
        for number, digest, onnx, _ in rows:
            assert hashlib.sha256(onnx).hexdigest() == digest, f"version {number} is damaged"
        return cls({n: onnx for n, _, onnx, _ in rows}, {n: weights for n, _, _, weights in rows})

    def __or__(self, later: Files) -> Files:
        return Files(self.onnx | later.onnx, self.weights | later.weights)


@dataclass(frozen=True)
class Answered:
    """One tick, and the answer that it must get."""

    x: Array
    version: int
    y: Array  # (O,)


@dataclass
class Serving:
    """The streams of one model, stepped one tick at a time."""

    files: Files
    spec: ModelSpec | None = None
    version: int = 0
    answers: dict[tuple[str, int], Answered] = field(default_factory=dict)  # by stream id and seq
    rollbacks: list[int] = field(default_factory=list)  # the versions rolled back to
    _ids: dict[int, str] = field(default_factory=dict)
    _states: dict[int, Array] = field(default_factory=dict)
    _graphs: dict[int, Any] = field(default_factory=dict)

    def apply(self, chunk: Chunk) -> None:
        """Step the streams through one chunk."""
        for record in chunk.records:
            match record:
                case ModelCreate(spec=spec):
                    self.spec = ModelSpec.from_stored(json.loads(spec))
                case StreamOpened(stream=number, id=id):
                    self._ids[number] = id
                case Reset(stream=number):
                    self._states.pop(number, None)
                case Swap(version=version, digest=digest):
                    self._serve(version, digest)
                case Promote(version=version, digest=digest):
                    self._serve(version, digest)
                case Rollback(version=version, digest=digest):
                    self._serve(version, digest)
                    self.rollbacks.append(version)
                case Ticks():
                    for i in range(len(record.seq)):
                        self._step(int(record.stream[i]), int(record.seq[i]), float(record.time[i]), record.x[i])

    def _serve(self, version: int, digest: bytes) -> None:
        assert hashlib.sha256(self.files.onnx[version]).digest() == digest, f"version {version} is not the recorded one"
        self.version = version

    def _step(self, stream: int, seq: int, time: float, x: Array) -> None:
        assert self.spec is not None
        key = (self._ids[stream], seq)
        assert key not in self.answers, f"the journal holds tick {key} twice"
        assert seq == 1 or (key[0], seq - 1) in self.answers, f"the journal lacks the tick before {key}"
        graph = self._graph()
        width = next(i.shape[1] for i in graph.get_inputs() if i.name == "state")
        state = self._states.get(stream, np.zeros((1, width), np.float32))
        channels = len(self.spec.channels)
        row, x = x, x[:channels]
        u = Ahead(self.spec).inputs(np.array([time]), row[None, channels:])
        y, self._states[stream] = graph.run(["y", "next_state"], {"x": x[None].copy(), "u": u, "state": state})
        self.answers[key] = Answered(row.copy(), self.version, y[0])

    def _graph(self) -> Any:
        if self.version not in self._graphs:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._graphs[self.version] = onnxruntime.InferenceSession(
                self.files.onnx[self.version], options, providers=["CPUExecutionProvider"]
            )
        return self._graphs[self.version]


def served(chunks: list[Chunk], files: Files, model: int = 1) -> Serving:
    """Return the answers that the streams of a model must have got."""
    serving = Serving(files)
    for chunk in chunks:
        if chunk.model == model:
            serving.apply(chunk)
    return serving


def learned(chunks: list[Chunk], files: Files, gate: GateSettings, until: int, model: int = 1) -> HostedModel:
    """Return the learner of a model after its first `until` entries in the journal, learned without interruption."""
    hosted: HostedModel | None = None
    records = (record for chunk in chunks if chunk.model == model for record in chunk.records)
    skips = Skips((record.first, record.end) for record in records if isinstance(record, Skip))

    def weights_of(model: int, version: int) -> Array:
        assert hosted is not None
        return read_weights(hosted.learner.network, files.weights[version])

    for chunk in chunks:
        if chunk.model != model or chunk.offset >= until:
            continue
        if hosted is None:
            first = chunk.records[0]
            assert isinstance(first, ModelCreate)
            hosted = HostedModel.create(model, first, gate)
            hosted.skips = skips
        hosted.apply(chunk, weights_of)
    assert hosted is not None
    assert hosted.offset == until, f"the chunks end at {hosted.offset}, expected {until}"
    return hosted
