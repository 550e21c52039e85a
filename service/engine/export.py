"""A version's files: the ONNX graph, the weights, and recorded answers that a loaded copy must reproduce."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

import service
from model.answers import intervals
from model.graph.metadata import described, facts
from model.graph.step import EDITIONS, export_step
from model.network import Network
from model.parameters import Weights
from service.common.errors import Invalid, shown

Array = NDArray[np.float32]

MAX_LICENCE = 256
CANARY_ROWS = 4
CANARY_TICKS = 24  # random-walk ticks that bring the recorded states off zero


@dataclass(frozen=True, slots=True)
class Canary:
    """Inputs of one step, NumPy's answers, and the units in which another runtime's answers are compared."""

    x: Array  # [B, C], NaN where a value is missing
    u: Array  # [B, F]
    state: Array  # [B, S]
    y: Array  # [B, A] answers: forecasts and, with intervals, their bounds
    next_state: Array  # [B, S]
    scale: Array  # of y: [B, A]
    state_scale: Array  # of next_state: [B, S]

    def pack(self) -> bytes:
        """Return the arrays as safetensors."""
        return safetensors.save({name: np.ascontiguousarray(getattr(self, name)) for name in self.__slots__})

    @classmethod
    def unpack(cls, data: bytes) -> Canary:
        """Invert `pack`. Raises ValueError for other bytes."""
        try:
            return cls(**safetensors.load(data))
        except Exception as error:  # safetensors raises its own type, and TypeError for other names
            raise ValueError(f"not a canary: {error}") from error


@dataclass(frozen=True, slots=True)
class Export:
    """A version's files."""

    onnx: bytes
    weights: bytes  # safetensors
    canary: bytes  # safetensors

    @property
    def digest(self) -> bytes:
        """The sha256 of the ONNX bytes, 32 bytes."""
        return hashlib.sha256(self.onnx).digest()


def export(network: Network, weights: Weights) -> Export:
    """Return the files of these weights, which are copied. Equal weights give equal bytes."""
    with np.errstate(over="ignore", invalid="ignore"):  # `parity` refuses answers that are not finite
        canary = _canary(network, weights)
    return Export(export_step(network, weights), pack_weights(network, weights.flat), canary.pack())


def exports(network: Network, weights: Weights) -> Iterator[Export]:
    """Yield the files of these weights with the graph of each edition, today's first: an earlier version of freshet
    made the others. The graphs compute the same."""
    made = export(network, weights)
    yield made
    for edition in EDITIONS[1:]:
        yield replace(made, onnx=export_step(network, weights, edition))


def download(network: Network, onnx: bytes, version: int = 0, licence: str = "") -> bytes:
    """Return a version's .onnx for someone who runs it elsewhere: with the model's facts in its metadata.

    onnx: as `export` made it. version: its number on its server, 0 without one. Raises Invalid for a licence that is
    no short text.
    """
    if len(licence) > MAX_LICENCE or not licence.isprintable():
        raise Invalid("licence", licence, f"give its name or address, at most {MAX_LICENCE} printable characters")
    return described(onnx, facts(network, service.version(), version, licence))


def pack_weights(network: Network, flat: Array) -> bytes:
    """Return flat parameters as safetensors. Equal weights give equal bytes."""
    return safetensors.save({k: np.ascontiguousarray(v) for k, v in network.layout.views(flat).items()})


def read_weights(network: Network, data: bytes) -> Array:
    """Return the flat parameters of a weights file, new.

    Raises ValueError where names, shapes or types are not this network's, or a value is not finite.
    """
    try:
        named = safetensors.load(data)
    except Exception as error:  # safetensors raises its own type
        raise ValueError(f"not a weights file: {error}") from error
    flat = np.empty(network.layout.size, np.float32)
    views = network.layout.views(flat)
    if named.keys() != views.keys():
        raise ValueError(f"weights hold {shown(sorted(named))}, expected {sorted(views)}")
    for name, view in views.items():
        if (named[name].shape, named[name].dtype) != (view.shape, view.dtype):
            found = f"{named[name].dtype} {named[name].shape}"
            raise ValueError(f"{name} is {found}, expected {view.dtype} {view.shape}")
        if not np.isfinite(named[name]).all():
            raise ValueError(f"{name} holds values that are not finite")
        view[...] = named[name]
    return flat


def _canary(network: Network, weights: Weights) -> Canary:
    """Run the network over a short random walk, with missing values where the model holds them.

    All versions of a spec get the same inputs.
    """
    rng = np.random.default_rng(0)
    B, C = CANARY_ROWS, len(network.spec.channels)
    tape = network.tape(1, B)
    state = np.zeros((B, network.state_size), np.float32)
    if network.mixture is not None:  # as if every place in the season had been seen
        state[:, network.mixed] = np.random.default_rng(1).standard_normal((B, network.mixture.columns.size))
    x = rng.standard_normal((B, C)).astype(np.float32)
    for tick in range(CANARY_TICKS):
        x = x + rng.standard_normal((B, C)).astype(np.float32)
        time = np.arange(B, dtype=np.float64) * 3600 + tick * network.spec.interval
        u = network.ahead.inputs(time, network.covariates.sample(B, tick))
        before, seen = state, x
        if network.scaler.hold:
            seen = np.where((np.arange(B)[:, None] + np.arange(C) + tick) % 3 == 0, np.float32(np.nan), x)
        y, state = network.step(weights, seen, u, before, tape)
    statistics = before[:, : network.statistics_size].copy()
    _, scale, _ = network.observe(statistics, seen, u)
    reach = np.maximum(_reach(network, before), _reach(network, state))
    # Statistics are compared relative to their size: a mean of 1e5 cannot agree to 1e-5.
    state_scale = np.maximum(1, np.abs(state))
    state_scale[:, network.statistics_size :] = np.maximum(state_scale[:, network.statistics_size :], reach)
    unit = np.tile(network.task.units(weights.target, scale), (1, network.answer_size // network.spec.outputs))
    if network.spec.intervals:  # a bound is off by the rounding of its half-width too
        widths = np.tile(intervals.radius(weights.interval).reshape(-1), 2)
        first = network.loss.widths(np.zeros((1, network.head.outputs), np.float32), network.spec.outputs)
        if first is not None:  # factors of forecast half-widths, whose rounding grows from level to level
            widths *= np.cumsum(first, axis=2).reshape(-1)
        unit[:, network.spec.outputs :] *= np.maximum(1, widths)
    return Canary(seen, u, before, y, state, reach * unit, state_scale)


def _reach(network: Network, state: Array) -> Array:
    """Return the largest number that outputs of a layer are sums of, at least 1, [B, 1]: float32 rounds such a sum to
    2⁻²³ of it.

    Cells with gates and tanh have no number above 1 there. With `residual`, an output is a sum over the layers.
    """
    reach, start = np.ones((len(state), 1), np.float32), network.statistics_size
    for cell in network.cells:
        parts = np.abs(state[:, start : start + cell.state_size][:, cell.reach]).max(axis=1, keepdims=True)
        reach = reach + parts if network.spec.residual else np.maximum(reach, parts)
        start += cell.state_size
    return reach
