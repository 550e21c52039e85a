"""Bad requests of the Open Inference Protocol end with a documented status; nothing is lost, and the next is answered.

Each case has two sequences of a model that does not learn: the subject, which is told the nonsense, and its twin, which
is not. Both get the same valid ticks and must be answered alike, bit for bit.
"""

from __future__ import annotations

import math
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import freshet
from service.edge.oip import inference_pb2 as pb
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.credentials import Entry, written
from tests.journeys.inferences import Inference, RawStreamInfer, request, value
from tests.journeys.raw import channel_to

ROWS = np.cumsum(np.random.default_rng(7).standard_normal((9, 2)), axis=0).astype(np.float32)
BAD, ABSENT = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
HUGE = 2**62


def changed(**fields: Any) -> Callable[[pb.ModelInferRequest], None]:
    """Change fields of a valid request's input x."""

    def change(message: pb.ModelInferRequest) -> None:
        for name, new in fields.items():
            if name == "shape":
                message.inputs[0].shape[:] = new
            elif name == "raw":
                message.raw_input_contents[:] = new
            elif name == "typed":
                message.inputs[0].contents.fp32_contents[:] = new
            else:
                setattr(message.inputs[0], name, new)

    return change


def parameter(name: str, **choice: Any) -> Callable[[pb.ModelInferRequest], None]:
    """Set a parameter of a valid request; no choice: remove it."""

    def change(message: pb.ModelInferRequest) -> None:
        if choice:
            message.parameters[name].CopyFrom(pb.InferParameter(**choice))
        else:
            del message.parameters[name]

    return change


def with_inputs(**inputs: Any) -> Callable[[pb.ModelInferRequest], None]:
    """Add inputs to a valid request."""

    def change(message: pb.ModelInferRequest) -> None:
        more = request("plain", **inputs)
        message.inputs.extend(more.inputs)
        message.raw_input_contents.extend(more.raw_input_contents)

    return change


def fields(**values: Any) -> Callable[[pb.ModelInferRequest], None]:
    """Set fields of a valid request."""

    def change(message: pb.ModelInferRequest) -> None:
        for name, new in values.items():
            setattr(message, name, new)

    return change


