"""Nothing serious is found by axe in any view, at three sizes, light and dark; the keyboard reaches everything."""

from __future__ import annotations

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.journeys.page.looking import VIEWS

SIZES = {"phone": (375, 812), "tablet": (768, 1024), "desk": (1920, 1080)}
SERIOUS = ("serious", "critical")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious(server, looking, living, scheme):
    await living.hurried(200)
    await looking.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    found = []
    for size, (width, height) in SIZES.items():
        await looking.page.set_viewport_size({"width": width, "height": height})
        for view, panels in VIEWS.items():
            await looking.open(server.http, living.name, view=view, stream=living.stream)
            await expect(looking.at(f"panel-{panels[0]}").first).to_be_visible()
            results = await Axe().run(looking.page)
            found += [
                f"{size} {view}: {violation['id']}: {violation['nodes'][0]['html'][:200]}"
                for violation in results.response["violations"]
                if violation["impact"] in SERIOUS
            ]
            overflowing = await looking.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            if overflowing > 0:
                found.append(f"{size} {view}: the page is {overflowing} pixels wider than the window")
    assert not found, "\n".join(found)


async def test_the_tabs_are_reached_and_chosen_with_the_keyboard(server, looking, living):
    await looking.open(server.http, living.name, view="forecast", stream=living.stream)
    await expect(looking.at("view-forecast")).to_be_visible()

    await looking.at("tab-forecast").focus()
    for view in list(VIEWS)[1:]:
        await looking.page.keyboard.press("ArrowRight")
        await expect(looking.at(f"tab-{view}")).to_be_focused()
    await looking.page.keyboard.press("Home")

    await expect(looking.at("view-forecast")).to_be_visible()
    focused = await looking.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert focused != "none", "the focus cannot be seen"
