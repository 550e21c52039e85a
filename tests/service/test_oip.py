"""Requests of the Open Inference Protocol in one process: their order, their bounds, and what they keep in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import grpc
import numpy as np
import pytest

from service.access.grants import EVERYBODY
from service.common.errors import Invalid, Unavailable
from service.common.limits import MAX_STREAM_REQUESTS
from service.edge.guard import security
from service.edge.oip import inference_pb2 as pb
from service.edge.oip.asked import Request, Response
from service.edge.oip.inferring import Inferring
from service.edge.oip.sequences import OpenSequences, Order
from service.edge.oip.streaming import StreamCall
from service.edge.oip.tensors import Sent
from service.edge.parts import OnePlace
from service.streams.table import ABSENT
from tests.service.one_process import World, world

DEADLINE_S = 60.0
NOTHING = np.zeros(0, np.float32)


@pytest.fixture(autouse=True)
def admitted() -> Iterator[None]:
    token = security._CALLER.set(EVERYBODY)
    yield
    security._CALLER.reset(token)


@contextlib.asynccontextmanager
async def inferring(data: Path, **settings: Any) -> AsyncIterator[tuple[World, Inferring]]:
    async with world(data, **settings) as live:
        yield live, Inferring(OnePlace(live.server.parts()), lambda: live.clock())


def request(sequence: str, *x: float, start: bool = False, **parameters: Any) -> Request:
    sent = Sent("x", "FP32", (len(x), 1), np.array(x, "<f4").tobytes())
    return Request("flow", "", "", {"sequence_id": sequence, "sequence_start": start} | parameters, [sent])


def output(answer: Response, name: str) -> Any:
    return next(made.values for made in answer.outputs if made.name == name)


# --- order


async def test_blocks_of_one_name_run_in_the_order_in_which_they_were_entered_and_others_beside_them():
    order, ran = Order(), []
    free = asyncio.Event()

    async def block(name: str, number: int) -> None:
        async with order.turn(name, 0.0):
            if name == "a":
                await free.wait()
            ran.append((name, number))

    tasks = [asyncio.create_task(block(name, i)) for i in range(5) for name in "ab"]
    async with asyncio.timeout(DEADLINE_S):
        while len(ran) < 5:
            await asyncio.sleep(0)
    assert ran == [("b", i) for i in range(5)]

    free.set()
    await asyncio.gather(*tasks)

    assert ran[5:] == [("a", i) for i in range(5)]
    assert not order._locks, "a name that nobody waits for is forgotten"


async def test_a_request_that_waits_longer_than_its_timeout_is_refused_and_those_after_it_are_not():
    order, free = Order(), asyncio.Event()

    async def first() -> None:
        async with order.turn("a", 0.0):
            await free.wait()

    task = asyncio.create_task(first())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match=r"^Request timeout expired; timeout = 1e-06 s"):
        async with order.turn("a", 1e-6):
            pass

    free.set()
    async with asyncio.timeout(DEADLINE_S), order.turn("a", DEADLINE_S):
        await task
    assert not order._locks


# --- open sequences and memory


async def test_beyond_the_limit_the_longest_unused_sequence_is_closed_and_its_stream_stays(tmp_path):
    async with world(tmp_path) as live:
        model, parts = await live.model(), live.server.parts()
        sequences = OpenSequences(model, lambda: None, most=2)
        for id in ("a", "b", "a", "c"):
            assert sequences.find(id) or sequences.open(parts, id, NOTHING)

        assert [id for id in "abc" if sequences.find(id)] == ["a", "c"]
        assert set(model.table.by_id) == {"a", "b", "c"}
        assert model.table.owner[model.table.by_id["b"]] == 0


async def test_a_sequence_leaves_memory_between_its_requests_and_is_not_opened_again(tmp_path):
    async with inferring(tmp_path, idle_s=0.0) as (live, door):
        model = await live.model()
        first = await door.infer(request("pump", 1.0, start=True))
        epoch = int(model.table.epoch[model.table.by_id["pump"]])
        model.judge(live.server.journal.offset(model.number))
        await live.snapshot()
        assert model.table.by_id.get("pump", ABSENT) == ABSENT

        then = await door.infer(request("pump", 2.0))

        assert [output(answer, "seq")[0] for answer in (first, then)] == [1, 2]
        row = model.table.by_id["pump"]
        assert int(model.table.epoch[row]) == epoch
        assert not model.table.pinned[row]


async def test_a_deleted_model_is_forgotten_with_its_sequences(tmp_path):
    async with inferring(tmp_path) as (live, door):
        model = await live.model()
        await door.infer(request("pump", 1.0, start=True))
        gone = ref(model)

        await live.control.delete(model.key)
        del model
        other = await live.model("other")
        await live.tick(other, live.open(other, "pump"), 1.0)  # the stream that ticked last is known until then
        await live.snapshot()
        async with asyncio.timeout(DEADLINE_S):
            while gone() is not None:
                await asyncio.sleep(0)
                gc.collect()


async def test_a_bad_restart_loses_no_state_and_makes_no_stream(tmp_path):
    async with inferring(tmp_path) as (live, door):
        model = await live.model()
        await door.infer(request("pump", 1.0, 2.0, start=True))
        before = model.session("pump").state

        for id in ("pump", "new"):
            with pytest.raises(Invalid):
                await door.infer(request(id, 3.0, float("nan"), start=True))

        np.testing.assert_array_equal(model.session("pump").state, before)
        assert "new" not in model.table.by_id


def with_inputs(asked: Request, seq: list[int] | None = None, u: list[float] | None = None) -> Request:
    more = [] if seq is None else [Sent("seq", "UINT64", (len(seq), 1), np.array(seq, "<u8").tobytes())]
    more += [] if u is None else [Sent("u", "FP32", (len(u), 1), np.array(u, "<f4").tobytes())]
    return replace(asked, inputs=[*asked.inputs, *more])


BAD = {
    "a restart at a later tick": (True, [3.0], [9], [1.0], "next tick of this stream is 3"),
    "a gap": (False, [3.0, 4.0], [3, 5], [1.0, 1.0], "next tick of this stream is 4"),
    "a restart with no category": (True, [3.0], None, [7.0], "k is a category"),
    "a restart with no category later": (True, [3.0, 4.0], None, [1.0, 7.0], "k is a category"),
    "no category": (False, [3.0, 4.0], [3, 4], [1.0, 7.0], "k is a category"),
    "no known values": (False, [3.0, 4.0], None, None, "u = none"),
    "a bad value": (False, [3.0, math.inf], None, [1.0, 1.0], r"x\[0\] = inf"),
    "a bad value after a repeated tick": (False, [2.0, math.inf], [2, 3], [1.0, 1.0], r"x\[0\] = inf"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_request_that_is_refused_for_its_content_or_as_a_gap_changes_nothing(tmp_path, case):
    start, x, seq, u, why = BAD[case]
    async with inferring(tmp_path) as (live, door):
        model = await live.model(known=["k"], categories=["k:3"])
        await door.infer(with_inputs(request("pump", 1.0, 2.0, start=True), u=[0.0, 1.0]))
        before = model.session("pump").state

        with pytest.raises(Invalid, match=why):
            await door.infer(with_inputs(request("pump", *x, start=start), seq, u))

        np.testing.assert_array_equal(model.session("pump").state, before)
        assert model.session("pump").last_seq == 2


async def test_ticks_that_are_checked_at_once_are_refused_as_one_by_one(tmp_path):
    """Of twenty ticks each one in turn is bad; all that is sound is stepped."""
    async with inferring(tmp_path) as (live, door):
        model = await live.model()
        for bad in range(20):
            x = [float(n) for n in range(20)]
            x[bad] = 1e30
            with pytest.raises(Invalid, match="magnitudes up to"):
                await door.infer(request("pump", *x, start=True))
        assert "pump" not in model.table.by_id
        answer = await door.infer(request("pump", *map(float, range(20)), start=True))
        assert output(answer, "seq").ravel().tolist() == [*range(1, 21)]


# --- a call of many requests


class Slow:
    """Stands in for `Inferring`: its requests are answered when the test says so."""

    def __init__(self) -> None:
        self.on_leaving: set[Any] = set()
        self.begun, self.free = 0, asyncio.Event()

    async def infer(self, request: Request) -> Response:
        self.begun += 1
        await self.free.wait()
        return Response("flow", "1", request.id)


class Endless:
    """Stands in for the call's `Writing`: a client that sends without end."""

    def __init__(self, requests: int) -> None:
        self.read_so_far, self.requests = 0, requests
        self.sent: list[str] = []

    async def read(self) -> Any:
        await asyncio.sleep(0)
        if self.read_so_far == self.requests:
            return grpc.aio.EOF
        self.read_so_far += 1
        return pb.ModelInferRequest(id=str(self.read_so_far))

    async def send(self, message: Any) -> None:
        self.sent.append(pb.ModelStreamInferResponse.FromString(message).infer_response.id)


class Context:
    """Stands in for gRPC's context."""

    def invocation_metadata(self) -> tuple[()]:
        return ()


async def test_a_call_is_not_read_beyond_its_unanswered_requests(tmp_path):
    slow, writing = Slow(), Endless(5 * MAX_STREAM_REQUESTS)
    async with world(tmp_path) as live:
        call = StreamCall(slow, live.server.tenants, Context(), writing)  # type: ignore[arg-type]
        serving = asyncio.create_task(call.serve())

        for _ in range(20 * MAX_STREAM_REQUESTS):
            await asyncio.sleep(0)
        assert slow.begun == MAX_STREAM_REQUESTS
        assert writing.read_so_far == MAX_STREAM_REQUESTS + 1  # one was read, and is not begun

        slow.free.set()
        async with asyncio.timeout(DEADLINE_S):
            await serving
    assert writing.sent == [str(i + 1) for i in range(5 * MAX_STREAM_REQUESTS)]
