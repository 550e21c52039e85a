"""Journals of one model for the trainer's tests: every record that touches learning, and versions to swap to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec, changed
from service.common.gate import GateSettings
from service.journal.records import (
    Chunk,
    ModelChange,
    ModelCreate,
    Paused,
    Promote,
    Record,
    Reset,
    Resumed,
    Rollback,
    StreamOpened,
    Swap,
    Ticks,
    entries,
)
from service.trainer.hosting import HostedModel
from tests.model import worlds

MODEL = 7
SPEC = worlds.spec(hidden=4, seed=3, head_init=0.3, learning_rate=0.003)
# Small, so that a short history meets every branch: versions are tried, become the anchor, are dropped.
GATE = GateSettings(worse_evidence=50.0, anchor_labels=25, anchor_scores=1, score_every=2, cool_down_labels=12)


@cache
def _weights(version: int) -> NDArray[np.float32]:
    first = HostedModel.create(MODEL, create(), GATE).learner.weights.flat
    rng = np.random.default_rng(version)
    return first + rng.normal(0, 0.02 * (version > 1), first.shape).astype(np.float32)


def weights_of(model: int, version: int) -> NDArray[np.float32]:
    """What was published under a number; version 1 is what the spec's seed gives."""
    assert model == MODEL
    return _weights(version).copy()


def create(spec: ModelSpec = SPEC) -> ModelCreate:
    return ModelCreate("default", "flow", json.dumps(spec.to_stored()))


def swap(version: int) -> Swap:
    return Swap(version, 0, bytes(32))


def change(**values: Any) -> ModelChange:
    """A change of the settings of learning."""
    return ModelChange(json.dumps(changed(SPEC, values).to_stored()))


def rollback(version: int) -> Rollback:
    return Rollback(version, 0, bytes(32), "worse than the anchor")


def promote(version: int) -> Promote:
    return Promote(version, 0, bytes(32), "by hand")


def chunks(*groups: Sequence[Record], thinned: frozenset[int] = frozenset()) -> list[Chunk]:
    """Numbered chunks of these records; `thinned`: indices of those to be learned one in two."""
    made, offset = [], 0
    for n, records in enumerate(groups):
        made.append(Chunk(MODEL, offset, 2 if n in thinned else 1, tuple(records)))
        offset += sum(entries(r) for r in records)
    return made


def history(seed: int = 0) -> list[Chunk]:
    """Forty chunks of four streams, with swaps, a rollback, a promotion, a pause, changes, resets and thinning before,
    in and after ticks."""
    rng = np.random.default_rng(seed)
    ticks = [Ticks(*chunk) for chunk in worlds.chunks(rng.integers(1, 12, 40).tolist(), seed=seed)]
    groups: list[list[Record]] = [[t] for t in ticks]
    groups[0] = [create(), swap(1), *(StreamOpened(10 + n, f"pump-{n}", 1) for n in range(4)), ticks[0]]
    for at, version in ((4, 2), (7, 3), (11, 4), (20, 5), (24, 6), (31, 7), (35, 8)):
        groups[at].insert(int(rng.integers(0, 2)), swap(version))
    groups[17].insert(1, rollback(int(rng.choice([1, 2]))))
    groups[27].insert(int(rng.integers(0, 2)), promote(int(rng.choice([3, 6]))))
    groups[13].append(Paused())
    groups[15].insert(0, Resumed())
    groups[9].append(Reset(11))
    groups[28].insert(0, Reset(12))
    groups[22].append(change(learning_rate=0.01, schedule="cosine", schedule_updates=200, clip=0.5))
    groups[33].insert(0, change(learning_rate=0.002, max_share=0.3, label_range=(-2.0, 2.0)))
    return chunks(*groups, thinned=frozenset({5, 22}))


def fold(history: list[Chunk], hosted: HostedModel | None = None) -> HostedModel:
    """The model after these chunks."""
    if hosted is None:
        first = history[0].records[0]
        assert isinstance(first, ModelCreate)
        hosted = HostedModel.create(history[0].model, first, GATE)
    for chunk in history:
        hosted.apply(chunk, weights_of)
    return hosted


def digest(hosted: HostedModel) -> str:
    """Of everything that decides how a model goes on: learner, contexts in order, anchor, contender, gate, place."""
    head, blobs = hosted.pack()
    parts = [worlds.digest(hosted.learner), head, *(f"{k}={hashlib.sha256(v).hexdigest()}" for k, v in blobs.items())]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
