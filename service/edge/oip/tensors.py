"""The tensors of a model, as the protocol describes them; and tensors as they are sent, checked against these."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.spec import ModelSpec
from service.common.errors import Invalid, shown
from service.edge.oip.wording import worded
from service.streams.served import ServedModel

DTYPES = {"FP32": "<f4", "FP64": "<f8", "UINT64": "<u8"}  # of the inputs that a model has
MAX_RANK = 8  # of a shape that is read
TICKS = -1  # in a shape: the number of ticks
LENGTH = struct.Struct("<I")  # before each element of a BYTES tensor


class Tensor(NamedTuple):
    """An input or output of a model. dims: of one tick; optional: a request may leave it out."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of any number of ticks."""
        return (TICKS, *self.dims)


class Sent(NamedTuple):
    """A tensor of a request, unchecked. raw: its bytes; None: `values`, a flat sequence, holds it instead."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None
    values: Sequence[Any] = ()


class Made(NamedTuple):
    """A tensor of an answer: an array, or with datatype BYTES a list of texts."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any


class Described(NamedTuple):
    """The tensors of a model, by name."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def described(model: ServedModel) -> Described:
    """Return the inputs and outputs of a model, those that every request or answer has first."""
    spec = model.spec
    inputs = (Tensor("x", "FP32", (len(spec.channels),)), *_optional_inputs(spec))
    return Described({t.name: t for t in inputs}, {t.name: t for t in _outputs(spec)})


def _optional_inputs(spec: ModelSpec) -> list[Tensor]:
    made = [Tensor("time", "FP64", (1,), optional=not spec.interval), Tensor("seq", "UINT64", (1,), optional=True)]
    if spec.known:
        made.append(Tensor("u", "FP32", (spec.horizon * len(spec.known),), optional=spec.missing == "hold"))
    if spec.static:
        made.append(Tensor("static", "FP32", (len(spec.static),), optional=True))
    if spec.task != "forecast":
        made.append(Tensor("y", "FP32", (spec.outputs,), optional=True))
    return made


def _outputs(spec: ModelSpec) -> list[Tensor]:
    made = [Tensor("y", "FP32", (spec.outputs,))]
    if spec.intervals:
        bounds = (len(spec.intervals), spec.outputs)
        made += [Tensor("lower", "FP32", bounds), Tensor("upper", "FP32", bounds)]
    counters = [Tensor(name, "UINT64", (1,)) for name in ("seq", "version", "judged_through")]
    return [*made, *counters, Tensor("state_origin", "BYTES", (1,))]


def read(model: str, tensor: Tensor, sent: Sent) -> NDArray[Any]:
    """Return a sent tensor as an array [ticks, *dims]; a view of raw bytes. Raises Invalid.

    The size of what was sent decides, never its shape alone, so that an absurd shape allocates nothing.
    """
    if sent.datatype != tensor.datatype:
        text = (
            f"inference input '{tensor.name}' data-type is '{shown(sent.datatype)}', but model '{model}' expects "
            f"'{tensor.datatype}'"
        )
        raise worded(Invalid(f"{tensor.name}.datatype", sent.datatype, f"send {tensor.datatype}"), text)
    dtype, count = np.dtype(DTYPES[tensor.datatype]), _count(model, tensor, sent.shape)
    size = len(sent.values) if sent.raw is None else len(sent.raw)
    expected = count if sent.raw is None else count * dtype.itemsize
    if size != expected:
        unit = "elements" if sent.raw is None else "bytes"
        text = (
            f"input byte size mismatch for input '{tensor.name}' for model '{model}'. Expected {expected}, got {size}"
        )
        remedy = f"send {expected} {unit}: the product of the shape" + ("" if sent.raw is None else ", little-endian")
        raise worded(Invalid(tensor.name, f"{size} {unit}", remedy), text)
    flat = _listed(tensor, sent.values, dtype) if sent.raw is None else np.frombuffer(sent.raw, dtype)
    return flat.reshape(-1, *tensor.dims)


def _count(model: str, tensor: Tensor, shape: tuple[int, ...]) -> int:
    """Return the number of elements of a shape. Raises Invalid unless it is of one or more ticks."""
    whole = len(shape) == 1 + len(tensor.dims) and shape[1:] == tensor.dims
    if (whole or (tensor.dims == (1,) and len(shape) == 1)) and shape[0] >= 1:
        return math.prod(shape)
    expected = ",".join(map(str, tensor.shape))
    got = ",".join(map(str, shape[:MAX_RANK])) + (",…" if len(shape) > MAX_RANK else "")
    text = f"unexpected shape for input '{tensor.name}' for model '{model}'. Expected [{expected}], got [{got}]"
    remedy = f"send [{expected}], with the number of ticks, 1 or more, first"
    raise worded(Invalid(f"{tensor.name}.shape", f"[{got}]", remedy), text)


def _listed(tensor: Tensor, values: Sequence[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a list of numbers as an array. Values beyond float32 become infinite, to be refused."""
    if dtype.kind == "u" and not all(isinstance(value, int) for value in values):
        raise Invalid(tensor.name, shown(list(values[:4])), "send whole numbers, 0 or above")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype)
    except (TypeError, ValueError, OverflowError):
        raise Invalid(tensor.name, shown(list(values[:4])), f"send numbers that are {tensor.datatype}") from None


def raw(made: Made) -> bytes:
    """Return a tensor of an answer as little-endian bytes; of BYTES each element after its length."""
    if made.datatype == "BYTES":
        return b"".join(LENGTH.pack(len(data)) + data for data in encoded(made.values))
    data: bytes = made.values.tobytes()
    return data


def encoded(texts: Iterable[str]) -> list[bytes]:
    """Return texts as UTF-8."""
    return [text.encode() for text in texts]
