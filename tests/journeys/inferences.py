"""Requests of the Open Inference Protocol by hand, through stubs of our own proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from service.edge.oip import inference_pb2 as pb
from service.edge.oip import inference_pb2_grpc
from tests.journeys.raw import DEADLINE_S, RawCall, within

DATATYPES = {"x": "FP32", "u": "FP32", "y": "FP32", "static": "FP32", "time": "FP64", "seq": "UINT64"}
DTYPES = {"FP32": "<f4", "FP64": "<f8", "UINT64": "<u8"}


def parameter(value: object) -> pb.InferParameter:
    """A parameter of the type that clients choose for a Python value."""
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return value if isinstance(value, pb.InferParameter) else pb.InferParameter(string_param=str(value))


def request(
    model: str,
    sequence: object = None,
    start: bool = False,
    end: bool = False,
    *,
    parameters: Mapping[str, object] | None = None,
    outputs: Sequence[str] = (),
    id: str = "",
    version: str = "",
    **inputs: Any,
) -> pb.ModelInferRequest:
    """A request as tritonclient makes it: all tensors raw. inputs: rows by name, or an array of its own shape."""
    sent = dict(parameters or {})
    if sequence is not None:
        sent |= {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, value in sent.items():
        message.parameters[name].CopyFrom(parameter(value))
    for name, rows in inputs.items():
        values = np.asarray(rows, DTYPES[DATATYPES[name]])
        values = values.reshape(-1, 1) if values.ndim == 1 else values
        message.inputs.add(name=name, datatype=DATATYPES[name], shape=values.shape)
        message.raw_input_contents.append(values.tobytes())
    message.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
    return message


def value(answer: pb.ModelInferResponse, name: str) -> Any:
    """An output as an array; a list of texts of datatype BYTES."""
    at = [output.name for output in answer.outputs].index(name)
    output, raw = answer.outputs[at], answer.raw_output_contents[at]
    if output.datatype != "BYTES":
        return np.frombuffer(raw, DTYPES[output.datatype]).reshape(output.shape)
    texts = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return texts


class Inference:
    """Calls of one channel."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None = None) -> None:
        self.stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._sent = {
            "timeout": DEADLINE_S,
            "metadata": () if token is None else (("authorization", f"Bearer {token}"),),
        }

    async def send(self, message: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Send a request and return its answer."""
        answer: pb.ModelInferResponse = await within(self.stub.ModelInfer(message, **self._sent))
        return answer

    async def infer(self, *args: Any, **named: Any) -> pb.ModelInferResponse:
        """Make a request, send it and return its answer."""
        return await self.send(request(*args, **named))

    async def refused(self, *args: Any, **named: Any) -> grpc.aio.AioRpcError:
        """Make and send a request that must fail; returns the error."""
        return await self.refuses(request(*args, **named))

    async def refuses(self, message: pb.ModelInferRequest) -> grpc.aio.AioRpcError:
        """Send a request that must fail; returns the error."""
        try:
            answer = await self.send(message)
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"answered: {answer}")


class RawStreamInfer(RawCall[pb.ModelStreamInferResponse]):
    """One call of ModelStreamInfer."""

    request, response = pb.ModelInferRequest, pb.ModelStreamInferResponse

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        super().__init__(lambda timeout: stub.ModelStreamInfer(timeout=timeout, metadata=metadata))

    async def send(self, message: pb.ModelInferRequest) -> None:
        """Send one request."""
        await within(self.call.write(message))

    async def answer(self) -> pb.ModelStreamInferResponse:
        """Return the next answer."""
        answer = await self.hear()
        assert answer is not None, "the call ended without an answer"
        return answer
