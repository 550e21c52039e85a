"""Answers of an imported network in the layout of the original: whole sequences in, all outputs by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.foreign.refused import ForeignError, names
from model.network import Network
from model.parameters import Array, Weights

TOLERANCE = 1e-5  # largest difference between the original's answers and ours, relative above 1


class Output(NamedTuple):
    """kind: y; hidden, of the last layer; h or c, states of all layers. axes: names in order, of T, B, D, F, L."""

    kind: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Arrangement:
    """How the original's inputs and outputs are laid out."""

    x: str
    time_first: bool
    starts: Mapping[str, str]  # h or c by the name of an input with start states [L, B, H]
    outputs: Mapping[str, Output]


def arrangement_of(inputs: Mapping[str, Array], outputs: Mapping[str, Array], time_first: bool) -> Arrangement:
    """Return the arrangement of arrays with PyTorch's names: x, h0, c0; hn, cn, and answers under any other name.

    Answers of rank 2 are those of the last step. Raises ForeignError.
    """
    starts = {name: name[0] for name in ("h0", "c0") if name in inputs}
    others = [name for name in inputs if name not in starts]
    if len(others) != 1:
        raise ForeignError("in/…", names(list(inputs)), "give one input x, and start states only as h0 and c0")
    answers = ("T", "B", "F") if time_first else ("B", "T", "F")
    made = {name: Output("y", answers if array.ndim == 3 else ("B", "F")) for name, array in outputs.items()}
    made |= {name: Output(name[0], ("L", "B", "F")) for name in ("hn", "cn") if name in outputs}
    return Arrangement(others[0], time_first, starts, made)


def answers(network: Network, weights: Weights, how: Arrangement, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs by name for whole sequences, as the original would.

    inputs: float32 arrays by name, x of rank 3. Of task classify an answer is the logits.
    Raises ForeignError where a shape does not fit.
    """
    x = _axes(inputs, how.x, 3)
    x = x if how.time_first else x.transpose(1, 0, 2)
    T, B, C = x.shape
    if network.scaler.features != C or not T or not B:
        raise ForeignError(
            f"in/{how.x}", list(inputs[how.x].shape), f"expected {network.scaler.features} values per step"
        )
    state = np.zeros((B, network.state_size), np.float32)
    _write_starts(network, how, inputs, state[:, network.statistics_size :])
    tape, ys, hiddens = network.tape(1, B), [], []
    for row in x:
        y, hidden, state = _tick(network, weights, row, state, tape)
        ys.append(y)
        hiddens.append(hidden)
    states = _states(network, state[:, network.statistics_size :])
    computed = {"y": np.stack(ys), "hidden": np.stack(hiddens), **states}
    return {name: _arranged(output, computed[output.kind]) for name, output in how.outputs.items()}


def difference(expected: Array, ours: Array) -> float:
    """Return the largest difference, relative where the expected value is above 1; infinite if one is not finite."""
    gap = np.abs(expected.astype(np.float64) - ours) / np.maximum(1, np.abs(expected))
    return float(np.max(np.where(np.isfinite(gap), gap, np.inf), initial=0.0))


def _axes(inputs: Mapping[str, Array], name: str, rank: int) -> Array:
    if name not in inputs:
        raise ForeignError(f"in/{name}", "missing", f"the inputs are {names(list(inputs))}")
    if inputs[name].ndim != rank:
        raise ForeignError(f"in/{name}", f"rank {inputs[name].ndim}", f"expected rank {rank}")
    return inputs[name]


def _write_starts(network: Network, how: Arrangement, inputs: Mapping[str, Array], hidden: Array) -> None:
    """Write start states [L, B, H] into the rows of the hidden states [B, hidden_size]."""
    for name, kind in how.starts.items():
        given, place = _axes(inputs, name, 3), 0
        expected = (len(network.cells), len(hidden), network.spec.hidden)
        if given.shape != expected:
            raise ForeignError(f"in/{name}", list(given.shape), f"expected {list(expected)}")
        for cell, start in zip(network.cells, given, strict=True):
            at = place + (cell.hidden if kind == "c" else 0)
            hidden[:, at : at + cell.hidden] = start
            place += cell.state_size


def _tick(network: Network, weights: Weights, x: Array, state: Array, tape: object) -> tuple[Array, Array, Array]:
    """Return answers [B, O], the last layer's hidden state [B, H], and the next state; as `Network.step`."""
    u = network.ahead.inputs(np.zeros(len(x)), np.zeros((len(x), network.covariates.sent), np.float32))
    p, following = network.step(weights, x, u, state, tape)  # type: ignore[arg-type]
    hidden = tape.H[0].copy()  # type: ignore[attr-defined]
    if network.spec.task == "classify":
        p = network.head.forward(weights.head, tape.H[0], tape.F[0])  # type: ignore[attr-defined]
    return p[:, : network.spec.outputs], hidden, following


def _states(network: Network, hidden: Array) -> dict[str, Array]:
    """Return h and c of all layers, [L, B, H] each; c only if the cells have one."""
    parts: dict[str, list[Array]] = {"h": [], "c": []}
    place = 0
    for cell in network.cells:
        for n, kind in enumerate("hc"[: cell.state_size // cell.hidden]):
            parts[kind].append(hidden[:, place + n * cell.hidden : place + (n + 1) * cell.hidden])
        place += cell.state_size
    return {kind: np.stack(values) for kind, values in parts.items() if values}


def _arranged(output: Output, computed: Array) -> Array:
    """Return computed values [T or L, B, F] with the axes of an output."""
    leading = "L" if output.kind in "hc" else "T"
    if leading not in output.axes and "T" not in output.axes:
        computed = computed[-1:]
    kept = [leading, "B", "F"] if leading in output.axes else ["B", "F"]
    values = computed if leading in output.axes else computed[0]
    made = np.transpose(values, [kept.index(axis) for axis in output.axes if axis != "D"])
    return np.expand_dims(made, output.axes.index("D")) if "D" in output.axes else made
