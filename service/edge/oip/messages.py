"""Messages of inference.proto ↔ requests and answers. The only reader of their fields but for names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from service.common.errors import Invalid
from service.edge.oip import inference_pb2 as pb
from service.edge.oip.asked import Request, Response, Unsigned
from service.edge.oip.tensors import Sent, raw
from service.edge.oip.wording import worded
from service.edge.wire import packed, varint

CONTENTS = {
    "FP32": "fp32_contents", "FP64": "fp64_contents", "UINT64": "uint64_contents", "INT64": "int64_contents",
    "BYTES": "bytes_contents", "BOOL": "bool_contents",
}  # fmt: skip
FRAMES = 256  # answers without values that are kept: one per model, outputs, number of ticks and kind of call


def request(message: pb.ModelInferRequest) -> Request:
    """Return a request. Raises Invalid where raw and typed tensors are mixed or missing."""
    raws, inputs = message.raw_input_contents, message.inputs
    if raws and len(raws) != len(inputs):
        text = f"expected {len(inputs)} raw input contents but got {len(raws)} for model '{message.model_name[:80]}'"
        remedy = "send one for each input, in their order, or none"
        raise worded(Invalid("raw_input_contents", f"{len(raws)} tensors", remedy), text)
    sent = []
    for i, tensor in enumerate(inputs):
        if raws and tensor.HasField("contents"):
            text = (
                f"contents field must not be specified when using raw_input_contents for '{tensor.name[:80]}' for "
                f"model '{message.model_name[:80]}'"
            )
            raise worded(Invalid("inputs.contents", tensor.name, "send all tensors raw, or all typed"), text)
        values = () if raws else getattr(tensor.contents, CONTENTS.get(tensor.datatype, "fp32_contents"))
        sent.append(Sent(tensor.name, tensor.datatype, tuple(tensor.shape), raws[i] if raws else None, values))
    outputs = [output.name for output in message.outputs]
    return Request(
        message.model_name, message.model_version, message.id, _parameters(message.parameters), sent, outputs
    )


def _parameters(sent: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, parameter in sent.items():
        kind = parameter.WhichOneof("parameter_choice")
        value: Any = getattr(parameter, kind) if kind else None
        found[name] = Unsigned(value) if kind == "uint64_param" else value
    return found


def serialised(answer: Response, streamed: bool = False) -> bytes:
    """Return an answer with raw tensors, which is how the protocol's clients read them: ModelInferResponse, serialised.

    streamed: ModelStreamInferResponse. Its values are bytes already, so this costs half of a message built field by
    field, or less. `tests/contracts/test_oip_bytes.py` compares with protobuf's own bytes.
    """
    head, tail = _frame(
        answer.model, tuple([(made.name, made.datatype, made.shape) for made in answer.outputs]), streamed
    )
    parts = [head, packed(b"\x12", answer.version.encode()), packed(b"\x1a", answer.id.encode()), tail]
    for made in answer.outputs:
        data = raw(made)
        parts += (b"\x32", varint(len(data)), data)  # also if it is empty: one for each output
    body = b"".join(parts)
    return b"\x12" + varint(len(body)) + body if streamed else body


@lru_cache(FRAMES)
def _frame(model: str, outputs: tuple[tuple[str, str, tuple[int, ...]], ...], streamed: bool) -> tuple[bytes, bytes]:
    """Return what comes before an answer's version, and what lies between its id and its values."""
    rest = pb.ModelInferResponse()
    if streamed:
        rest.parameters["triton_final_response"].bool_param = True
    for name, datatype, shape in outputs:
        rest.outputs.add(name=name, datatype=datatype, shape=shape)
    return pb.ModelInferResponse(model_name=model).SerializeToString(), rest.SerializeToString()
