"""The learner: a fold over a model's records (DESIGN R4, R7, R8, R13). Backtest, trainer and replay all use it.

It reads no clock, queue or metric. The same records give the same weights, bit for bit on one kind of machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.answers import intervals
from model.answers.losses import points
from model.fold import given
from model.fold.contexts import Block, Contexts, Starts, due_labels, out_of_range, push, void_gaps
from model.fold.drift import Drift
from model.fold.errors import Errors, Learned, RawOf, origin_units, window_units
from model.fold.experts import Experts, Origins, Seen, at_origins, label_forecasts, origins
from model.fold.histories import NON_FINITE, RANGE, Histories, Rejected
from model.fold.keeping import make_contexts
from model.fold.shares import Shares
from model.fold.windows import NO_LABEL, Unrolled, Window, groups, problem, unroll
from model.network import Network, Tape, Tapes
from model.parameters import Array
from model.spec import ModelSpec
from model.update.accumulation import Accumulation
from model.update.bptt import Batch, gradient, labelled, pad_rows, padded, predict, trace_after
from model.update.contract import OptimizerState, parts_of, update_parts
from model.update.gradients import GradientReport, check_finite, clip_gradient, finite_norm, layer_norms, report_of
from model.update.optimizers import OPTIMIZERS
from model.update.rounds import GROUP_ROWS, one_in, padded_rows, rounds
from model.update.schedules import schedule_of

REPORT_EVERY = 16  # updates between full gradient reports, which cost about a tenth of an update


@dataclass(slots=True)
class Update:
    """The outcome of one group of labels. Losses and scores are prequential: computed before the update."""

    labels: int  # label vectors learned, one per row and due tick
    loss: float = math.nan  # scaled, summed over a row's outputs, mean over rows
    persistence: float = math.nan  # the loss of p = 0, an answer without a network, on the same labels
    score: float = math.nan  # clipped, scaled loss in 0..1, mean over rows
    anchor_score: float = math.nan  # the anchor's score on the same windows; NaN if it was not scored
    norm: float = math.nan  # gradient norm before the clip: of the group, or of the average if it makes a step
    refused: str = ""  # why the weights were not changed; empty if they were
    refused_ticks: tuple[int, ...] = ()  # indices, in the call of `ticks`, of the ticks that gave refused labels
    report: GradientReport | None = None
    drift: dict[str, float] = field(default_factory=dict)  # numbers of a drift detected with these labels
    bounded: int = 0  # values whose intervals were compared with the label; 0 without intervals
    covered: tuple[int, ...] = ()  # how many of them were inside, by level


@dataclass(slots=True)
class Counts:
    """Totals of the fold since its start; part of a checkpoint."""

    updates: int = 0
    learned: int = 0  # label vectors
    thinned: int = 0  # label vectors left out by a recorded learn_every, or above their stream's share
    voided: int = 0  # origins that lost their labels to a gap, reset or eviction
    refused: int = 0  # updates
    clipped: int = 0  # updates
    drifts: int = 0
    ticks: int = 0
    # Labels and windows from outside:
    offered: int = 0  # valid ones: learned, thinned, or in a refused update
    windows: int = 0  # learned
    unlearned: int = 0  # received while learning was off
    duplicates: int = 0  # labels that repeated a known value
    rejected: int = 0


class Carried(NamedTuple):
    """The labels that a group's ticks carry: contexts, seq of the ticks, and for the mixture the newest's origins."""

    block: Block
    seq: NDArray[np.uint64]
    origins: Origins | None


@dataclass
class Learner:
    """Weights, optimizer state and contexts of one model, advanced by records.

    max_contexts: number of streams with a context, at least GROUP_ROWS; None: `most_contexts` of the spec, so that the
    same records evict the same streams everywhere.
    anchor: [n] flat weights, scored beside the candidate in calls with score_anchor; only read.
    paused: while true, nothing is learned; ticks still move the contexts.
    errors: if given, counts the errors of all forecasts whose labels are learned; it changes nothing that is learned.
    network_learns: if false, cells and readout keep their weights; the experts, their weights and the intervals learn.
    """

    spec: ModelSpec
    max_contexts: int | None = None
    anchor: Array | None = None
    paused: bool = False
    counts: Counts = field(default_factory=Counts)
    errors: Errors | None = None
    network_learns: bool = True

    def __post_init__(self) -> None:
        self.network = Network(self.spec)
        self.weights = self.network.weights(self.network.init_params())
        self.optimizer = OPTIMIZERS[self.spec.optimizer](self.spec)
        self.schedule = schedule_of(self.spec)
        self.optimizer_state: OptimizerState = self.optimizer.init(self.network.layout.size)
        self.experts = Experts(self.network) if self.network.mixture else None
        self.contexts = make_contexts(self.network, self.max_contexts)
        self.drift = Drift()
        self.shares = Shares()
        self.accumulation = Accumulation(self.spec.accumulate, self.network.layout.size)
        self._grad = self.network.weights(np.empty_like(self.weights.flat))
        self._before = np.empty_like(self.weights.flat)
        self._tapes = Tapes(self.network, (1, self.spec.window, 2 * self.spec.window))

    def __repr__(self) -> str:
        done, state = self.counts, ", paused" if self.paused else ""
        counts = f"{done.updates} updates, {done.learned} labels, {len(self.contexts)} streams"
        return f"Learner({self.network!r}, {counts}{state})"

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: weights, optimizer state, contexts, and the workspaces of updates."""
        own = self.optimizer_state.moments, self.accumulation.sum
        flat = (self.weights.flat, self._grad.flat, self._before, self.anchor, *own)
        experts = 0 if self.experts is None else self.experts.nbytes
        return sum(a.nbytes for a in flat if a is not None) + experts + self.contexts.nbytes + self._tapes.nbytes

    @property
    def steps(self) -> int:
        """Steps of the optimizer so far, which the schedule counts."""
        return self.counts.updates // self.spec.accumulate

    def ticks(
        self,
        streams: NDArray[np.uint32],
        seq: NDArray[np.uint64],
        time: NDArray[np.float64],
        x: Array,
        learn_every: int = 1,
        score_anchor: bool = False,
    ) -> list[Update]:
        """Learn from the labels that consecutive ticks carry, then add the ticks to their streams' contexts.

        streams, seq: (n,) in record order; time: (n,) event times in seconds, NaN where none; x: [n, C] raw values.
        learn_every > 1 thins: one in `learn_every` of a stream's blocks of k1 ticks is learned (recorded overload, R6).
        Returns the updates, none for tasks with labels from outside.
        """
        updates = []
        contexts = self.contexts
        for group in rounds(streams):
            of_group = streams[group], seq[group], time[group], x[group]
            if isinstance(contexts, Histories):
                self._append(contexts, *of_group)
                continue
            update = self._group(contexts, *of_group, learn_every, score_anchor)
            if update is not None:
                update.refused_ticks = tuple(group[list(update.refused_ticks)].tolist())
                updates.append(update)
        self.counts.ticks += len(streams)
        return updates

    def labels(
        self,
        streams: NDArray[np.uint32],
        seq: NDArray[np.uint64],
        y: Array,
        learn_every: int = 1,
        score_anchor: bool = False,
    ) -> tuple[list[Update], list[Rejected]]:
        """Learn from consecutive labels, GROUP_ROWS at a time, in record order.

        streams, seq: (n,) the labelled ticks; y: [n, O], finite. A label is learned from the ticks up to its own. If a
        tick has several labels, the first wins; a repeated value is counted and ignored.
        Returns the updates, and the labels not learned: those of a tick that is "late", "unknown" or has another value
        ("conflict"; see `Histories.arrive`), those outside the spec's `label_range` ("range"), and all labels of a
        refused update ("non-finite").
        While paused, labels are registered, counted as unlearned, and never learned.
        Raises ValueError for task forecast, which takes its labels from the stream, and for another shape.
        """
        contexts = self.contexts
        if not isinstance(contexts, Histories):
            raise ValueError(f"task {self.spec.task} takes no labels: they come from the stream")
        if y.shape != (len(streams), self.spec.outputs):
            raise ValueError(f"labels have shape {y.shape}, expected ({len(streams)}, {self.spec.outputs})")
        arrivals = contexts.arrive(streams, seq, y)
        self.counts.duplicates += arrivals.duplicates
        beyond = out_of_range(self.spec, y[arrivals.accepted])
        updates, rejected = [], arrivals.rejected + [Rejected(int(i), RANGE) for i in arrivals.accepted[beyond]]
        accepted, slots, ticks = (part[~beyond] for part in arrivals[:3])
        due = self._due(len(accepted), learn_every)
        due = due[self._admitted(streams[accepted[due]])]
        for k in range(0, len(due), GROUP_ROWS):
            chosen = due[k : k + GROUP_ROWS]
            places = accepted[chosen]
            start, traces, X, position = contexts.windows(slots[chosen], ticks[chosen])
            labels, weight = (np.zeros((*X.shape[:2], y.shape[1]), np.float32) for _ in range(2))
            at = position, np.arange(len(places))
            labels[at], weight[at] = y[places], 1
            no_forecast = np.zeros((*X.shape[:2], 0), np.float32)
            unrolled = Unrolled(start, X, labels, weight, no_forecast, no_forecast, traces)
            update, _ = self._learn(unrolled, score_anchor, streams[places])
            updates.append(update)
            if update.refused:
                rejected += [Rejected(int(i), NON_FINITE) for i in places]
        self.counts.rejected += len(rejected)
        return updates, sorted(rejected)

    def windows(
        self, windows: Sequence[Window], learn_every: int = 1, score_anchor: bool = False
    ) -> tuple[list[Update], list[Rejected]]:
        """Learn from consecutive windows, each as a whole, up to GROUP_ROWS side by side, in record order.

        Windows affect no stream. Labels of task forecast are the targets' values at steps 1..H from each tick.
        Returns the updates, and the windows not learned: of a wrong "shape", "non-finite", with a label outside
        `label_range` ("range"), without a usable label ("no label": the first tick of a forecast has no scale), and
        all windows of a refused update ("non-finite").
        """
        reasons = [problem(self.network, window) for window in windows]
        sound = [i for i, reason in enumerate(reasons) if not reason]
        rejected = [Rejected(i, reason) for i, reason in enumerate(reasons) if reason]
        due = [sound[i] for i in self._due(len(sound), learn_every)]
        updates = []
        for group in groups(self.network, [windows[i] for i in due]):
            places = [due[k] for k in group]
            unrolled = unroll(self.network, [windows[i] for i in places])
            update, usable = self._learn(unrolled, score_anchor)
            rejected += [Rejected(i, NO_LABEL) for i, row in zip(places, usable, strict=True) if not row]
            taken = [i for i, row in zip(places, usable, strict=True) if row]
            if taken:
                updates.append(update)
            if update.refused:
                rejected += [Rejected(i, NON_FINITE) for i in taken]
            else:
                self.counts.windows += len(taken)
        self.counts.rejected += len(rejected)
        return updates, sorted(rejected)

    def reset(self, stream: int) -> None:
        """Drop a stream's context; pending labels are voided and counted."""
        self.counts.voided += self.contexts.remove(stream)

    def put(self, stream: int, state: Array) -> None:
        """Restart a stream from a state row [S], which is copied; zeros replace a row that is invalid.

        Raises ValueError for a row of another length.
        """
        if state.shape != (self.network.state_size,):
            raise ValueError(f"state has shape {state.shape}, expected ({self.network.state_size},)")
        self.reset(stream)
        self.contexts.put(stream, np.zeros_like(state) if self.network.problem(state) else state)

    def change(self, spec: ModelSpec) -> None:
        """Learn by another spec of the same layout: weights, optimizer state and contexts stay.

        The new schedule continues from the number of updates so far. A reaction to drift that the new spec does not
        name ends.
        """
        self.spec = self.network.spec = spec
        self.schedule = schedule_of(spec)
        self.drift.raised = min(self.drift.raised, spec.drift_labels) if spec.drift_reaction == "raise" else 0
        self.drift.returning &= spec.drift_reaction == "rollback"

    def roll_back(self, flat: Array) -> None:
        """Continue from other weights [n] (copied), with a new optimizer state and a new drift test; contexts stay."""
        self.weights.flat[...] = flat
        self.optimizer_state = self.optimizer.init(len(flat))
        self.accumulation.reset()
        if self.experts is not None:
            self.experts.reset(self.weights)
        self.drift = Drift()

    def _due(self, n: int, learn_every: int) -> NDArray[np.intp]:
        """Return the indices of the labels or windows to learn among n from outside; none while learning is off.

        One in learn_every is chosen by a hash, so that no pattern of arrival excludes a stream (`one_in`).
        """
        if self.paused or not self.spec.learn:
            self.counts.unlearned += n
            return np.zeros(0, np.intp)
        due = one_in(learn_every, self.counts.offered, n)
        self.counts.offered += n
        self.counts.thinned += n - len(due)
        return due

    def _admitted(self, streams: NDArray[np.uint32], labels: NDArray[np.intp] | int = 1) -> NDArray[np.bool_]:
        """Return which rows are within their stream's share of learning; `labels` of the others count as thinned."""
        if self.spec.max_share >= 1:
            return np.ones(len(streams), np.bool_)
        admitted = self.shares.admit(streams.tolist(), self.spec.max_share)
        self.counts.thinned += int((~admitted * labels).sum())
        return admitted

    def _append(
        self,
        contexts: Histories,
        streams: NDArray[np.uint32],
        seq: NDArray[np.uint64],
        time: NDArray[np.float64],
        x: Array,
    ) -> None:
        """Append a group's ticks to their histories and step the hidden states with the current weights."""
        cut_off = contexts.cut_off
        slots = contexts.slots(streams)
        self.counts.voided += contexts.cut_off - cut_off
        features, hidden = contexts.append(slots, seq, time, x)
        B = padded_rows(len(streams))
        tape = self._tapes.get(1, B)
        self.network.forward(self.weights, pad_rows(B, hidden, 0), pad_rows(B, features, 0)[None], tape)
        after = self.network.state_after(tape, 1)[: len(streams)]
        # Weights that are not finite must not leave their mark in the states that later weights start from.
        contexts.hidden[slots] = np.nan_to_num(after, posinf=0.0, neginf=0.0)
        if self.network.traced is not None:
            traces = trace_after(self.network, tape, contexts.trace[slots], 1)
            contexts.trace[slots] = np.nan_to_num(traces, posinf=0.0, neginf=0.0)

    def _learn(
        self, unrolled: Unrolled, score_anchor: bool, streams: NDArray[np.uint32] | None = None
    ) -> tuple[Update, NDArray[np.bool_]]:
        """Learn one group of labels from outside: the task's statistics follow them, then comes an ordinary update.

        Returns the update, and which rows [B] had a usable label; if none had, there was no update.
        """
        start, X, y, weight, last, scale, traces = unrolled
        task, weights = self.network.task, self.weights
        kept = weights.flat[self.network.readout].copy()
        known = weight > 0
        rows = known.any(axis=2).T  # in record order
        task.follow(weights, y.transpose(1, 0, 2)[rows], known.transpose(1, 0, 2)[rows])
        Y, weight = task.targets(weights.target, y, weight, last, scale)
        usable: NDArray[np.bool_] = np.asarray(weight.any(axis=(0, 2)))
        if not usable.any():
            return Update(0), usable
        batch = padded(Batch(start, X, Y, weight, traces))
        T, B = batch.X.shape[:2]
        labels, tape = int(weight.any(axis=2).sum()), self._tapes.get(T, B)
        units = partial(window_units, self.network, weights.target, unrolled)
        update = self._update(batch, tape, labels, score_anchor, units, streams)
        if update.refused:
            weights.flat[self.network.readout] = kept
        return update, usable

    def _group(
        self,
        contexts: Contexts,
        streams: NDArray[np.uint32],
        seq: NDArray[np.uint64],
        time: NDArray[np.float64],
        x: Array,
        learn_every: int,
        score_anchor: bool,
    ) -> Update | None:
        cut_off = contexts.cut_off
        slots, block = contexts.load(streams)
        self.counts.voided += contexts.cut_off - cut_off
        self.counts.voided += void_gaps(block, time, self.spec.max_gap)
        update, ran = None, None
        if self.spec.learn and not self.paused:
            due = due_labels(self.network, block, seq, x, learn_every)
            carrying = np.flatnonzero(due.by_row)
            left_out = carrying[~self._admitted(streams[carrying], due.by_row[carrying])]
            due.leave_out(left_out)
            self.counts.thinned += due.thinned
            if due.by_row.any():
                batch = padded(Batch(block.start, block.ring.transpose(1, 0, 2), due.Y, due.weight, block.trace))
                ran = self._tapes.get(self.spec.window, len(batch.start))
                units = partial(origin_units, block, x[:, self.spec.target_index])
                of = Carried(block, seq, None if self.experts is None else origins(self.network, block, due.newest))
                update = self._update(batch, ran, int(due.by_row.sum()), score_anchor, units, streams, of)
        if update is None:
            given.keep(self.network, block, seq, self.weights.interval, None)
        push(self.network, block, self._next_starts(block, ran), time, x)
        if update is not None and update.refused:  # as in `_append`
            update.refused_ticks = tuple(np.flatnonzero(due.weight.any(axis=(0, 2))).tolist())
            for part in (block.start, block.trace):
                if part is not None:
                    np.nan_to_num(part, copy=False, posinf=0.0, neginf=0.0)
        contexts.store(slots, block)
        return update

    def _next_starts(self, block: Block, ran: Tape | None) -> Starts | None:
        """Return the states one step after the start states, and their traces, or None if no window is full.

        They are the first step of the update's forward, which used the weights before the update; without an update,
        one step is computed with the current weights.
        """
        if not (block.fill >= self.spec.window).any():
            return None
        B = len(block.rows)
        if ran is None:
            ran = self._tapes.get(1, B)
            self.network.forward(self.weights, block.start, block.ring[:, :1].transpose(1, 0, 2), ran)
        trace = None if block.trace is None else trace_after(self.network, ran, block.trace, 1)
        return Starts(self.network.state_after(ran, 1)[:B], trace)

    def _update(
        self,
        batch: Batch,
        tape: Tape,
        labels: int,
        score_anchor: bool,
        units: Callable[[int], RawOf],
        streams: NDArray[np.uint32] | None,
        of: Carried | None = None,
    ) -> Update:
        """Learn one group. units: of labels from a position on; streams: of the first rows of the batch, None: of none;
        of: their origins, None: they come from outside."""
        grad, counts = self._grad, self.counts
        mixed = None if of is None else of.origins
        loss, p, span = self._forecast(batch, tape, None if mixed is None else int(mixed.position.min()))
        seen = None
        if self.experts is not None and of is not None and of.origins is not None:
            seen = self.experts.look(self.weights, of.block, tape, of.origins)
            p = at_origins(p, span[0], of.origins, seen.answers)
            loss = self._loss(p, batch, span) if math.isfinite(loss) else loss
        if self.errors is not None and (self.experts is None or of is not None):  # a mixture answers no window
            t0, t1 = span
            self.errors.add(
                Learned(points(p, self.spec.outputs), batch.Y[t0:t1], batch.weight[t0:t1]), units(t0), streams
            )
        update = Update(labels, loss=loss)
        self._score(update, batch, p, span, score_anchor, seen)
        self._follow_errors(update, batch, p, span, of, seen)
        self._detect_drift(update)
        try:
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss}")
            steps = self._accumulate(grad.flat, batch)
            report = steps and self.steps % REPORT_EVERY == 0
            by_layer = layer_norms(grad.flat, self.network.layers) if report else {}
            update.norm, clipped = self._clip(grad.flat, steps)
            self._step(grad.flat, labels, seen, steps)
        except FloatingPointError as error:
            update.refused = str(error)
            counts.refused += 1
            return update
        counts.updates += 1
        counts.learned += labels
        counts.clipped += clipped < update.norm
        if report:
            norms = update.norm, clipped
            update.report = report_of(self.network, self.weights.flat, grad.flat, tape, span[1], norms, by_layer)
        return update

    def _accumulate(self, grad: Array, batch: Batch) -> bool:
        """Add a group's gradient to the sum; return whether a step is due, and `grad` is then the average.

        Raises FloatingPointError if the group's gradient is not finite; the groups before it still count.
        """
        if self.accumulation.groups == 1:
            return True
        finite_norm(grad)
        steps = self.accumulation.completes
        self.accumulation.add(grad, int(batch.weight.any(axis=(0, 2)).sum()))
        if steps:
            self.accumulation.take(grad)
        return steps

    def _clip(self, grad: Array, steps: bool) -> tuple[float, float]:
        """Clip the gradient of a step; return its norms before and after. A gradient that only adds is not clipped."""
        if steps:
            return clip_gradient(grad, self.spec.clip, self.spec.clip_value)
        norm = finite_norm(grad)
        return norm, norm

    def _forecast(self, batch: Batch, tape: Tape, read: int | None) -> tuple[float, Array, tuple[int, int]]:
        """Return what `gradient` does, and fill the gradient: with zeros where the network does not learn."""
        if self.network_learns:
            return gradient(self.network, self.weights, batch, tape, self._grad, read)
        self._grad.flat[...] = 0
        span = labelled(batch.weight)
        p = predict(self.network, self.weights, batch, tape, span, read)
        return self._loss(p, batch, span), p, span

    def _follow_errors(
        self, update: Update, batch: Batch, p: Array, span: tuple[int, int], of: Carried | None, seen: Seen | None
    ) -> None:
        """Update the intervals with the forecasts p at the positions of `span`, or with those given to late labels."""
        network, interval, (t0, t1) = self.network, self.weights.interval, span
        if not self.spec.intervals:
            return
        if of is None or not given.is_kept(network):
            Y, point = batch.Y[t0:t1], points(p, self.spec.outputs)
            past = given.beside(network, interval, p, Y)
            found = intervals.follow(interval, self.spec.intervals, point, Y, batch.weight[t0:t1], past)
        else:
            made = given.newest(of.block, p, t0) if seen is None else seen.newest
            given.keep(network, of.block, of.seq, interval, made)
            found = given.follow(network, of.block, of.seq, interval, batch.Y, batch.weight)
        update.bounded, update.covered = found[0], tuple(found[1].tolist())

    def _detect_drift(self, update: Update) -> None:
        """Add the scores to the drift test, and start the spec's reaction if it detects a drift."""
        update.drift = self.drift.add(update.score, update.labels)
        if not update.drift:
            return
        self.counts.drifts += 1
        if self.spec.drift_reaction == "raise":
            self.drift.raised = self.spec.drift_labels
        self.drift.returning = self.spec.drift_reaction == "rollback"

    def _step(self, grad: Array, labels: int, seen: Seen | None, steps: bool) -> None:
        """Take one optimizer step, if one is due, and teach the experts with `labels` labels.

        `grad` is overwritten with the step. Raises FloatingPointError if the weights are not finite afterwards. They
        are then restored, and optimizer state and covariances are new, because the old ones would break them again.
        """
        np.copyto(self._before, self.weights.flat)
        if self.network_learns:
            rate = self.schedule(self.steps) * (self.spec.drift_raise if self.drift.raised else 1.0)
            self.drift.raised = max(0, self.drift.raised - labels)
            if steps:
                parts = parts_of(self.network)
                update_parts(self.optimizer, parts, self.weights.flat, grad, self.optimizer_state, rate)
        if self.experts is not None and seen is not None:
            self.experts.learn(self.weights, seen)
        try:
            check_finite(self.weights.flat)
        except FloatingPointError:
            self.roll_back(self._before)
            raise

    def _loss(self, p: Array, batch: Batch, span: tuple[int, int]) -> float:
        """Return the loss of forecasts p, as `gradient` does."""
        part = slice(*span)
        rows = max(1, int(batch.weight.any(axis=(0, 2)).sum()))
        return float(self.network.loss(p, batch.Y[part], batch.weight[part])[0].sum()) / rows

    def _score(
        self, update: Update, batch: Batch, p: Array, span: tuple[int, int], score_anchor: bool, seen: Seen | None
    ) -> None:
        """Set the update's persistence loss, and the clipped scores of the candidate and, if asked, of the anchor.

        Rows without a label do not count. p: the candidate's forecasts at the positions of `span`.
        """
        t0, t1 = span
        network, task, Y, weight = self.network, self.network.task, batch.Y[t0:t1], batch.weight[t0:t1]
        rows = weight.any(axis=(0, 2))
        update.score = float(task.score(points(p, self.spec.outputs), Y, weight)[rows].mean())
        update.persistence = self._loss(np.zeros_like(p), batch, span)
        if score_anchor and self.anchor is not None:
            anchor = network.weights(self.anchor)
            T, B = batch.X.shape[:2]
            tape = self._tapes.get(T, B, "anchor")
            read = int(seen.origins.position.min()) if seen else None
            q = points(predict(network, anchor, batch, tape, span, read), self.spec.outputs)
            if self.experts is not None and seen is not None:
                forecasts, _ = label_forecasts(network, anchor, tape, seen.origins)
                q = at_origins(q, t0, seen.origins, self.experts.answer(anchor.experts, forecasts, seen))
            q = task.translate(q, anchor.target, self.weights.target)
            update.anchor_score = float(task.score(q, Y, weight)[rows].mean())
