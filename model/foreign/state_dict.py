"""A state_dict of PyTorch or Keras as a stack of layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from model.foreign.layers import GATES, Layer, Linear, Stack, check_alike, ordered
from model.foreign.options import Options
from model.foreign.refused import ForeignError, names
from model.parameters import Array

MAX_LAYERS = 8


class Stored(NamedTuple):
    """One tensor as a file holds it: its type in the file's words, its shape, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


class _Tensors:
    """The tensors of a file, each taken once."""

    def __init__(self, stored: Mapping[str, Stored], options: Options) -> None:
        self._stored, self._options = stored, options
        self._taken: set[str] = set()

    def take(self, name: str) -> Array:
        """Return a tensor, float32. Raises ForeignError if it is missing, of another type, or not finite."""
        if name not in self._stored:
            raise ForeignError("tensor", name, f"missing; the file has {names(sorted(self._stored))}")
        dtype, shape, data = self._stored[name]
        if dtype != "F32":
            raise ForeignError(f"tensor {name}", dtype, "convert it to float32 (F32) before saving")
        array = np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(array).all():
            raise ForeignError(f"tensor {name}", "NaN or infinite", "every weight must be a finite number")
        self._taken.add(name)
        return array

    def check_all_taken(self) -> None:
        """Refuse tensors that nothing has used, unless they are ignored. Raises ForeignError."""
        ignored = self._options.ignore
        extra = sorted(name for name in self._stored if name not in self._taken and not _matches(name, ignored))
        if extra:
            remedy = "not part of the model that the TOML describes: name it there, or list it in ignore"
            raise ForeignError("tensor", names(extra), remedy)


def from_state_dict(stored: Mapping[str, Stored], options: Options) -> Stack:
    """Return the layers and the readout that `options` describe. Raises ForeignError for any other content."""
    if not options.cell:
        raise ForeignError("cell", options.cell, f"say which of {names(list(GATES))} it is")
    if not 1 <= len(options.layers) <= MAX_LAYERS:
        remedy = f"give 1 to {MAX_LAYERS} patterns such as rnn.*_l0; the file has {names(sorted(stored))}"
        raise ForeignError("layers", names(options.layers), remedy)
    tensors = _Tensors(stored, options)
    layers = tuple(_layer(tensors, pattern, options) for pattern in options.layers)
    check_alike(layers)
    head = _head(tensors, options, layers[-1].hidden) if options.head else None
    tensors.check_all_taken()
    return Stack(layers, head)


def _layer(tensors: _Tensors, pattern: str, options: Options) -> Layer:
    gates = len(GATES[options.cell])
    R = _matrix(tensors, options.name(pattern, "recurrent"), options, lambda n, m: n == gates * m, f"{gates}·H × H")
    H = R.shape[1]
    name = options.name(pattern, "input")
    W = _matrix(tensors, name, options, lambda n, m: n == gates * H and m > 0, f"{gates * H} × inputs")
    bW, bR, reset = _biases(tensors, pattern, options, gates * H)
    cell, order = options.cell, options.order
    W, R, bW, bR = (ordered(cell, order, part) for part in (W, R, bW, bR))
    activation = str(options.model.get("activation", "tanh"))
    return Layer(cell, W, R, bW, bR, activation if cell == "rnn" else "tanh", reset)


def _matrix(tensors: _Tensors, name: str, options: Options, fits, expected: str) -> Array:  # type: ignore[no-untyped-def]
    """Return a matrix [rows, columns] as PyTorch stores it. fits: a test of its shape."""
    matrix = tensors.take(name)
    stored = matrix.shape
    if options.format == "keras":
        matrix, expected = matrix.T, " × ".join(reversed(expected.split(" × ")))
    if matrix.ndim != 2 or not fits(*matrix.shape):
        transposed = matrix.ndim == 2 and fits(*matrix.shape[::-1])
        remedy = "it is transposed: choose the other format, or transpose it" if transposed else f"expected {expected}"
        raise ForeignError(f"tensor {name}", " × ".join(map(str, stored)), remedy)
    return matrix


def _biases(tensors: _Tensors, pattern: str, options: Options, size: int) -> tuple[Array, Array, str]:
    """Return the biases of input and recurrent product, [size] each, and where a GRU's reset gate multiplies."""
    zeros = np.zeros(size, np.float32)
    reset = str(options.model.get("reset", "after")) if options.cell == "gru" else "after"
    if not options.bias:
        return zeros, zeros, reset
    name = options.name(pattern, "input_bias")
    first = tensors.take(name)
    if options.format == "pytorch":
        other = options.name(pattern, "recurrent_bias")
        return _vector(name, first, size), _vector(other, tensors.take(other), size), reset
    if options.cell == "gru" and first.shape == (2, size):  # reset_after = True
        return first[0], first[1], "after"
    return _vector(name, first, size), zeros, "before" if options.cell == "gru" else "after"


def _vector(name: str, vector: Array, size: int) -> Array:
    if vector.shape != (size,):
        raise ForeignError(f"tensor {name}", " × ".join(map(str, vector.shape)), f"expected {size} values")
    return vector


def _head(tensors: _Tensors, options: Options, hidden: int) -> Linear:
    name = options.name(options.head, "head")
    A = _matrix(tensors, name, options, lambda n, m: m == hidden and n > 0, f"outputs × {hidden}")
    if not options.head_bias:
        return Linear(A, np.zeros(len(A), np.float32))
    name = options.name(options.head, "head_bias")
    return Linear(A, _vector(name, tensors.take(name), len(A)))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
