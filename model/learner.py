"""The learner: a fold over a model's records (DESIGN R4, R7, R8). Backtest, trainer and replay call the same methods.

It reads no clock, queue or metric: the same records give the same weights, bit for bit on one machine kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model import calendar
from model.bptt import Batch, gradient, predict
from model.cell import Array
from model.contexts import Block, Contexts, most_contexts, pad_rows
from model.gradients import GradientReport, clip_by_global_norm, layer_norms
from model.losses import clipped_score
from model.network import TARGET_CLIP, Network, Tape
from model.optimizers import OPTIMIZERS, OptimizerState, update_parts
from model.rounds import rounds
from model.schedules import SCHEDULES
from model.spec import ModelSpec

PADDED_ROWS = (1, 4, 8, 16, 32)
REPORT_EVERY = 16  # updates between full gradient reports: they cost about a tenth of an update


@dataclass(slots=True)
class Update:
    """What became of one group's labels. Losses are before the update: prequential."""

    labels: int  # label vectors learned, one per row and due tick
    loss: float = math.nan  # scaled, summed over a row's outputs, mean over rows
    score: float = math.nan  # clipped, scaled loss in 0..1, mean over rows
    anchor_score: float = math.nan  # the anchor's on the same windows; NaN where it was not scored
    norm: float = math.nan  # gradient norm before the clip
    refused: str = ""  # why the weights were left as they were
    report: GradientReport | None = None


@dataclass(slots=True)
class Counts:
    """What the fold did so far; part of a checkpoint."""

    updates: int = 0
    learned: int = 0  # label vectors
    thinned: int = 0  # left out by a recorded learn_every
    voided: int = 0  # origins whose labels a gap, reset or eviction cut off
    refused: int = 0
    clipped: int = 0
    ticks: int = 0


