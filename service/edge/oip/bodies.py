"""Bodies of the protocol over HTTP ↔ requests and answers: JSON, and after it binary tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from service.common.documents import DocumentError, json_value
from service.common.errors import Invalid, shown
from service.edge.oip.asked import Request, Response
from service.edge.oip.tensors import MAX_RANK, Made, Sent, raw
from service.edge.oip.wording import worded

HEADER_LENGTH = "inference-header-content-length"  # bytes of JSON before the binary tensors
BINARY = "application/octet-stream"
MAX_SIZE = 1 << 62  # of a number in a shape: a product of a few stays small


class Body(NamedTuple):
    """A request, and how its answer's tensors are to be sent: by name, and those that it does not name."""

    request: Request
    binary: Mapping[str, bool]
    binary_by_default: bool

    def is_binary(self, name: str) -> bool:
        """Whether an output is to be sent as bytes."""
        return self.binary.get(name, self.binary_by_default)


def read(model: str, version: str, body: bytes, header_length: str | None) -> Body:
    """Return the request in a body. Raises Invalid.

    header_length: the value of the header that says where the binary tensors begin; None: there are none.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    sent = _object(_parsed(body[:length]), "body")
    parameters = _object(sent.get("parameters", {}), "parameters")
    rest = memoryview(body)[length:]
    inputs = []
    for tensor in _objects(sent, "inputs"):
        size = _object(tensor.get("parameters", {}), "inputs.parameters").get("binary_data_size")
        if size is not None:
            _check_size(tensor, size, len(rest))
            data, rest = bytes(rest[:size]), rest[size:]
            inputs.append(_sent(tensor, data))
        else:
            inputs.append(_sent(tensor, None))
    if len(rest):
        text = f"unexpected additional input data for model '{model[:80]}'"
        raise worded(Invalid("body", f"{len(rest)} bytes more", "give each binary tensor its binary_data_size"), text)
    outputs = _objects(sent, "outputs")
    names = [_text(output, "name") for output in outputs]
    asked = [_object(output.get("parameters", {}), "outputs.parameters") for output in outputs]
    by_name = {n: p["binary_data"] is True for n, p in zip(names, asked, strict=True) if "binary_data" in p}
    request = Request(model, version, str(sent.get("id", "")), parameters, inputs, names)
    return Body(request, by_name, parameters.get("binary_data_output", False) is True)


def _length(text: str, size: int) -> int:
    if not text.isdecimal() or len(text) > len(str(size)) or int(text) > size:
        remedy = f"give the number of bytes of JSON, at most {size}, the body's"
        raise Invalid("Inference-Header-Content-Length", text, remedy)
    return int(text)


def _parsed(text: bytes) -> Any:
    try:
        return json_value(text.decode())
    except (UnicodeDecodeError, DocumentError) as error:
        raise worded(
            Invalid("body", shown(str(error)), "send JSON"), "failed to parse the request JSON buffer"
        ) from None


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(field, shown(value), "send an object")
    return value


def _objects(sent: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    value = sent.get(field, [])
    if not isinstance(value, list):
        raise Invalid(field, shown(value), "send a list of objects")
    return [_object(each, field) for each in value]


def _text(tensor: Mapping[str, Any], field: str) -> str:
    value = tensor.get(field)
    if not isinstance(value, str):
        raise Invalid(field, shown(value), "send a text")
    return value


def _check_size(tensor: Mapping[str, Any], size: Any, left: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left:
        remedy = f"the body has {left} bytes after those of the tensors before: give the bytes of this one"
        raise Invalid("binary_data_size", shown(size), remedy)
    if "data" in tensor:
        remedy = "send data, or binary_data_size and the bytes after the JSON, not both"
        raise Invalid("inputs.data", "beside binary_data_size", remedy)


def _sent(tensor: Mapping[str, Any], data: bytes | None) -> Sent:
    name, shape = _text(tensor, "name"), tensor.get("shape")
    whole = isinstance(shape, list) and len(shape) <= MAX_RANK
    if not isinstance(shape, list) or not whole or not all(type(n) is int and abs(n) <= MAX_SIZE for n in shape):
        raise Invalid(f"{name[:80]}.shape", shown(shape), f"send a list of up to {MAX_RANK} whole numbers")
    values = () if data is not None else tuple(_flat(tensor.get("data", [])))
    return Sent(name, _text(tensor, "datatype"), tuple(shape), data, values)


def _flat(values: Any) -> Iterable[Any]:
    """Yield the elements of nested lists. Their nesting is bounded by `json_value`."""
    if not isinstance(values, list):
        yield values
        return
    for value in values:
        yield from _flat(value)


class Encoded(NamedTuple):
    """The body of an answer. json_bytes: where its binary tensors begin; None: it has none."""

    body: bytes
    json_bytes: int | None


def write(answer: Response, asked: Body) -> Encoded:
    """Return the body of an answer, with tensors as bytes or as lists, as they were asked for."""
    outputs, binary = [], []
    for made in answer.outputs:
        shown_as: dict[str, Any] = {"name": made.name, "datatype": made.datatype, "shape": list(made.shape)}
        if asked.is_binary(made.name):
            binary.append(raw(made))
            shown_as["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            shown_as["data"] = _listed(made)
        outputs.append(shown_as)
    document = {"model_name": answer.model, "model_version": answer.version, "outputs": outputs}
    if answer.id:
        document["id"] = answer.id
    text = json.dumps(document, allow_nan=False).encode()
    return Encoded(b"".join([text, *binary]), len(text) if binary else None)


def _listed(made: Made) -> list[Any]:
    """Return the elements in one list; null where there is no number, as for bounds of intervals at first."""
    if made.datatype == "BYTES":
        return list(made.values)
    flat = made.values.reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if np.isfinite(value) else None for value in flat.tolist()]
    listed: list[Any] = flat.tolist()
    return listed
