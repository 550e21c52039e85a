"""Values of an ONNX graph that depend on its inputs, and what each operator makes of them.

A flow is what one layer computes, under the names of its axes: T time, B batch, D directions (always 1), F features.
Operators rename, drop or merge axes, choose the last step, or apply a linear map. Everything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.foreign.layers import Linear
from model.foreign.refused import ForeignError, node_name
from model.parameters import Array

INPUT_AXES = ("0", "1", "F")  # before a recurrent node says which one is time


@dataclass(frozen=True)
class Flow:
    """depth: recurrent layers below it. linear: map of the features since then. axes: name and size of each."""

    axes: tuple[tuple[str, int], ...]
    depth: int = 0
    linear: Linear | None = None
    last: bool = False  # the last step only
    state: str = ""  # h or c: the state after the last step, as a recurrent node gives it

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(size for _, size in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(name for name, _ in self.axes)


@dataclass(frozen=True)
class Start:
    """A graph input that holds start states [layers, B, H]; layer: the one selected, None for all."""

    name: str
    shape: tuple[int, ...]
    layer: int | None = None


@dataclass(frozen=True)
class States:
    """The states h or c of several layers, after the last step: [layers, B, H]."""

    kind: str
    depths: tuple[int, ...]
    shape: tuple[int, ...]


class Unfit(ValueError):
    """Why an operator cannot be applied to a flow."""


def transpose(flow: Flow, perm: list[int] | None) -> Flow:
    """Return the flow with its axes permuted."""
    order = perm if perm is not None else list(range(len(flow.axes)))[::-1]
    if sorted(order) != list(range(len(flow.axes))):
        raise Unfit(f"it permutes {len(flow.axes)} axes by {order}")
    return replace(flow, axes=tuple(flow.axes[i] for i in order))


def squeeze(flow: Flow, axes: Array | None) -> Flow:
    """Return the flow without axes of size 1: that of directions, or that of a chosen last step."""
    rank = len(flow.axes)
    dropped = {int(a) % rank for a in axes} if axes is not None else {i for i, n in enumerate(flow.shape) if n == 1}
    for i in dropped:
        name, size = flow.axes[i]
        if size != 1 or not (name == "D" or (name == "T" and flow.last)):
            raise Unfit(f"it removes axis {name} of size {size}")
    return replace(flow, axes=tuple(axis for i, axis in enumerate(flow.axes) if i not in dropped))


def reshape(flow: Flow, shape: Array, zero_is_kept: bool = True) -> Flow:
    """Return the flow with directions dropped, or time and batch merged or apart again."""
    wanted = [
        flow.shape[i] if n == 0 and zero_is_kept and i < len(flow.shape) else n for i, n in enumerate(shape.tolist())
    ]
    size = int(np.prod(flow.shape))
    if wanted.count(-1) == 1:
        others = -int(np.prod(wanted))
        wanted[wanted.index(-1)] = size // others if others > 0 else -1
    whole = [axis for axis in flow.axes if axis[0] != "D"]
    parted = [part for axis in whole for part in _parts(axis)]
    merged = [("·".join(f"{n}:{s}" for n, s in parted[:-1]), int(np.prod([s for _, s in parted[:-1]]))), parted[-1]]
    for axes in ([*flow.axes], whole, parted, merged):
        if [s for _, s in axes] == wanted:
            return replace(flow, axes=tuple(axes))
    raise Unfit(f"it reshapes {list(flow.shape)} to {wanted}")


def _parts(axis: tuple[str, int]) -> list[tuple[str, int]]:
    """Return the axes that a merged one consists of."""
    if ":" not in axis[0]:
        return [axis]
    return [(name, int(size)) for name, size in (part.split(":") for part in axis[0].split("·"))]


def last_step(flow: Flow, axis: int, is_last: bool, keep: bool) -> Flow:
    """Return the last step along an axis, which must be time. keep: the axis stays, with size 1."""
    name, _ = flow.axes[axis % len(flow.axes)]
    if name != "T" or flow.last:
        raise Unfit(f"it selects along axis {name}" if flow.depth else "it selects steps of the input: unrolled?")
    if not is_last:
        raise Unfit("it selects other steps than the last")
    at = axis % len(flow.axes)
    kept = (("T", 1),) if keep else ()
    return replace(flow, axes=(*flow.axes[:at], *kept, *flow.axes[at + 1 :]), last=True)


def mapped(flow: Flow, A: Array, b: Array) -> Flow:
    """Return the flow with the map A·x + b applied to its features, the last axis. A: [O, I]; b: [O]."""
    if not flow.axes or flow.names[-1] != "F" or A.shape[1] != flow.shape[-1] or flow.state:
        raise Unfit(f"a product with {' × '.join(map(str, A.shape))} weights of values {list(flow.shape)}")
    for what in (A, b):
        if what.dtype != np.float32 or not np.isfinite(what).all():
            raise Unfit(f"its constants are {what.dtype}, or not finite: convert them to finite float32")
    made = Linear(A, b) if flow.linear is None else flow.linear.then(A, b)
    return replace(flow, axes=(*flow.axes[:-1], ("F", len(A))), linear=made)


def affine(kind: str, flow: Flow, constant: Array, constant_first: bool) -> Flow:
    """Return flow ± constant, flow · constant or flow / constant, for constants of one value per feature."""
    F = flow.shape[-1]
    if constant.size not in (1, F) or (constant.ndim and constant.shape[-1] != constant.size):
        raise Unfit(f"its constant is {' × '.join(map(str, constant.shape))} for {F} features")
    c = np.broadcast_to(constant.reshape(-1), F).astype(constant.dtype)
    one, zero = np.ones(F, np.float32), np.zeros(F, np.float32)
    if kind == "Div" and (constant_first or not c.all()):
        raise Unfit("it divides by the input, or by zero")
    sign = -one if kind == "Sub" and constant_first else one
    scale = {"Mul": c, "Div": 1 / c if kind == "Div" else one}.get(kind, sign)
    shift = {"Add": c, "Sub": c if constant_first else -c}.get(kind, zero)
    return mapped(flow, np.diag(scale), shift)


def start_layer(start: Start, begin: int, end: int, axis: int) -> Start:
    """Return the start state of one layer."""
    if axis != 0 or start.layer is not None or end != begin + 1 or not 0 <= begin < start.shape[0]:
        raise Unfit("it cuts start states otherwise than by layer")
    return Start(start.name, (1, *start.shape[1:]), begin)


def states(parts: list[Any], axis: int) -> States:
    """Return the states of several layers, joined along their first axis."""
    kinds = {part.state for part in parts if isinstance(part, Flow)}
    if axis != 0 or len(kinds) != 1 or kinds == {""} or not all(isinstance(part, Flow) for part in parts):
        raise Unfit("it joins values other than the layers' states")
    shape = (len(parts), *parts[0].shape[1:])
    return States(kinds.pop(), tuple(part.depth for part in parts), shape)


def refused(node: Any, reason: object) -> ForeignError:
    """Return the error of a node."""
    remedy = f"{reason}: the graph must be recurrent layers and one readout; a state_dict with a TOML is read as well"
    return ForeignError(f"node {node_name(node)}", node.op_type, remedy)
