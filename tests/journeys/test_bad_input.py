"""Invalid messages are refused by name, and the next valid tick is answered as if they had not been sent.

Each test keeps two streams of a model that does not learn: the subject, which is told the nonsense, and its twin,
which is not. Both get the same valid ticks, one at a time, and must be answered alike, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import freshet
from freshet.v1 import models_pb2, models_pb2_grpc, types_pb2
from freshet.v1 import streams_pb2 as pb
from service.common.errors import shown
from service.programs.backtest.child import ServerChild
from tests.journeys.raw import RawStream, error_info, refused_field
from tests.journeys.scraped import scraped_until

Refused = types_pb2.Refused

ROWS = np.cumsum(np.random.default_rng(7).standard_normal((9, 2)), axis=0).astype(np.float32).tolist()
LATEST = 1e9  # event time of tick 3, if the model has an interval
MINUTE = 60.0
SERVING_ONLY: dict[str, Any] = {
    "learn": False,
    "head_init": 0.3,
    "hidden": 8,
}  # not zero: forecasts differ with the state


def time_of(seq: int) -> float:
    return LATEST + MINUTE * (seq - 3)


class Pair:
    """The subject and its twin, both after ticks 1 to 3."""

    def __init__(self, channel: grpc.aio.Channel, model: str, case: str, timed: bool = False) -> None:
        self._channel, self._model, self._case, self._timed = channel, model, case, timed
        self.next_seq = 1

    def open(self, role: str) -> RawStream:
        return RawStream(self._channel, self._model, f"{self._case} {role}")

    async def begin(self) -> RawStream:
        """Open both and bring them to tick 3; returns the subject, which the caller cancels."""
        self.twin = await self.open("twin").__aenter__()
        subject = await self.open("subject").__aenter__()
        await self.agree(subject)
        return subject

    async def agree(self, subject: RawStream, ticks: int = 3) -> None:
        """The next valid ticks are answered alike on both."""
        for seq in range(self.next_seq, self.next_seq + ticks):
            time = time_of(seq) if self._timed else None
            ours, theirs = [(await s.tick(seq, ROWS[seq - 1], time)).forecast for s in (subject, self.twin)]
            assert ours.seq == theirs.seq == seq
            assert list(ours.y) == list(theirs.y)
            assert ours.version == theirs.version
            assert seq < 2 or list(ours.y) != pytest.approx(ROWS[seq - 1])  # more than persistence
        self.next_seq += ticks

    async def agree_resumed(self) -> None:
        """The subject's call is over: a new one goes on where the old one was."""
        async with self.open("subject") as subject:
            assert subject.welcome.next_seq == self.next_seq
            assert subject.welcome.state_origin == pb.Welcome.RESUMED
            await self.agree(subject)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def models(server: ServerChild) -> AsyncIterator[None]:
    async with freshet.connect(server.grpc) as client:
        await client.create_model("plain", ["a", "b"], **SERVING_ONLY)
        await client.create_model("timed", ["a", "b"], interval=MINUTE, **SERVING_ONLY)
        yield


def tick(seq: int, x: list[float], time: float | None = None) -> dict[str, object]:
    return {"tick": pb.Tick(seq=seq, x=x, time=time)}


