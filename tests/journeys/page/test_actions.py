"""A token decides what the page shows and does; actions ask once, and are journaled as those of any client."""

from __future__ import annotations

from playwright.async_api import expect

import freshet
from freshet import EventKind
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.credentials import Entry, written
from tests.journeys.page.living import Living

ADMIN, READER = "admin-token-of-the-page", "reader-token-of-the-page"


async def test_actions_ask_once_and_are_events_of_the_model(server, looking, living):
    await living.hurried(300)
    await living.until(EventKind.PUBLISHED, 2)
    await looking.open(server.http, living.name, view="versions", stream=living.stream)

    await looking.open_table("timeline")
    await looking.at("action-pause").first.click()
    await looking.at("confirm-no").click()
    assert not (await living.client.get_model(living.name)).paused

    await looking.at("action-pause").first.click()
    await looking.at("confirm-yes").click()
    await living.until(EventKind.PAUSED)
    await expect(looking.at("table-timeline")).to_contain_text("paused", use_inner_text=False)

    await looking.at("action-resume").first.click()
    await looking.at("confirm-yes").click()
    await living.until(EventKind.RESUMED)

    await looking.at("action-rollback").first.click()
    await looking.at("confirm-yes").click()
    await living.until(EventKind.ROLLED_BACK)
    await expect(looking.at("table-timeline")).to_contain_text("rolled back", use_inner_text=False)


async def test_a_token_is_asked_for_kept_in_memory_and_decides_what_may_be_done(looking, tmp_path):
    access = tmp_path / "access.toml"
    access.write_text(written(Entry(ADMIN, "default", "admin"), Entry(READER, "default", "predict")))
    access.chmod(0o600)
    guarded = ServerChild(tmp_path / "data", tmp_path / "log", settings={**QUICK, "access": str(access)})
    looking.expected = ["401", "403", "503", "net::ERR_"]  # the last two: the server may leave before the window
    async with (
        guarded,
        freshet.connect(guarded.grpc, token=ADMIN, insecure_token=True) as client,
        Living(client, "guarded") as living,
    ):
        await living.hurried(100)
        await looking.open(guarded.http, "guarded", view="versions", stream=living.stream)
        await expect(looking.at("token-form")).to_be_visible()

        await looking.at("token-input").fill("not-a-token")
        await looking.page.keyboard.press("Enter")
        await expect(looking.at("token-form").get_by_role("alert")).to_contain_text("not accepted")

        await looking.at("token-input").fill(READER)
        await looking.page.keyboard.press("Enter")
        await expect(looking.at("panel-timeline")).to_be_visible()
        await expect(looking.at("action-pause").first).to_be_disabled()
        kept = await looking.page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        )
        assert READER not in kept

        await looking.page.reload()
        await expect(looking.at("token-form")).to_be_visible()
        await looking.at("token-input").fill(ADMIN)
        await looking.page.keyboard.press("Enter")
        await looking.at("action-pause").first.click()
        await looking.at("confirm-yes").click()
        await living.until(EventKind.PAUSED)
