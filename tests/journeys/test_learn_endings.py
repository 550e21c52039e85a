"""How calls of Training.Learn end, and what bounds them: restarts, a deleted model, a trainer that stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc
import numpy as np
import pytest

import freshet
from freshet.v1 import training_pb2 as pb
from service.common.limits import MAX_UNACKNOWLEDGED, MAX_UNACKNOWLEDGED_BYTES
from tests.journeys import crash
from tests.journeys.crash import trainer_of, within
from tests.journeys.raw import RawLearn, RawStream, channel_to
from tests.journeys.scraped import scrape, scraped_until
from tests.journeys.used import measured

SPEC: dict[str, Any] = {"channels": ["x"], "task": "regress", "targets": ["q"], "hidden": 4}
LEARNED, DURABLE = pb.LearnHello.LEARNED, pb.LearnHello.DURABLE


def window(seq: int, steps: int = 3) -> dict[str, Any]:
    rows = np.random.default_rng(seq).normal(size=steps).astype("<f4").tobytes()
    return {"window": pb.Window(window_seq=seq, steps=steps, x=rows, y=rows)}


async def test_a_server_that_leaves_ends_the_call_as_unavailable_and_has_on_disk_what_it_acknowledged(tmp_path):
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "mill") as call:
            idle = await RawLearn(channel, "flow", "idle").__aenter__()
            for seq in range(1, 21):
                await call.say(**window(seq))
            await call.until(windows=1)  # it has read some
            stopping = asyncio.create_task(server.stop())
            error = await call.error()

            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert (await idle.error()).code() is grpc.StatusCode.UNAVAILABLE
            assert await stopping == 0
            acknowledged = call.acknowledged.window_seq

        await server.start()

        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "mill") as call:
            # Its last acknowledgement may be lost with the call, which had more to read: what it was for is sent again.
            assert call.welcome.next_window_seq > acknowledged
            for seq in range(acknowledged + 1, 21):
                await call.say(**window(seq))
            await call.finish()
            assert call.acknowledged.windows == 20 - acknowledged
            assert not call.refused
        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "mill") as call:
            assert call.welcome.next_window_seq == 21


async def test_what_was_learned_before_a_restart_is_acknowledged_as_learned_when_it_is_sent_again(tmp_path):
    """Nothing else comes then: the trainer has nothing more to learn, and must say so all the same."""
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "mill", LEARNED) as call:
            await call.say(**window(1))
            await call.finish()
        await server.stop()
        await server.start()

        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "mill", LEARNED) as call:
            await call.say(**window(1))
            await call.finish()
            assert call.acknowledged.windows == 1
        # Counted by the server before; by this one only if it had been learned again.
        assert (await scrape(server.http)).total("freshet_windows_learned_total", model="flow") == 0


async def test_a_deleted_model_ends_the_calls_that_teach_it(server, client, channel, name):
    await client.create_model(name, **SPEC)
    async with RawLearn(channel, name, "mill") as busy, RawLearn(channel, name, "idle") as idle:
        await busy.say(**window(1))
        await busy.until(windows=1)

        await client.delete_model(name)

        for call in (busy, idle):
            error = await call.error()
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert "deleted" in (error.details() or "")
    await client.create_model(name, **SPEC)
    async with RawLearn(channel, name, "mill") as call:
        assert call.welcome.next_window_seq == 1, "another model, whatever its name"


async def test_a_sender_whose_items_are_not_acknowledged_is_read_no_further_and_the_others_go_on(tmp_path):
    """The trainer stands still, so nothing is learned: who waits for that is held back, nobody else is."""
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "patient", LEARNED) as patient:
            trainer = trainer_of(server)
            os.kill(trainer, signal.SIGSTOP)
            try:
                flooding = asyncio.create_task(flood(patient))
                async with RawLearn(channel, "flow", "quick", DURABLE) as quick:
                    for seq in range(1, 2 * MAX_UNACKNOWLEDGED):
                        await quick.say(**window(seq))
                    await quick.finish()
                    assert quick.acknowledged.windows == 2 * MAX_UNACKNOWLEDGED - 1
                async with RawStream(channel, "flow", "pump") as stream:
                    assert (await stream.tick(1, [1.0])).HasField("forecast")
                seen = await scrape(server.http)
                assert seen.total("freshet_windows_total", model="flow") <= 3 * MAX_UNACKNOWLEDGED
            finally:
                os.kill(trainer, signal.SIGCONT)
            await within(flooding)
            await patient.finish()
            assert patient.acknowledged.windows == 3 * MAX_UNACKNOWLEDGED


async def test_a_sender_of_long_windows_is_read_no_further_than_their_bytes_allow(tmp_path):
    """As above; this one sends few windows, each of 4,096 ticks."""
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        async with channel_to(server.grpc) as channel, RawLearn(channel, "flow", "patient", LEARNED) as patient:
            allowed = MAX_UNACKNOWLEDGED_BYTES // window(1, 4096)["window"].ByteSize() + 1
            trainer = trainer_of(server)
            os.kill(trainer, signal.SIGSTOP)
            flooding = asyncio.create_task(flood(patient, 2 * allowed, steps=4096))
            await scraped_until(server.http, lambda s: s.total("freshet_windows_total", model="flow") >= allowed)
            async with RawLearn(channel, "flow", "quick", DURABLE) as quick:
                await quick.say(**window(1))
                await quick.finish()

            assert (await scrape(server.http)).total("freshet_windows_total", model="flow") == allowed + 1
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
        server.kill()  # to learn them all would take a minute
        await server.wait()
        os.kill(trainer, signal.SIGKILL)  # stopped, it does not see that its server is gone


async def flood(call: RawLearn, windows: int = 3 * MAX_UNACKNOWLEDGED, steps: int = 3) -> None:
    """Far more than the server reads, and than connections hold."""
    for seq in range(1, windows + 1):
        await call.call.write(pb.LearnRequest(**window(seq, steps)))


async def test_a_million_values_in_a_message_within_the_limit_are_refused_and_take_no_memory_that_stays(tmp_path):
    (tmp_path / "used").mkdir()
    with measured(tmp_path / "used") as used:
        async with crash.a_server(tmp_path, max_message_bytes=8 << 20) as server, channel_to(server.grpc) as channel:
            async with freshet.connect(server.grpc) as client:
                await client.create_model("flow", **SPEC)
            async with RawStream(channel, "flow", "pump") as stream:
                await stream.tick(1, [1.0])
            async with RawLearn(channel, "flow", "mill") as call:
                absurd = {"label": pb.StreamLabel(stream="pump", seq=1, y=[0.0] * 1_000_000)}
                refused = await call.refusal(**absurd)
                assert (refused.field, refused.value) == ("label.y", "1000000 values")
                before = await used.of(server.pid)
                for _ in range(20):
                    await call.refusal(**absurd)
                most = before + (16 << 20)
                assert await used.at_most(most, server.pid) <= most, "twenty messages of 4 MB"
                await call.say(label=pb.StreamLabel(stream="pump", seq=1, y=[1.0]))
                await call.finish()
                assert call.acknowledged.labels == 1


async def test_the_sdk_goes_on_after_a_restart_and_raises_what_is_refused_where_it_is_told_to(tmp_path):
    async with crash.a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SPEC)
        async with client.learn("flow", "mill", acknowledge="learned") as learning:
            assert learning.next_window == 1
            for n in range(10):
                await learning.window(np.full(4, n), 1.0)
            await server.stop()
            await server.start()
            await learning.window(np.ones(4), 1.0)
            await learning.window(np.ones(5000), np.ones(5000))
            with pytest.raises(freshet.WindowRefused, match=r"window\.steps"):
                await within(learning.flush())
            await learning.window(np.ones(4), 1.0)
            await within(learning.flush())
            assert learning.reconnects >= 1
            assert learning.next_window == 13, "a refused window leaves its number free"
            await learning.label("nobody", 1, 1.0)
            with pytest.raises(freshet.LabelRefused, match=r"label\.stream"):
                await within(learning.flush())
        seen = await scrape(server.http)
        # Of the 12; those before the restart may have been learned, and counted, by the server before.
        assert 2 <= seen.total("freshet_windows_learned_total", model="flow") <= 12

        async with client.learn("flow", "mill", on_refused="keep") as again:
            assert again.next_window == 13
            await again.label("nobody", 1, 1.0)
            await again.window([1.0, 2.0], [1.0, 2.0])
        assert [(e.stream, e.seq, e.reason) for e in again.refused if isinstance(e, freshet.LabelRefused)] == [
            ("nobody", 1, freshet.Reason.UNKNOWN_TICK)
        ]


async def test_a_second_sender_of_a_source_takes_over_and_the_first_is_told(server, client, name):
    await client.create_model(name, **SPEC)

    async def first(may_end: asyncio.Event) -> None:
        async with client.learn(name, "mill") as learning:
            await learning.window(np.ones(4), 1.0)
            await learning.flush()
            sent.set()
            await may_end.wait()
            await learning.window(np.ones(4), 1.0)

    sent, taken_over = asyncio.Event(), asyncio.Event()
    sending = asyncio.create_task(first(taken_over))
    await within(sent.wait())
    async with client.learn(name, "mill") as second:
        assert second.next_window == 2
        taken_over.set()
        with pytest.raises(freshet.TakenOver, match="another call sends as mill"):
            await within(sending)
        await second.window(np.ones(4), 1.0)
    assert second.next_window == 3
