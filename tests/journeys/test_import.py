"""From an ONNX graph of another framework to a model that learns on a real server, and back to ONNX."""

from __future__ import annotations

import asyncio

import numpy as np
import onnxruntime

from model.network import Network
from service.console.files import WEIGHTS, read_spec
from service.engine.export import read_weights
from service.programs.foreign.command import run
from tests.model.foreign_graphs import stacked

DEADLINE_S = 240
SHOWN = 9  # ticks
KEYS = ['channels=["a", "b", "c"]', 'targets=["a", "b"]', "task=forecast", "learning_rate=1e-2"]


def walk(steps: int) -> np.ndarray:
    rng, x, rows = np.random.default_rng(4), np.zeros(3), []
    for _ in range(steps):
        x = 0.9 * x + rng.normal(0, 0.3, 3)
        rows.append(x)
    return np.array(rows, np.float32)


async def test_an_imported_graph_serves_its_answers_then_learns_and_is_exported_again(server, client, name, tmp_path):
    original = stacked("GRU", last=False)
    (tmp_path / "net.onnx").write_bytes(original)
    assert run(tmp_path / "net.onnx", None, KEYS, None, tmp_path / "model", False) == 0
    spec = read_spec(tmp_path / "model")
    keys = spec.to_mapping()
    await client.create_model(name, keys.pop("channels"), weights=(tmp_path / "model" / WEIGHTS).read_bytes(), **keys)

    x = walk(600)
    expected = onnxruntime.InferenceSession(original).run(None, {"x": x[None]})[0][0]
    await client.pause(name)  # or another version could serve before the first has shown what it answers
    async with client.stream(name, "elsewhere") as stream, asyncio.timeout(DEADLINE_S):
        for at in range(SHOWN):
            forecast = await stream.step(x[at], float(at))
            assert forecast.version == 1
            np.testing.assert_allclose(forecast.y.ravel(), expected[at], atol=1e-5)
        await client.resume(name)
        async for forecast in stream.forecasts(x[SHOWN:], np.arange(float(SHOWN), 600.0), max_staleness=32):
            if forecast.version > 1:
                break
    assert forecast.version > 1

    learned = await client.export(name, forecast.version)
    network = Network(spec)
    weights = network.weights(read_weights(network, learned.weights))
    imported = read_weights(network, (tmp_path / "model" / WEIGHTS).read_bytes())
    assert np.abs(weights.flat - imported).max() > 1e-3
    session = onnxruntime.InferenceSession(learned.onnx)
    u = np.zeros((1, 0), np.float32)
    ours = theirs = np.zeros((1, network.state_size), np.float32)
    for row in x[:50]:
        y, ours = network.step(weights, row[None], u, ours)
        made, theirs = session.run(["y", "next_state"], {"x": row[None], "u": u, "state": theirs})
        np.testing.assert_allclose(made, y, atol=1e-5)
