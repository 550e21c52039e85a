"""Labels by hand: late, by two ways, once, twice, wrong; what becomes of each is known, and what cannot be learned is
listed, and learned after all when asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import freshet
from freshet.v1 import streams_pb2, training_pb2_grpc, types_pb2
from freshet.v1 import training_pb2 as pb
from tests.journeys.raw import DEADLINE_S, RawLearn, RawStream, refused_field
from tests.journeys.scraped import Scraped, scrape, scraped_until

SETTINGS = {"checkpoint_chunks": 4}
SPEC: dict[str, Any] = {
    "channels": ["a", "b"], "task": "regress", "targets": ["q"], "hidden": 4, "label_horizon": 20, "window": 12,
    "learning_rate": 1e-3,
}  # fmt: skip
ROWS = np.random.default_rng(3).normal(size=(200, 2)).astype(np.float32)


@pytest_asyncio.fixture(loop_scope="session")
async def model(client: freshet.Client, name: str) -> str:
    await client.create_model(name, **SPEC)
    return name


async def ticks(stream: RawStream, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        assert (await stream.tick(seq, ROWS[seq - 1].tolist())).HasField("forecast")


def label(seq: int, y: float | list[float], stream: str = "") -> dict[str, Any]:
    values = [y] if isinstance(y, float) else y
    if stream:
        return {"label": pb.StreamLabel(stream=stream, seq=seq, y=values)}
    return {"label": streams_pb2.Label(seq=seq, y=values)}


async def labels_durable(stream: RawStream, n: int) -> None:
    while stream.durable.labels < n:
        assert await stream.hear() is not None


def training(channel: grpc.aio.Channel) -> training_pb2_grpc.TrainingAsyncStub:
    return training_pb2_grpc.TrainingStub(channel)


async def quarantine(channel: grpc.aio.Channel, model: str) -> list[pb.Quarantined]:
    answer = await training(channel).Quarantine(pb.QuarantineRequest(model=model), timeout=DEADLINE_S)
    return list(answer.items)


def outcomes(seen: Scraped, model: str) -> Counter[str]:
    """What became of the labels and windows that a model was sent, as its metrics tell."""
    names = {
        "labels": "freshet_labels_total", "windows": "freshet_windows_total",
        "learned": "freshet_labels_learned_total", "learned windows": "freshet_windows_learned_total",
        "duplicate": "freshet_labels_duplicate_total", "quarantined": "freshet_labels_quarantined_total",
        "in quarantine": "freshet_quarantine_items", "unlearned": "freshet_labels_unlearned_total",
    }  # fmt: skip
    return Counter({key: int(seen.total(name, model=model)) for key, name in names.items()})


async def outcomes_are(http: str, model: str, **expected: int) -> None:
    wanted = {key.replace("_", " "): value for key, value in expected.items()}

    def so(seen: Scraped) -> bool:
        return {key: outcomes(seen, model)[key] for key in wanted} == wanted

    try:
        await scraped_until(http, so)
    except TimeoutError as error:
        raise AssertionError(f"{outcomes(await scrape(http), model)}, expected {wanted}") from error


async def test_labels_of_a_stream_are_counted_as_they_reach_the_disk_and_each_is_learned_once(server, channel, model):
    async with RawStream(channel, model, "pump") as stream:
        await ticks(stream, 1, 30)
        for seq in (12, 30, 11, 25):
            await stream.say(**label(seq, float(seq)))
        await labels_durable(stream, 4)
        assert stream.durable.labels == 4
        await stream.finish()

    await outcomes_are(server.http, model, labels=4, learned=4, quarantined=0)


async def test_labels_come_from_another_process_for_any_stream_without_opening_it(server, channel, model):
    async with RawStream(channel, model, "pump") as one, RawStream(channel, model, "mill") as other:
        await ticks(one, 1, 15)
        await ticks(other, 1, 9)
        async with RawLearn(channel, model, "laboratory") as call:
            for seq in range(1, 10):
                await call.say(**label(seq, 1.0 * seq, "pump"))
                await call.say(**label(seq, -1.0 * seq, "mill"))
            await call.finish()
        assert call.acknowledged.labels == 18
        assert not call.refused
        await ticks(one, 16, 17)  # the streams go on undisturbed

    await outcomes_are(server.http, model, labels=18, learned=18)


async def test_learned_is_acknowledged_when_the_trainer_has_learned_it(server, channel, model):
    async with RawStream(channel, model, "pump") as stream:
        await ticks(stream, 1, 15)
        async with RawLearn(channel, model, "laboratory", acknowledge=pb.LearnHello.LEARNED) as call:
            for seq in range(1, 11):
                await call.say(**label(seq, 1.0 * seq, "pump"))
            await call.until(labels=10)
            assert outcomes(await scrape(server.http), model)["learned"] == 10
            await call.say(**label(11, 1.0, "pump"))
            await call.finish()
            assert call.acknowledged.labels == 11
            assert outcomes(await scrape(server.http), model)["learned"] == 11


async def test_the_same_label_again_changes_nothing_and_another_value_is_quarantined_as_a_conflict(
    server, channel, model
):
    async with RawStream(channel, model, "pump") as stream, RawLearn(channel, model, "laboratory") as call:
        await ticks(stream, 1, 15)
        await stream.say(**label(10, 1.5))
        await labels_durable(stream, 1)
        await stream.say(**label(10, 1.5))
        await call.say(**label(10, 1.5, "pump"))
        await call.until(labels=1)
        await call.say(**label(10, 2.5, "pump"))
        await call.until(labels=2)
        await labels_durable(stream, 2)

        (item,) = await quarantine(channel, model)

    assert (item.id, item.reason, item.stream, item.seq, list(item.y)) == (1, "conflict", "pump", 10, [2.5])
    assert not item.source
    await outcomes_are(server.http, model, labels=4, learned=1, duplicate=2, quarantined=1, in_quarantine=1)


async def test_a_label_for_a_tick_before_a_reset_is_quarantined_as_late(server, channel, model):
    async with RawStream(channel, model, "pump") as stream:
        await ticks(stream, 1, 10)
        await stream.say(reset=streams_pb2.Reset())
        await ticks(stream, 11, 12)
        await stream.say(**label(10, 1.0))
        await stream.say(**label(12, 1.0))
        await labels_durable(stream, 2)

        (item,) = await quarantine(channel, model)

    assert (item.reason, item.stream, item.seq) == ("late", "pump", 10)
    await outcomes_are(server.http, model, labels=2, learned=1, quarantined=1)


BAD_LABELS = {
    "a tick never seen": (label(31, 1.0), types_pb2.Refused.UNKNOWN_TICK, "label.seq", "31", "30"),
    "a tick long gone": (label(10, 1.0), types_pb2.Refused.UNKNOWN_TICK, "label.seq", "10", "label_horizon is 20"),
    "tick 0": (label(0, 1.0), types_pb2.Refused.UNKNOWN_TICK, "label.seq", "0", "label ticks 1 to 30"),
    "no values": (label(30, []), types_pb2.Refused.SHAPE, "label.y", "0 values", "1 values, one per target"),
    "too many values": (label(30, [1.0] * 1000), types_pb2.Refused.SHAPE, "label.y", "1000 values", "1 values"),
    "a quarter of a million": (label(30, [1.0] * 250_000), types_pb2.Refused.SHAPE, "label.y", "250000", "1 values"),
    "NaN": (label(30, float("nan")), types_pb2.Refused.NON_FINITE, "label.y[0]", "nan", "finite"),
    "infinite": (label(30, float("-inf")), types_pb2.Refused.NON_FINITE, "label.y[0]", "-inf", "finite"),
    "huge": (label(30, 1e30), types_pb2.Refused.TOO_LARGE, "label.y[0]", "1e+30", "1e+15"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
async def test_a_bad_label_is_refused_by_name_on_both_ways_and_what_follows_is_taken(client, channel, case):
    message, reason, field, value, remedy = BAD_LABELS[case]
    await client.create_model("strict", **SPEC)
    async with RawStream(channel, "strict", case) as stream, RawLearn(channel, "strict", case) as call:
        await ticks(stream, 1, 30)
        await stream.say(**label(29, 1.0))
        refused = (await stream.ask(**message)).refused
        await call.say(**label(28, 1.0, case))
        elsewhere = await call.refusal(**label(message["label"].seq, list(message["label"].y), case))

        for found in (refused, elsewhere):
            assert (found.reason, found.field, found.item) == (reason, field, 2)
            assert found.seq == message["label"].seq
            assert value in found.value
            assert remedy in found.remedy
        await stream.say(**label(27, 1.0))
        await ticks(stream, 31, 31)
        await labels_durable(stream, 2)
        await call.say(**label(26, 1.0, case))
        await call.finish()
        assert call.acknowledged.labels == 2


async def test_a_label_for_a_stream_that_was_never_seen_is_refused_by_name(channel, model):
    async with RawLearn(channel, model, "laboratory") as call:
        refused = await call.refusal(**label(1, 1.0, "nobody"))

    assert (refused.reason, refused.field, refused.value) == (types_pb2.Refused.UNKNOWN_TICK, "label.stream", "nobody")
    assert "send its ticks first" in refused.remedy


async def test_classes_are_labelled_with_probabilities_and_anything_else_is_refused(server, client, channel, name):
    await client.create_model(name, channels=["a", "b"], task="classify", classes=["calm", "storm"], hidden=4)
    async with RawStream(channel, name, "sky") as stream:
        answer = await stream.tick(1, [1.0, 2.0])
        assert sum(answer.forecast.y) == pytest.approx(1, abs=1e-6)
        refused = (await stream.ask(**label(1, [0.9, 0.9]))).refused
        assert (refused.reason, refused.field) == (types_pb2.Refused.INVALID, "label.y")
        assert "sum 1.8" in refused.value
        assert (await stream.ask(**label(1, [1.0]))).refused.reason == types_pb2.Refused.SHAPE
        await stream.say(**label(1, [0.0, 1.0]))
        await labels_durable(stream, 1)

    await outcomes_are(server.http, name, labels=1, learned=1)


async def test_whole_windows_are_learned_once_each(server, channel, model):
    rng = np.random.default_rng(1)
    async with RawLearn(channel, model, "archive", acknowledge=pb.LearnHello.LEARNED) as call:
        for seq in (1, 2, 2, 3, 1, 4):
            x, y = rng.normal(size=(7, 2)).astype("<f4"), rng.normal(size=(7, 1)).astype("<f4")
            await call.say(window=pb.Window(window_seq=seq, steps=7, x=x.tobytes(), y=y.tobytes()))
        await call.finish()

    assert (call.acknowledged.windows, call.acknowledged.window_seq) == (6, 4)
    await outcomes_are(server.http, model, windows=4, learned_windows=4, quarantined=0)


# ---- replay


@pytest_asyncio.fixture(loop_scope="session")
async def quarantined(channel: grpc.aio.Channel, model: str) -> AsyncIterator[str]:
    """A model with three labels in its quarantine: 1 and 2 conflicts, 3 late."""
    async with RawStream(channel, model, "pump") as stream:
        await ticks(stream, 1, 20)
        for seq, y in ((15, 1.0), (16, 1.0), (15, 2.0), (16, 2.0)):
            await stream.say(**label(seq, y))
        await stream.say(reset=streams_pb2.Reset())
        await ticks(stream, 21, 21)
        await stream.say(**label(20, 1.0))
        await labels_durable(stream, 5)
        assert [item.reason for item in await quarantine(channel, model)] == ["conflict", "conflict", "late"]
        yield model


async def replay(channel: grpc.aio.Channel, model: str, *ids: int) -> pb.ReplayResponse:
    return await training(channel).Replay(pb.ReplayRequest(model=model, ids=ids), timeout=DEADLINE_S)


async def test_replayed_labels_are_learned_as_windows_and_leave_the_quarantine(server, channel, quarantined):
    answer = await replay(channel, quarantined, 1, 3, 7)

    assert list(answer.replayed) == [1, 3]
    assert dict(answer.refused) == {7: "not in the quarantine, or no longer"}
    assert [item.id for item in await quarantine(channel, quarantined)] == [2]
    await outcomes_are(server.http, quarantined, learned=4, learned_windows=2, in_quarantine=1, quarantined=3)


async def test_an_item_that_is_replayed_by_two_at_once_is_learned_once(server, channel, quarantined):
    answers = await asyncio.gather(*(replay(channel, quarantined, 1, 2) for _ in range(4)))

    assert any(list(answer.replayed) == [1, 2] for answer in answers)
    assert [item.id for item in await quarantine(channel, quarantined)] == [3]
    await outcomes_are(server.http, quarantined, learned=4, learned_windows=2, in_quarantine=1)


async def test_pages_of_a_quarantine_follow_one_another(channel, quarantined):
    async def page(after: int) -> list[int]:
        request = pb.QuarantineRequest(model=quarantined, page_size=2, after=after)
        return [item.id for item in (await training(channel).Quarantine(request, timeout=DEADLINE_S)).items]

    assert [await page(0), await page(2), await page(3)] == [[1, 2], [3], []]


async def test_absurd_requests_about_a_quarantine_are_refused_by_name(channel, model):
    async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code(), refused_field(caught.value)[0]

    ask = training(channel)
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert await refusal(ask.Quarantine(pb.QuarantineRequest(model="nobody"))) == (grpc.StatusCode.NOT_FOUND, "model")
    assert await refusal(ask.Quarantine(pb.QuarantineRequest(model=model, after=2**64 - 1))) == (invalid, "after")
    assert await refusal(ask.Replay(pb.ReplayRequest(model=model, ids=[1, 2**64 - 1]))) == (invalid, "ids")
    assert await refusal(ask.Replay(pb.ReplayRequest(model=model, ids=[0]))) == (invalid, "ids")
    assert await refusal(ask.Replay(pb.ReplayRequest(model=model, ids=[1] * 200_000))) == (invalid, "ids")
    assert (await ask.Replay(pb.ReplayRequest(model=model))).replayed == []
