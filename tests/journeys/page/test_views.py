"""Every view shows what the server has, moves while streams do, and is found again by its link."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from playwright.async_api import Locator, expect

from freshet import EventKind
from tests.journeys.page.looking import VIEWS

# How many pixels a column of the first chart has in the colour of truth; share: where it is, of the chart's width.
DRAWN = """share => {
    const [over, canvas] = [".u-over", ".uplot canvas"].map(name => document.querySelector(name));
    const [plot, whole] = [over, canvas].map(element => element.getBoundingClientRect());
    const scale = canvas.width / whole.width, x = Math.round((plot.left - whole.left + share * plot.width) * scale);
    const [top, height] = [plot.top - whole.top, plot.height].map(length => Math.round(length * scale));
    const pen = new OffscreenCanvas(1, height).getContext("2d", { willReadFrequently: true });
    pen.drawImage(canvas, x, top, 1, height, 0, 0, 1, height);
    const { data } = pen.getImageData(0, 0, 1, height);
    return Array.from({ length: height }, (_, n) => data[4 * n + 3] > 200 && data[4 * n] + data[4 * n + 1] < 120)
        .filter(Boolean).length;
}"""
# Collects the labels of vertical axes, which stand at the right end of their room, by canvas.
WRITTEN = """window.written = new WeakMap();
const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
    if (text && this.textAlign === "right" && !window.written.get(this.canvas)?.add(text))
        window.written.set(this.canvas, new Set([text]));
    return write.call(this, text, ...more);
};"""
HOSTILE = "<img src=x onerror=alert(document.domain)>"


@pytest.mark.parametrize("view", VIEWS)
async def test_a_view_shows_data_and_moves(server, looking, living, view):
    await living.hurried(300)
    await looking.open(server.http, living.name, view=view, stream=living.stream)

    for panel in VIEWS[view]:
        await expect(looking.at(f"panel-{panel}")).to_be_visible()
        await looking.open_table(panel)  # what moves is read there: a canvas cannot be compared
    moving = VIEWS[view][0]
    before = await looking.table(moving)
    await looking.until(
        """JSON.stringify([...document.querySelectorAll(`[data-testid="table-${it[0]}"] tr`)]
            .map(row => [...row.cells].map(cell => cell.textContent))) !== it[1]""",
        [moving, _as_json(before)],
    )


async def test_a_drift_is_seen_beside_the_error(server, looking, living):
    await living.hurried(1200)
    await looking.open(server.http, living.name, view="versions", stream="torrent")
    await looking.open_table("timeline")

    await living.hurried(1800, walking=True)
    await living.until(EventKind.DRIFTED)

    await expect(looking.at("table-timeline")).to_contain_text("drifted", use_inner_text=False)


async def test_a_click_on_the_chart_says_which_version_answered(server, looking, living):
    await living.hurried(100)
    await looking.open(server.http, living.name, view="forecast", stream=living.stream)
    panel = looking.at("panel-forecast")
    await looking.open_table("forecast", rows=40)

    plot = panel.locator(".u-over").first
    await plot.click(position=await _middle(plot))

    await expect(looking.at("panel-point")).to_contain_text("version")
    await looking.at("point-close").click()
    await expect(panel.locator(".chart").first).to_be_focused()


async def test_a_stretch_of_time_without_ticks_has_no_line_across(server, looking, client, name):
    await client.create_model(name, channels=["v"], hidden=4)
    times = [1_700_000_000.0 + 60 * (n if n < 40 else n + 60) for n in range(80)]  # an hour between two halves
    async with client.stream(name, "s") as stream:
        for n, time in enumerate(times):
            await stream.step([n**2 % 17], time=time)  # nothing that a forecast would lie on
    await looking.open(server.http, name, view="forecast", stream="s", ghost="none")
    await looking.open_table("forecast", rows=80)

    await looking.until(f"({DRAWN})(0.2) > 0 && ({DRAWN})(0.9) > 0")

    assert await looking.page.evaluate(f"({DRAWN})(0.5)") == 0


async def test_a_logarithmic_axis_shows_all_its_labels(server, looking):
    await looking.page.add_init_script(WRITTEN)
    await looking.open(server.http)
    await expect(looking.at("connection")).not_to_have_text("Starting")

    await looking.page.evaluate("""async () => {
        const host = document.body.appendChild(document.createElement("div"));
        const { chart } = await import("./page/js/chart.js");
        const series = [{ key: "y", label: "norm", colour: "text" }];
        window.drawn = chart(host, { label: "Norm", log: true, height: 180, series });
        window.drawn.set({ x: [0, 1, 2], y: [0.4, 9, 2] });
    }""")

    await looking.until("window.written.get(window.drawn.canvas)?.size >= 2")
    assert await looking.page.evaluate("[...window.written.get(window.drawn.canvas)].sort()") == ["1", "10", "3"]


async def test_a_link_restores_what_was_seen(server, looking, living):
    await living.hurried(50)
    await looking.open(server.http, living.name, view="errors", stream="torrent", step="2", ghost="none")
    await expect(looking.at("view-errors")).to_be_visible()
    await looking.tab("state")
    link = looking.page.url

    await looking.page.goto("about:blank")
    await looking.page.goto(link)

    await expect(looking.at("view-state")).to_be_visible()
    for part in (f"/#/{living.name}", "stream=torrent", "step=2", "ghost=none", "view=state"):
        assert part in looking.page.url
    await looking.page.go_back()
    await expect(looking.page).to_have_url("about:blank")


async def test_a_change_of_view_keeps_the_stream_and_the_ghost(server, looking, living):
    await living.hurried(100)
    await looking.open(server.http, living.name)
    picker, streams = looking.at("ghost-picker"), looking.at("stream-picker")
    await expect(picker).to_contain_text("page opened (version")
    ghost, stream = await picker.locator("option").first.text_content(), await streams.text_content()
    await living.until(EventKind.PUBLISHED, 8)

    heading = "getComputedStyle(document.querySelector('.multiple h3')).font"
    font = await looking.page.evaluate(heading)

    for view in ("state", "gradient", "forecast"):
        async with looking.page.expect_response(lambda response: "/watch?" in response.url):
            await looking.tab(view)

    await expect(picker.locator("option").first).to_have_text(ghost or "")
    assert await streams.text_content() == stream
    assert await looking.page.evaluate(heading) == font, "a style sheet of another view changes this one"


async def test_a_model_that_is_deleted_is_said_to_be_gone_and_shown_again_when_it_is_there(
    server, looking, client, name
):
    looking.expected = ["404"]
    await client.create_model(name, channels=["v"], hidden=4)
    await looking.open(server.http, name)
    await expect(looking.at("connection")).to_have_text("Live")

    await client.delete_model(name)
    await expect(looking.page.get_by_role("main")).to_contain_text("There is no model of this name")

    await client.create_model(name, channels=["v"], hidden=4)
    await expect(looking.at("view-forecast")).to_be_visible()


async def test_what_is_shown_is_exported_as_csv_and_png(server, looking, living, tmp_path):
    await living.hurried(50)
    await looking.open(server.http, living.name, view="forecast", stream=living.stream)
    await looking.open_table("forecast", rows=20)
    await looking.at("pause").click()

    async with looking.page.expect_download() as downloading:
        await looking.at("csv-forecast").first.click()
    saved = tmp_path / "shown.csv"
    await (await downloading.value).save_as(saved)
    async with looking.page.expect_download() as downloading:
        await looking.at("png-forecast").first.click()
    picture = tmp_path / "shown.png"
    await (await downloading.value).save_as(picture)

    rows = list(csv.reader(io.StringIO(saved.read_text())))
    assert "truth" in " ".join(rows[0]).lower()
    assert len(rows) > 20
    assert len({len(row) for row in rows}) == 1
    assert _size(picture)[0] > 300


async def test_a_paused_page_stands_still_and_then_catches_up(server, looking, living):
    await looking.open(server.http, living.name, view="forecast", stream=living.stream)
    await looking.open_table("forecast", rows=5)

    await looking.at("pause").click()
    before = await looking.table("forecast")
    await living.hurried(200)  # meanwhile some hundred ticks of the stream that is shown
    assert await looking.table("forecast") == before

    await looking.at("pause").click()
    await looking.until(
        """document.querySelector('[data-testid="table-forecast"] tbody tr:last-child').textContent !== it""",
        "".join(before[-1]),
    )

    await looking.at("pause").click()
    await looking.tab("state")
    await expect(looking.at("message")).to_contain_text("The page is paused")
    await looking.at("pause").click()
    await expect(looking.at("message")).to_be_empty()


async def test_a_name_that_is_html_is_shown_as_text(server, looking, client, living):
    async with client.stream(living.name, HOSTILE) as stream:
        for value in range(40):
            await stream.step([float(value)])
    asked = []
    looking.page.on("dialog", lambda dialog: asked.append(dialog.message))

    for view in VIEWS:
        await looking.open(server.http, living.name, view=view, stream=HOSTILE)
        await expect(looking.at(f"view-{view}")).to_be_visible()
        await expect(looking.at("stream-picker")).to_contain_text("<img src=x")  # long names lose their middle

    assert await looking.page.locator("img[src=x]").count() == 0
    assert not asked


async def test_a_model_and_a_stream_that_do_not_exist_are_named(server, looking):
    looking.expected = ["404"]
    await looking.open(server.http, "no-such-model", view="forecast")

    await expect(looking.page.get_by_role("main")).to_contain_text("no-such-model")


async def test_a_model_without_a_tick_says_so_where_ticks_would_be(server, looking, client, name):
    await client.create_model(name, channels=["v"])

    for view in ("forecast", "errors", "gradient", "state"):
        await looking.open(server.http, name, view=view)
        await expect(looking.at(f"view-{view}")).to_be_visible()
        await expect(looking.at(f"view-{view}").locator(".empty").first).to_be_visible()


async def test_a_hundred_models_can_be_searched(server, looking, client, name):
    for n in range(100):
        await client.create_model(f"{name[:40]}-{n:03d}", channels=["v"], hidden=4)
    await looking.open(server.http)

    picker = looking.at("model-picker")
    await picker.click()
    await looking.page.keyboard.type(f"{name[:40]}-077")
    await looking.page.keyboard.press("Enter")

    await looking.until("decodeURIComponent(location.hash).includes('-077')")


async def _middle(plot: Locator) -> dict[str, float]:
    box = await plot.bounding_box()
    assert box
    return {"x": box["width"] * 0.4, "y": box["height"] / 2}


def _as_json(rows: list[list[str]]) -> str:
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _size(png: Path) -> tuple[int, int]:
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
