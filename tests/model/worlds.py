"""Streams for the tests of the learner: several interleaved entities, and the forecasts that a server makes of them."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.fold.learner import Counts, Learner, Update
from model.parameters import Array
from model.spec import ModelSpec
from model.update.contract import OptimizerState

START_S, INTERVAL_S = 1.4e9, 1800.0


class Chunk(NamedTuple):
    """The arguments of `Learner.ticks`."""

    streams: NDArray[np.uint32]
    seq: NDArray[np.uint64]
    time: NDArray[np.float64]
    x: Array  # [n, 2] float32


def spec(**fields: object) -> ModelSpec:
    """Return a small spec of two channels, with a calendar."""
    values: dict[str, object] = {"channels": ["a", "b"], "hidden": 5, "interval": INTERVAL_S}
    return ModelSpec.from_mapping(values | fields)


def chunks(sizes: list[int], entities: int = 4, seed: int = 0, once: bool = False) -> list[Chunk]:
    """Return chunks of autocorrelated ticks of entities in random order. once: each entity at most once per chunk."""
    rng = np.random.default_rng(seed)
    seq, level = np.zeros(entities, np.uint64), np.zeros((entities, 2))
    made = []
    for size in sizes:
        picked = rng.permutation(entities)[:size] if once else rng.integers(0, entities, size)
        rows = []
        for e in picked:
            seq[e] += np.uint64(1)
            level[e] = 0.9 * level[e] + rng.normal(0, (1, 30))
            rows.append((10 + e, seq[e], START_S + INTERVAL_S * float(seq[e]), level[e] + (5, 100 * e)))
        streams, seqs, times, x = zip(*rows, strict=True)
        made.append(Chunk(np.array(streams, np.uint32), np.array(seqs, np.uint64), np.array(times),
                          np.array(x, np.float32)))  # fmt: skip
    return made


def with_gaps(made: list[Chunk], seed: int = 5) -> list[Chunk]:
    """Return the chunks with a third of the values missing, including whole ticks and first ticks."""
    rng, out = np.random.default_rng(seed), []
    for chunk in made:
        missing = (rng.random(chunk.x.shape) < 0.25) | (rng.random((len(chunk.x), 1)) < 0.1)
        out.append(chunk._replace(x=np.where(missing, np.float32(np.nan), chunk.x)))
    return out


class Server:
    """Carries the state of each stream and forecasts with the weights of a learner, as serving does."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.states: dict[int, Array] = {}

    def forecasts(self, chunk: Chunk) -> Array:
        """Return forecasts [n, O] for a chunk with each stream at most once."""
        network = self.learner.network
        fresh = np.zeros(network.state_size, np.float32)
        state = np.stack([self.states.get(int(s), fresh) for s in chunk.streams])
        u = self.learner.network.ahead.inputs(chunk.time)
        y, after = network.step(self.learner.weights, chunk.x, u, state)
        self.states |= {int(s): row for s, row in zip(chunk.streams, after, strict=True)}
        return y


class Checkpoint:
    """Save and load a learner as a trainer does: stands in for trainer.db."""

    def __init__(self) -> None:
        self.contexts: dict[int, bytes] = {}

    def save(self, learner: Learner) -> None:
        changed, removed = learner.contexts.changes()
        for stream in removed:
            self.contexts.pop(stream, None)
        self.contexts |= changed
        self.order = learner.contexts.order()
        self.weights = learner.weights.flat.tobytes()
        self.moments = learner.optimizer_state.moments.tobytes()
        self.step = learner.optimizer_state.step
        self.experts = b"" if learner.experts is None else learner.experts.pack()
        self.accumulated = learner.accumulation.pack()
        self.counts = tuple(getattr(learner.counts, name) for name in Counts.__slots__)

    def load(self, spec: ModelSpec, max_contexts: int) -> Learner:
        learner = Learner(spec, max_contexts, counts=Counts(*self.counts))
        learner.weights.flat[...] = np.frombuffer(self.weights, np.float32)
        moments = np.frombuffer(self.moments, np.float32).reshape(learner.optimizer_state.moments.shape)
        learner.optimizer_state = OptimizerState(self.step, moments.copy(), learner.optimizer_state.scratch)
        learner.accumulation.unpack(self.accumulated)
        learner.contexts.restore(self.contexts, self.order)
        if learner.experts is not None:
            learner.experts.unpack(self.experts)
        return learner


def digest(learner: Learner) -> str:
    """Return a digest of all that determines later updates, including counts and the order of the contexts."""
    contexts = learner.contexts
    state = learner.optimizer_state
    parts = [learner.weights.flat.tobytes(), state.moments.tobytes(), repr((state.step, learner.counts)).encode()]
    parts.append(learner.accumulation.pack())
    if learner.experts is not None:
        parts.append(learner.experts.pack())
    for stream in contexts.order():
        slot = contexts._slots[stream]
        parts += [str(stream).encode(), contexts._rows[slot].tobytes(), contexts._marks[slot].tobytes()]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def feed(learner: Learner, chunk: Chunk, learn_every: int = 1) -> list[Update]:
    """Feed one chunk to the learner."""
    return learner.ticks(*chunk, learn_every=learn_every)
