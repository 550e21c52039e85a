"""The whole forecaster: scaler → cells → head, as one step (serving's twin) and over a window (learning)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from model import calendar
from model.answers.head import Head
from model.answers.losses import LOSSES
from model.answers.tasks import TASKS
from model.bounds import MAX_VALUE, Bounds
from model.cells import CELLS
from model.cells.contract import Workspace
from model.parameters import Array, Layout, Weights
from model.scalers import SCALERS
from model.scalers.contract import fill
from model.spec import ModelSpec


class Tape:
    """Buffers of a window of T ticks and B rows: one workspace per layer, and the gradient by the top output."""

    def __init__(self, network: Network, T: int, B: int, dtype: type[np.floating[Any]]) -> None:
        self.T, self.B = T, B
        self.cells: list[Workspace] = [cell.workspace(T, B, dtype) for cell in network.cells]
        self.dH = np.zeros((T, B, network.spec.hidden), dtype)
        self.X = np.zeros((T, B, network.features), dtype)
        self.H: Array = self.dH
        arrays = [self.dH, self.X, *(a for cell in self.cells for a in vars(cell).values())]
        self.nbytes = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray) and a.base is None)


class Network:
    """A spec's layout and arithmetic. Holds no weights and no state: both are arguments everywhere.

    A state row, S float32, is the scaler's statistics followed by each layer's state.
    A feature row φ, E float32, is the scaler's features, the mask of a model that holds missing values (1 observed,
    0 missing), and the calendar of t+1: the head reads all of it, the cells leave out the `unseen` leading columns.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        C, F = len(spec.channels), calendar.size(spec.interval)
        self.calendar_size = F
        self.scaler = SCALERS[spec.scaler](C, spec.horizon, spec.missing == "hold")
        self.features = self.scaler.features + (C if self.scaler.hold else 0) + F
        seen = self.features - self.scaler.unseen
        make = CELLS[spec.cell]
        self.cells = [make(seen if i == 0 else spec.hidden, spec.hidden, spec) for i in range(spec.layers)]
        self.head = Head(spec.hidden, self.features, spec.outputs, spec.head_init)
        self.task = TASKS[spec.task](spec)
        self.loss = LOSSES[spec.loss](spec)
        self.hidden_size = sum(cell.state_size for cell in self.cells)
        self.state_size = self.scaler.size + self.hidden_size
        self.bounds = Bounds([*self.scaler.bounds, *(bound for cell in self.cells for bound in cell.bounds)])
        shapes = {f"cell{i}.{k}": s for i, cell in enumerate(self.cells) for k, s in cell.shapes().items()}
        shapes |= {f"head.{k}": s for k, s in self.head.shapes().items()}
        self.layout = Layout(shapes | {f"target.{k}": s for k, s in self.task.shapes().items()})
        learned = [name for name in self.layout.layers() if name not in (*spec.freeze, "target")]
        self.learned = self.layout.parts(learned)
        self.frozen = self.layout.parts([name for name in self.layout.layers() if name not in learned])
        # Of the flat vector: head and task, which is what a task may rescale.
        self.readout = slice(self.layout.layers()["head"].start, self.layout.size)
        self.targets = np.array(spec.target_index, np.intp)  # channels that are forecast

    def weights(self, flat: Array) -> Weights:
        """`flat` [layout.size] seen as named views of each layer, of the head and of the task; not copied."""
        named = self.layout.views(flat)
        rooms = [*(f"cell{i}" for i in range(len(self.cells))), "head", "target"]
        *cells, head, target = [
            {k.split(".")[1]: v for k, v in named.items() if k.startswith(room + ".")} for room in rooms
        ]
        return Weights(flat, cells, head, target)

    def init_params(self) -> Array:
        """First parameters, float32, from the spec's seed alone."""
        flat = np.zeros(self.layout.size, np.float32)
        rng = np.random.default_rng(self.spec.seed)
        weights = self.weights(flat)
        for cell, params in zip(self.cells, weights.cells, strict=True):
            cell.init_params(params, rng)
        self.head.init_params(weights.head, rng)
        self.task.init_params(weights.target)
        return flat

    def problem(self, state: Array) -> tuple[int, str] | None:
        """Why no stream of this spec has had such a state row [S], or can go on from it: the index of a number that
        cannot be, and what can; None: it can. Numbers that may each be are tried together, on the values that may come.
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
        return int(
            wrong.argmax()
        ), "with the others it becomes infinite: put a state that a stream of this model has had"

    def observe(self, statistics: Array, x: Array, u: Array) -> tuple[Array, Array, Array]:
        """Take raw values in: φ [B, E], the scale of each target's h-step change [B, H, targets], both new, and what
        stands for each target's value [B, targets], new: itself, or with missing = hold the last one observed.

        statistics: [B, scaler.size], modified; x: [B, C] raw values; u: [B, F] calendar of the next tick.
        """
        x, observed = fill(self.scaler, statistics, x)
        features, scale = self.scaler.update(statistics, x, observed)
        phi = [features, u] if observed is None else [features, observed, u]
        return np.concatenate(phi, axis=1), scale[:, :, self.targets], x[:, self.targets]

    def observed(self, phi: Array) -> Array:
        """Which targets of a feature row were observed: bool [..., targets]. phi: [..., E], of a model that holds."""
        mask: Array = phi[..., self.scaler.features + self.targets] > 0
        return mask

    def step(self, weights: Weights, x: Array, u: Array, state: Array, tape: Tape | None = None) -> tuple[Array, Array]:
        """One tick: (x [B, C], u [B, F], state [B, S]) → answers y [B, O] and the next state, both new.

        What the ONNX graph computes. `tape` is a workspace for T = 1 and this B; without one, one is made.
        """
        tape = tape or self.tape(1, len(x))
        state = state.copy()
        phi, scale, last = self.observe(state[:, : self.scaler.size], x, u)
        hidden = state[:, self.scaler.size :]
        self.forward(weights, hidden, phi[None], tape)
        hidden[...] = self.state_after(tape, 1)
        p = self.head.forward(weights.head, tape.H[0], phi)
        return self.task.answer(weights.target, p, last, scale), state

    def tape(self, T: int, B: int, dtype: type[np.floating[Any]] = np.float32) -> Tape:
        """A workspace for windows of one shape."""
        return Tape(self, T, B, dtype)

    def forward(self, weights: Weights, hidden: Array, X: Array, tape: Tape) -> Array:
        """Run the cells over a window. hidden: [B, hidden_size]; X: [T, B, E] feature rows. Returns H [T, B, hidden].

        The result is a view of the tape. Outputs come from `head.forward` at the positions that matter.
        """
        H, start = X[:, :, self.scaler.unseen :], 0
        for cell, p, workspace in zip(self.cells, weights.cells, tape.cells, strict=True):
            H = cell.forward(p, hidden[:, start : start + cell.state_size], H, workspace)
            start += cell.state_size
        tape.H = H
        return H

    def state_after(self, tape: Tape, steps: int) -> Array:
        """Hidden part of the state after that many steps of the last forward: [B, hidden_size], new."""
        parts = [cell.state_after(w, steps) for cell, w in zip(self.cells, tape.cells, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def backward(self, weights: Weights, tape: Tape, dH: Array, grad: Weights) -> None:
        """Add the gradient of a window to `grad`. dH: [T, B, hidden], gradient by the last forward's result."""
        layers = list(zip(self.cells, weights.cells, tape.cells, grad.cells, strict=True))
        for depth, (cell, p, workspace, dp) in reversed(list(enumerate(layers))):
            dH, _ = cell.backward(p, workspace, dH, dp, need_dX=depth > 0)


class Tapes:
    """Workspaces by shape, made when first asked for: all of the lengths T that are named, of others the last two."""

    def __init__(self, network: Network, lengths: Collection[int]) -> None:
        self._network, self._lengths = network, lengths
        self._kept: dict[tuple[int, int, str], Tape] = {}
        self._others: dict[tuple[int, int, str], Tape] = {}  # of many lengths, and large

    def __len__(self) -> int:
        return len(self._kept) + len(self._others)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays of all of them."""
        return sum(tape.nbytes for tapes in (self._kept, self._others) for tape in tapes.values())

    def get(self, T: int, B: int, purpose: str = "") -> Tape:
        """A workspace for windows of T ticks and B rows; another for each purpose."""
        key, kept = (T, B, purpose), T in self._lengths
        tapes = self._kept if kept else self._others
        if key not in tapes:
            if not kept and len(tapes) == 2:
                del tapes[next(iter(tapes))]
            tapes[key] = self._network.tape(T, B)
        return tapes[key]
