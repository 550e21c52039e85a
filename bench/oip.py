"""Measure the server's CPU per tick through the Open Inference Protocol, against Streams.Open on the same work.

One server, one stream each, one request unanswered at a time; the ways in take turns within each round. The client's
messages are made beforehand. `32 ticks` sends 32 in a request; its figure is per tick.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np

from bench._costs import cpu_s
from bench._drives import drive
from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.edge.oip import inference_pb2, inference_pb2_grpc
from service.programs.backtest.child import ServerChild

ROUNDS, TICKS, MANY = 10, 512, 32
Way = Callable[[int], Awaitable[None]]  # given the round


def request(sequence: str, start: bool, ticks: int = 1, outputs: Sequence[str] = ()) -> Any:
    """Return one request of the protocol."""
    message = inference_pb2.ModelInferRequest(model_name="m")
    message.parameters["sequence_id"].string_param = sequence
    message.parameters["sequence_start"].bool_param = start
    message.inputs.add(name="x", datatype="FP32", shape=[ticks, 1])
    message.raw_input_contents.append(np.ones(ticks, "<f4").tobytes())
    message.outputs.extend(inference_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
    return message


async def opened(channel: Any) -> Way:
    """Return Streams.Open, one tick after the other."""
    call = streams_pb2_grpc.StreamsStub(channel).Open()
    await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="m", stream="open")))
    await call.read()
    return lambda round: drive(call, round * TICKS + 1, TICKS, 1, durable=True)


def unary(channel: Any, name: str, ticks: int, outputs: Sequence[str] = ()) -> Way:
    """Return ModelInfer, one request after the other."""
    stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    first, then = request(name, True, ticks, outputs), request(name, False, ticks, outputs)

    async def way(round: int) -> None:
        for i in range(TICKS // ticks):
            await stub.ModelInfer(then if round or i else first)

    return way


def streamed(channel: Any) -> Way:
    """Return ModelStreamInfer, one request after the other."""
    stub: Any = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer()
    first, then = request("streamed", True), request("streamed", False)

    async def way(round: int) -> None:
        for i in range(TICKS):
            await call.write(then if round or i else first)
            answer = await call.read()
            if answer.error_message:
                raise RuntimeError(answer.error_message)

    return way


def rest(address: str) -> Way:
    """Return POST of JSON on one connection, one after the other."""
    connection = http.client.HTTPConnection(address)

    def body(start: bool) -> bytes:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
        return json.dumps({"parameters": {"sequence_id": "rest", "sequence_start": start}, "inputs": [tensor]}).encode()

    first, then = body(True), body(False)

    def post(data: bytes) -> None:
        connection.request("POST", "/v2/models/m/infer", data)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(answer.read().decode())
        answer.read()

    async def way(round: int) -> None:
        connection.close()  # the server closes one that has been idle for some seconds
        for i in range(TICKS):
            await asyncio.to_thread(post, then if round or i else first)

    return way


async def measure() -> dict[str, list[float]]:
    """Return the server's CPU seconds per tick of each way in, by round."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            ServerChild(Path(folder) / "data", Path(folder) / "log") as child,
            grpc.aio.insecure_channel(child.grpc) as channel,
        ):
            spec = types_pb2.ModelSpec(channels=["v"], hidden=32, learn=False)
            await models_pb2_grpc.ModelsStub(channel).Create(models_pb2.CreateModelRequest(name="m", spec=spec))
            ways = {
                "Streams.Open": await opened(channel),
                "ModelStreamInfer": streamed(channel),
                "ModelInfer": unary(channel, "unary", 1),
                "ModelInfer, y alone": unary(channel, "lean", 1, ["y"]),
                f"ModelInfer, {MANY} ticks": unary(channel, "many", MANY),
                "HTTP, JSON": rest(child.http),
            }
            costs: dict[str, list[float]] = {name: [] for name in ways}
            for round in range(ROUNDS + 1):
                for name in list(ways) if round % 2 else reversed(ways):
                    before = cpu_s(child.pid)
                    await ways[name](round)
                    costs[name].append((cpu_s(child.pid) - before) / TICKS)
    return {name: each[1:] for name, each in costs.items()}  # the first round warms up


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    arguments = parser(__doc__).parse_args(argv)
    costs = asyncio.run(measure())
    base = costs["Streams.Open"]
    rows = [Row(name, "server CPU per tick", median(each), "s") for name, each in costs.items()]
    rows += [
        Row(name, "over Streams.Open", median(a / b for a, b in zip(each, base, strict=True)), "ratio")
        for name, each in costs.items()
        if each is not base
    ]
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
