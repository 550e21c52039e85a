"""The demo's series, pace, browser and numbers, without a server."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from freshet import EventKind
from service.common.errors import Invalid
from service.engine.export import pack_weights
from service.programs.backtest import core
from service.programs.backtest.plan import Plan, make_plan
from service.programs.demo import browser
from service.programs.demo.browser import has_display, open_page
from service.programs.demo.closing import MODEL
from service.programs.demo.pacing import checked_pace
from service.programs.demo.recovery import DAY, Errors, Recovery, frozen
from service.programs.demo.watching import Moment
from service.programs.demo.worlds import MOST_ZONES, checked_streams, drifted, names, world
from tests.conftest import ROOT

TAXI = ROOT / "service" / "cli" / "data" / "nyc_taxi.csv"


def taxi(rows: int | None = None, **keys: object) -> Plan:
    return make_plan(TAXI, rows=rows, model=keys)


def test_without_a_wish_the_series_is_as_recorded():
    plan = taxi(600)
    assert world(plan) is plan
    assert names(plan) == ["nyc"]


def test_a_change_leaves_the_first_half_and_plausible_rides_after_it():
    plan = taxi()
    before = plan.series.x[:, 0]
    after = world(plan, drifts=True).series.x[:, 0]
    half = len(before) // 2
    np.testing.assert_array_equal(after[:half], before[:half])
    assert (after[half:] != before[half:]).mean() > 0.99
    assert after.min() >= 0
    assert after.max() <= before.max()
    np.testing.assert_array_equal(after, np.round(after))


def test_a_change_turns_a_day_of_48_rows_into_one_of_32():
    values = taxi().series.x[:, 0].astype(np.float64)

    def alike(x: np.ndarray, rows: int) -> float:
        return float(np.corrcoef(x[:-rows], x[rows:])[0, 1])

    half = len(values) // 2
    before, after = values[:half], drifted(values)[half:]
    assert alike(before, 48) > 0.7 > alike(before, 32)
    assert alike(after, 32) > 0.7 > alike(after, 48)


def test_zones_are_the_same_in_every_run_and_differ_from_each_other():
    plan = taxi()
    one, again = (world(plan, 50, 300) for _ in range(2))
    assert [names(one)[n] for n in (0, 1, -1)] == ["zone-01", "zone-02", "zone-50"]
    for a, b in zip(one.entities, again.entities, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.time, plan.times[:300])
        assert a.x.min() >= 0
        assert a.x.max() <= plan.series.x.max()
    assert len({series.x.tobytes() for series in one.entities}) == 50
    np.testing.assert_array_equal(world(plan, 3, 300).entities[2].x, one.entities[2].x)


@pytest.mark.parametrize("streams", [0, -1, MOST_ZONES + 1])
def test_a_number_of_streams_outside_its_range_is_refused(streams):
    with pytest.raises(Invalid, match="streams"):
        checked_streams(streams)


def test_the_plain_demo_has_no_pace_and_others_one_to_watch():
    assert checked_pace(None, 1, False) == 0
    assert checked_pace(None, 1, True) == 100
    assert checked_pace(None, 50, False) == 8
    assert checked_pace(0, 50, True) == 0
    for wrong in (-1.0, 0.01, float("nan"), float("inf")):
        with pytest.raises(Invalid, match="pace"):
            checked_pace(wrong, 1, False)


@pytest.mark.parametrize(
    ("platform", "variables", "terminal", "shown"),
    [
        ("linux", {}, True, False), ("linux", {"DISPLAY": ":0"}, True, True), ("linux", {"DISPLAY": ""}, True, False),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True, True), ("darwin", {}, True, True), ("win32", {}, True, True),
        ("darwin", {"CI": "true"}, True, False), ("linux", {"DISPLAY": ":0"}, False, False),
    ],
)  # fmt: skip
def test_a_browser_is_opened_only_where_somebody_looks(platform, variables, terminal, shown):
    assert has_display(platform, variables, terminal) is shown


def test_no_browser_is_started_without_a_display(monkeypatch):
    monkeypatch.setattr(browser, "has_display", lambda *_: False)
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail("opened"))
    assert not open_page("http://127.0.0.1:1/")


def test_recovery_counts_from_the_change():
    served = np.concatenate([np.full(400, 0.01), np.full(100, 0.5), np.full(300, 0.05)])
    served[0] = np.nan
    found = Recovery.of(served, np.full(800, 0.4), (130,))
    assert (found.at, found.drifts) == (400, (130,))
    assert found.before == pytest.approx(0.01)
    assert (found.peak, found.settled, found.frozen) == pytest.approx((0.5, 0.05, 0.4))
    assert found.recovered is not None
    assert 100 <= found.recovered <= 100 + DAY
    assert "130 ticks later" in "\n".join(found.lines())


def test_an_error_that_stays_high_is_not_called_recovered():
    found = Recovery.of(np.concatenate([np.full(400, 0.01), np.linspace(0.1, 0.5, 400)]), None)
    assert "no drift was found" in "\n".join(found.lines())
    assert found.to_mapping()["frozen"] is None


def test_a_frozen_version_forecasts_as_the_model_that_does_not_learn():
    plan = world(replace(taxi(300, hidden=4)), 3, 120)
    learner = core.learner(plan)
    weights = pack_weights(learner.network, learner.weights.flat)
    still = replace(plan, spec=replace(plan.spec, learn=False))
    found = Errors(still)
    for series, row, forecast in core.every_forecast(core.learner(still), still):
        found.add(series, row, forecast)
    np.testing.assert_allclose(frozen(plan, weights), found.by_row, rtol=1e-5)


def test_importing_the_command_line_loads_neither_the_demo_nor_a_browser():
    import subprocess

    code = "import sys, service.cli.main; print([m for m in ('webbrowser', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


class Following:
    """Stands in for a client and what connects it: a model's events as a test puts them, and exports by number."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.exported: list[int] = []

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        yield self

    async def watch(self, model: str) -> AsyncIterator[Any]:
        while True:
            yield await self.events.get()
            self.events.task_done()

    async def export(self, model: str, version: int) -> Any:
        self.exported.append(version)
        return SimpleNamespace(weights=b"w%d" % version)


async def test_the_frozen_version_is_the_one_that_served_at_the_change_however_late_it_is_exported():
    moment, client = Moment(10), Following()
    watching = asyncio.create_task(moment.watch(client))  # type: ignore[arg-type]  # a fake
    for version in (2, 3):
        client.events.put_nowait(SimpleNamespace(model=MODEL, kind=EventKind.PUBLISHED, version=version))
    client.events.put_nowait(SimpleNamespace(model="another", kind=EventKind.PUBLISHED, version=7))
    await client.events.join()

    moment.taken(9)
    client.events.put_nowait(SimpleNamespace(model=MODEL, kind=EventKind.PUBLISHED, version=4))
    moment.taken(40)
    await moment.settled()
    watching.cancel()

    assert (client.exported, moment.weights) == ([3], b"w3")