def twice(message: pb.ModelInferRequest) -> None:
    message.inputs.append(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


def no_inputs(message: pb.ModelInferRequest) -> None:
    del message.inputs[:], message.raw_input_contents[:]


def unknown_output(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name="zzz")


def bad_restart(message: pb.ModelInferRequest) -> None:
    message.parameters["sequence_start"].bool_param = True
    message.raw_input_contents[:] = [floats(math.nan, 1.0)]


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


# What is done to a valid request for tick 4, its status, and words of Triton's and ours in its details.
CASES: dict[str, tuple[Callable[[pb.ModelInferRequest], None], grpc.StatusCode, str, str]] = {
    "unknown model": (fields(model_name="zzz"), ABSENT, "unknown model: 'zzz' is not found", "list the models"),
    "no model": (fields(model_name=""), ABSENT, "unknown model: ''", "list the models"),
    "endless model": (fields(model_name="z" * 9999), ABSENT, "unknown model: 'zzz", "list the models"),
    "unknown version": (fields(model_version="99"), ABSENT, "'plain' version 99 is not found", "leave the version out"),
    "version no number": (fields(model_version="new"), ABSENT, "version new is not found", "leave the version out"),
    "wrong dtype": (changed(datatype="FP64"), BAD, "data-type is 'FP64', but model 'plain' expects 'FP32'", "FP32"),
    "unknown dtype": (changed(datatype="FLOAT"), BAD, "data-type is 'FLOAT'", "FP32"),
    "no dtype": (changed(datatype=""), BAD, "data-type is ''", "FP32"),
    "bytes": (changed(datatype="BYTES"), BAD, "data-type is 'BYTES'", "FP32"),
    "truncated bytes": (
        changed(datatype="BYTES", raw=[b"\x09\x00\x00\x00ab"]), BAD, "data-type is 'BYTES'", "FP32",
    ),
    "wrong width": (changed(shape=[1, 3]), BAD, "unexpected shape for input 'x' for model 'plain'", "[-1,2]"),
    "no batch dimension": (changed(shape=[2]), BAD, "Expected [-1,2], got [2]", "number of ticks"),
    "no shape": (changed(shape=[]), BAD, "unexpected shape", "[-1,2]"),
    "three dimensions": (changed(shape=[1, 1, 2]), BAD, "unexpected shape", "[-1,2]"),
    "no ticks": (changed(shape=[0, 2], raw=[b""]), BAD, "unexpected shape", "1 or more"),
    "negative ticks": (changed(shape=[-1, 2]), BAD, "unexpected shape", "1 or more"),
    "absurd ticks": (changed(shape=[HUGE, 2]), BAD, "byte size mismatch", "bytes"),
    "absurd product": (changed(shape=[HUGE, HUGE]), BAD, "unexpected shape", "[-1,2]"),
    "absurd rank": (changed(shape=[1] * 50_000), BAD, "unexpected shape", "[-1,2]"),
    "too many ticks": (
        changed(shape=[1025, 2], raw=[floats(*[0.5] * 2050)]), BAD, "batch-size must be <= 1024", "at most 1024 ticks",
    ),
    "too few bytes": (changed(raw=[floats(1.0)]), BAD, "Expected 8, got 4", "product of the shape"),
    "half a number": (changed(raw=[b"1234567"]), BAD, "Expected 8, got 7", "product of the shape"),
    "too many bytes": (changed(raw=[floats(1, 2, 3)]), BAD, "Expected 8, got 12", "product of the shape"),
    "two raw tensors": (changed(raw=[floats(1, 2)] * 2), BAD, "expected 1 raw input contents but got 2", "each input"),
    "raw and typed": (changed(typed=[1.0, 2.0]), BAD, "contents field must not be specified", "send all tensors raw"),
    "neither raw nor typed": (changed(raw=[]), BAD, "Expected 2, got 0", "elements"),
    "typed, too few": (changed(raw=[], typed=[1.0]), BAD, "Expected 2, got 1", "elements"),
    "unknown input": (changed(name="z"), BAD, "unexpected inference input 'z' for model 'plain'", "send each once"),
    "no input": (no_inputs, BAD, "missing required input(s) ['x']", "send x"),
    "an input twice": (twice, BAD, "unexpected inference input 'x'", "send each once"),
    "unknown output": (unknown_output, BAD, "unexpected inference output 'zzz' for model 'plain'", "ask for y"),
    "labels of a forecast": (with_inputs(y=[[1.0]]), BAD, "unexpected inference input 'y'", "send each once"),
    "times of two ticks": (with_inputs(time=[1.0, 2.0]), BAD, "batch size does not match", "send 1, one per tick"),
    "NaN": (changed(raw=[floats(1.0, math.nan)]), BAD, "", "x[1] = nan"),
    "infinite": (changed(raw=[floats(-math.inf, 1.0)]), BAD, "", "x[0] = -inf"),
    "too large": (changed(raw=[floats(1e38, 1.0)]), BAD, "", "1e+15"),
    "infinite time": (with_inputs(time=[math.inf]), BAD, "", "seconds since 1970"),
    "a gap": (with_inputs(seq=[6]), BAD, "", "next tick of this stream is 4"),
    "seq 0": (with_inputs(seq=[0]), BAD, "", "seq = 0"),
    "another tick of the same seq": (with_inputs(seq=[3]), BAD, "", "had"),
    "no sequence": (parameter("sequence_id"), BAD, "specify a non-zero or non-empty correlation ID", "sequence_id"),
    "sequence 0": (parameter("sequence_id", int64_param=0), BAD, "non-zero or non-empty correlation ID", "sequence_id"),
    "sequence ''": (parameter("sequence_id", string_param=""), BAD, "non-zero or non-empty", "sequence_id"),
    "sequence of uint64": (
        parameter("sequence_id", uint64_param=5), BAD, "expected int64_param or string_param.", "sequence_id",
    ),
    "sequence of float": (parameter("sequence_id", double_param=5), BAD, "int64_param or string_param", "sequence_id"),
    "sequence of nothing": (
        lambda m: m.parameters["sequence_id"].Clear(), BAD, "int64_param or string_param", "sequence_id",
    ),
    "unprintable sequence": (parameter("sequence_id", string_param="a\nb"), BAD, "", "printable"),
    "endless sequence": (parameter("sequence_id", string_param="s" * 257), BAD, "", "printable"),
    "unknown sequence": (
        parameter("sequence_id", int64_param=404), BAD,
        "inference request for sequence 404 to model 'plain' must specify the START flag on the first request of the "
        "sequence", "sequence_start = true",
    ),
    "start no bool": (parameter("sequence_start", int64_param=1), BAD, "expected bool_param.", "sequence_start"),
    "end no bool": (parameter("sequence_end", string_param="true"), BAD, "expected bool_param.", "sequence_end"),
    "timeout no number": (parameter("timeout", string_param="soon"), BAD, "expected int64_param.", "timeout"),
    "negative timeout": (parameter("timeout", int64_param=-1), BAD, "", "0 or above"),
    "priority no number": (parameter("priority", bool_param=True), BAD, "int64_param or uint64_param", "priority"),
    "reserved parameter": (parameter("triton_x", bool_param=True), BAD, "reserved for Triton usage", "leave it out"),
    "a bad second tick": (
        changed(shape=[2, 2], raw=[floats(1, 2, math.nan, 4)]), BAD, "", "x[0] = nan",
    ),
    "a restart with a bad tick": (bad_restart, BAD, "", "x[0] = nan"),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def model(server: ServerChild) -> AsyncIterator[None]:
    async with freshet.connect(server.grpc) as client:
        await client.create_model("plain", ["a", "b"], hidden=8, head_init=0.3, learn=False)
        yield


class Pair:
    """The subject and its twin, both after ticks 1 to 3."""

    def __init__(self, inference: Inference, case: str) -> None:
        self.inference, self.subject, self.twin = inference, f"{case}, subject", f"{case}, twin"

    async def begin(self) -> None:
        for sequence in (self.subject, self.twin):
            await self.inference.infer("plain", sequence, start=True, x=ROWS[:3])

    def valid(self) -> pb.ModelInferRequest:
        """A valid request for tick 4."""
        return request("plain", self.subject, x=[ROWS[3]])

    async def agree(self) -> None:
        """The next ticks are answered alike on both."""
        ours, theirs = [await self.inference.infer("plain", s, x=ROWS[3:6]) for s in (self.subject, self.twin)]
        assert value(ours, "seq")[:, 0].tolist() == [4, 5, 6]
        np.testing.assert_array_equal(value(ours, "y"), value(theirs, "y"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("model")
async def test_a_bad_request_has_its_status_and_the_next_is_answered_as_if_it_had_not_come(channel, case):
    change, code, tritons, ours = CASES[case]
    pair = Pair(Inference(channel), case)
    await pair.begin()
    bad = pair.valid()
    change(bad)

    error = await pair.inference.refuses(bad)

    assert error.code() is code
    details = error.details() or ""
    assert tritons in details
    assert ours in details
    assert len(details) < 700
    await pair.agree()


@pytest.mark.usefixtures("model")
async def test_a_burst_of_bad_requests_in_one_call_is_answered_one_by_one_and_in_order(channel):
    pair = Pair(Inference(channel), "burst")
    await pair.begin()
    async with RawStreamInfer(channel) as call:
        for case, (change, *_) in CASES.items():
            bad = pair.valid()
            change(bad)
            bad.id = case
            await call.send(bad)
        answers = [await call.answer() for _ in CASES]

    assert [a.infer_response.id for a in answers] == list(CASES)
    assert [case for case, a in zip(CASES, answers, strict=True) if not a.error_message] == []
    await pair.agree()


@pytest.mark.usefixtures("model")
async def test_a_sequence_that_never_ends_is_resumed_and_restarted_like_any_other(channel):
    inference = Inference(channel)
    first = await inference.infer("plain", "endless", start=True, x=ROWS[:2])

    again = await inference.infer("plain", "endless", start=True, x=ROWS[:2])

    np.testing.assert_array_equal(value(first, "y"), value(again, "y"))


@pytest.mark.usefixtures("model")
async def test_two_clients_of_one_sequence_share_its_stream(channel, server):
    async with channel_to(server.grpc) as other:
        ours, theirs = Inference(channel), Inference(other)
        await ours.infer("plain", "shared", start=True, x=[ROWS[0]])

        answers = [await (ours, theirs)[i % 2].infer("plain", "shared", x=[ROWS[i]]) for i in range(1, 6)]

        unbroken = await ours.infer("plain", "not shared", start=True, x=ROWS[:6])
        np.testing.assert_array_equal(np.concatenate([value(a, "y") for a in answers]), value(unbroken, "y")[1:])


async def test_labels_without_the_role_train_are_refused_and_the_tick_with_them(tmp_path: Path):
    access = tmp_path / "access.toml"
    access.write_text(written(Entry("p", "a", "predict"), Entry("t", "a", "train"), Entry("o", "a", "admin")))
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK | {"access": access})
    async with child, freshet.connect(child.grpc, token="o") as client, channel_to(child.grpc) as channel:
        await client.create_model("r", ["a"], task="regress", targets=["a"], hidden=4)
        predicts, trains = Inference(channel, "p"), Inference(channel, "t")

        error = await predicts.refused("r", 1, start=True, x=[[1.0]], y=[[2.0]])
        first = await trains.infer("r", 1, start=True, x=[[1.0]], y=[[2.0]])
        then = await predicts.infer("r", 1, x=[[1.0]])
        late = await predicts.refused("r", 1, seq=[2], y=[[2.0]])

        assert error.code() is late.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "role train" in (error.details() or "")
        assert [value(answer, "seq") for answer in (first, then)] == [[[1]], [[2]]]
