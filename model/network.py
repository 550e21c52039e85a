"""The whole forecaster, scaler → cells → head: one step at a time, as serving does, or over a window, for learning."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.ahead import Ahead
from model.answers import intervals
from model.answers.columns import Regressors, level
from model.answers.head import Head
from model.answers.losses import LOSSES, Loss, points
from model.answers.mixture import MOST_FEATURES, Mixture, Rows
from model.answers.own import Own
from model.answers.tasks import TASKS
from model.bounds import MAX_VALUE, PUT_OTHER, Bounds
from model.cells import stacked
from model.cells.contract import Skipping, Traced, Workspace
from model.covariates import Covariates
from model.parameters import Array, Layout, Weights
from model.scalers import SCALERS
from model.scalers.contract import fill
from model.spec import ModelSpec

EMBED_INIT = 1.0  # standard deviation of the tables' initial values, as of a z-score


class Tape:
    """Buffers for a window of T ticks and B rows: a workspace per layer, inputs, and the gradient by the last H."""

    def __init__(self, network: Network, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        self.T, self.B = T, B
        self.cells: list[Workspace] = [cell.workspace(T, B, dtype) for cell in network.cells]
        last = self.cells[-1]  # asked once: comparing with a protocol costs as much as a small product
        self._skipping = last if isinstance(last, Skipping) else None
        self.dH = np.zeros((T, B, network.spec.hidden), dtype)
        self.X = np.zeros((T, B, network.features), dtype)
        self.H: Array = self.dH
        self.F: Array = self.X  # of the last forward: X with ids replaced by rows of the tables
        arrays = [self.dH, self.X, *(a for cell in self.cells for a in arrays_of(cell))]
        self.nbytes = sum(a.nbytes for a in arrays if a.base is None)

    def read_since(self, tick: int) -> None:
        """Set the first tick whose output is read: before it, the last layer may leave 0."""
        if self._skipping is not None:
            self._skipping.since = tick


def arrays_of(workspace: object) -> Iterator[Array]:
    """Yield the arrays of a workspace, and those of a workspace in it."""
    for value in vars(workspace).values():
        if isinstance(value, np.ndarray):
            yield value
        elif not isinstance(value, int) and isinstance(value, Workspace):
            yield from arrays_of(value)


def cells_of(spec: ModelSpec) -> str:
    """Return the cells of a spec and their sizes, for a repr."""
    return f"{'+'.join(spec.cells) or spec.cell} {spec.layers}×{spec.hidden}"


class Network:
    """The layout and arithmetic of a spec. Holds no weights and no state: both are arguments of every method.

    A tick's row is its channels and what was sent with it (`Covariates`): `inputs` turns it into x and u.
    A state row, S float32, is the statistics of scaler, mixture and covariates, and each layer's state.
    A feature row φ, E float32, is the scaler's features, the mask (1 observed, 0 missing; only with missing = hold),
    the calendar inputs of t+1, and the raw features of the covariates, which `forward` expands. The head reads all of
    the expanded row; the cells skip the `unseen` leading columns and those of the covariates' later steps.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        C = len(spec.channels)
        self.ahead = Ahead(spec)
        self.scaler = SCALERS[spec.scaler](C, spec.horizon, spec.missing == "hold")
        self.features = self.scaler.features + (C if self.scaler.hold else 0) + self.ahead.features
        self.covariates = Covariates(spec)
        self._seen_end = self.features + self.covariates.seen
        head_features = self.features + self.covariates.features
        self.features += self.covariates.raw
        self.row = C + self.covariates.sent
        self.cells = stacked(spec, self._seen_end - self.scaler.unseen)
        self.loss: Loss = LOSSES[spec.loss](spec)
        self.head = Head(spec.hidden, head_features, spec.outputs * self.loss.columns, spec.head_init)
        self.task = TASKS[spec.task](spec)
        self.targets = np.array(spec.target_index, np.intp)  # positions of the forecast channels
        self.mixture = Mixture(spec, spec.hidden, head_features, self._own()) if spec.forecaster == "mixture" else None
        self.hidden_size = sum(cell.state_size for cell in self.cells)
        self.traced = self.cells[0] if spec.rule == "rtrl" and isinstance(self.cells[0], Traced) else None
        self.trace_size = self.traced.trace_size if self.traced else 0
        self.own = Own(spec, self.mixture) if self.mixture and spec.own_readout else None
        self.mixed, self.covered, self.owned = self._statistics()
        self.statistics_size = int(self.owned.stop)
        self.state_size = self.statistics_size + self.hidden_size
        kept = (*(self.mixture.columns.bounds if self.mixture else ()), *self.covariates.bounds)
        kept += self.own.bounds if self.own else ()
        self.bounds = Bounds([*self.scaler.bounds, *kept, *(bound for cell in self.cells for bound in cell.bounds)])
        shapes = {f"cell{i}.{k}": s for i, cell in enumerate(self.cells) for k, s in cell.shapes().items()}
        shapes |= {f"embed.{k}": s for k, s in self.covariates.shapes.items()}
        shapes |= {f"head.{k}": s for k, s in self.head.shapes().items()}
        shapes |= {f"experts.{k}": s for k, s in self.mixture.shapes().items()} if self.mixture else {}
        shapes |= {f"experts.{k}": s for k, s in self.own.shapes().items()} if self.own else {}
        shapes |= {f"target.{k}": s for k, s in self.task.shapes().items()}
        levels = len(spec.intervals)
        shapes |= {f"interval.{k}": s for k, s in intervals.shapes(levels, spec.outputs).items()} if levels else {}
        self.answer_size = spec.outputs * (1 + 2 * levels)  # A: forecasts, lower and upper bounds
        self.layout = Layout(shapes)
        # Layers that have a gradient; experts, target and intervals learn in their own ways.
        self.layers = {k: v for k, v in self.layout.layers().items() if k not in ("experts", "target", "interval")}
        learned = [name for name in self.layers if name not in spec.freeze]
        self.learned = self.layout.parts(learned)
        self.frozen = self.layout.parts([name for name in self.layout.layers() if name not in learned])
        # Head and task within the flat vector: the part that a task may rescale.
        self.readout = slice(self.layout.layers()["head"].start, self.layout.size)

    def _statistics(self) -> tuple[slice, slice, slice]:
        """Return the parts of a state row after the scaler's: of mixture, covariates and own readout."""
        sizes = self.mixture.columns.size if self.mixture else 0, self.covariates.size, self.own.size if self.own else 0
        ends = np.cumsum([self.scaler.size, *sizes]).tolist()
        mixed, covered, owned = map(slice, ends, ends[1:])
        return mixed, covered, owned

    def _own(self) -> list[list[int]]:
        """Return the positions of each target's own features in the expanded φ: its scaler's, its mask, and what is
        known ahead, of many covariates only step 1 and the static ones."""
        C, E, covered = len(self.spec.channels), self.features - self.covariates.raw, self.covariates
        ahead = E - self.ahead.features
        shared = range(ahead, E + (covered.features if covered.features <= MOST_FEATURES else covered.seen))
        return [[*range(int(c), ahead, C), *shared] for c in self.targets]

    def __repr__(self) -> str:
        spec = self.spec
        sizes = f"{len(spec.channels)} channels, {spec.outputs} outputs, {self.layout.size} parameters"
        return f"Network({spec.task}, {cells_of(spec)}, {sizes}, state of {self.state_size})"

    def weights(self, flat: Array) -> Weights:
        """Return `flat` [layout.size] with named views of each layer, the head and the task; nothing is copied."""
        named = self.layout.views(flat)
        layers = [*(f"cell{i}" for i in range(len(self.cells))), "head", "experts", "embed", "target", "interval"]
        *cells, head, experts, embed, target, interval = [
            {k.split(".", 1)[1]: v for k, v in named.items() if k.startswith(layer + ".")} for layer in layers
        ]
        return Weights(flat, cells, head, experts, embed, target, interval)

    def mixture_weights(self, weights: Weights) -> dict[str, float]:
        """Return the weight of each expert by name; empty without a mixture."""
        if self.mixture is None:
            return {}
        return dict(zip(self.mixture.names, map(float, self.mixture.weights(weights.experts)), strict=True))

    def init_params(self) -> Array:
        """Return the initial parameters, [layout.size] float32, new: a function of the spec and its seed."""
        flat = np.zeros(self.layout.size, np.float32)
        rng = np.random.default_rng(self.spec.seed)
        weights = self.weights(flat)
        for cell, params in zip(self.cells, weights.cells, strict=True):
            cell.init_params(params, rng)
        for table in weights.embed.values():
            table[...] = EMBED_INIT * rng.standard_normal(table.shape)
        self.head.init_params(weights.head, rng)
        self.task.init_params(weights.target)
        if self.own is not None:
            self.own.init_params(weights.experts)
        if self.spec.intervals:
            intervals.init_params(weights.interval, self.spec.intervals, self.loss.columns > 1)
        return flat

    def problem(self, state: Array) -> tuple[int, str] | None:
        """Return index and remedy of a number that makes a state row [S] invalid, or None if the row is valid.

        A row is invalid if a number is outside its bounds, or if extreme but allowed ticks make a statistic infinite.
        """
        found = self.bounds.outside(state)
        if found or not self.scaler.size:
            return found
        held = state[self.scaler.held]
        trial = np.float32(MAX_VALUE) * np.array([[[0], [0]], [[1], [-1]], [[-1], [-1]], [[1], [1]]], np.float32)
        ticks = np.repeat(trial, len(self.spec.channels), axis=2)  # [sequences, ticks, C]
        ticks = np.concatenate([ticks, np.broadcast_to(held, (1, *ticks.shape[1:]))])
        rows = np.repeat(state[None, : self.scaler.size], len(ticks), axis=0)
        with np.errstate(all="ignore"):
            for x in ticks.transpose(1, 0, 2):
                _, scale = self.scaler.update(rows, *fill(self.scaler, rows, x))
        wrong = ~np.isfinite(rows).all(axis=0)
        if not wrong.any() and np.isfinite(scale).all():
            return None
        return int(wrong.argmax()), f"with the others it becomes infinite: {PUT_OTHER}"

    def inputs(self, time: NDArray[np.float64], row: Array) -> tuple[Array, Array]:
        """Return x [B, C] and u [B, U] of ticks' rows [B, row]. time: (B,) event times, seconds, NaN where none."""
        if not self.covariates.sent:
            return row, self.ahead.inputs(time)
        C = self.scaler.channels
        return np.ascontiguousarray(row[:, :C]), self.ahead.inputs(time, row[:, C:])

    def observe(self, statistics: Array, x: Array, u: Array) -> tuple[Array, Array, Array]:
        """Update the statistics with raw values and return what the network needs of the tick, new arrays.

        statistics: [B, statistics_size], of which the parts of scaler and covariates are modified; x: [B, C] raw
        values; u: [B, U] inputs known ahead, see `Ahead`.
        Returns φ [B, E]; the scale of each target's h-step change [B, H, targets]; and each target's value
        [B, targets], or the last one observed where it is missing.
        """
        own = statistics[:, : self.scaler.size]
        x, observed = fill(self.scaler, own, x)
        features, scale = self.scaler.update(own, x, observed)
        known = u[:, : self.ahead.features]
        phi = [features, known] if observed is None else [features, observed, known]
        if self.covariates.sent:
            kept = statistics[:, self.covered]
            phi.append(self.covariates.update(kept, u[:, -self.covariates.sent :]))
        return np.concatenate(phi, axis=1), scale[:, :, self.targets], x[:, self.targets]

    def extend(self, statistics: Array, last: Array, u: Array, scale: Array) -> Regressors:
        """Add a tick to the mixture's part of the statistics, after `observe`, and return its regressors.

        statistics: [B, statistics_size], modified; last [B, targets] and scale [B, H, targets]: as `observe` returns
        them. Only with a mixture.
        """
        assert self.mixture is not None
        kept, C = statistics[:, self.mixed], self.scaler.channels
        begin = self.scaler.parts[0]  # after the count come means and variances
        mean, variance = (statistics[:, begin + i * C + self.targets] for i in range(2))
        return self.mixture.columns.update(kept, last, self.ahead.slot(u), scale, level(last, mean, variance))

    def observed(self, phi: Array) -> Array:
        """Return which targets of feature rows φ [..., E] were observed, bool [..., targets]; for missing = hold."""
        mask: Array = phi[..., self.scaler.features + self.targets] > 0
        return mask

    def step(self, weights: Weights, x: Array, u: Array, state: Array, tape: Tape | None = None) -> tuple[Array, Array]:
        """Compute one tick, as the ONNX graph does: x [B, C], u [B, U], state [B, S] → y [B, A], next state, both new.

        y: O forecasts; with intervals, followed by their bounds as `intervals.bounds` orders them.
        tape: a workspace for T = 1 and this B; None makes one.
        """
        tape = tape or self.tape(1, len(x))
        state = state.copy()
        statistics, hidden = state[:, : self.statistics_size], state[:, self.statistics_size :]
        phi, scale, last = self.observe(statistics, x, u)
        self.forward(weights, hidden, phi[None], tape)
        hidden[...] = self.state_after(tape, 1)
        p = self.head.forward(weights.head, tape.H[0], tape.F[0])
        if self.mixture is not None:
            made = self.extend(statistics, last, u, scale)
            each, rows = self.mixture.forecasts(weights.experts, p, tape.H[0], tape.F[0], made)
            p = self.mixture.mix(weights.experts, each).reshape(p.shape)
            if self.own is not None:
                p = self._own_answer(weights, statistics, phi, p, rows, last, scale[:, 0])
        y = self.task.answer(weights.target, points(p, self.spec.outputs), last, scale)
        if self.spec.intervals:
            unit, widths = self.task.unit(weights.target, scale), self.loss.widths(p, self.spec.outputs)
            y = np.concatenate([y, intervals.bounds(weights.interval, y, unit, widths)], axis=1)
        return y, state

    def _own_answer(
        self, weights: Weights, statistics: Array, phi: Array, p: Array, rows: Rows, last: Array, scale: Array
    ) -> Array:
        """Learn from the tick's labels, and return the stream's answer [B, K]. statistics: after `extend`, modified.

        phi: [B, E]; p: [B, K] the mixture's answer; last, scale: [B, K], as `observe` returns them.
        """
        own, mine, K = self.own, statistics[:, self.owned], self.targets.size
        assert own is not None
        before = statistics[:, self.mixed][:, K : 2 * K]  # the last value but one
        own.learn(mine, *own.label(mine, last, before, self.observed(phi) if self.scaler.hold else None))
        look = own.look(weights.experts, mine, rows.every[own.source][:, 0], p)
        own.keep(mine, look, scale)
        return look.answer

    def tape(self, T: int, B: int, dtype: type[np.floating[Any]] = np.float32) -> Tape:
        """Return a new workspace for windows of T ticks and B rows."""
        return Tape(self, T, B, dtype)

    def forward(self, weights: Weights, hidden: Array, X: Array, tape: Tape, since: int = 0) -> Array:
        """Run the cells over a window and return the last layer's hidden states H [T, B, hidden], a view of the tape.

        hidden: [B, hidden_size] before the window; X: [T, B, E]; only read. since: see `Tape.read_since`.
        `head.forward` computes outputs where they are needed, from the expanded features `tape.F`.
        """
        tape.F = self.covariates.expand(weights.embed, X)
        tape.read_since(since)
        H, start = tape.F[:, :, self.scaler.unseen : self._seen_end], 0
        for cell, p, workspace in zip(self.cells, weights.cells, tape.cells, strict=True):
            H = cell.forward(p, hidden[:, start : start + cell.state_size], H, workspace)
            start += cell.state_size
        tape.H = H
        return H

    def state_after(self, tape: Tape, steps: int) -> Array:
        """Return the hidden state after `steps` steps (1..T) of the last forward: [B, hidden_size], new."""
        parts = [cell.state_after(w, steps) for cell, w in zip(self.cells, tape.cells, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def backward(self, weights: Weights, tape: Tape, dH: Array, grad: Weights) -> tuple[Array | None, Array]:
        """Add the gradient of the last forward's window to `grad`. dH: [T, B, hidden], gradient by its H; only read.

        Returns the gradient by the features that the cells read, [T, B, seen], None for a model without categories, and
        by the first layer's start states, [B, its state_size].
        """
        layers = list(zip(self.cells, weights.cells, tape.cells, grad.cells, strict=True))
        for depth, (cell, p, workspace, dp) in reversed(list(enumerate(layers))):
            dH, dstate = cell.backward(p, workspace, dH, dp, need_dX=depth > 0 or bool(weights.embed))
        return dH if weights.embed else None, dstate

    def embed_backward(self, X: Array, dF: Array, dseen: Array, grad: Weights) -> None:
        """Add the gradient of the tables to `grad`. X: [N, E] feature rows; dF: [N, E'], gradient by the expanded ones
        through the head, modified; dseen: [N, seen], through the cells."""
        dF[:, self.scaler.unseen : self._seen_end] += dseen
        self.covariates.backward(X, dF, grad.embed)


class Tapes:
    """Workspaces by shape, made on first use. Those of the given lengths T are kept, of other lengths the last two."""

    def __init__(self, network: Network, lengths: Collection[int]) -> None:
        self._network, self._lengths = network, lengths
        self._kept: dict[tuple[int, int, str], Tape] = {}
        self._others: dict[tuple[int, int, str], Tape] = {}  # may be large, so few are kept

    def __len__(self) -> int:
        return len(self._kept) + len(self._others)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of all workspaces."""
        return sum(tape.nbytes for tapes in (self._kept, self._others) for tape in tapes.values())

    def get(self, T: int, B: int, purpose: str = "") -> Tape:
        """Return the workspace for windows of T ticks and B rows; each purpose has its own."""
        key, kept = (T, B, purpose), T in self._lengths
        tapes = self._kept if kept else self._others
        if key not in tapes:
            if not kept and len(tapes) == 2:
                del tapes[next(iter(tapes))]
            tapes[key] = self._network.tape(T, B)
        return tapes[key]
