"""Training.Learn by hand: what is taken in, acknowledged, taken in once; what is refused, and that the call goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import freshet
from freshet.v1 import training_pb2 as pb
from freshet.v1 import types_pb2
from tests.journeys.raw import RawLearn, RawStream, refused_field
from tests.journeys.scraped import scrape

SMALL: dict[str, Any] = {"channels": ["a", "b"], "hidden": 4, "learning_rate": 1e-3}
T = 12


@pytest_asyncio.fixture(loop_scope="session")
async def flow(client: freshet.Client) -> str:
    """A model that forecasts; the tests differ in their sources."""
    await client.create_model("flow", **SMALL)
    return "flow"


def window(seq: int, steps: int = T, seed: int = 0, **parts: Any) -> pb.Window:
    rng = np.random.default_rng([seed, seq])
    rows = {"x": rng.normal(size=(steps, 2)), "y": rng.normal(size=(steps, 2))} | parts
    return pb.Window(
        window_seq=seq,
        steps=steps,
        **{k: v if isinstance(v, bytes) else v.astype("<f4").tobytes() for k, v in rows.items()},
    )


async def test_windows_are_acknowledged_and_a_later_call_of_the_source_goes_on_behind_them(channel, flow):
    async with RawLearn(channel, flow, "mill") as call:
        assert call.welcome.next_window_seq == 1
        assert call.welcome.version >= 1
        for seq in range(1, 6):
            await call.say(window=window(seq))
        await call.finish()
        assert (call.acknowledged.windows, call.acknowledged.window_seq) == (5, 5)
        assert not call.refused

    async with RawLearn(channel, flow, "mill") as call:
        assert call.welcome.next_window_seq == 6
    async with RawLearn(channel, flow, "another") as call:
        assert call.welcome.next_window_seq == 1


async def test_a_repeated_window_is_acknowledged_again_and_taken_in_once(server, channel, flow):
    before = await scrape(server.http)

    async with RawLearn(channel, flow, "twice") as call:
        for seq in (1, 2, 1, 2, 3, 3):
            await call.say(window=window(seq))
        await call.finish()

    assert (call.acknowledged.windows, call.acknowledged.window_seq) == (6, 3)
    after = await scrape(server.http)
    for name, n in (("freshet_windows_total", 3), ("freshet_windows_repeated_total", 3)):
        assert after.total(name, model=flow) - before.total(name, model=flow) == n


async def test_a_window_repeated_on_a_later_call_is_acknowledged_though_nothing_is_left_to_commit(channel, client):
    await client.create_model("paused", **SMALL)
    await client.pause("paused")  # learning would commit a version some time, which acknowledges too

    for _ in range(20):  # the trainer's report that it has read the window acknowledges one repetition
        async with RawLearn(channel, "paused", "later") as call:
            await call.say(window=window(1))
            await call.until(windows=1)


async def test_a_gap_between_windows_is_refused_with_both_numbers_and_the_right_one_is_taken(channel, flow):
    async with RawLearn(channel, flow, "gaps") as call:
        await call.say(window=window(1))
        refused = await call.refusal(window=window(4))
        assert (refused.reason, refused.seq, refused.item) == (types_pb2.Refused.GAP, 4, 2)
        assert (refused.field, refused.value) == ("window.window_seq", "4")
        assert "the next one of source gaps is 2" in refused.remedy

        await call.say(window=window(2))
        await call.finish()
    assert (call.acknowledged.windows, call.acknowledged.window_seq) == (2, 2)


async def test_two_sources_send_at_once(channel, flow):
    async def send(source: str) -> None:
        async with RawLearn(channel, flow, source) as call:
            for seq in range(1, 51):
                await call.say(window=window(seq))
            await call.finish()
            assert (call.acknowledged.windows, call.acknowledged.window_seq) == (50, 50)

    await asyncio.gather(send("left"), send("right"))


async def test_a_later_call_of_the_same_source_fences_the_earlier(channel, flow):
    async with RawLearn(channel, flow, "fenced") as earlier:
        await earlier.say(window=window(1))
        await earlier.until(windows=1)
        async with RawLearn(channel, flow, "fenced") as later:
            assert later.welcome.next_window_seq == 2
            error = await earlier.error()
            assert error.code() is grpc.StatusCode.ABORTED
            assert "taken over" in (error.details() or "")
            await later.say(window=window(2))
            await later.finish()
    assert later.acknowledged.windows == 1


NOT_A_HELLO: dict[str, Any] = {
    "a window": {"window": window(1)},
    "a label": {"label": pb.StreamLabel(stream="s", seq=1, y=[1.0])},
    "an empty message": {},
}


@pytest.mark.parametrize("case", NOT_A_HELLO)
async def test_a_call_must_begin_with_hello(channel, case):
    call = RawLearn(channel)

    await call.say(**NOT_A_HELLO[case])
    error = await call.error()

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(error)[0] == "message"
    assert "LearnHello" in (error.details() or "")


BAD_HELLOS: dict[str, Any] = {
    "no source": ({"source": ""}, grpc.StatusCode.INVALID_ARGUMENT, "hello.source"),
    "a reserved source": ({"source": "replay"}, grpc.StatusCode.INVALID_ARGUMENT, "hello.source"),
    "an unprintable source": ({"source": "a\0b"}, grpc.StatusCode.INVALID_ARGUMENT, "hello.source"),
    "an unknown model": ({"model": "nobody"}, grpc.StatusCode.NOT_FOUND, "model"),
    "an unknown acknowledgement": ({"acknowledge": 7}, grpc.StatusCode.INVALID_ARGUMENT, "hello.acknowledge"),
}


@pytest.mark.parametrize("case", BAD_HELLOS)
async def test_a_hello_that_cannot_be_is_refused_by_name(channel, flow, case):
    wrong, code, field = BAD_HELLOS[case]
    call = RawLearn(channel, **({"model": flow, "source": "s"} | wrong))

    await call.say(hello=call._hello)
    error = await call.error()

    assert error.code() is code
    assert refused_field(error)[0] == field


async def test_a_second_hello_ends_the_call(channel, flow):
    async with RawLearn(channel, flow, "again") as call:
        await call.say(hello=pb.LearnHello(model=flow, source="again"))
        error = await call.error()
    assert (error.code(), refused_field(error)[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "message")


BAD_WINDOWS = {
    "no steps": (window(1, steps=0), types_pb2.Refused.SHAPE, "window.steps"),
    "absurdly many steps": (pb.Window(window_seq=1, steps=2**32 - 1),
                            types_pb2.Refused.SHAPE, "window.steps"),
    "x cut short": (window(1, x=b"\0" * 7), types_pb2.Refused.SHAPE, "window.x"),
    "too much y": (window(1, y=b"\0" * 500_000), types_pb2.Refused.SHAPE, "window.y"),
    "NaN": (window(1, x=np.full((T, 2), np.nan)), types_pb2.Refused.NON_FINITE, "window.x[0, 0]"),
    "a negative weight": (window(1, weight=np.full((T, 2), -1.0)), types_pb2.Refused.INVALID, "window.weight[0, 0]"),
    "a state of another layout": (window(1, initial_state=b"\0" * 4), types_pb2.Refused.SHAPE, "window.initial_state"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WINDOWS)
async def test_a_refused_window_is_named_and_its_number_stays_free(channel, flow, case):
    bad, reason, field = BAD_WINDOWS[case]
    async with RawLearn(channel, flow, f"bad {case}") as call:
        refused = await call.refusal(window=bad)
        assert (refused.reason, refused.field, refused.seq, refused.item) == (reason, field, 1, 1)
        assert refused.value
        assert "send" in refused.remedy or "weight" in refused.remedy

        await call.say(window=window(1))
        await call.finish()
        assert (call.acknowledged.windows, call.acknowledged.window_seq) == (1, 1)


async def test_a_model_that_forecasts_takes_no_labels_and_says_what_to_send(channel, flow):
    async with RawStream(channel, flow, "pump") as stream:
        await stream.tick(1, [1.0, 2.0])
        refused = (await stream.ask(label={"seq": 1, "y": [1.0, 2.0]})).refused
        assert (refused.reason, refused.field, refused.item) == (types_pb2.Refused.UNSUPPORTED, "label", 1)
    async with RawLearn(channel, flow, "labels") as call:
        refused = await call.refusal(label=pb.StreamLabel(stream="pump", seq=1, y=[1.0, 2.0]))
        assert refused.reason == types_pb2.Refused.UNSUPPORTED
        assert "Training.Learn" in refused.remedy


async def test_a_million_values_in_one_label_are_refused_and_the_server_goes_on(channel, flow):
    """Within the limit of a message they are counted and refused; beyond it, gRPC ends the call."""
    async with RawLearn(channel, flow, "flood") as call:
        assert (await call.refusal(label=pb.StreamLabel(stream="pump", seq=1, y=[1.0] * 250_000))).field == "label"
        await call.say(label=pb.StreamLabel(stream="pump", seq=1, y=[1.0] * 1_000_000))
        assert (await call.error()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    async with RawLearn(channel, flow, "flood") as call:
        await call.say(window=window(1))
        await call.finish()
        assert call.acknowledged.windows == 1
