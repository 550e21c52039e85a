"""Known, static and categorical inputs through a real server: what was sent is what is answered from and learned."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import freshet
from freshet.v1 import streams_pb2 as pb
from freshet.v1 import types_pb2
from model.fold.learner import Learner
from service.common.gate import GateSettings
from service.console.remote import Remote
from service.engine.export import read_weights
from service.programs.backtest import core, through_service
from service.programs.backtest.child import ServerChild
from service.programs.backtest.plan import make_plan, model_keys
from tests.journeys.conftest import QUICK
from tests.journeys.raw import DEADLINE_S, RawStream
from tests.journeys.raw_mux import RawMux, columns
from tests.oracles import replay

SETTINGS = {"snapshot_s": 600.0}  # after a snapshot, old versions may go

KINDS: dict[str, Any] = {
    "known": ["price", "day"], "static": ["region", "size"], "categories": ["day:3", "region:4"], "hidden": 8,
    "head_init": 0.3, "forecaster": "network",
}  # fmt: skip
STATIC = {"region": 2, "size": 0.5}


def sent(rows: int, horizon: int) -> NDArray[np.float32]:
    """[rows, horizon, 2] a price and a category."""
    rng = np.random.default_rng(7)
    price = rng.normal(50, 5, (rows, horizon))
    return np.stack([price, rng.integers(0, 3, price.shape)], axis=2).astype(np.float32)


def expected(x: NDArray[np.float32], u: NDArray[np.float32], onnx: bytes) -> NDArray[np.float32]:
    """Return what the .onnx answers from an empty state, [N, O]. u: [N, horizon, 2]."""
    run, out = onnxruntime.InferenceSession(onnx), []
    (width,) = {i.shape[1] for i in run.get_inputs() if i.name == "state"}
    state, static = np.zeros((1, width), np.float32), np.array([[2, 0.5]], np.float32)
    for row, known in zip(x, u.reshape(len(u), -1), strict=True):
        fed = {"x": row[None], "u": np.concatenate([known[None], static], axis=1), "state": state}
        y, state = run.run(["y", "next_state"], fed)
        out.append(y[0])
    return np.array(out)


@pytest.mark.parametrize("horizon", [1, 3])
async def test_each_answer_is_what_the_onnx_says_of_what_was_sent_alone_and_packed(client, channel, name, horizon):
    await client.create_model(name, ["a", "b"], horizon=horizon, learn=False, **KINDS)
    rng = np.random.default_rng(0)
    x, u = rng.normal(0, 1, (60, 2)).astype(np.float32), sent(60, horizon)
    model = await client.export(name, 1)
    wanted = expected(x, u, model.onnx)

    async with client.stream(name, "s", static=STATIC) as stream:
        for t in range(30):
            known = {"price": u[t, :, 0], "day": u[t, :, 1]} if t % 2 else u[t]
            y = (await stream.step(x[t], known=known)).y
            np.testing.assert_allclose(y.reshape(-1), wanted[t], rtol=1e-6)
        later = [f.y async for f in stream.forecasts(freshet.Tick(x[t], None, u[t]) for t in range(30, 60))]
    np.testing.assert_allclose(np.reshape(later, (30, -1)), wanted[30:], rtol=1e-6)

    async with client.mux(name) as mux:
        for t in range(5):
            known = {"price": u[[t, t], :, 0], "day": u[[t, t], :, 1]} if t else u[[t, t]]
            packed = await mux.step(["p", "q"], x[[t, t]], known=known, static=STATIC if not t else None)
            np.testing.assert_allclose(packed.y.reshape(2, -1), wanted[[t, t]], rtol=1e-6)
        other = await mux.step(["p", "q"], x[[5, 5]], known=u[[5, 5]], static={"region": [2, 3], "size": 0.5})
        assert list(other.refused) == [1]
        assert "region = 3" in str(other.refused[1])
        assert "'q' has region = 2" in str(other.refused[1])


async def test_a_frame_sends_with_each_row_the_values_of_the_rows_after_it(client, name):
    await client.create_model(name, ["a"], horizon=2, known=["k"], learn=False, head_init=0.3, forecaster="network")
    x, k = np.random.default_rng(1).normal(0, 1, (2, 20))
    async with client.stream(name, "s") as stream:
        made = [f.y async for f in stream.forecasts({"a": x, "k": k})]
    async with client.stream(name, "t") as stream:
        by_hand = []
        for t in range(20):
            by_hand.append((await stream.step(x[t], known={"k": k[[min(t + 1, 19), min(t + 2, 19)]]})).y)
    np.testing.assert_array_equal(made, by_hand)


async def test_what_cannot_be_is_refused_with_field_value_and_remedy(client, channel, name):
    await client.create_model(name, ["a", "b"], **KINDS)
    async with client.stream(name, "s", static=STATIC) as stream:
        with pytest.raises(freshet.TickRefused, match="known = none; send price, day with every tick"):
            await stream.step([1, 2])
        with pytest.raises(
            freshet.TickRefused, match=r"u\[1\] = 3.*; day is a category: send a whole number from 0 to 2"
        ):
            await stream.step([1, 2], known={"price": 1, "day": 3})
        with pytest.raises(freshet.TickRefused, match=r"u\[0\] = nan"):
            await stream.step([1, 2], known={"price": math.nan, "day": 1})
        await stream.step([1, 2], known={"price": 1, "day": 1})
    async with RawStream(channel, name, "s") as raw:  # static values are known by now
        for u, reason in (([], "SHAPE"), ([1.0], "SHAPE"), ([math.inf, 1.0], "NON_FINITE"), ([1.0, 0.5], "INVALID")):
            refused = (await raw.ask(tick=pb.Tick(seq=2, x=[1, 2], u=u))).refused
            assert refused.reason == types_pb2.Refused.Reason.Value(reason), refused
            assert refused.field.startswith("u")
            assert refused.remedy
        again = (await raw.ask(tick=pb.Tick(seq=1, x=[1, 2], u=[1, 2]))).refused
        assert again.reason == types_pb2.Refused.CONFLICT
    for static, words in (
        (None, "static.region = none"), ({"region": 1}, "static.size = none"), ({"x": 1, **STATIC}, "static = x"),
        ({"region": 4, "size": 1}, "region is a category"), ({"region": 1, "size": math.inf}, "static.size = inf"),
    ):  # fmt: skip
        with pytest.raises(freshet.InvalidArgument, match=words):
            async with client.stream(name, "new", static=static):
                pass
    with pytest.raises(freshet.InvalidArgument, match=r"static.region = 1: stream 's' has region = 2"):
        async with client.stream(name, "s", static={"region": 1, "size": 0.5}):
            pass


async def test_a_model_without_covariates_refuses_them(client, channel, name):
    await client.create_model(name, ["a"], hidden=8)
    async with RawStream(channel, name, "s") as raw:
        refused = (await raw.ask(tick=pb.Tick(seq=1, x=[1], u=[1]))).refused
        assert (refused.field, refused.value) == ("u", "1 values")
    with pytest.raises(freshet.InvalidArgument, match="the model has none"):
        async with client.stream(name, "t", static={"k": 1}):
            pass


async def test_with_hold_a_tick_without_known_values_holds_the_last_ones(client, channel, name):
    await client.create_model(name, ["a"], known=["k"], missing="hold", learn=False, head_init=0.3, hidden=8,
                              forecaster="network")  # fmt: skip
    x = np.random.default_rng(2).normal(0, 1, 12).astype(np.float32)
    async with client.stream(name, "s") as stream:
        gaps = [(await stream.step(v, known=None if t % 3 else float(t))).y[0] for t, v in enumerate(x)]
    async with client.stream(name, "t") as stream:
        whole = [(await stream.step(v, known=float(t // 3 * 3))).y[0] for t, v in enumerate(x)]
    async with RawMux(channel, name) as mux:
        await mux.bind({1: "m", 2: "n"})
        given = columns([1, 2], [1, 1], [[x[0]], [x[0]]])
        given.u = np.array([3.0, 3.0], "<f4").tobytes()
        await mux.say(ticks=given)
        await mux.answer()
        packed = await mux.ticks([1], [2], [[x[1]]])  # no u at all
    assert np.isfinite(packed[1, 2][0]).all()
    np.testing.assert_array_equal(gaps[:2], whole[:2])
    assert np.isfinite(gaps).all()


async def test_what_was_sent_survives_a_crash_and_is_learned(tmp_path: Path, name: str) -> None:
    """The oracle of the journal, which knows neither snapshots nor the server's state, answers and learns the same."""
    rng, got = np.random.default_rng(3), []
    x, u = rng.normal(0, 1, (240, 2)).astype(np.float32), sent(240, 1)
    async with ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK | {"snapshot_s": 600.0}) as server:
        files: replay.Files | None = None
        for part in (slice(0, 120), slice(120, 240)):
            async with freshet.connect(server.grpc) as client, asyncio.timeout(DEADLINE_S):
                await client.create_model(name, ["a", "b"], **KINDS)
                async with client.stream(name, "s", static=STATIC if not part.start else None) as stream:
                    ticks = [freshet.Tick(x[t], None, u[t]) for t in range(240)[part]]
                    got += [f async for f in stream.forecasts(ticks, max_staleness=32)]
                    await stream.wait_judged(part.stop)
            now = replay.Files.of(tmp_path / "data")
            files = now if files is None else files | now
            server.kill()
            await server.wait()
            if part.stop < 240:
                await server.start()
    assert files is not None
    assert len(files.onnx) > 3
    chunks = replay.survivors(tmp_path / "data", tmp_path / "copy")
    answers = replay.served(chunks, files).answers
    for forecast in got:
        np.testing.assert_array_equal(forecast.y.reshape(-1), answers["s", forecast.seq].y)
        row = answers["s", forecast.seq].x
        np.testing.assert_array_equal(row, [*x[forecast.seq - 1], *u[forecast.seq - 1, 0], 2, 0.5])
    end = max(chunk.end for chunk in chunks)
    hosted = replay.learned(chunks, files, GateSettings(), end)
    newest = read_weights(hosted.learner.network, files.weights[max(files.weights)])
    assert hosted.learner.counts.learned > 200
    assert (newest != read_weights(hosted.learner.network, files.weights[1])).mean() > 0.9


