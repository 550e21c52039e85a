"""Values of an ONNX graph that do not depend on its inputs: tensors, and the arithmetic of shapes.

Sizes are checked before anything is allocated: a file of a few bytes can declare a tensor of terabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from model.foreign.refused import ForeignError
from model.parameters import Array

MAX_ELEMENTS = 1 << 24  # of all constants and all values computed from them
MAX_RANK = 8
TYPES = {
    TensorProto.FLOAT: ("raw_data", "float_data", 4),
    TensorProto.DOUBLE: ("raw_data", "double_data", 8),
    TensorProto.INT32: ("raw_data", "int32_data", 4),
    TensorProto.INT64: ("raw_data", "int64_data", 8),
    TensorProto.BOOL: ("raw_data", "int32_data", 1),
}


class Constants:
    """Counts the elements of constants, so that many small ones are bounded too."""

    def __init__(self) -> None:
        self._left = MAX_ELEMENTS

    def spend(self, name: str, shape: Sequence[int]) -> None:
        """Count a value of this shape. Raises ForeignError beyond MAX_ELEMENTS."""
        size = math.prod(shape)
        if len(shape) > MAX_RANK or any(n < 0 for n in shape) or size > self._left:
            remedy = f"constants of a graph may hold at most {MAX_ELEMENTS} numbers in all"
            raise ForeignError(f"value {name}", " × ".join(map(str, shape)), remedy)
        self._left -= size

    def tensor(self, tensor: Any) -> Array:
        """Return the array of a tensor. Raises ForeignError if its data do not fit its shape, or for another type."""
        if tensor.data_type not in TYPES:
            kind = TensorProto.DataType.Name(tensor.data_type) if 0 <= tensor.data_type <= 23 else tensor.data_type
            raise ForeignError(f"tensor {tensor.name}", kind, "convert the model to float32")
        shape = tuple(tensor.dims)
        self.spend(tensor.name, shape)
        raw, typed, width = TYPES[tensor.data_type]
        held = len(tensor.raw_data) / width if tensor.HasField(raw) else len(getattr(tensor, typed))
        if held != math.prod(shape):
            declared = " × ".join(map(str, shape))
            raise ForeignError(f"tensor {tensor.name}", f"{declared} with {held:g} numbers", "the file is damaged")
        array: Array = numpy_helper.to_array(tensor)
        return array


def _slice(data: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True):
        end = None if step < 0 and end < -data.shape[axis] else end
        cut[axis] = slice(start, end, step)
    return data[tuple(cut)]


def _reshape(data: Array, shape: Array) -> Array:
    return data.reshape([data.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def _squeeze(data: Array, axes: Array | None = None) -> Array:
    return np.squeeze(data, None if axes is None else tuple(axes.tolist()))


def _div(a: Array, b: Array) -> Array:
    return a // b if np.issubdtype(a.dtype, np.integer) else a / b


_FOLDS: dict[str, Callable[..., Array]] = {
    "Identity": lambda x: x,
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _div,
    "MatMul": np.matmul,
    "Slice": _slice,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes.tolist())),
}
_WITH_ATTRIBUTES: dict[str, Callable[..., Array]] = {
    "Cast": lambda a, x: x.astype(helper.tensor_dtype_to_np_dtype(a["to"])),
    "Concat": lambda a, *parts: np.concatenate(parts, axis=a["axis"]),
    "Gather": lambda a, x, at: np.take(x, at, axis=a.get("axis", 0)),
    "Transpose": lambda a, x: np.transpose(x, a.get("perm")),
}
_CASTS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}


def fold(kind: str, name: str, attributes: dict[str, Any], inputs: Sequence[Array | None], spent: Constants) -> Array:
    """Return the output of a node whose inputs are all constants, at most as large as `spent` allows.

    Raises ForeignError for another operator, or where the inputs do not fit.
    """
    given = [x for x in inputs if x is not None] if kind != "Slice" else list(inputs)
    try:
        if kind in ("Expand", "ConstantOfShape"):
            return _filled(kind, name, attributes, given, spent)
        _check_sizes(kind, name, given, spent)
        if kind in _WITH_ATTRIBUTES and attributes.get("to", TensorProto.FLOAT) in _CASTS:
            made = _WITH_ATTRIBUTES[kind](attributes, *given)
        else:
            made = _FOLDS[kind](*given)
        made = np.asarray(made)  # indexing by a scalar makes a scalar
    except ForeignError:
        raise
    except KeyError:
        raise ForeignError(f"node {name}", kind, "an operator that no supported exporter uses here") from None
    except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        raise ForeignError(f"node {name}", kind, f"its inputs do not fit: {error}") from None
    return made


def _check_sizes(kind: str, name: str, given: Sequence[Array | None], spent: Constants) -> None:
    """Count the output before it exists: of arithmetic the broadcast shape, of a product its own, else the inputs'."""
    arrays = [x for x in given if x is not None]
    if kind in ("Add", "Sub", "Mul", "Div"):
        spent.spend(name, np.broadcast_shapes(*(x.shape for x in arrays)))
    elif kind == "MatMul":
        a, b = arrays
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError("a product of matrices is of rank 2")
        spent.spend(name, (a.shape[0], b.shape[1]))
    elif kind == "Gather":
        x, at = arrays
        spent.spend(name, (x.size, at.size))
    else:
        spent.spend(name, (sum(x.size for x in arrays),))


def _filled(kind: str, name: str, attributes: dict[str, Any], given: Sequence[Any], spent: Constants) -> Array:
    """Return Expand or ConstantOfShape. A view of one element where that is possible, so that nothing is allocated."""
    if kind == "Expand":
        x, shape = given
        spent.spend(name, np.broadcast_shapes(x.shape, tuple(shape.tolist())))
        return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))
    shape = tuple(given[0].tolist())
    value = attributes.get("value")
    filling = np.zeros(1, np.float32) if value is None else spent.tensor(value)
    spent.spend(name, shape)
    return np.broadcast_to(filling.reshape(()), shape)