OK = [0.5, -0.5]
REFUSED_TICKS: dict[str, Any] = {
    "too few values": (tick(4, [1.0]), Refused.SHAPE, "x", "1 values", "2 values"),
    "too many values": (tick(4, [1.0] * 3), Refused.SHAPE, "x", "3 values", "2 values"),
    "no value": (tick(4, []), Refused.SHAPE, "x", "0 values", "2 values"),
    "thousands of values": (tick(4, [1.0] * 50_000), Refused.SHAPE, "x", "50000 values", "2 values"),
    "NaN": (tick(4, [1.0, math.nan]), Refused.NON_FINITE, "x[1]", "nan", "finite"),
    "+Inf": (tick(4, [math.inf, 1.0]), Refused.NON_FINITE, "x[0]", "inf", "finite"),
    "-Inf": (tick(4, [1.0, -math.inf]), Refused.NON_FINITE, "x[1]", "-inf", "finite"),
    "1e38": (tick(4, [1.0, 1e38]), Refused.TOO_LARGE, "x[1]", "1e+38", "1e+15"),
    "-1e38": (tick(4, [-1e38, 1.0]), Refused.TOO_LARGE, "x[0]", "-1e+38", "1e+15"),
    "seq skipped": (tick(6, OK), Refused.GAP, "seq", "6", "4"),
    "seq far ahead": (tick(2**64 - 1, OK), Refused.GAP, "seq", str(2**64 - 1), "4"),
    "seq 0": (tick(0, OK), Refused.GAP, "seq", "0", "4"),
    "seq repeated with another payload": (tick(3, OK), Refused.CONFLICT, "x", "had", "4"),
    "seq going back with another payload": (tick(1, OK), Refused.CONFLICT, "x", "had", "4"),
    "seq repeated with another length": (tick(3, [1.0]), Refused.CONFLICT, "x", "had", "4"),
    "seq repeated with another time": (tick(3, ROWS[2], 5.0), Refused.CONFLICT, "x", "had", "4"),
    "infinite time": (tick(4, OK, math.inf), Refused.TIME, "time", "inf", "seconds"),
    "a label": ({"label": pb.Label(seq=2, y=[1.0, 1.0])}, Refused.UNSUPPORTED, "label", "2", "labels"),
}


@pytest.mark.parametrize("case", REFUSED_TICKS)
@pytest.mark.usefixtures("models")
async def test_a_refused_message_is_named_and_the_next_tick_is_answered_as_if_it_had_not_come(channel, case):
    message, reason, field, value, remedy = REFUSED_TICKS[case]
    pair = Pair(channel, "plain", case)
    subject = await pair.begin()

    refused = (await subject.ask(**message)).refused

    assert refused.reason == reason
    assert refused.field == field
    assert value in refused.value
    assert remedy in refused.remedy
    assert refused.seq == next(iter(message.values())).seq
    await pair.agree(subject)
    subject.call.cancel()


REFUSED_TIMES = {
    "missing": (None, "none"),
    "NaN": (math.nan, "nan"),
    "infinite": (math.inf, "inf"),
    "minus infinite": (-math.inf, "inf"),
    "absurd": (1e300, "1e+300"),
    "equal": (time_of(3), f"{time_of(3):.3f}"),
    "decreasing": (time_of(2), f"{time_of(2):.3f}"),
}


@pytest.mark.parametrize("case", REFUSED_TIMES)
@pytest.mark.usefixtures("models")
async def test_a_bad_event_time_is_refused_if_the_calendar_needs_it(channel, case):
    time, value = REFUSED_TIMES[case]
    pair = Pair(channel, "timed", f"time {case}", timed=True)
    subject = await pair.begin()

    refused = (await subject.tick(4, OK, time)).refused

    assert (refused.seq, refused.reason, refused.field) == (4, Refused.TIME, "time")
    assert value in refused.value
    assert refused.remedy
    await pair.agree(subject)
    subject.call.cancel()


@pytest.mark.usefixtures("models")
async def test_a_repeated_tick_gets_its_first_answer_again(channel):
    pair = Pair(channel, "plain", "repeated")
    async with pair.open("subject") as subject:
        first = [(await subject.tick(seq, ROWS[seq - 1])).forecast for seq in (1, 2, 3)]

        again = [(await subject.tick(seq, ROWS[seq - 1])).forecast for seq in (3, 1, 2, 2)]

    assert again == [first[2], first[0], first[1], first[1]]
    pair.twin = await pair.open("twin").__aenter__()
    for seq in (1, 2, 3):
        await pair.twin.tick(seq, ROWS[seq - 1])
    pair.next_seq = 4
    await pair.agree_resumed()


@pytest.mark.usefixtures("models")
async def test_a_burst_of_nonsense_is_refused_one_by_one_and_in_order(channel):
    pair = Pair(channel, "plain", "burst")
    subject = await pair.begin()
    burst = [message for message, *_ in REFUSED_TICKS.values()]

    for message in burst:
        await subject.say(**message)
    answers = [await subject.answer() for _ in burst]

    assert [a.refused.reason for a in answers] == [reason for _, reason, *_ in REFUSED_TICKS.values()]
    await pair.agree(subject)
    subject.call.cancel()


