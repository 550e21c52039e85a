"""Many streams in one call, and what is kept of streams: as if each had a call, and a server, of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import streams_pb2_grpc, types_pb2
from service.common import limits
from service.common.limits import MAX_BINDS, MAX_HANDLES
from tests.journeys.raw import DEADLINE_S, RawStream, channel_to, refused_field
from tests.journeys.raw_mux import RawMux, columns, unpacked
from tests.oracles.unbroken import Unbroken

# Streams leave memory between two messages of a test, as they would between two ticks of a meter.
SETTINGS = {"snapshot_s": 0.1, "idle_s": 0.0, "max_undurable": 64}
SPEC: dict[str, Any] = {"learn": False, "head_init": 0.3, "hidden": 8, "interval": 60.0}
CHANNELS = ["a", "b"]


def walk(rows: int, seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).standard_normal((rows, 2)), axis=0).astype(np.float32)


def times(seq: Any) -> Any:
    return 1e9 + 60.0 * np.asarray(seq)


async def oracle_of(client: freshet.Client, name: str) -> Any:
    model = await client.create_model(name, CHANNELS, **SPEC)
    exported = await client.export(name)
    return lambda: Unbroken(model, exported)


async def test_packed_ticks_are_answered_as_if_each_stream_had_a_call_of_its_own(client, channel, name):
    oracle = await oracle_of(client, name)
    streams = {handle: (f"meter-{handle}", walk(30, handle), oracle()) for handle in (0, 5, 700)}
    async with RawMux(channel, name) as mux:
        bound = await mux.bind({handle: id for handle, (id, _, _) in streams.items()})
        assert {b.next_seq for b in bound.values()} == {1}
        for seq in range(1, 31):
            rows = np.array([x[seq - 1] for _, x, _ in streams.values()])
            answers = await mux.ticks(list(streams), [seq] * 3, rows, times([seq] * 3))
            for handle, (_, x, alone) in streams.items():
                alone.agrees(answers[handle, seq][0], x[seq - 1], times(seq))
        for handle in streams:
            await mux.until_durable(handle, 30)
        await mux.finish()

    async with client.stream(name, "meter-5") as stream:  # and goes on through Open where it was
        assert stream.next_seq == 31


async def test_many_ticks_of_one_stream_in_a_message_are_successive_steps_however_few_may_be_undurable(
    client, channel, name
):
    alone = (await oracle_of(client, name))()
    rows = walk(1000, 1)
    seq = np.arange(1, 1001)
    async with RawMux(channel, name) as mux:
        await mux.bind({3: "pump"})
        answers = await mux.ticks([3] * 1000, seq, rows, times(seq))
        await mux.finish()

    for i in seq.tolist():
        alone.agrees(answers[3, i][0], rows[i - 1], times(i))


async def test_a_repeated_tick_is_answered_again_also_after_its_stream_was_evicted(client, channel, name):
    await oracle_of(client, name)
    rows = walk(20, 2)
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "pump"})
        first = await mux.ticks([1] * 20, range(1, 21), rows, times(range(1, 21)))
        await mux.finish()
    await until_evicted(channel, name, "pump")
    async with RawMux(channel, name) as mux:
        bound = await mux.bind({9: "pump"})
        assert bound[9].next_seq == 21
        again = await mux.ticks([9, 9], [19, 20], rows[18:], times([19, 20]))

        await mux.say(ticks=columns([9], [20], walk(1, 99), times([20])))
        (refused,) = (await mux.answer()).refused

    assert [again[9, s][0].tolist() for s in (19, 20)] == [first[1, s][0].tolist() for s in (19, 20)]
    assert refused.refused.reason == types_pb2.Refused.CONFLICT


async def until_evicted(channel: Any, name: str, stream: str) -> None:
    """Two snapshots, each of which lets go of what is idle: a tick of another stream, until it is on disk."""
    async with asyncio.timeout(DEADLINE_S), RawStream(channel, name, f"beside-{stream}") as beside:
        for _ in range(3):
            seq = beside.welcome.next_seq
            await beside.tick(seq, [0.0, 0.0], times(seq))
            await beside.until_durable(seq)
            await asyncio.sleep(0.15)  # longer than snapshot_s: nothing tells when a snapshot is taken
            beside.welcome.next_seq += 1


async def test_a_refused_tick_leaves_its_stream_and_the_others_of_the_message_as_they_were(client, channel, name):
    oracle = await oracle_of(client, name)
    good, bad = oracle(), oracle()
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "good", 2: "bad"})
        await mux.say(ticks=columns([1, 2, 3], [1, 1, 1], [[1, 2], [np.nan, 0], [0, 0]], times([1, 1, 1])))
        message = await mux.answer()
        why = {r.handle: r.refused for r in message.refused}
        assert set(why) == {2, 3}
        assert (why[2].field, why[2].reason) == ("x[0]", types_pb2.Refused.NON_FINITE)
        assert (why[3].field, why[3].value) == ("ticks.handle", "3")
        assert "bind it" in why[3].remedy
        good.agrees(unpacked(message.forecasts)[1, 1][0], [1, 2], times(1))

        for handle, alone, seq, x in ((1, good, 2, [3.0, 4.0]), (2, bad, 1, [5.0, 6.0])):
            alone.agrees((await mux.ticks([handle], [seq], [x], times([seq])))[handle, seq][0], x, times(seq))
        await mux.say(ticks=columns([1], [9], [[0, 0]], times([9])))
        (gap,) = (await mux.answer()).refused
        assert gap.refused.reason == types_pb2.Refused.GAP


@pytest.mark.parametrize("column", ["handle", "seq", "x", "time"])
async def test_columns_of_different_lengths_end_the_call_by_name_and_change_nothing(client, channel, name, column):
    await oracle_of(client, name)
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "pump"})
        frame = columns([1, 1], [1, 2], [[1, 2], [3, 4]], times([1, 2]))
        setattr(frame, column, getattr(frame, column)[:-1])
        await mux.say(ticks=frame)
        error = await mux.error()

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(error)[0] == f"ticks.{column}"
    async with client.stream(name, "pump") as stream:
        assert stream.next_seq == 1


async def test_an_invalid_bind_is_refused_by_name_and_the_rest_is_bound(client, channel, name):
    await oracle_of(client, name)
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "taken"})
        wanted = [(1, "other"), (MAX_HANDLES, "far"), (2, "taken"), (3, ""), (4, "x" * 300), (5, "a\n"), (6, "fine")]
        await mux.say(bind=[pb.Bind(handle=handle, stream=id) for handle, id in wanted])
        answer = await mux.answer()

        why = [(r.handle, r.refused.field) for r in answer.refused]
        assert why == [
            (1, "bind.handle"), (MAX_HANDLES, "bind.handle"), (2, "bind.stream"), (3, "bind.stream"),
            (4, "bind.stream"), (5, "bind.stream"),
        ]  # fmt: skip
        assert all(r.refused.remedy for r in answer.refused)
        assert [b.handle for b in answer.bound] == [6]
        assert len(await mux.ticks([1, 6], [1, 1], [[1, 2], [3, 4]], times([1, 1]))) == 2


async def test_a_message_of_thousands_of_bad_ticks_is_answered_in_parts_and_its_good_ones_too(client, channel, name):
    await client.create_model(name, channels=["x"], hidden=4)
    async with RawMux(channel, name) as mux:
        await mux.bind({handle: f"s{handle}" for handle in range(300)})
        handles = np.arange(1300)  # 1,000 of them unbound
        seqs = np.where(handles % 2, 1, 7)  # and half of the others out of order
        await mux.say(ticks=columns(handles, seqs, np.ones(1300)))
        refused: list[int] = []
        answered: set[int] = set()
        while len(refused) + len(answered) < len(handles):
            message = await mux.answer()
            assert len(message.refused) <= 2 * limits.MAX_DECIDED
            refused += [line.handle for line in message.refused]
            answered |= {handle for handle, _ in unpacked(message.forecasts)}

    assert answered == set(range(1, 300, 2))
    assert sorted(refused) == [handle for handle in range(1300) if handle not in answered]


async def test_a_message_that_binds_many_streams_binds_each(client, channel, name):
    await client.create_model(name, channels=["x"], hidden=4)
    wanted = {handle: f"s{handle}" for handle in range(3 * limits.MAX_BOUND_AT_ONCE + 1)}
    async with RawMux(channel, name) as mux:
        assert (await mux.bind(wanted)).keys() == wanted.keys()


async def test_a_million_repeated_fields_in_a_small_message_are_refused_and_the_server_continues(client, channel, name):
    await oracle_of(client, name)
    async with RawMux(channel, name) as mux:
        await mux.say(bind=[pb.Bind()] * 500_000)  # two bytes each: a megabyte, the largest message
        error = await mux.error()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(error) == ("bind", f"bind at most {MAX_BINDS} streams in one message")

    async with RawMux(channel, name) as mux:
        await mux.say(bind=[pb.Bind()] * 1_000_000)
        assert (await mux.error()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with client.stream(name, "still here", give_up_s=5) as stream:
        await stream.step([1.0, 2.0], times(1))


@pytest.mark.parametrize("first", [{}, {"model": "no-such"}, {"model": ""}], ids=["nothing", "unknown", "empty"])
async def test_a_call_that_names_no_model_is_refused(channel, first):
    async with RawMux(channel, "") as mux:
        await mux.say(**first)
        error = await mux.error()
    unknown = first.get("model")
    assert error.code() is (grpc.StatusCode.NOT_FOUND if unknown else grpc.StatusCode.INVALID_ARGUMENT)
    assert refused_field(error)[0] == "model"


async def test_another_model_in_the_middle_of_a_call_is_refused(client, channel, name):
    await oracle_of(client, name)
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "pump"})
        await mux.say(model="other")
        assert refused_field(await mux.error())[0] == "model"


async def test_a_stream_that_another_call_opens_is_taken_over_and_the_call_is_notified(server, client, channel, name):
    await oracle_of(client, name)
    async with RawMux(channel, name) as mux, channel_to(server.grpc) as elsewhere:
        await mux.bind({1: "pump", 2: "other"})
        await mux.ticks([1, 2], [1, 1], [[1, 2], [1, 2]], times([1, 1]))
        async with RawMux(elsewhere, name) as second:
            bound = await second.bind({8: "pump"})
            assert bound[8].next_seq == 2
            while not mux.taken_over:
                assert await mux.hear() is not None
            assert mux.taken_over == [1]
            await mux.say(ticks=columns([1], [2], [[3, 4]], times([2])))
            (refused,) = (await mux.answer()).refused
            assert refused.refused.field == "ticks.handle"
            assert len(await second.ticks([8], [2], [[3, 4]], times([2]))) == 1
        assert len(await mux.ticks([2], [2], [[3, 4]], times([2]))) == 1
        assert (await mux.bind({3: "pump"}))[3].next_seq == 3  # and back


async def test_sigterm_asks_packed_calls_to_reconnect_once_everything_is_on_disk(tmp_path):
    from tests.journeys import crash

    async with crash.a_server(tmp_path) as own, freshet.connect(own.grpc) as client, channel_to(own.grpc) as channel:
        await client.create_model("flow", CHANNELS, **SPEC)
        async with RawMux(channel, "flow") as mux:
            await mux.bind({1: "pump"})
            await mux.ticks([1] * 5, range(1, 6), walk(5, 1), times(range(1, 6)))
            stopping = asyncio.create_task(own.stop())
            error = await mux.error()
            assert await stopping == 0

        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert (mux.reconnect, mux.durable) == (True, {1: 5})


async def test_a_killed_server_resumes_packed_streams_as_an_uninterrupted_one_would(tmp_path):
    from tests.journeys import crash

    async with crash.a_server(tmp_path) as own:
        async with freshet.connect(own.grpc) as client, channel_to(own.grpc) as channel:
            model = await client.create_model("flow", CHANNELS, **SPEC)
            exported = await client.export("flow")
            rows = {handle: walk(200, handle) for handle in range(50)}
            sent = 0
            async with RawMux(channel, "flow") as mux:
                await mux.bind({handle: f"m{handle}" for handle in rows})
                for seq in range(1, 121):
                    await mux.ticks(list(rows), [seq] * 50, [x[seq - 1] for x in rows.values()], times([seq] * 50))
                    sent = seq
                own.kill()
                await own.wait()
        await own.start()
        async with channel_to(own.grpc) as channel, RawMux(channel, "flow") as mux:
            bound = await mux.bind({handle: f"m{handle}" for handle in rows})
            for handle, x in rows.items():
                begin, durable = bound[handle].next_seq, mux.durable.get(handle, 0)
                assert durable < begin <= sent + 1
                alone = Unbroken(model, exported)
                for seq in range(1, begin):
                    alone.step(x[seq - 1], times(seq))
                answers = await mux.ticks([handle] * 20, range(begin, begin + 20), x[begin - 1 : begin + 19],
                                          times(range(begin, begin + 20)))  # fmt: skip
                for seq in range(begin, begin + 20):
                    alone.agrees(answers[handle, seq][0], x[seq - 1], times(seq))


# --- what is kept of streams


@pytest.fixture
def streams(channel):
    return streams_pb2_grpc.StreamsStub(channel)


async def status(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_stream_moved_to_another_model_of_the_same_spec_continues_unchanged(client, channel, streams, name):
    alone = (await oracle_of(client, name))()
    other = f"{name[:60]}-b"
    await client.create_model(other, CHANNELS, **SPEC)
    rows = walk(20, 4)
    async with RawStream(channel, name, "pump") as stream:
        for seq in range(1, 11):
            alone.agrees((await stream.tick(seq, rows[seq - 1], times(seq))).forecast.y, rows[seq - 1], times(seq))

    kept = await streams.Get(pb.GetStreamRequest(model=name, stream="pump", with_state=True), timeout=DEADLINE_S)
    assert (kept.last_seq, kept.last_time, kept.state_origin) == (10, times(10), pb.Welcome.RESUMED)
    moved = pb.Stream()
    moved.CopyFrom(kept)
    moved.model = other
    put = await streams.Put(pb.PutStreamRequest(stream=moved), timeout=DEADLINE_S)

    assert (put.last_seq, put.durable_seq, put.state_origin) == (10, 10, pb.Welcome.IMPORTED)
    async with RawStream(channel, other, "pump") as stream:
        assert (stream.welcome.next_seq, stream.welcome.state_origin) == (11, pb.Welcome.IMPORTED)
        for seq in range(11, 21):
            alone.agrees((await stream.tick(seq, rows[seq - 1], times(seq))).forecast.y, rows[seq - 1], times(seq))
        lost = await stream.tick(5, rows[4], times(5))
        assert lost.refused.reason == types_pb2.Refused.ANSWER_LOST


async def test_putting_a_state_over_an_open_stream_takes_it_over(client, channel, streams, name):
    await oracle_of(client, name)
    async with RawStream(channel, name, "pump") as stream:
        await stream.tick(1, [1.0, 2.0], times(1))
        kept = await streams.Get(pb.GetStreamRequest(model=name, stream="pump", with_state=True), timeout=DEADLINE_S)
        await stream.tick(2, [3.0, 4.0], times(2))
        await streams.Put(pb.PutStreamRequest(stream=kept), timeout=DEADLINE_S)
        assert (await stream.error()).code() is grpc.StatusCode.ABORTED

    async with RawStream(channel, name, "pump") as stream:
        assert stream.welcome.next_seq == 2


async def test_a_deleted_stream_is_gone_and_its_id_is_fresh(client, channel, streams, name):
    await oracle_of(client, name)
    async with RawStream(channel, name, "pump") as stream:
        await stream.tick(1, [1.0, 2.0], times(1))
        await streams.Delete(pb.DeleteStreamRequest(model=name, stream="pump"), timeout=DEADLINE_S)
        assert (await stream.error()).code() is grpc.StatusCode.ABORTED

    for call in (
        streams.Get(pb.GetStreamRequest(model=name, stream="pump"), timeout=DEADLINE_S),
        streams.Delete(pb.DeleteStreamRequest(model=name, stream="pump"), timeout=DEADLINE_S),
    ):
        assert (await status(call)).code() is grpc.StatusCode.NOT_FOUND
    async with RawStream(channel, name, "pump") as stream:
        assert (stream.welcome.next_seq, stream.welcome.state_origin) == (1, pb.Welcome.FRESH)


async def test_streams_are_listed_page_by_page_in_memory_or_not(client, channel, streams, name):
    await oracle_of(client, name)
    ids = [f"m{n:03}" for n in range(25)]
    async with RawMux(channel, name) as mux:
        await mux.bind(dict(enumerate(ids[:20])))
        await mux.ticks(range(20), [1] * 20, walk(20, 1), times([1] * 20))
        await mux.finish()
    await until_evicted(channel, name, "zz")
    async with RawMux(channel, name) as mux:
        await mux.bind(dict(enumerate(ids[20:])))
        await streams.Delete(pb.DeleteStreamRequest(model=name, stream=ids[7]), timeout=DEADLINE_S)
        seen, token = [], ""
        while True:
            ask = pb.ListStreamsRequest(model=name, page_size=10, page_token=token)
            page = await streams.List(ask, timeout=DEADLINE_S)
            seen += page.streams
            token = page.next_page_token
            if not token:
                break

    expected = [id for id in ids if id != ids[7]] + ["beside-zz"]
    assert [s.stream for s in seen] == sorted(expected)
    assert {s.stream: s.last_seq for s in seen if s.stream in ids} == {
        id: int(id in ids[:20]) for id in ids if id != ids[7]
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"state": b"\0" * 12}, "stream.state"),
        ({"state": b""}, "stream.state"),
        ({"last_time": float("inf")}, "stream.last_time"),
        ({"last_seq": 2**63}, "stream.last_seq"),
        ({"epoch": 2**63}, "stream.epoch"),
        ({"stream": ""}, "stream"),
        ({"stream": "x" * 257}, "stream"),
        ({"model": "no-such"}, "model"),
    ],
    ids=str,
)
async def test_an_invalid_state_is_refused_by_field(client, channel, streams, name, change, field):
    await oracle_of(client, name)
    async with RawStream(channel, name, "pump") as stream:
        await stream.tick(1, [1.0, 2.0], times(1))
    kept = await streams.Get(pb.GetStreamRequest(model=name, stream="pump", with_state=True), timeout=DEADLINE_S)
    for key, value in change.items():
        setattr(kept, key, value)

    error = await status(streams.Put(pb.PutStreamRequest(stream=kept), timeout=DEADLINE_S))

    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert refused_field(error)[0] == field


async def test_a_state_with_a_value_that_is_not_finite_is_refused(client, channel, streams, name):
    await oracle_of(client, name)
    async with RawStream(channel, name, "pump") as stream:
        await stream.tick(1, [1.0, 2.0], times(1))
    kept = await streams.Get(pb.GetStreamRequest(model=name, stream="pump", with_state=True), timeout=DEADLINE_S)
    state = np.frombuffer(kept.state, "<f4").copy()
    state[3] = np.nan
    kept.state = state.tobytes()

    error = await status(streams.Put(pb.PutStreamRequest(stream=kept), timeout=DEADLINE_S))

    assert refused_field(error)[0] == "stream.state[3]"
