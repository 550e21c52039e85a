"""A tenant at its quota is told so, and when to try again; its neighbours notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

import freshet
from freshet.v1 import models_pb2, streams_pb2, streams_pb2_grpc, training_pb2, types_pb2
from freshet.v1.models_pb2_grpc import ModelsStub
from freshet.v1.training_pb2_grpc import TrainingStub
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate, trainer_of
from tests.journeys.credentials import Entry, bearer, replace, written
from tests.journeys.raw import DEADLINE_S, channel_to
from tests.journeys.raw_mux import columns
from tests.journeys.scraped import scrape

TOKENS = Entry("fr-small", "small", "admin"), Entry("fr-big", "big", "admin"), Entry("fr-scrape", "ops", "metrics")
SMALL: dict[str, Any] = {"channels": ["x"], "hidden": 4}
BURST_S = 1.0  # of every bucket: service.access.rates


class House:
    """A server with two tenants: "small", whose quota tests change, and "big", who has none."""

    def __init__(self, child: ServerChild, access: Path) -> None:
        self.child, self.access = child, access

    async def limit(self, **quota: object) -> None:
        """The quota of tenant small from here on; returns once it is in force."""
        lines = "".join(f"{name} = {value}\n" for name, value in quota.items())
        marker = Entry(f"fr-{len(lines)}-{hash(lines)}", "small", "predict")
        replace(self.access, written(*TOKENS, marker, quotas=f"[tenant.small]\n{lines}"))
        async with channel_to(self.child.grpc) as channel, asyncio.timeout(DEADLINE_S):
            ask = ModelsStub(channel)
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await ask.List(models_pb2.ListModelsRequest(), metadata=bearer(marker.token), timeout=DEADLINE_S)
                    return

    def client(self, tenant: str) -> freshet.Client:
        return freshet.connect(self.child.grpc, token=f"fr-{tenant}")

    async def reached(self, quota: str) -> float:
        """How often small has been refused for it."""
        scraped = await scrape(self.child.http, "fr-scrape")
        return scraped.total("freshet_quota_reached_total", tenant="small", quota=quota)


@contextlib.asynccontextmanager
async def a_house(folder: Path) -> AsyncIterator[House]:
    access = folder / "access.toml"
    access.write_text(written(*TOKENS))
    async with ServerChild(folder / "data", folder / "log", settings=QUICK | {"access": access}) as child:
        yield House(child, access)
    assert "Traceback" not in (folder / "log").read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with a_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(shared: House) -> AsyncIterator[House]:
    yield shared
    await shared.limit()
    for tenant in ("small", "big"):
        async with shared.client(tenant) as client:
            for model in await client.list_models():
                await client.delete_model(model.name)


async def test_the_model_that_is_one_too_many_is_refused_and_others_make_theirs(house):
    await house.limit(models=1)
    async with house.client("small") as small, house.client("big") as big:
        await small.create_model("one", **SMALL)
        with pytest.raises(freshet.ResourceExhausted, match="quota") as caught:
            await small.create_model("two", **SMALL)

        await small.create_model("one", **SMALL)  # it is there
        await big.create_model("one", **SMALL)
        await big.create_model("two", **SMALL)
        await small.delete_model("one")
        await small.create_model("two", **SMALL)
    assert caught.value.retry_delay_s == 60
    assert await house.reached("models") == 1


async def test_streams_are_counted_over_all_models_however_they_are_made(house):
    await house.limit(streams=2)
    async with house.client("small") as small, house.client("big") as big:
        for client in (small, big):
            await client.create_model("one", **SMALL)
            await client.create_model("two", **SMALL)
        async with small.stream("one", "a") as a, small.stream("two", "b"):
            await a.step(1.0)
            with pytest.raises(freshet.ResourceExhausted, match="quota"):
                async with small.stream("one", "c"):
                    pass
            async with small.mux("one") as mux:
                packed = await mux.step(["c"], np.ones((1, 1)))  # what cannot be bound is refused by row
                assert "quota" in str(packed.refused[0])
            with pytest.raises(freshet.ResourceExhausted, match="quota"):
                await put(house, "fr-small", "one", "c")
            await a.step(2.0)  # what is there goes on
            async with big.stream("one", "a") as other, big.stream("one", "b"), big.stream("one", "c"):
                assert (await other.step(1.0)).seq == 1
        async with small.stream("one", "a") as again:
            assert again.next_seq == 3
    assert await house.reached("streams") == 3


async def put(house: House, token: str, model: str, stream: str) -> None:
    """Streams.Put of a fresh state."""
    async with channel_to(house.child.grpc) as channel:
        stub = streams_pb2_grpc.StreamsStub(channel)
        how: dict[str, Any] = {"metadata": bearer(token), "timeout": DEADLINE_S}
        seen = await stub.Get(streams_pb2.GetStreamRequest(model=model, stream="a", with_state=True), **how)
        seen.stream = stream
        try:
            await stub.Put(streams_pb2.PutStreamRequest(stream=seen), **how)
        except grpc.aio.AioRpcError as error:
            raise freshet.errors.from_rpc(error) from error


async def test_ticks_that_come_too_fast_are_put_off_and_none_is_lost(house):
    await house.limit(ticks_per_s=20)
    n = 50
    async with house.client("small") as small, house.client("big") as big:
        for client in (small, big):
            await client.create_model("one", **SMALL)
        async with small.stream("one", "a") as a, big.stream("one", "a") as other:
            answers = [forecast.seq async for forecast in a.forecasts(np.arange(n, dtype=float))]
            others = [forecast.seq async for forecast in other.forecasts(np.arange(n, dtype=float))]
    assert answers == others == list(range(1, n + 1))
    assert await house.reached("ticks_per_s") > 0


async def test_a_tick_beyond_the_rate_is_told_when_to_come_again_alone_and_packed(house):
    await house.limit(ticks_per_s=0.001)
    async with house.client("small") as small, channel_to(house.child.grpc) as channel:
        await small.create_model("one", **SMALL)
        streams = streams_pb2_grpc.StreamsStub(channel)
        call: Any = streams.Open(metadata=bearer("fr-small"), timeout=DEADLINE_S)
        await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="one", stream="a")))
        assert (await call.read()).HasField("welcome")
        answers: list[streams_pb2.OpenResponse] = []
        for seq in (1, 2):
            await call.write(streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=seq, x=[1.0])))
        while len(answers) < 2:
            message = await call.read()
            answers += [message] if not message.HasField("durable") else []
        call.cancel()

        mux: Any = streams.Mux(metadata=bearer("fr-small"), timeout=DEADLINE_S)
        bind = [streams_pb2.Bind(handle=0, stream="b")]
        await mux.write(streams_pb2.MuxRequest(model="one", bind=bind))
        await mux.read()
        await mux.write(streams_pb2.MuxRequest(ticks=columns([0], [1], [1.0])))
        packed = (await mux.read()).refused[0].refused
        mux.cancel()

    assert answers[0].forecast.seq == 1
    for refused in (answers[1].refused, packed):
        assert refused.reason == types_pb2.Refused.OVERLOADED
        assert "tenant" in refused.remedy
        assert 0 < refused.retry_s <= 1000


async def test_bytes_in_flight_are_a_tenants_and_are_given_back(house):
    await house.limit(in_flight_bytes=2000)
    column = np.ones(64, "<f4").tobytes()
    window = training_pb2.Window(steps=64, x=column, y=column)
    async with house.client("small") as small, house.client("big") as big, channel_to(house.child.grpc) as channel:
        for client in (small, big):
            await client.create_model("one", **SMALL)
        trainer = trainer_of(house.child)

        async def send(token: str) -> Any:
            call = TrainingStub(channel).Learn(metadata=bearer(token), timeout=DEADLINE_S)
            hello = training_pb2.LearnHello(model="one", source=token, acknowledge=training_pb2.LearnHello.LEARNED)
            await call.write(training_pb2.LearnRequest(hello=hello))
            await call.read()
            for seq in range(1, 9):
                window.window_seq = seq
                with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    await call.write(training_pb2.LearnRequest(window=window))
            return call

        os.kill(trainer, signal.SIGSTOP)  # so that what waits to be learned stays in flight
        try:
            other = await send("fr-big")
            code = grpc.StatusCode.INTERNAL  # where a write raced the end, which hides it (grpc/grpc#36066)
            while code is grpc.StatusCode.INTERNAL:
                refused = await send("fr-small")
                code = await refused.code()
        finally:
            os.kill(trainer, signal.SIGCONT)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "bytes in flight" in (await refused.details() or "")
        await other.done_writing()
        while (message := await other.read()) is not grpc.aio.EOF:
            last = message
        assert last.acknowledged.windows == 8
        await small.list_models()  # the call is over, and what it had in flight given back
    assert await house.reached("in_flight_bytes") >= 1


async def test_calls_that_are_open_are_a_tenants_and_others_come_in_meanwhile(house):
    await house.limit(calls=3)
    async with channel_to(house.child.grpc) as channel, house.client("big") as big:
        ask = ModelsStub(channel)
        watches = [ask.Watch(models_pb2.WatchRequest(), metadata=bearer("fr-small")) for _ in range(3)]
        for watch in watches:
            await watch.initial_metadata()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask.List(models_pb2.ListModelsRequest(), metadata=bearer("fr-small"), timeout=DEADLINE_S)

        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "3 calls open, its quota" in (caught.value.details() or "")
        await big.list_models()
        watches.pop().cancel()
        async with asyncio.timeout(DEADLINE_S), house.client("small") as small:
            while True:
                with contextlib.suppress(freshet.ResourceExhausted):
                    await small.list_models()
                    break
        for watch in watches:
            watch.cancel()
    assert await house.reached("calls") >= 1


async def test_whoever_races_for_the_last_place_gets_no_more_than_the_quota(house):
    await house.limit(models=2, streams=5)
    async with house.client("small") as small, channel_to(house.child.grpc) as channel:
        made = await asyncio.gather(*(small.create_model(f"m{n}", **SMALL) for n in range(12)), return_exceptions=True)
        assert sum(isinstance(one, freshet.results.Model) for one in made) == 2
        assert sum(isinstance(one, freshet.ResourceExhausted) for one in made) == 10
        names = [model.name for model in await small.list_models()]
        assert len(names) == 2

        hellos = [streams_pb2.Hello(model=names[n % 2], stream=f"s{n}") for n in range(40)]
        calls = [streams_pb2_grpc.StreamsStub(channel).Open(metadata=bearer("fr-small")) for _ in hellos]

        async def welcome(call: Any, hello: streams_pb2.Hello) -> bool:
            try:
                await call.write(streams_pb2.OpenRequest(hello=hello))
                return bool((await call.read()).HasField("welcome"))
            except grpc.aio.AioRpcError:
                return False

        async with asyncio.timeout(DEADLINE_S):
            welcomed = await asyncio.gather(*map(welcome, calls, hellos))
            codes = [await call.code() for call, in_ in zip(calls, welcomed, strict=True) if not in_]
        assert sum(welcomed) == 5
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert sum(model.streams for model in await small.list_models()) == 5
        for call in calls:
            call.cancel()


async def test_calls_that_end_anyhow_give_back_exactly_what_they_had_in_flight(house):
    def learn(source: str, seqs: range, steps: int = 64) -> list[training_pb2.LearnRequest]:
        column = np.ones(steps, "<f4").tobytes()
        hello = training_pb2.LearnHello(model="one", source=source, acknowledge=training_pb2.LearnHello.LEARNED)
        windows = [training_pb2.Window(window_seq=seq, steps=steps, x=column, y=column) for seq in seqs]
        return [training_pb2.LearnRequest(hello=hello), *(training_pb2.LearnRequest(window=w) for w in windows)]

    others = learn("stays", range(1, 5), steps=60)  # of another size, so that what is left of the others would be seen
    size = others[1].ByteSize()
    await house.limit(in_flight_bytes=7 * size // 2)
    rng = np.random.default_rng(3)
    async with house.client("small") as small, channel_to(house.child.grpc) as channel:
        await small.create_model("one", **SMALL)
        stub = TrainingStub(channel)

        async def leave(number: int) -> None:
            call = stub.Learn(metadata=bearer("fr-small"), timeout=DEADLINE_S)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for message in learn(f"s{number}", range(1, 1 + number % 4)):
                    await call.write(message)
                if rng.integers(0, 2):
                    await call.read()
            call.cancel()

        async def ended(messages: list[training_pb2.LearnRequest]) -> str:
            """Why the server ends a call that sends these."""
            call = stub.Learn(metadata=bearer("fr-small"), timeout=DEADLINE_S)
            try:
                for message in messages:
                    await call.write(message)
                async for _ in call:
                    pass
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass
            return await call.details() or ""

        await asyncio.gather(*map(leave, range(120)))
        trainer = trainer_of(house.child)
        os.kill(trainer, signal.SIGSTOP)  # so that what waits to be learned stays in flight
        try:
            async with asyncio.timeout(DEADLINE_S):
                while f"{3 * size} bytes in flight" not in await ended(others):
                    pass  # until all that were left have ended
        finally:
            os.kill(trainer, signal.SIGCONT)


UNLIMITED = """
import service.access.grants
service.access.grants.Access.quota = lambda self, tenant: service.access.grants.UNLIMITED
"""


@pytest.mark.long
async def test_a_quota_that_is_not_kept_would_be_noticed(monkeypatch, tmp_path):
    mutate(monkeypatch, tmp_path, UNLIMITED)
    async with a_house(tmp_path) as house:
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            await test_the_model_that_is_one_too_many_is_refused_and_others_make_theirs(house)


@pytest.mark.long
@pytest.mark.parametrize("sign", ["+", "-"], ids=["kept", "given back twice"])
async def test_bytes_that_are_not_given_back_once_would_be_noticed(sign, monkeypatch, tmp_path):
    code = f"""
