"""Streams with late, out-of-order labels, for the tests of tasks with external labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.parameters import Array
from model.spec import ModelSpec
from tests.model.worlds import INTERVAL_S, Chunk, chunks


class Labels(NamedTuple):
    """The arguments of `Learner.labels`."""

    streams: NDArray[np.uint32]
    seq: NDArray[np.uint64]
    y: Array  # [n, O]


class Window(NamedTuple):
    """One of the windows that `Learner.windows` takes."""

    x: Array
    y: Array
    weight: Array
    initial_state: Array | None = None


def label_spec(task: str = "regress", **fields: Any) -> ModelSpec:
    """Return a small spec of two channels and two outputs. Labels are at most 40 ticks late."""
    kind: dict[str, Any] = {"targets": ["t", "v"]} if task == "regress" else {"classes": ["n", "p"]}
    if task == "forecast":
        kind = {}
    else:
        kind["label_horizon"] = 40
    values = {"channels": ["a", "b"], "hidden": 5, "interval": INTERVAL_S, "task": task, **kind}
    return ModelSpec.from_mapping(values | fields)


def labels_of(spec: ModelSpec, x: Array, rng: np.random.Generator) -> Array:
    """Return labels of n ticks x [n, 2]: a function of the values and the last change, plus noise."""
    before = np.concatenate([x[:1], x[:-1]])
    a, b = (x[:, 0] - 5) / 3, (before[:, 1] - x[:, 1]) / 30
    if spec.task == "classify":
        p = (a + b + rng.normal(0, 0.3, len(x)) > 0).astype(np.float32)
        return np.stack([1 - p, p], axis=1)
    y = np.stack([40 + 7 * np.tanh(a + b), 1e-3 * (a - b)], axis=1)
    return (y * (1 + rng.normal(0, 0.02, y.shape))).astype(np.float32)


def world(spec: ModelSpec, sizes: list[int], entities: int = 4, seed: int = 0) -> list[Chunk | Labels]:
    """Return chunks of ticks, each followed by labels of earlier ticks: one per tick, late by 0 to label_horizon − 1
    ticks of its stream, in random order. Labels of the last ticks are missing: they are not due yet."""
    rng = np.random.default_rng(seed + 1000)
    made = chunks(sizes, entities, seed)
    streams = np.concatenate([c.streams for c in made])
    seq, x = np.concatenate([c.seq for c in made]), np.concatenate([c.x for c in made])
    y = np.zeros((len(x), spec.outputs), np.float32)
    for s in np.unique(streams):
        y[streams == s] = labels_of(spec, x[streams == s], rng)
    pending, last, events, seen = list[int](), dict[int, int](), list[Chunk | Labels](), 0
    for chunk in made:
        events.append(chunk)
        last |= dict(zip(chunk.streams.tolist(), chunk.seq.tolist(), strict=True))
        pending += range(seen, seen + len(chunk.seq))
        seen += len(chunk.seq)
        longest = spec.label_horizon - max(sizes)  # after the next chunk the label may be too late
        picked = [i for i in pending if rng.random() < 0.2 or last[int(streams[i])] - int(seq[i]) >= longest]
        if picked:
            pending = [i for i in pending if i not in picked]
            order = rng.permutation(np.array(picked))
            events.append(Labels(streams[order], seq[order], y[order]))
    return events
