"""The Open Inference Protocol over gRPC: a sequence is a stream of ours, in order, durable and visible."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import freshet
from freshet.v1 import streams_pb2, streams_pb2_grpc
from service.edge.oip import inference_pb2 as pb
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.inferences import Inference, RawStreamInfer, request, value
from tests.journeys.raw import RawStream, channel_to, within

ROWS = np.cumsum(np.random.default_rng(3).standard_normal((200, 2)), axis=0).astype(np.float32)
MODEL: dict[str, Any] = {"hidden": 8, "head_init": 0.3, "learn": False}  # forecasts differ with the state
REGRESS: dict[str, Any] = {"targets": ["a"], "task": "regress", "label_horizon": 64, "hidden": 8, "head_init": 0.3}
SPECS: dict[str, dict[str, Any]] = {
    "plain": MODEL,
    "spread": MODEL | {"intervals": [0.5, 0.9], "horizon": 3, "window": 16},
    "timed": MODEL | {"interval": 60.0},
    "covered": MODEL | {"known": ["k"], "static": ["s"], "horizon": 2, "window": 16},
    "regress": REGRESS,
}
SERIES = {
    "x": ROWS[:2], "time": [60.0, 120.0], "seq": [1, 2], "u": [[0.1, 0.2], [0.2, 0.3]], "static": [[4.0]],
    "y": [[0.5], [0.7]],
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def models(server: ServerChild) -> AsyncIterator[None]:
    async with freshet.connect(server.grpc) as client:
        for name, spec in SPECS.items():
            await client.create_model(name, ["a", "b"], **spec)
        yield


@pytest.fixture
def inference(channel, models) -> Inference:
    return Inference(channel)


async def opened(channel: grpc.aio.Channel, model: str, stream: str, rows: Any) -> list[list[float]]:
    """Answers of Streams.Open to the same ticks."""
    async with RawStream(channel, model, stream) as call:
        first = call.welcome.next_seq
        return [list((await call.tick(first + i, row.tolist())).forecast.y) for i, row in enumerate(rows)]


# --- a sequence is a stream


async def test_a_sequence_is_answered_as_a_stream_of_the_same_ticks(inference, channel):
    answers = [await inference.infer("plain", 11, start=i == 0, x=[row]) for i, row in enumerate(ROWS[:9])]

    assert [value(a, "y")[0].tolist() for a in answers] == await opened(channel, "plain", "its twin", ROWS[:9])
    assert [value(a, "seq").tolist() for a in answers] == [[[i]] for i in range(1, 10)]
    assert [value(a, "state_origin") for a in answers] == [["FRESH"], *[["RESUMED"]] * 8]
    assert {(a.model_name, a.model_version) for a in answers} == {("plain", "1")}


async def test_ticks_of_one_request_are_answered_as_one_by_one(inference):
    one_by_one = [await inference.infer("spread", "single", start=i == 0, x=[ROWS[i]]) for i in range(20)]

    together = [
        await inference.infer("spread", "together", start=True, x=ROWS[:5]),
        await inference.infer("spread", "together", x=ROWS[5:20]),
    ]

    for name in ("y", "lower", "upper", "seq", "version"):
        expected = np.concatenate([value(a, name) for a in one_by_one])
        np.testing.assert_array_equal(np.concatenate([value(a, name) for a in together]), expected, name)
    origins = [origin for a in together for origin in value(a, "state_origin")]
    assert origins == [origin for a in one_by_one for origin in value(a, "state_origin")]


async def test_ticks_of_one_request_may_begin_before_the_streams_last_one(inference):
    first = await inference.infer("plain", "again", start=True, x=ROWS[:20], seq=range(1, 21))

    answer = await inference.infer("plain", "again", x=ROWS[14:25], seq=range(15, 26))
    alone = [await inference.infer("plain", "alone", start=i == 0, x=[ROWS[i]]) for i in range(25)]

    np.testing.assert_array_equal(value(answer, "y")[:6], value(first, "y")[14:])
    np.testing.assert_array_equal(value(answer, "y"), np.concatenate([value(a, "y") for a in alone[14:]]))
    assert value(answer, "state_origin") == ["RESUMED"] * 11


async def test_after_a_refused_tick_no_other_of_its_request_is_stepped(inference):
    await inference.infer("plain", "conflict", start=True, x=ROWS[:20])
    rows = ROWS[17:22].copy()
    rows[1] += 1

    with pytest.raises(grpc.aio.AioRpcError, match="the 1 ticks before it are part of the stream") as refused:
        await inference.infer("plain", "conflict", x=rows, seq=range(18, 23))
    after = await inference.infer("plain", "conflict", x=[ROWS[20]])

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert value(after, "seq").tolist() == [[21]]


async def test_a_sequence_is_seen_as_a_stream_and_each_door_resumes_what_the_other_did(inference, channel):
    unbroken = await opened(channel, "plain", "unbroken", ROWS[:6])

    first = await inference.infer("plain", "both doors", start=True, x=ROWS[:2])
    streams: Any = streams_pb2_grpc.StreamsStub(channel)
    seen = await streams.Get(streams_pb2.GetStreamRequest(model="plain", stream="both doors"))
    then = await opened(channel, "plain", "both doors", ROWS[2:4])
    last = await inference.infer("plain", "both doors", x=ROWS[4:6], end=True)

    assert seen.last_seq == 2
    assert [*value(first, "y").tolist(), *then, *value(last, "y").tolist()] == unbroken


async def test_a_call_of_open_loses_its_stream_to_a_request(inference, channel):
    async with RawStream(channel, "plain", "taken") as call:
        await call.tick(1, ROWS[0].tolist())

        await inference.infer("plain", "taken", x=[ROWS[1]])

        assert (await call.answer()).HasField("taken_over")


async def test_a_start_begins_with_a_fresh_state_and_goes_on_with_the_numbers(inference):
    fresh = await inference.infer("plain", "started", start=True, x=ROWS[:3], end=True)

    for again in (4, 7):  # the second while the sequence has not ended
        answer = await inference.infer("plain", "started", start=True, x=ROWS[:3])
        np.testing.assert_array_equal(value(answer, "y"), value(fresh, "y"))
        assert value(answer, "seq")[:, 0].tolist() == list(range(again, again + 3))
        assert value(answer, "state_origin") == ["FRESH", "RESUMED", "RESUMED"]


async def test_a_repeated_request_gets_the_same_answer_and_changes_nothing(inference):
    first = await inference.infer("plain", "retried", start=True, seq=[1, 2], x=ROWS[:2])

    again = await inference.infer("plain", "retried", start=True, seq=[1, 2], x=ROWS[:2])
    after = await inference.infer("plain", "retried", seq=[3], x=[ROWS[2]])

    np.testing.assert_array_equal(value(again, "y"), value(first, "y"))
    unbroken = await inference.infer("plain", "not retried", start=True, x=ROWS[:3])
    np.testing.assert_array_equal(value(after, "y")[0], value(unbroken, "y")[2])


IDS = {"a number": (5, "5"), "a negative one": (-1, str(2**64 - 1)), "a text": ("pump-7", "pump-7")}


@pytest.mark.parametrize("case", IDS)
async def test_a_sequence_id_is_the_id_of_its_stream(inference, client, case):
    sequence, stream = IDS[case]

    await inference.infer("plain", sequence, start=True, x=[ROWS[0]])

    assert stream in [s.stream async for s in client.list_streams("plain")]


async def test_typed_tensors_are_read_as_raw_ones(inference):
    raw = await inference.infer("timed", "raw", start=True, x=ROWS[:2], time=[60.0, 120.0], seq=[1, 2])
    typed = request("timed", "typed", start=True, x=ROWS[:2], time=[60.0, 120.0], seq=[1, 2])
    del typed.raw_input_contents[:]
    x, time, seq = typed.inputs
    x.contents.fp32_contents[:] = ROWS[:2].reshape(-1)
    time.contents.fp64_contents[:] = [60.0, 120.0]
    seq.contents.uint64_contents[:] = [1, 2]

    answer = await inference.send(typed)

    np.testing.assert_array_equal(value(answer, "y"), value(raw, "y"))


ACCEPTED: dict[str, object] = {
    "timeout": 5_000_000, "priority": pb.InferParameter(uint64_param=1),
    "triton_enable_empty_final_response": True, "label": "anything", "step": 3, "rate": 0.5,
}  # fmt: skip


async def test_parameters_that_clients_send_are_accepted(inference):
    answer = await inference.infer("plain", "with all", start=True, x=[ROWS[0]], parameters=ACCEPTED, id="a request")

    assert (value(answer, "seq"), answer.id) == ([[1]], "a request")


# --- order and durability


async def test_requests_of_one_sequence_that_overlap_are_answered_in_their_order(inference):
    await inference.infer("plain", "overlapping", start=True, x=[ROWS[0]])

    requests = [inference.infer("plain", "overlapping", x=[row]) for row in ROWS[1:64]]
    answers = await asyncio.gather(*requests)

    unbroken = await inference.infer("plain", "not overlapping", start=True, x=ROWS[:64])
    order = np.argsort([value(a, "seq")[0, 0] for a in answers])
    assert [value(answers[i], "seq")[0, 0] for i in order] == list(range(2, 65))
    assert order.tolist() == list(range(63))
    np.testing.assert_array_equal(np.concatenate([value(a, "y") for a in answers]), value(unbroken, "y")[1:])


async def test_more_ticks_than_may_be_undurable_are_answered_once_there_is_room(inference):
    most = 64

    answer = await inference.infer("plain", "burst", start=True, x=np.tile(ROWS, (2, 1)))

    assert len(value(answer, "seq")) == 400 > most


async def test_what_was_answered_as_durable_survives_a_kill_and_the_sequence_goes_on(tmp_path: Path):
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK)
    await child.start()
    async with channel_to(child.grpc) as channel, freshet.connect(child.grpc) as client:
        await client.create_model("plain", ["a", "b"], **MODEL)
        await Inference(channel).infer("plain", 7, start=True, x=ROWS[:5], parameters={"durable": True})
    child.kill()
    await child.wait()
    async with child, channel_to(child.grpc) as channel:
        inference = Inference(channel)

        after = await inference.infer("plain", 7, x=ROWS[5:7])

        unbroken = await inference.infer("plain", 8, start=True, x=ROWS[:7])
        assert value(after, "seq")[:, 0].tolist() == [6, 7]
        np.testing.assert_array_equal(value(after, "y"), value(unbroken, "y")[5:])


# --- ModelStreamInfer


async def test_a_call_carries_many_sequences_and_answers_in_the_order_of_requests(channel, inference):
    ids = [f"s{i % 7}" for i in range(140)]
    async with RawStreamInfer(channel) as call:
        for i, id in enumerate(ids):
            await call.send(request("plain", id, start=i < 7, id=str(i), x=[ROWS[i // 7]]))
        answers = [(await call.answer()).infer_response for _ in ids]
        assert await call.finish() == []

    assert [a.id for a in answers] == [str(i) for i in range(140)]
    assert all(a.parameters["triton_final_response"].bool_param for a in answers)
    unbroken = value(await inference.infer("plain", "one", start=True, x=ROWS[:20]), "y")
    for first in range(7):
        np.testing.assert_array_equal(np.concatenate([value(a, "y") for a in answers[first::7]]), unbroken)


async def test_an_error_is_an_answer_with_the_id_of_its_request_and_the_call_goes_on(channel, inference):
    async with RawStreamInfer(channel) as call:
        await call.send(request("plain", "erring", start=True, id="one", x=[ROWS[0]]))
        await call.send(request("plain", "erring", id="two", x=[[1.0]]))
        await call.send(request("plain", "erring", id="three", x=[ROWS[1]]))
        answers = [await call.answer() for _ in range(3)]

    assert [bool(a.error_message) for a in answers] == [False, True, False]
    assert [a.infer_response.id for a in answers] == ["one", "two", "three"]
    assert value(answers[2].infer_response, "seq") == [[2]]


async def test_with_tritons_header_the_first_error_ends_the_call_with_its_status(channel, inference):
    async with RawStreamInfer(channel, (("triton_grpc_error", "true"),)) as call:
        await call.send(request("plain", "ending", start=True, x=[ROWS[0]]))
        await call.send(request("nobody", "ending", x=[ROWS[0]]))
        assert not (await call.answer()).error_message
        assert (await call.error()).code() is grpc.StatusCode.NOT_FOUND


async def test_a_leaving_server_answers_what_it_has_read_and_ends_the_call(tmp_path: Path):
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK)
    await child.start()
    async with channel_to(child.grpc) as channel, freshet.connect(child.grpc) as client:
        await client.create_model("plain", ["a", "b"], **MODEL)
        async with RawStreamInfer(channel) as call:
            await call.send(request("plain", "s", start=True, x=[ROWS[0]]))
            assert not (await call.answer()).error_message

            stopping = asyncio.create_task(child.stop())
            error = await call.error()

        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "leaving" in (error.details() or "")
        assert await within(stopping) == 0, child.last_words()


# --- labels


async def test_labels_that_come_with_ticks_or_after_them_are_learned(inference, client):
    await inference.infer("regress", "with", start=True, x=ROWS[:2], y=[[0.5], [0.6]])
    await inference.infer("regress", "with", x=ROWS[2:4])
    await inference.infer("regress", "with", seq=[3, 4], y=[[0.7], [0.8]])  # once they are known

    async with asyncio.timeout(60):
        while True:
            [errors] = await client.horizon_errors("regress")
            if errors.labels == 4:
                return
            await asyncio.sleep(0.05)


# --- what is described


@pytest.mark.parametrize("model", SPECS)
async def test_metadata_and_configuration_describe_what_is_taken_and_answered(inference, model):
    described = await inference.stub.ModelMetadata(pb.ModelMetadataRequest(name=model))
    config = (await inference.stub.ModelConfig(pb.ModelConfigRequest(name=model))).config

    inputs = {t.name: SERIES[t.name] for t in described.inputs}
    answer = await inference.infer(model, "described", start=True, **inputs)

    shapes = {t.name: (t.datatype, [2, *t.shape[1:]]) for t in described.outputs}
    assert {t.name: (t.datatype, list(t.shape)) for t in answer.outputs} == shapes
    assert all(t.shape[0] == -1 for t in [*described.inputs, *described.outputs])
    assert {t.name: [-1, *t.dims] for t in config.input} == {t.name: list(t.shape) for t in described.inputs}
    assert {t.name: [-1, *t.dims] for t in config.output} == {t.name: list(t.shape) for t in described.outputs}
    assert config.HasField("sequence_batching")
    needed = {t.name for t in config.input if not t.optional}
    assert needed == {"x"} | ({"time"} & inputs.keys() if model == "timed" else set()) | ({"u"} & inputs.keys())


async def test_only_the_outputs_that_are_asked_for_are_sent(inference):
    answer = await inference.infer("plain", "chosen", start=True, x=[ROWS[0]], outputs=["seq", "y"])

    assert [output.name for output in answer.outputs] == ["seq", "y"]


async def test_statistics_count_ticks_and_requests(inference, client, name):
    await client.create_model(name, ["a", "b"], **MODEL)
    await inference.infer(name, 1, start=True, x=ROWS[:3])
    await inference.infer(name, 1, x=ROWS[:1])
    await inference.refused(name, 2, x=ROWS[:1])

    [counted] = (await inference.stub.ModelStatistics(pb.ModelStatisticsRequest(name=name))).model_stats

    assert (counted.name, counted.version, counted.inference_count) == (name, "1", 4)
    stats = counted.inference_stats
    assert (stats.success.count, stats.queue.count, stats.fail.count) == (2, 2, 1)
    assert stats.success.ns > 0
    assert counted.last_inference > 1.7e12  # milliseconds


async def test_the_server_and_its_models_are_live_and_ready(inference):
    stub = inference.stub
    assert (await stub.ServerLive(pb.ServerLiveRequest())).live
    assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
    ready = [await stub.ModelReady(pb.ModelReadyRequest(name=name)) for name in ("plain", "nobody")]
    assert [answer.ready for answer in ready] == [True, False]
    assert "plain" in [m.name for m in (await stub.RepositoryIndex(pb.RepositoryIndexRequest())).models]
    metadata = await stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "freshet"
    assert {"sequence", "statistics"} <= set(metadata.extensions)


async def test_what_is_not_offered_is_refused_by_name(inference):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inference.stub.SystemSharedMemoryStatus(pb.NotOffered())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "SystemSharedMemoryStatus" in (caught.value.details() or "")