from service.edge.training import LearnCall
end = LearnCall.end
def wrong(self):
    self._tenant.in_flight {sign}= self.items.bytes
    end(self)
LearnCall.end = wrong
"""
    mutate(monkeypatch, tmp_path, code)
    monkeypatch.setitem(globals(), "DEADLINE_S", 10.0)  # it never comes
    async with a_house(tmp_path) as house:
        with pytest.raises(TimeoutError):
            await test_calls_that_end_anyhow_give_back_exactly_what_they_had_in_flight(house)


async def test_ticks_that_are_too_much_work_are_put_off_and_none_is_lost_single_or_packed(house):
    async with house.client("small") as small, house.client("big") as big:
        for client in (small, big):
            await client.create_model("one", channels=["x"], hidden=64, learn=False)
        await house.limit(work_per_s=36_000 * 20)
        n = 30
        async with small.stream("one", "a") as a, big.stream("one", "a") as other:
            answers = [forecast.seq async for forecast in a.forecasts(np.arange(n, dtype=float))]
            others = [forecast.seq async for forecast in other.forecasts(np.arange(n, dtype=float))]
        async with small.mux("one") as mux:
            ids = [f"s{i}" for i in range(n)]
            left, sent = ids, 0
            while left:
                packed = await mux.step(left, np.ones((len(left), 1)))
                assert all("multiply-adds" in error.remedy for error in packed.refused.values())
                left = [left[i] for i in packed.refused]
                sent += 1
                assert sent < 1000
    assert answers == others == list(range(1, n + 1))
    assert await house.reached("work_per_s") > 0