async def test_a_backtest_through_the_service_forecasts_what_the_core_does(server, name, tmp_path):
    file, rng = tmp_path / "series.csv", np.random.default_rng(5)
    lines = [f"{rng.normal():.4f},{rng.normal(50, 5):.3f},{('work', 'free')[t % 2]},north" for t in range(80)]
    file.write_text("\n".join(["x,price,day,region", *lines]))
    keys = model_keys(
        known="price,day", static="region", horizon=2, settings=["head_init=0.5", "learn=false", "hidden=8"]
    )
    plan = make_plan(file, model=keys)
    ours = np.full((plan.rows, 2, 1), np.nan, np.float32)

    def take(row: int, y: NDArray[np.float32]) -> None:
        ours[row] = y

    await through_service.replay(Remote(server.grpc), name, "s", plan, 32, take)

    expected = np.stack(list(core.forecasts(Learner(plan.spec), plan)))
    assert np.abs(expected - plan.series.x[: plan.rows, None]).max() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-5)


async def test_labels_and_windows_of_a_task_with_labels_are_learned_with_what_was_sent(client, name):
    await client.create_model(name, ["a"], task="regress", targets=["y"], known=["k"], static=["s"], hidden=8)
    rng = np.random.default_rng(9)
    async with client.stream(name, "s", static={"s": 1.0}) as stream:
        for _ in range(20):
            k = rng.normal()
            forecast = await stream.step(rng.normal(), known=k)
            await stream.label(forecast.seq, 2 * k)
    async with client.learn(name, "history") as learning:
        await learning.window({"a": rng.normal(size=5), "k": rng.normal(size=5), "s": np.ones(5)}, np.ones((5, 1)))
        with pytest.raises(freshet.WindowRefused, match="send"):
            await learning.window(np.ones((5, 1)), np.ones((5, 1)))
    report = (await client.get_model(name)).report
    assert report is not None
    assert report.learned_labels >= 1


async def test_static_values_move_with_a_state_and_are_free_again_after_a_reset(client, name):
    await client.create_model(name, ["a"], static=["s"], learn=False, hidden=8)
    async with client.stream(name, "one", static={"s": 3}) as stream:
        await stream.step(1.0)
        await stream.durable()
    kept = await client.get_stream(name, "one", with_state=True)
    await client.put_stream(dataclasses.replace(kept, stream="two"))
    with pytest.raises(freshet.InvalidArgument, match="stream 'two' has s = 3"):
        async with client.stream(name, "two", static={"s": 4}):
            pass
    async with client.stream(name, "two") as stream:
        await stream.step(2.0)
        await stream.reset()
        await stream.durable()
    with pytest.raises(freshet.InvalidArgument, match="needs all its static inputs"):
        async with client.stream(name, "two"):
            pass
    async with client.stream(name, "two", static={"s": 4}) as stream:
        await stream.step(1.0)