# --- what ends the call, and nothing else


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("message", [{"hello": pb.Hello(model="plain", stream="other")}, {}], ids=["hello", "empty"])
async def test_a_message_out_of_place_ends_the_call_and_the_stream_resumes(channel, message):
    pair = Pair(channel, "plain", f"out of place {sorted(message)}")
    subject = await pair.begin()

    await subject.say(**message)
    error = await subject.error()

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    field, description = refused_field(error)
    assert field == "message"
    assert "Hello once" in description
    await pair.agree_resumed()


@pytest.mark.usefixtures("models")
async def test_a_message_over_the_limit_ends_the_call_and_the_stream_resumes(channel):
    pair = Pair(channel, "plain", "over the limit")
    subject = await pair.begin()

    await subject.say(**tick(4, [1.0] * 300_000))  # 1.2 MB, the limit is 1 MiB
    error = await subject.error()

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await pair.agree_resumed()


@pytest.mark.usefixtures("models")
async def test_bytes_that_are_no_message_end_the_call_and_the_stream_resumes(channel):
    pair = Pair(channel, "plain", "no message")
    subject = await pair.begin()
    raw = channel.stream_stream("/freshet.v1.Streams/Open")(timeout=60)
    await raw.write(pb.OpenRequest(hello=pb.Hello(model="plain", stream="no message subject")).SerializeToString())
    await raw.read()

    await raw.write(b"\xff\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012
        while await raw.read() is not grpc.aio.EOF:
            pass  # Durable may come first

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(caught.value)[0] == "message"
    subject.call.cancel()
    await pair.agree_resumed()


FIRST_MESSAGES: dict[str, Any] = {
    "a tick": tick(1, OK),
    "a label": {"label": pb.Label(seq=1)},
    "a reset": {"reset": pb.Reset()},
    "an empty message": {},
}


@pytest.mark.parametrize("case", FIRST_MESSAGES)
async def test_a_call_must_begin_with_hello(channel, case):
    call = RawStream(channel)

    await call.say(**FIRST_MESSAGES[case])
    error = await call.error()

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(error)[0] == "message"
    assert "Hello" in (error.details() or "")


async def test_an_empty_call_ends_like_one_without_hello(channel):
    call = RawStream(channel)

    await call.call.done_writing()
    error = await call.error()

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("model", ["nobody", "", "../x", "Upper", "x" * 4096, "\x00", "☃"], ids=ascii)
async def test_an_unknown_model_is_not_found_by_name(channel, model):
    call = RawStream(channel, model, "s")

    await call.say(hello=pb.Hello(model=model, stream="s"))
    error = await call.error()

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert refused_field(error)[0] == "model"
    assert model[:40] in (error.details() or "")
    assert len(error.details() or "") < 500


@pytest.mark.parametrize("stream", ["", "s" * 257, "s" * 4096, "a\nb", "\x00", "\x1b[2J", "\u200b"], ids=ascii)
@pytest.mark.usefixtures("models")
async def test_an_invalid_stream_id_is_refused(channel, stream):
    call = RawStream(channel)

    await call.say(hello=pb.Hello(model="plain", stream=stream))
    error = await call.error()

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    field, description = refused_field(error)
    assert field == "stream"
    assert "1 to 256 printable" in description
    assert len(error.details() or "") < 500


@pytest.mark.parametrize("stream", ["s" * 256, "☃ 1", "../x", "a b/c:d"], ids=ascii)
@pytest.mark.usefixtures("models")
async def test_any_printable_stream_id_is_accepted(channel, stream):
    async with RawStream(channel, "plain", stream) as call:
        assert call.welcome.stream_id == stream
        assert (await call.tick(1, OK)).forecast.seq == 1


# --- models that cannot be


async def refusal(channel: grpc.aio.Channel, name: str, spec: types_pb2.ModelSpec) -> grpc.aio.AioRpcError:
    create = models_pb2_grpc.ModelsStub(channel).Create
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await create(models_pb2.CreateModelRequest(name=name, spec=spec), timeout=60)
    return caught.value


@pytest.mark.parametrize("model", ["", "../x", "Upper", "x" * 65, "x" * 4096, "9lives", "a b", "a\n", "☃"], ids=ascii)
async def test_an_invalid_model_name_is_refused(channel, client, model):
    error = await refusal(channel, model, types_pb2.ModelSpec(channels=["x"]))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    field, description = refused_field(error)
    assert field == "name"
    assert "give 1 to 64 of a-z" in description  # preceded by the offending character if it is hard to see
    info = error_info(error)
    assert (info.reason, info.domain) == ("INVALID", "freshet")
    assert info.metadata["value"] == (shown(model) or "(empty)")
    assert model not in [m.name for m in await client.list_models()]


NAMES_4096 = [f"c{i}" for i in range(4096)]
BAD_SPECS: dict[str, Any] = {
    "no channels": ({"channels": []}, "channels"),
    "too many channels": ({"channels": [f"c{i}" for i in range(4097)]}, "channels"),
    "an unnamed channel": ({"channels": ["a", ""]}, "channels"),
    "a channel twice": ({"channels": ["a", "a"]}, "channels"),
    "an unknown target": ({"targets": ["z"]}, "targets"),
    "an unknown cell": ({"cell": "transformer"}, "cell"),
    "an empty cell": ({"cell": ""}, "cell"),
    "an unknown task": ({"task": "translate"}, "task"),
    "horizon 0": ({"horizon": 0}, "horizon"),
    "an endless horizon": ({"horizon": 2**32 - 1}, "horizon"),
    "no layer": ({"layers": 0}, "layers"),
    "endless layers": ({"layers": 2**32 - 1}, "layers"),
    "nothing hidden": ({"hidden": 0}, "hidden"),
    "endless hidden": ({"hidden": 2**32 - 1}, "hidden"),
    "an endless window": ({"window": 2**32 - 1}, "window"),
    "a window shorter than the horizon needs": ({"horizon": 24, "window": 25}, "window"),
    "an endless interval": ({"interval": math.inf}, "interval"),
    "a negative interval": ({"interval": -1.0}, "interval"),
    "a NaN rate": ({"learning_rate": math.nan}, "learning_rate"),
    "a huge rate": ({"learning_rate": 1e9}, "learning_rate"),
    "no clip": ({"clip": 0.0}, "clip"),
    "an endless seed": ({"seed": 2**64 - 1}, "seed"),
    "too many outputs": ({"channels": NAMES_4096, "horizon": 1024}, "horizon"),
    "too many parameters": ({"channels": NAMES_4096, "horizon": 2, "hidden": 1024}, "hidden"),
    "too much to keep": ({"channels": NAMES_4096[:8], "horizon": 1024, "hidden": 8}, "horizon"),
    "too much to unroll": ({"channels": NAMES_4096, "targets": ["c0"], "hidden": 1, "window": 4096}, "window"),
}


@pytest.mark.parametrize("case", BAD_SPECS)
async def test_an_invalid_spec_is_refused_by_field(channel, case):
    spec, field = BAD_SPECS[case]

    error = await refusal(channel, "never", types_pb2.ModelSpec(**{"channels": ["a"], **spec}))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(error)[0] == f"spec.{field}"
    assert len(error.details() or "") < 500


async def test_an_empty_spec_is_refused_by_field(channel):
    error = await refusal(channel, "never", types_pb2.ModelSpec())

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused_field(error)[0] == "spec.channels"


async def test_the_sdk_names_field_value_and_remedy_of_a_refusal(client):
    with pytest.raises(freshet.InvalidArgument) as caught:
        await client.create_model("Upper", ["x"])

    error = caught.value
    assert (error.field, error.value) == ("name", "Upper")
    assert error.remedy.startswith("give 1 to 64 of a-z")


@pytest.mark.usefixtures("models")
async def test_a_call_that_ended_with_an_error_leaves_nothing_behind(server, client):
    assert {m.name for m in await client.list_models()} == {"plain", "timed"}
    await scraped_until(server.http, lambda seen: seen.total("freshet_streams_open") == 0)
