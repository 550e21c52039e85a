"""Answers to single questions, of a server whose trainer learns in the same process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.common.errors import Invalid, NotFound, ServiceError
from service.common.slices import slice_of
from service.journal.records import Slice
from service.streams.served import ServedModel
from service.trainer.reports import ErrorTables
from service.viewing.encoding import encode
from service.viewing.looks import Viewing
from service.viewing.samples import Buckets, Sampler
from service.viewing.scene import Shown
from service.viewing.seen import MAX_TICKS
from service.viewing.states import MOST_STEPPED, Loaded
from service.viewing.ticks import Lens
from tests.service.one_process import World, world


def viewing(w: World) -> Viewing:
    return Viewing(w.clock, w.wall)


async def ticks(w: World, model: ServedModel, n: int, seed: int = 0, id: str = "a") -> None:
    session = w.open(model, id) if id not in model.table.by_id else model.session(id)
    for x in np.cumsum(np.random.default_rng(seed).normal(size=n)).tolist():
        await w.tick(model, session, x)


def as_json(value: Any) -> Any:
    return json.loads(encode(value))


async def test_a_block_of_a_stream_on_disk_is_that_of_the_stream_in_memory(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model, v = await w.model(horizon=2), viewing(w)
        await ticks(w, model, 30)
        seen = w.server.seen()
        before = as_json(await v.block(seen, model, "a", "", 2, 10))
        assert before["seq"] == list(range(21, 31))
        await w.snapshot()
        model.judge(w.server.journal.offset(model.number))
        model.table.remove(model.table.by_id["a"])
        assert as_json(await v.block(seen, model, "a", "", 2, 10)) == before
        short = as_json(await v.block(seen, model, "a", "x", 2, 3))
        assert short["y"] == before["y"][-3:], "forecasts come from before the block"


async def test_a_stream_without_kept_answers_has_an_empty_block(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model = await w.model()
        w.open(model, "new")
        block = as_json(await viewing(w).block(w.server.seen(), model, "new", "", 1, 10))
        assert (block["seq"], block["y"], block["next"], block["restart"]) == ([], [], None, True)


async def test_wrong_names_and_numbers_are_refused_by_field(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model, seen, v = await w.model(), w.server.seen(), viewing(w)
        await ticks(w, model, 3)
        wrong: list[tuple[Any, type[ServiceError], str]] = [
            (v.block(seen, model, "b", "", 1, 10), NotFound, "stream"),
            (v.block(seen, model, "a", "y", 1, 10), Invalid, "target"),
            (v.block(seen, model, "a", "", 2, 10), Invalid, "step"),
            (v.block(seen, model, "a", "", 1, 0), Invalid, "last"),
            (v.block(seen, model, "a", "", 1, MAX_TICKS + 1), Invalid, "last"),
            (v.point(seen, model, "b", 1), NotFound, "stream"),
            (v.point(seen, model, "a", 4), NotFound, "seq"),
            (v.point(seen, model, "a", 0), NotFound, "seq"),
            (v.errors(seen, model, 0), Invalid, "worst"),
            (v.streams(seen, model, "", 0, ""), Invalid, "limit"),
        ]
        for asked, error, field in wrong:
            with pytest.raises(error) as refused:
                await asked
            assert isinstance(refused.value, ServiceError)
            assert refused.value.field == field


async def test_a_slice_says_what_it_is_and_where_a_stream_of_another_one_is(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model, seen, v = await w.model(), w.server.seen(), viewing(w)
        assert v.model(seen, model)["slice"] is None
        others = next(f"s-{n}" for n in range(99) if slice_of(f"s-{n}", 3) == 2)
        model.slices.apply(Slice(0, 3, 1), 0)
        assert v.model(seen, model)["slice"] == {"index": 0, "count": 3}
        with pytest.raises(NotFound, match="it is in slice 3 of 3, these streams are in slice 1"):
            await v.block(seen, model, others, "", 1, 10)


async def test_a_point_says_what_was_forecast_what_came_and_which_version_learned_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model, seen, v = await w.model(horizon=3), w.server.seen(), viewing(w)
        await ticks(w, model, 10)
        await w.server.journal.flush()
        await w.publish(model, 1)
        await ticks(w, model, 2, seed=1)
        chain = model.log.chain(int(model.table.newest[0]))
        point = as_json(await v.point(seen, model, "a", 4))
        y = np.frombuffer(chain[3].y, np.float32).reshape(3, 1)
        np.testing.assert_allclose(point["y"], y, rtol=1e-5)
        truths = [np.frombuffer(chain[seq - 1].x, np.float32) for seq in (5, 6, 7)]
        np.testing.assert_allclose(point["truth"], truths, rtol=1e-5)
        assert (point["version"], point["staleness"], point["learned_in"]) == (1, 4 - chain[3].judged_through, 2)

        newest = as_json(await v.point(seen, model, "a", 12))
        assert (newest["truth"], newest["learned_in"], newest["version"]) == ([[None]] * 3, None, 2)
        late = as_json(await v.point(seen, model, "a", 9))
        assert None not in late["truth"]
        assert late["learned_in"] is None, "its label came after the version was learned"


async def test_errors_are_the_trainers_and_name_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w:
        model, seen = await w.model(horizon=2), w.server.seen()
        for id in "ab":
            await ticks(w, model, 40, ord(id), id)
        await w.learn()

        async def asked(number: int, worst: int, after: int, limit: int, timeout_s: float) -> ErrorTables:
            table = np.arange(2 * 17, dtype=np.float64).reshape(2, 17) + 1
            rows = np.arange(2 * 2 * 17, dtype=np.float32).reshape(2, 2, 17) + 1
            assert (number, worst) == (model.number, 5)
            return ErrorTables(1, table.tobytes(), (2, 1), rows.tobytes())

        monkeypatch.setattr(seen.trainers, "errors", asked)
        found = as_json(await viewing(w).errors(seen, model, 5))
        assert found["steps"][1] == {
            "step": 2, "labels": 18, "squared": 19, "absolute": 20, "persistence_squared": 21,
            "persistence_absolute": 22,
        }  # fmt: skip
        assert [each["id"] for each in found["streams"]] == ["b", "a"]
        assert found["streams"][0]["steps"] == {
            "1": {"squared": 2, "persistence_squared": 4}, "2": {"squared": 19, "persistence_squared": 21},
        }  # fmt: skip


async def test_streams_come_in_pages_and_can_be_searched(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model, seen, v = await w.model(), w.server.seen(), viewing(w)
        names = [f"{kind}{n:02}" for kind in ("bus", "Taxi") for n in range(15)]
        for name in names:
            w.open(model, name)
        found: list[str] = []
        after = ""
        while True:
            page = await v.streams(seen, model, after, 4, "taxi")
            found += [each["id"] for each in page["streams"]]
            after = page["next"]
            if not after:
                break
        assert found == sorted(name for name in names if "Taxi" in name)
        first = await v.streams(seen, model, "", 7, "")
        assert [each["id"] for each in first["streams"]] == sorted(names)[:7]
        assert first["next"]
        assert all(each["in_memory"] for each in first["streams"])


async def test_a_shadow_shows_the_ticks_of_its_source(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        source = await w.model()
        shadow = await w.model("twin", shadow="flow", hidden=3)
        await ticks(w, source, 5)
        seen, v = w.server.seen(), viewing(w)
        assert as_json(await v.block(seen, shadow, "a", "", 1, 9)) == as_json(
            await v.block(seen, source, "a", "", 1, 9)
        )
        assert v.model(seen, shadow)["shadow"] == "flow"


async def test_facts_of_a_learning_model_are_what_the_trainer_reported(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model, seen, v = await w.model(intervals=[0.8]), w.server.seen(), viewing(w)
        assert v.gradient(seen, model) == {"layers": {}}
        sampler = Sampler(seen, model)
        now = 0.0
        w.clock = lambda: now
        sampler.look()
        await ticks(w, model, 300)
        await w.learn()
        gradient, report = as_json(v.gradient(seen, model)), seen.metrics.of(model.key).learner.report
        assert report is not None
        np.testing.assert_allclose(gradient["layers"]["cell0"], report.lags["cell0"], rtol=1e-5)
        assert gradient["saturated"].keys() == {"cell0"}
        assert gradient["norm"] > 0
        facts = as_json(v.model(seen, model))
        assert facts["learned"] > 0
        assert facts["champion"] == model.champion
        now = 2.0
        assert sampler.look()
        (sample,) = sampler.since(0)
        assert sample["ticks_per_s"] == 150
        assert sample["norm"] == report.norms[-1]
        assert 0 <= sample["coverage"]["0.8"] <= 1
        assert sampler.since(1) == []
        (first, *_) = await v.versions(seen, model)
        assert first["champion"]
        assert v.events(seen, model.key, 100)[0]["kind"] == "created"
        service = as_json(v.service([seen]))
        assert (service["streams"], service["refused"]["gap"], service["trainers"]) == (1, 0, [{"ready": False}])
        assert as_json(v.service([seen]))["step_p50"] is None, "no step since the last call"
        assert v.service([])["streams"] == 0, "a node without a shard"


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "mingru", "lru", "attention"])
async def test_a_state_is_the_live_one_with_the_gates_of_its_tick(tmp_path: Path, cell: str) -> None:
    async with world(tmp_path) as w:
        model = await w.model(cell=cell, layers=2)
        await ticks(w, model, 5)
        shown, loaded, versions = Shown(model, Lens.of(model.spec, "", 1), "a", None, True), Loaded(), w.server.versions

        def look() -> dict[str, Any]:
            copied = shown.copy()
            assert copied is not None
            events = [e for e in shown.take(copied, loaded, versions) if e.startswith(b"event: state")]
            found: dict[str, Any] = json.loads(events[0].split(b"data: ")[1])
            return found

        first = look()
        assert [layer["marked"] for layer in first["layers"]] == [None, None]
        await w.publish(model, 1)
        await ticks(w, model, 1, 1)
        look()
        for n in (1, MOST_STEPPED):
            before = model.table.state[0].copy()
            await ticks(w, model, n, n + 1)
            state = look()
            assert state["seq"] == model.session("a").last_seq
            live, start = model.table.state[:1], model.network.statistics_size
            weights = loaded.get(versions, model, model.champion)
            assert weights is not None
            tape, hidden = model.network.tape(1, 1), before[None]
            for answer in model.log.chain(int(model.table.newest[0]))[-n:]:
                x, u = model.network.inputs(np.array([math.nan]), np.frombuffer(answer.x, np.float32)[None])
                _, hidden = model.network.step(weights, x, u, hidden, tape)
            for i, (layer, its) in enumerate(zip(state["layers"], model.network.cells, strict=True)):
                part = live[:, start : start + its.state_size]
                np.testing.assert_allclose(layer["values"], its.units(part)[0], atol=2e-5, rtol=1e-4)
                assert layer["marked"] == np.flatnonzero(its.saturated_units(tape.cells[i])[0]).tolist()
                start += its.state_size


async def test_of_many_ticks_the_state_after_the_first_is_shown(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model = await w.model()
        await ticks(w, model, 5)
        shown, loaded = Shown(model, Lens.of(model.spec, "", 1), "a", None, True), Loaded()
        session = model.session("a")
        for _ in range(2):
            copied = shown.copy()
            assert copied is not None
            events = shown.take(copied, loaded, w.server.versions)
            await ticks(w, model, 1, 7)
            after = model.table.state[0, model.network.statistics_size :][:4].copy()
            await ticks(w, model, MOST_STEPPED, 8)
        state = json.loads(events[-1].split(b"data: ")[1])
        copied = shown.copy()
        assert copied is not None
        state = json.loads(shown.take(copied, loaded, w.server.versions)[-1].split(b"data: ")[1])
        assert state["seq"] == session.last_seq - MOST_STEPPED
        np.testing.assert_allclose(state["layers"][0]["values"], after, atol=1e-5)
        assert state["layers"][0]["marked"] is not None


def test_a_quantile_is_that_of_the_counted_values_within_their_bucket() -> None:
    bounds, rng = (1.0, 2.0, 4.0, 8.0), np.random.default_rng(0)
    values = rng.uniform(0, 8, 1000)
    counts = np.histogram(values, [0, *bounds])[0].tolist()
    buckets = Buckets(bounds, [*counts, 0])
    for share in (0.01, 0.5, 0.95, 0.99):
        assert buckets.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.2)
    assert Buckets(bounds, [0] * 5).quantile(0.5) is None
    assert Buckets(bounds, [0, 0, 0, 0, 3]).quantile(0.5) == 8
    assert buckets.since(buckets).quantile(0.5) is None
    assert buckets.since(None) is buckets