@dataclass
class Learner:
    """Weights, optimizer state and contexts of one model, advanced by records.

    max_contexts: streams of which the learner keeps what it needs, at least GROUP_ROWS; None: `most_contexts` of the
    spec, so that the same records evict the same streams everywhere.
    anchor: flat weights scored beside the candidate when `ticks` is called with score_anchor; never changed here.
    """

    spec: ModelSpec
    max_contexts: int | None = None
    anchor: Array | None = None
    paused: bool = False
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.network = Network(self.spec)
        self.weights = self.network.weights(self.network.init_params())
        self.optimizer = OPTIMIZERS[self.spec.optimizer](self.spec)
        self.schedule = SCHEDULES[self.spec.schedule](self.spec)
        self.optimizer_state: OptimizerState = self.optimizer.init(self.network.layout.size)
        self.contexts = Contexts(self.network, self.max_contexts or most_contexts(self.network))
        self._grad = self.network.weights(np.empty_like(self.weights.flat))
        self._tapes: dict[tuple[int, int], Tape] = {}

    def ticks(
        self,
        streams: NDArray[np.uint32],
        seq: NDArray[np.uint64],
        time: NDArray[np.float64],
        x: Array,
        learn_every: int = 1,
        score_anchor: bool = False,
    ) -> list[Update]:
        """Take consecutive ticks in: learn from the labels they carry, then keep them as inputs and origins.

        streams, seq: (n,) in record order; time: (n,) event times in seconds, NaN where none; x: [n, C] raw values.
        learn_every > 1 thins: of a stream's blocks of k1 ticks, one in so many is learned from (recorded overload, R6).
        """
        updates = []
        for group in rounds(streams):
            update = self._group(streams[group], seq[group], time[group], x[group], learn_every, score_anchor)
            if update is not None:
                updates.append(update)
        self.counts.ticks += len(streams)
        return updates

    def reset(self, stream: int) -> None:
        """The stream begins anew: context dropped, pending labels voided and counted."""
        self.counts.voided += self.contexts.remove(stream)

    def roll_back(self, flat: Array) -> None:
        """Continue from other weights (copied) with a fresh optimizer; contexts stay."""
        self.weights.flat[...] = flat
        self.optimizer_state = self.optimizer.init(len(flat))

    def _group(
        self,
        streams: NDArray[np.uint32],
        seq: NDArray[np.uint64],
        time: NDArray[np.float64],
        x: Array,
        learn_every: int,
        score_anchor: bool,
    ) -> Update | None:
        cut_off = self.contexts.cut_off
        slots, block = self.contexts.take(streams)
        self.counts.voided += self.contexts.cut_off - cut_off
        self._void_gaps(block, time)
        update, ran = None, None
        if self.spec.learn and not self.paused:
            Y, weight, labels, thinned = self._labels(block, seq, x, learn_every)
            self.counts.thinned += thinned
            if labels:
                batch = self._batch(block, Y, weight)
                ran = self._tape(self.spec.window, batch.start.shape[0])
                update = self._update(batch, ran, labels, score_anchor)
        self._push(block, ran, time, x)
        if update is not None and update.refused:  # broken weights leave no trace in what the next ones start from
            np.nan_to_num(block.start, copy=False, posinf=0.0, neginf=0.0)
        self.contexts.store(slots, block)
        return update

    def _void_gaps(self, block: Block, time: NDArray[np.float64]) -> None:
        if self.spec.max_gap > 0:
            gap = (time - block.last_time) > self.spec.max_gap  # NaN compares false
            self.counts.voided += int(block.known[gap].sum())
            block.known[gap] = 0

    def _labels(
        self, block: Block, seq: NDArray[np.uint64], x: Array, learn_every: int
    ) -> tuple[Array, Array, int, int]:
        """Targets and mask [T, B, O] of the labels now due, how many label vectors they are, and how many were thinned.

        Head h of the tick at τ−h has its label at tick τ, in the scale frozen at τ−h. A block of k1 ticks ends where
        k1 divides seq; its labels are then learned together, or thinned together: learned where learn_every divides
        the block's number. A label vector is one tick's values, whichever heads learn from it.
        """
        T, H, B = self.spec.window, self.spec.horizon, len(seq)
        index = self.spec.target_index
        R = block.x.shape[1]
        Y = np.zeros((T, B, H, len(index)), np.float32)
        weight = np.zeros_like(Y)
        ends = seq % self.spec.learn_every == 0
        due = ends & (seq // self.spec.learn_every % learn_every == 0)
        labels = thinned = 0
        rows, steps = np.arange(B)[:, None], np.arange(H)[None]
        for back in range(self.spec.learn_every):
            truth = x[:, index] if back == 0 else block.x[:, R - back]
            origin = R - back - 1 - np.arange(H)
            scale = block.scale[:, origin, np.arange(H)]
            position = block.fill.astype(np.intp)[:, None] - back - 1 - steps
            valid = ends[:, None] & (back + 1 + steps <= block.known[:, None]) & (position >= 0)
            position = np.maximum(position, 0)
            usable = valid[:, :, None] & (scale > 0)
            carries = usable.any(axis=(1, 2))
            labels += int((carries & due).sum())
            thinned += int((carries & ~due).sum())
            usable &= due[:, None, None]
            y = (truth[:, None] - block.x[:, origin]) / np.where(scale > 0, scale, np.float32(1))
            Y[position, rows, steps] += np.where(usable, np.clip(y, -TARGET_CLIP, TARGET_CLIP), np.float32(0))
            weight[position, rows, steps] += usable
        return Y.reshape(T, B, -1), weight.reshape(T, B, -1), labels, thinned

    def _batch(self, block: Block, Y: Array, weight: Array) -> Batch:
        B = len(block.rows)
        size = next(n for n in PADDED_ROWS if n >= B)
        X = block.ring.transpose(1, 0, 2)
        return Batch(pad_rows(size, block.start, 0), *(pad_rows(size, a, 1) for a in (X, Y, weight)))

    def _update(self, batch: Batch, tape: Tape, labels: int, score_anchor: bool) -> Update:
        grad, counts = self._grad, self.counts
        loss, p, span = gradient(self.network, self.weights, batch, tape, grad)
        update = Update(labels, loss=loss)
        self._score(update, batch, p, span, score_anchor)
        try:
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss}")
            report = counts.updates % REPORT_EVERY == 0
            by_layer = layer_norms(grad.flat, self.network.layout.layers()) if report else {}
            update.norm = clip_by_global_norm(grad.flat, self.spec.clip)
        except FloatingPointError as error:
            update.refused = str(error)
            counts.refused += 1
            return update
        update_parts(
            self.optimizer, self.network.learned, self.weights.flat, grad.flat, self.optimizer_state,
            self.schedule(counts.updates),
        )  # fmt: skip
        counts.updates += 1
        counts.learned += labels
        counts.clipped += update.norm > self.spec.clip
        if report:
            update.report = self._report(update.norm, by_layer, tape, span[1])
        return update

    def _score(self, update: Update, batch: Batch, p: Array, span: tuple[int, int], score_anchor: bool) -> None:
        """Fill in the clipped scores of candidate and, if asked, anchor: rows without a label do not count.

        p: the candidate's forecasts at the positions of `span`.
        """
        t0, t1 = span
        Y, weight = batch.Y[t0:t1], batch.weight[t0:t1]
        rows = weight.any(axis=(0, 2))
        update.score = float(clipped_score(p, Y, weight)[rows].mean())
        if score_anchor and self.anchor is not None:
            tape = self._tape(self.spec.window, len(batch.start), "anchor")
            q = predict(self.network, self.network.weights(self.anchor), batch, tape, span)
            update.anchor_score = float(clipped_score(q, Y, weight)[rows].mean())

    def _report(self, norm: float, by_layer: dict[str, float], tape: Tape, newest: int) -> GradientReport:
        change = math.sqrt(float(np.vdot(self._grad.flat, self._grad.flat)))  # the optimizer leaves its step there
        size = math.sqrt(float(np.vdot(self.weights.flat, self.weights.flat)))
        cell, workspace = self.network.cells[-1], tape.cells[-1]
        lags = cell.lag_norms(workspace)[:newest][::-1]
        return GradientReport(
            norm=norm,
            clipped_norm=min(norm, self.spec.clip),
            by_layer=by_layer,
            update_ratio=change / size if size else 0.0,
            lag_norms=tuple(float(v) for v in lags),
            saturated=cell.saturated(workspace),
        )

    def _push(self, block: Block, ran: Tape | None, time: NDArray[np.float64], x: Array) -> None:
        """Append the tick to the rings. The start state of a full window moves on by one step: the first step of the
        update's own forward, made before the weights changed, or one step with today's weights without an update."""
        B, T = len(x), self.spec.window
        full = block.fill >= T
        if full.any():
            if ran is None:
                ran = self._tape(1, B)
                self.network.forward(self.weights, block.start, block.ring[:, :1].transpose(1, 0, 2), ran)
            block.start[full] = self.network.state_after(ran, 1)[:B][full]
            block.ring[full, :-1] = block.ring[full, 1:]
        u = calendar.inputs(time, self.spec.interval)
        features, scale = self.network.observe(block.statistics, x, u)
        block.fill[...] = np.minimum(block.fill + 1, T)
        block.ring[np.arange(B), block.fill.astype(np.intp) - 1] = features
        block.x[:, :-1] = block.x[:, 1:].copy()
        block.x[:, -1] = x[:, self.spec.target_index]
        block.scale[:, :-1] = block.scale[:, 1:].copy()
        block.scale[:, -1] = scale
        block.known[...] = np.minimum(block.known + 1, block.x.shape[1])
        timed = ~np.isnan(time)
        block.last_time[timed] = time[timed]

    def _tape(self, T: int, B: int, purpose: str = "") -> Tape:
        key = (T, B if not purpose else -B)
        if key not in self._tapes:
            self._tapes[key] = self.network.tape(T, B)
        return self._tapes[key]
