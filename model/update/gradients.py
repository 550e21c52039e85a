"""Global-norm clip of a gradient, checks of an update, and the gradient report."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from model.network import Network, Tape
from model.parameters import Array


def clip_by_global_norm(grad: Array, max_norm: float) -> float:
    """Rescale the flat gradient in place so that its L2 norm is at most `max_norm`.

    grad: (n,), modified. Returns the norm before clipping (loss per unit of parameter).
    Raises FloatingPointError if that norm is not finite: the caller refuses the update.
    Source: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.
    """
    norm = finite_norm(grad)
    if norm > max_norm:
        grad *= max_norm / norm
    return norm


def finite_norm(grad: Array) -> float:
    """Return the L2 norm of a flat gradient (n,). Raises FloatingPointError if it is not finite."""
    norm = math.sqrt(float(np.vdot(grad, grad)))
    if not math.isfinite(norm):
        raise FloatingPointError(f"gradient norm is {norm}")
    return norm


def clip_gradient(grad: Array, max_norm: float, max_value: float) -> tuple[float, float]:
    """Clip the flat gradient in place: each element to ±`max_value`, unless that is 0; then by `clip_by_global_norm`.

    grad: (n,), modified. Returns the norms before and after. Raises FloatingPointError if the first is not finite.
    """
    if not max_value:
        norm = clip_by_global_norm(grad, max_norm)
        return norm, min(norm, max_norm)
    norm = finite_norm(grad)
    np.clip(grad, -max_value, max_value, out=grad)
    return norm, min(clip_by_global_norm(grad, max_norm), max_norm)


def check_finite(weights: Array) -> None:
    """Raise FloatingPointError if flat weights (n,) are not finite, or so large that their squared norm is not."""
    square = float(np.vdot(weights, weights))
    if not math.isfinite(square):
        raise FloatingPointError(f"the weights' squared norm is {square} after the update")


def relative_change(after: Array, before: Array) -> float:
    """Return ‖after − before‖ / ‖before‖ of flat weights (n,), L2 norms; 0 if they are equal."""
    moved, size = (math.sqrt(float(np.vdot(v, v))) for v in (after - before, before))
    return moved / max(size, 1e-30)


def layer_norms(grad: Array, layers: dict[str, slice]) -> dict[str, float]:
    """Return the L2 norm of each layer's part of a flat gradient (n,)."""
    return {name: math.sqrt(float(np.vdot(grad[part], grad[part]))) for name, part in layers.items()}


@dataclass(frozen=True, slots=True)
class GradientReport:
    """Norms and ratios of one update. Norms are L2, in loss per unit of parameter (lag_norms: of hidden state)."""

    norm: float  # before the clip
    clipped_norm: float
    by_layer: dict[str, float] = field(default_factory=dict)  # before the clip
    update_ratio: float = 0.0  # ‖Δw‖ / ‖w‖
    # By cell layer, "cell0" first: the norm of dL/dh by ticks back from the newest label, and `Cell.saturated`.
    lag_norms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    saturated: dict[str, float] = field(default_factory=dict)


def report_of(
    network: Network,
    weights: Array,
    step: Array,
    tape: Tape,
    newest: int,
    norms: tuple[float, float],
    by_layer: dict[str, float],
) -> GradientReport:
    """Return the report of an update.

    weights: flat, after the update; step: what was added to them; tape: the window's, after its backward; newest: one
    past the last labelled position; norms: before and after the clip; by_layer: see `layer_norms`. All are only read.
    """
    change, size = (math.sqrt(sum(float(np.vdot(v[p], v[p])) for p in network.learned)) for v in (step, weights))
    cells = {f"cell{i}": pair for i, pair in enumerate(zip(network.cells, tape.cells, strict=True))}
    return GradientReport(
        norm=norms[0],
        clipped_norm=norms[1],
        by_layer=by_layer,
        update_ratio=change / size if size else 0.0,
        lag_norms={name: tuple(map(float, cell.lag_norms(w)[:newest][::-1])) for name, (cell, w) in cells.items()},
        saturated={name: cell.saturated(w) for name, (cell, w) in cells.items()},
    )
