"""The SDK at a server that asks who calls: tokens that change, that are taken away, that are not enough."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import freshet
from service.programs.backtest.child import ServerChild
from tests.client.certificates import Authority
from tests.journeys.conftest import QUICK
from tests.journeys.credentials import Entry, replace, written
from tests.journeys.raw import DEADLINE_S
from tests.journeys.test_examples import run

ADMIN, FIRST, SECOND = Entry("an-admin", "a", "admin"), Entry("first", "a", "train"), Entry("second", "a", "train")
READER, SCRAPER = Entry("a-reader", "a", "predict"), Entry("a-scraper", "a", "metrics")
ALL = (ADMIN, FIRST, READER, SCRAPER)
SPEC: dict[str, Any] = {"task": "regress", "targets": ["y"], "hidden": 4, "label_horizon": 64}


class House:
    """A server with an access file, and a model "flow" of tenant a."""

    def __init__(self, folder: Path) -> None:
        self.access = folder / "access.toml"
        self.admit(*ALL)
        self.server = ServerChild(folder / "data", folder / "log", settings=QUICK | {"access": self.access})

    def admit(self, *entries: Entry) -> None:
        replace(self.access, written(*entries))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    async with house.server:
        async with freshet.connect(house.server.grpc, token=ADMIN.token) as admin:
            await admin.create_model("flow", ["x"], **SPEC)
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(standing: House) -> House:
    """As it was at first, whatever a test has done."""
    standing.admit(*ALL)
    async with asyncio.timeout(DEADLINE_S), freshet.connect(standing.server.grpc, token=FIRST.token) as client:
        while True:
            with contextlib.suppress(freshet.Unauthenticated):
                await client.list_models()
                return standing


async def until_unknown(act: Callable[[], Awaitable[object]]) -> None:
    """Do it again and again until the server no longer knows who does it: it looks at its file from time to time."""

    async def forever() -> None:
        while True:
            await act()

    with pytest.raises(freshet.Unauthenticated):
        await asyncio.wait_for(forever(), DEADLINE_S)


async def test_whoever_has_a_new_token_by_then_goes_on_without_a_difference(house):
    tokens = [FIRST.token]
    async with (
        freshet.connect(house.server.grpc, token=lambda: tokens[-1]) as client,
        contextlib.AsyncExitStack() as all,
    ):
        stream = await all.enter_async_context(client.stream("flow", "pump"))
        mux = await all.enter_async_context(client.mux("flow"))
        learn = await all.enter_async_context(client.learn("flow", "laboratory"))
        for _ in range(3):
            await stream.step(1.0)
        await mux.step(["m1", "m2"], [1.0, 2.0])

        tokens.append(SECOND.token)
        house.admit(ADMIN, SECOND)
        async with asyncio.timeout(DEADLINE_S):
            while not stream.reconnects:
                await stream.step(1.0)
        await stream.label(stream.next_seq - 1, 0.5)
        packed = await mux.step(["m1", "m2"], [1.0, 2.0])
        await learn.window(np.ones(4), 1.0)
        await learn.flush()

        assert packed.seq.tolist() == [2, 2]
        assert (await client.get_stream("flow", "pump")).last_seq == stream.next_seq - 1


async def test_a_token_that_is_taken_away_ends_everything_and_is_not_tried_again(house):
    async with freshet.connect(house.server.grpc, token=FIRST.token) as client:
        stream = await client.stream("flow", "valve").open()
        mux = await client.mux("flow").open()
        await mux.step(["m3"], [1.0])
        learn = await client.learn("flow", "mill").open()

        async def teach() -> None:
            await learn.window(np.ones(4), 1.0)
            await learn.flush()

        async def watch() -> None:
            async for _ in client.watch("flow"):
                pass

        watching = asyncio.create_task(watch())
        house.admit(ADMIN)
        for act in (
            lambda: stream.step(1.0), lambda: mux.step(["m3"], [1.0]), teach, lambda: watching, client.list_models,
            lambda: client.get_stream("flow", "valve"),
        ):  # fmt: skip
            await until_unknown(act)
        assert (stream.reconnects, learn.reconnects) == (0, 0)


async def test_a_role_that_is_not_enough_is_told_and_what_it_is_enough_for_goes_on(house):
    async with freshet.connect(house.server.grpc, token=READER.token) as reader:
        with pytest.raises(freshet.PermissionDenied) as raised:
            await reader.create_model("mine", ["x"])
        assert not isinstance(raised.value, freshet.Unauthenticated)
        with pytest.raises(freshet.PermissionDenied):
            async with reader.learn("flow", "laboratory"):
                pass
        async with reader.stream("flow", "read") as stream:
            await stream.step(1.0)
            with pytest.raises(freshet.LabelRefused) as refused:
                await stream.label(1, 0.5)
            assert refused.value.reason is freshet.Reason.NOT_ALLOWED
            assert (await stream.step(1.0)).seq == 2


async def test_the_examples_show_their_token(house, monkeypatch):
    monkeypatch.setenv("FRESHET_TOKEN", ADMIN.token)
    assert "reading 300" in await asyncio.to_thread(run, "application.py", house.server.grpc)
    monkeypatch.setenv("FRESHET_TOKEN", SCRAPER.token)
    text = await asyncio.to_thread(run, "operations.py", f"http://{house.server.http}")
    assert 'freshet_ticks_total{model="boiler",tenant="a"} 300.0' in text


async def test_the_blocking_client_shows_its_token_over_tls(tmp_path):
    house, authority = House(tmp_path), Authority(tmp_path)
    cert, key = authority.sign("server")
    settings = QUICK | {"access": house.access, "tls_cert": cert, "tls_key": key}
    async with ServerChild(tmp_path / "data", tmp_path / "log", settings=settings) as server:
        with freshet.sync.connect(server.grpc, token=ADMIN.token, tls=authority.pem) as client:
            client.create_model("flow", ["x"], hidden=4)
            with client.stream("flow", "pump") as stream:
                assert [f.seq for f in stream.forecasts([1.0, 2.0])] == [1, 2]
        with (
            freshet.sync.connect(server.grpc, token="a-guess", tls=authority.pem) as client,
            pytest.raises(freshet.Unauthenticated),
        ):
            client.list_models()
