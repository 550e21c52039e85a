"""Offline training: passes over a recorded series before a model goes online.

The series is cut into contiguous segments that run side by side as rows of one batch, chunk by chunk. The hidden state
is carried from chunk to chunk; the gradient is cut there (truncated BPTT). With chunks as long as segments, it is
BPTT over whole sequences. With rule rtrl the trace of the state is carried too, and the gradient is not cut. The loss
on a held-out tail decides which epoch's weights are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.answers.losses import points
from model.network import Network
from model.offline.recorded import Recorded, Span, known_by, scale_labels
from model.parameters import Array, Weights
from model.update.accumulation import Accumulation
from model.update.bptt import Batch, gradient, predict, trace_after
from model.update.contract import parts_of, update_parts
from model.update.gradients import clip_gradient
from model.update.optimizers import OPTIMIZERS
from model.update.schedules import SCHEDULES

ROWS = 8  # segments side by side: more give a smoother gradient and fewer updates
SEGMENT_WINDOWS = 10  # length of a segment, in windows of the spec
SCORED_TICKS = 256  # ticks of one forward pass when scoring
WARM_TICKS = 512  # ticks run before the first scored one, so that the hidden state is as in serving


class Diverged(FloatingPointError):
    """A loss or gradient is not finite. The text says which and when; the best weights are not affected."""


class Epoch(NamedTuple):
    """One pass over the training ticks. Losses are scaled, summed over a tick's outputs, mean over labelled ticks."""

    number: int  # 0: the initial weights, before any update
    train: float  # loss of each chunk before its update, mean over the pass; NaN for number 0
    held_out: float  # loss of the weights after the pass; NaN without held-out ticks
    best: bool  # whether these weights are the best so far
    updates: int  # so far
    clipped: int  # updates so far with a gradient norm above the spec's clip


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineSettings:
    """How to train on a series."""

    epochs: int
    patience: int  # epochs without a better held-out loss before training stops
    rows: int  # segments side by side
    segments: int  # a multiple of rows
    chunk: int  # ticks of one update; 0: whole segments

    @classmethod
    def truncated(cls, epochs: int, patience: int, ticks: int, window: int) -> OfflineSettings:
        """Return settings with chunks of one window, and as many segments as `ticks` training ticks allow."""
        rows = max(1, min(ROWS, ticks // (SEGMENT_WINDOWS * window)))
        segments = rows * max(1, ticks // (SEGMENT_WINDOWS * window * rows))
        return cls(epochs=epochs, patience=patience, rows=rows, segments=segments, chunk=window)

    @classmethod
    def whole(cls, epochs: int, patience: int, segments: int = 1) -> OfflineSettings:
        """Return settings with one update per epoch, over the whole series or over `segments` of it side by side."""
        return cls(epochs=epochs, patience=patience, rows=segments, segments=segments, chunk=0)


class Best(NamedTuple):
    """The weights to keep, flat [n], with their epoch and their held-out loss."""

    epoch: int
    loss: float
    flat: Array


class OfflineTraining:
    """Training of a network's weights on a recorded series. `best` is replaced as a whole, so it may be read any time.

    recorded: as `prepare` or `side_by_side` returns it; the attribute holds the series with scaled labels.
    train_ticks: number of leading ticks to learn from, with the labels known by then; the others are held out. The
    oldest ticks that do not fill a segment are left out.
    spans: positions of several series; None for one.
    first: [n] initial weights, copied; None: drawn from the spec's seed, which also decides the order of segments.
    """

    def __init__(
        self,
        network: Network,
        recorded: Recorded,
        train_ticks: int,
        settings: OfflineSettings,
        spans: Sequence[Span] | None = None,
        first: Array | None = None,
    ) -> None:
        spec = network.spec
        self.network, self.train_ticks, self.settings = network, train_ticks, settings
        self.spans = tuple(spans or [Span(0, train_ticks, train_ticks, len(recorded.X))])
        self.weights = network.weights(network.init_params() if first is None else first.copy())
        self.recorded = scale_labels(network, self.weights, recorded, train_ticks)
        self.best = Best(0, math.inf, self.weights.flat.copy())
        self.updates = self.clipped = 0
        self._optimizer = OPTIMIZERS[spec.optimizer](spec)
        self._schedule = SCHEDULES[spec.schedule](spec)
        self._optimizer_state = self._optimizer.init(network.layout.size)
        self._accumulation = Accumulation(spec.accumulate, network.layout.size)
        self._length, self._begins = cut_segments(self.spans, settings.segments)
        self._follows = np.flatnonzero(np.diff(self._begins) == self._length)  # segments that the next one continues
        self._follows = np.array([s for s in self._follows if _same(self.spans, *self._begins[s : s + 2])], np.intp)
        self._chunk = min(settings.chunk or self._length, self._length)
        self._weight = known_by(self.recorded, spec.horizon, train_ticks, self.spans)
        self._starts = np.zeros((settings.segments, network.hidden_size), np.float32)
        self._traces = np.zeros((settings.segments, network.trace_size), np.float32)  # of the starts, with rule rtrl
        self._rng = np.random.default_rng((spec.seed, 1))
        self._grad = network.weights(np.empty_like(self.weights.flat))
        self._tape = network.tape(self._chunk, settings.rows)

    def epochs(self) -> Iterator[Epoch]:
        """Train until epochs or patience are used up. Yields the initial weights as epoch 0. Raises Diverged."""
        yield self._evaluate(0, math.nan)
        for number in range(1, self.settings.epochs + 1):
            yield self._evaluate(number, self._pass(number))
            if self.train_ticks < len(self.recorded.X) and number - self.best.epoch >= self.settings.patience:
                return

    def _evaluate(self, number: int, train: float) -> Epoch:
        """Compute the held-out loss and keep the weights if they are the best so far."""
        held_out, end = math.nan, len(self.recorded.X)
        if self.train_ticks < end:
            held_out = score(self.network, self.weights, self.recorded, self.train_ticks, end, self.spans)
            if not math.isfinite(held_out):
                raise Diverged(f"the held-out loss after epoch {number} is {held_out}")
        best = self.train_ticks >= end or held_out < self.best.loss
        if best:
            self.best = Best(number, held_out, self.weights.flat.copy())
        return Epoch(number, train, held_out, best, self.updates, self.clipped)

    def _pass(self, number: int) -> float:
        """Learn from every segment once, in a new random order. Returns the mean training loss."""
        total, ticks, ends, end_traces = 0.0, 0, np.empty_like(self._starts), np.empty_like(self._traces)
        order = self._rng.permutation(self.settings.segments)
        for group in order.reshape(-1, self.settings.rows):
            state, trace = self._starts[group], self._traces[group]
            for t0, t1 in pairwise(self._cuts()):
                batch, labelled = self._batch(group, state, trace, t0, t1)
                if labelled:
                    total += labelled * self._update(batch, number)
                    ticks += labelled
                else:
                    self.network.forward(self.weights, batch.start, batch.X, self._tape)
                state = self.network.state_after(self._tape, t1 - t0)
                if self.network.traced is not None:
                    trace = trace_after(self.network, self._tape, trace, t1 - t0)
            ends[group], end_traces[group] = state, trace
        if self._accumulation.added:  # a pass ends with every gradient applied
            self._step(self._taken(), number)
        # In the next pass a segment starts from the last state of the one before it, the first of a series from zeros.
        self._starts[self._follows + 1] = ends[self._follows]
        self._traces[self._follows + 1] = end_traces[self._follows]
        return total / ticks if ticks else math.nan

    def _cuts(self) -> list[int]:
        """Return the boundaries of the chunks of a segment for one pass.

        The first chunk has a random length, so that the gradient is cut elsewhere in each pass.
        """
        if self._chunk == self._length:
            return [0, self._length]
        first = int(self._rng.integers(1, self._chunk + 1))
        return [0, *range(first, self._length, self._chunk), self._length]

    def _batch(self, group: NDArray[np.intp], state: Array, trace: Array, t0: int, t1: int) -> tuple[Batch, int]:
        """Return ticks t0..t1 of the group's segments, padded to a chunk, and the number of labelled ticks."""
        ticks = self._begins[group][None] + np.arange(t0, t1)[:, None]
        missing = self._chunk - (t1 - t0)

        def rows(values: Array) -> Array:
            return np.pad(values[ticks], ((0, missing), (0, 0), (0, 0)))

        weight = rows(self._weight)
        any_label = weight.any(axis=2)
        labelled = int(any_label.sum())
        if labelled:  # turns `gradient`'s mean over rows with a label into the mean over labelled ticks
            weight *= np.float32(any_label.any(axis=0).sum() / labelled)
        traces = trace if self.network.traced is not None else None
        return Batch(state, rows(self.recorded.X), rows(self.recorded.Y), weight, traces), labelled

    def _update(self, batch: Batch, number: int) -> float:
        """Learn a chunk, or add its gradient to those of the next step, by its labelled ticks; return its loss."""
        loss, _, _ = gradient(self.network, self.weights, batch, self._tape, self._grad)
        if not math.isfinite(loss):
            raise self._diverged(f"loss is {loss}", number)
        grad, accumulation = self._grad.flat, self._accumulation
        if accumulation.groups > 1:
            steps = accumulation.completes
            accumulation.add(grad, int(batch.weight.any(axis=2).sum()))
            if not steps:
                return loss
            grad = self._taken()
        self._step(grad, number)
        return loss

    def _taken(self) -> Array:
        """Return the average of the accumulated gradients, which start again from zero."""
        self._accumulation.take(self._grad.flat)
        return self._grad.flat

    def _step(self, grad: Array, number: int) -> None:
        """Take one step of the optimizer; `grad` is overwritten."""
        spec = self.network.spec
        try:
            norm, clipped = clip_gradient(grad, spec.clip, spec.clip_value)
        except FloatingPointError as error:
            raise self._diverged(str(error), number) from None
        parts, rate = parts_of(self.network), self._schedule(self.updates)
        update_parts(self._optimizer, parts, self.weights.flat, grad, self._optimizer_state, rate)
        self.updates += 1
        self.clipped += clipped < norm

    def _diverged(self, why: str, number: int) -> Diverged:
        return Diverged(f"{why} in epoch {number}, update {self.updates + 1}")


def cut_segments(spans: Sequence[Span], segments: int) -> tuple[int, NDArray[np.intp]]:
    """Cut the training ticks into equal segments of the greatest length; return the length and each first tick [n].

    A segment lies within one series and ends at its cut or where the next segment begins. Oldest ticks are left out.
    """
    ticks = [span.cut - span.begin for span in spans]
    length = sum(ticks) // segments
    while sum(n // length for n in ticks) < segments:
        length -= 1
    counts = [n // length for n in ticks]
    while sum(counts) > segments:
        counts[counts.index(max(counts))] -= 1
    begins = [span.cut - length * n for span, count in zip(spans, counts, strict=True) for n in range(count, 0, -1)]
    return length, np.array(begins, np.intp)


def _same(spans: Sequence[Span], one: int, other: int) -> bool:
    """Return whether two training ticks belong to the same series."""
    return any(span.begin <= one < span.cut and span.begin <= other < span.cut for span in spans)


def forecasts(
    network: Network, weights: Weights, recorded: Recorded, start: int, end: int, spans: Sequence[Span] | None = None
) -> Array:
    """Return scaled forecasts [end − start, O] of ticks start..end; see `readouts`."""
    return points(readouts(network, weights, recorded, start, end, spans), network.spec.outputs)


def readouts(
    network: Network, weights: Weights, recorded: Recorded, start: int, end: int, spans: Sequence[Span] | None = None
) -> Array:
    """Return p [end − start, M·O] of ticks start..end; the state is warmed up from zeros before them.

    spans: positions of several series whose held-out ticks are start..end; each is warmed up with its own ticks.
    """
    if spans is None or len(spans) == 1:
        begin = max(0, start - WARM_TICKS)
        return _readouts(network, weights, recorded.X[begin:end], start - begin)
    made = []
    for span in spans:
        begin = max(span.begin, span.cut - WARM_TICKS)
        X = np.concatenate([recorded.X[begin : span.cut], recorded.X[span.held : span.end]])
        made.append(_readouts(network, weights, X, span.cut - begin))
    return np.concatenate(made)


def _readouts(network: Network, weights: Weights, rows: Array, warm: int) -> Array:
    """Return p [N − warm, M·O] of one series' feature rows [N, E]; the first `warm` warm up the state."""
    state, made = np.zeros((1, network.hidden_size), np.float32), []
    tape = network.tape(min(SCORED_TICKS, len(rows)), 1)
    for t in range(0, len(rows), tape.T):
        ticks = min(tape.T, len(rows) - t)
        X = np.pad(rows[t : t + ticks], ((0, tape.T - ticks), (0, 0)))[:, None]
        p = predict(network, weights, Batch(state, X, X, X), tape, (0, ticks))
        made.append(p[:, 0])
        state = network.state_after(tape, ticks)
    return np.concatenate(made)[warm:]


def score(
    network: Network, weights: Weights, recorded: Recorded, start: int, end: int, spans: Sequence[Span] | None = None
) -> float:
    """Return the loss of ticks start..end, as in `Epoch`, without learning.

    recorded: as `scale_labels` returned it with these weights.
    """
    return loss_of(network, recorded, readouts(network, weights, recorded, start, end, spans), start, end)


def loss_of(network: Network, recorded: Recorded, p: Array, start: int, end: int) -> float:
    """Return the loss of p [end − start, M·O], or of scaled forecasts [end − start, O]; NaN without a label.

    Forecasts alone, such as a baseline's, get the spread of a new model.
    """
    weight = recorded.weight[start:end]
    missing = network.spec.outputs * network.loss.columns - p.shape[1]
    p = np.pad(p, ((0, 0), (0, missing))) if missing else p
    each, _ = network.loss(p, recorded.Y[start:end], weight)
    ticks = int(weight.any(axis=1).sum())
    return float(each.sum(dtype=np.float64)) / ticks if ticks else math.nan
