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

CONTENTS = {
    "FP32": "fp32_contents", "FP64": "fp64_contents", "UINT64": "uint64_contents", "INT64": "int64_contents",
    "BYTES": "bytes_contents", "BOOL": "bool_contents",
}  # fmt: skip
FRAMES = 256  # answers without values that are kept: one per model, outputs and number of ticks


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


def response(answer: Response) -> pb.ModelInferResponse:
    """Return an answer with raw tensors, which is how the protocol's clients read them."""
    message = pb.ModelInferResponse()
    message.CopyFrom(_frame(answer.model, tuple((made.name, made.datatype, made.shape) for made in answer.outputs)))
    message.model_version, message.id = answer.version, answer.id
    message.raw_output_contents.extend([raw(made) for made in answer.outputs])
    return message


@lru_cache(FRAMES)
def _frame(model: str, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> pb.ModelInferResponse:
    """Return an answer without its values: copying it is several times faster than making it."""
    message = pb.ModelInferResponse(model_name=model)
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    return message
