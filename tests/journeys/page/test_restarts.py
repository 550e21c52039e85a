"""The page outlives its server, and stays quick beside many streams."""

from __future__ import annotations

import numpy as np
from playwright.async_api import expect

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.page.living import Living
from tests.ports import free_port

STREAMS = 10_000
PACKED = 1_000


async def test_the_page_says_that_the_server_was_restarted_and_goes_on(looking, tmp_path):
    # What the browser calls it depends on where the kill met a connection. On a busy machine the page comes back before
    # the server is ready, and tries again.
    looking.expected = ["net::ERR_", "503"]
    listen, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    server = ServerChild(tmp_path / "data", tmp_path / "log", listen=listen, http=http, settings=QUICK)
    async with server, freshet.connect(server.grpc) as client, Living(client, "kept") as living:
        await looking.open(server.http, "kept", view="forecast", stream=living.stream)
        await looking.open_table("forecast", rows=5)
        before = await looking.table("forecast")

        server.kill()
        await server.wait()
        await expect(looking.at("connection")).not_to_contain_text("live", ignore_case=True)
        await server.start()

        await expect(looking.at("message")).to_contain_text("restarted")
        await looking.until(
            """document.querySelector('[data-testid="table-forecast"] tbody tr:last-child')?.textContent !== it""",
            "".join(before[-1]),
        )


async def test_ten_thousand_streams_are_searched_not_listed(server, looking, client, name):
    await client.create_model(name, channels=["v"], hidden=4)
    async with client.mux(name) as mux:
        handles = [f"sensor-{n:05d}" for n in range(STREAMS)]
        for first in range(0, STREAMS, PACKED):
            part = handles[first : first + PACKED]
            await mux.step(part, np.zeros((len(part), 1), np.float32))
    await looking.open(server.http, name, view="forecast")

    picker = looking.at("stream-picker")
    await picker.get_by_role("button").first.click()
    await expect(picker.get_by_role("checkbox").first).to_be_visible()
    assert await picker.get_by_role("checkbox").count() <= 200
    await looking.page.keyboard.type("sensor-09876")
    await picker.get_by_role("checkbox", name="sensor-09876").check()

    await looking.until("location.hash.includes('sensor-09876')")
    assert await looking.page.locator("*").count() < 5_000
