"""A request, before it is known which model it is for, and after: every field is checked here or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common.errors import Invalid
from service.common.limits import MAX_REQUEST_TICKS
from service.edge.oip import wording
from service.edge.oip.tensors import Described, Made, Sent, read
from service.edge.oip.wording import worded

Array = NDArray[np.float32]
UNSIGNED = 1 << 64  # C++ clients send a uint64 as an int64
KNOWN_TRITON = {"triton_enable_empty_final_response"}  # every request of the C++ client has it


class Unsigned(int):
    """A parameter that was sent as uint64_param."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was sent. outputs: names; empty: all."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, Any]
    inputs: Sequence[Sent]
    outputs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    model: str
    version: str
    id: str
    outputs: list[Made] = field(default_factory=list)


class Parameters(NamedTuple):
    """The parameters of a request that are used. sequence: "": none; timeout_s: of waiting for a turn, 0: unlimited."""

    sequence: str
    start: bool
    end: bool
    durable: bool
    timeout_s: float


def parameters(sent: Mapping[str, Any]) -> Parameters:
    """Return the parameters. Raises Invalid for one of another type; names that are not reserved are ignored."""
    for name in sent:
        if name.startswith("triton_") and name not in KNOWN_TRITON:
            text = f"parameter keys starting with 'triton_' are reserved for Triton usage: '{name[:80]}'"
            raise worded(Invalid(name, sent[name], "leave it out"), text)
    _whole(sent, "priority", "int64_param or uint64_param")
    timeout_us = _whole(sent, "timeout", "int64_param")
    start, end, durable = (_flag(sent, name) for name in ("sequence_start", "sequence_end", "durable"))
    return Parameters(_sequence(sent.get("sequence_id", 0)), start, end, durable, timeout_us / 1e6)


def _sequence(sent: Any) -> str:
    """Return a sequence id as the id of a stream; numbers as C++ clients mean them, unsigned."""
    if isinstance(sent, bool | float | Unsigned) or not isinstance(sent, int | str):
        raise wording.bad_parameter("sequence_id", "int64_param or string_param", sent)
    return sent if isinstance(sent, str) else str(sent % UNSIGNED) if sent else ""


def _flag(sent: Mapping[str, Any], name: str) -> bool:
    value = sent.get(name, False)
    if not isinstance(value, bool):
        raise wording.bad_parameter(name, "bool_param", value)
    return value


def _whole(sent: Mapping[str, Any], name: str, expected: str) -> int:
    value = sent.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wording.bad_parameter(name, expected, value)
    if value < 0:
        raise Invalid(name, value, "give 0 or above")
    return value


class Asked(NamedTuple):
    """What a request asks of a model: n ticks, or labels alone.

    x: [n, C]; None: labels alone. u, y: as wide as the model says, None: not sent. static: [S], None: not sent.
    """

    ticks: int
    x: Array | None
    time: list[float] | None
    seq: list[int] | None
    u: Array | None
    y: Array | None
    static: list[float] | None
    outputs: list[str]


def asked(model: str, tensors: Described, request: Request) -> Asked:
    """Return what is asked of the model of that name. Raises Invalid for whatever it does not take or answer."""
    found: dict[str, NDArray[Any]] = {}
    for sent in request.inputs:
        tensor = tensors.inputs.get(sent.name)
        if tensor is None or sent.name in found:
            known = ", ".join(tensors.inputs)
            text = f"unexpected inference input '{sent.name[:80]}' for model '{model}'"
            raise worded(Invalid("inputs", sent.name, f"send each once, of {known}"), text)
        found[sent.name] = read(model, tensor, sent)
    x, y = found.get("x"), found.get("y")
    if x is None and (y is None or "seq" not in found):
        got = ",".join(f"'{name}'" for name in found)
        text = (
            f"expected 1 inputs but got {len(found)} inputs for model '{model}'. Got input(s) [{got}], but missing "
            "required input(s) ['x']. Please provide all required input(s)."
        )
        raise worded(Invalid("inputs", "no x", "send x; or, for labels of earlier ticks alone, y and seq"), text)
    ticks = len(found["y" if x is None else "x"])
    _check_ticks(model, ticks, found)
    time, seq, static = found.get("time"), found.get("seq"), found.get("static")
    return Asked(
        ticks, x,
        None if time is None else time[:, 0].tolist(),
        None if seq is None else seq[:, 0].tolist(),
        found.get("u"), y,
        None if static is None else static[0].tolist(),
        _outputs(model, tensors, request.outputs, labels_alone=x is None),
    )  # fmt: skip


def _check_ticks(model: str, ticks: int, found: Mapping[str, NDArray[Any]]) -> None:
    """Raise Invalid for too many ticks, or for inputs of different numbers of them."""
    if ticks > MAX_REQUEST_TICKS:
        text = f"inference request batch-size must be <= {MAX_REQUEST_TICKS} for '{model}'"
        raise worded(Invalid("x.shape", f"{ticks} ticks", f"send at most {MAX_REQUEST_TICKS} ticks in a request"), text)
    for name, values in found.items():
        if len(values) != ticks and not (name == "static" and len(values) == 1):
            text = f"input '{name}' batch size does not match other inputs for '{model}'"
            raise worded(Invalid(f"{name}.shape", f"{len(values)} ticks", f"send {ticks}, one per tick"), text)


def _outputs(model: str, tensors: Described, names: Sequence[str], labels_alone: bool) -> list[str]:
    """Return the names of the outputs to send, in the order they were asked for, without repetitions."""
    for name in names:
        if name not in tensors.outputs:
            text = f"unexpected inference output '{name[:80]}' for model '{model}'"
            raise worded(Invalid("outputs", name, f"ask for {', '.join(tensors.outputs)}, or leave outputs out"), text)
    if labels_alone:
        return ["seq"]
    return list(dict.fromkeys(names)) or list(tensors.outputs)
