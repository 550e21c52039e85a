"""From a recorded history to a model on a real server that goes on learning."""

import asyncio
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model.ahead import Ahead
from model.network import Network
from model.spec import ModelSpec
from service.console.files import keys_beside
from service.engine.export import download
from service.programs.backtest.command import backtest
from service.programs.backtest.plan import make_plan
from tests.journeys import preloaded

TAXI = Path(str(resources.files("service.cli") / "data" / "nyc_taxi.csv"))
DEADLINE_S = 240
SHOWN = 9  # ticks


async def train(*arguments: object) -> tuple[int, str, str]:
    """`freshet train` as a process of its own: exit code, standard output, standard error."""
    process = await preloaded.command("train", *arguments)
    printed, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    return await process.wait(), printed.decode(), errors.decode()


def answers(graph: bytes, x: np.ndarray, time: np.ndarray, interval: float) -> list[np.ndarray]:
    """What an exported graph answers a fresh stream, tick by tick."""
    session = onnxruntime.InferenceSession(graph)
    u = Ahead(ModelSpec(channels=("value",), interval=interval)).inputs(time)
    state, given = np.zeros((1, session.get_inputs()[2].shape[1]), np.float32), []
    for row, ahead in zip(x, u, strict=True):
        y, state = session.run(None, {"x": row[None], "u": ahead[None], "state": state})
        given.append(y[0])
    return given


async def test_a_model_trained_on_a_history_is_version_1_of_one_that_goes_on_learning(server, client, name, tmp_path):
    out = tmp_path / "model"
    arguments = (TAXI, "--rows", 800, "--set", "hidden=16", "--epochs", 5, "--out", out)
    code, printed, errors = await train(*arguments, "--url", server.grpc, "--create", name)
    assert code == 0, errors
    assert f"created       {name} at {server.grpc}" in printed

    exported = await client.export(name)
    assert exported.version.number == 1
    assert exported.weights == (out / "weights.safetensors").read_bytes()
    network = Network(ModelSpec.from_mapping(keys_beside(out)))
    assert download(network, exported.onnx) == (out / "model.onnx").read_bytes()

    series = make_plan(TAXI, rows=1100).series
    assert series.time is not None
    x, time = series.x[800:], series.time[800:]
    expected = answers((out / "model.onnx").read_bytes(), x, time, series.interval)
    await client.pause(name)  # or another version could serve before the first has shown what it answers
    async with client.stream(name, "nyc") as stream, asyncio.timeout(DEADLINE_S):
        for at in range(SHOWN):
            forecast = await stream.step(x[at], time[at])
            assert forecast.version == 1
            np.testing.assert_array_equal(forecast.y.ravel(), expected[at])
        await client.resume(name)
        async for forecast in stream.forecasts(x[SHOWN:], time[SHOWN:], max_staleness=32):
            if forecast.version > 1:
                break
    assert forecast.version > 1


async def test_a_name_that_the_server_has_is_refused_before_the_work(server, client, name, tmp_path):
    await client.create_model(name, ["a"], hidden=4)
    code, _, errors = await train(TAXI, "--rows", 200, "--out", tmp_path / "m", "--url", server.grpc, "--create", name)
    assert code == 2
    assert f"create = {name}" in errors
    assert "choose another" in errors
    assert "epoch" not in errors
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a model that learned from the first rows."""
    out: Path = tmp_path_factory.mktemp("trained") / "model"
    code, _, errors = asyncio.run(train(TAXI, "--rows", 600, "--set", "hidden=8", "--epochs", 4, "--out", out))
    assert code == 0, errors
    return out


@pytest.mark.parametrize("through", ["core", "service"])
def test_a_backtest_through_core_or_service_begins_with_the_weights(tmp_path, trained, through):
    keys = keys_beside(trained) | {"learn": False}
    plan = make_plan(TAXI, model=keys, rows=150, score_from=1, weights=trained)
    made = tmp_path / "made.csv"
    backtest(plan, through, forecasts=made)
    given = answers((trained / "model.onnx").read_bytes(), plan.series.x[:149], plan.times[:149], 1800.0)
    # NumPy and ONNX differ in the last digits; the file holds float32 in full.
    scale = np.abs(np.diff(plan.series.x[:, 0])).mean()
    forecasts = np.loadtxt(made, delimiter=",", skiprows=1)[:, 2]
    np.testing.assert_allclose(forecasts / scale, np.concatenate(given) / scale, atol=1e-5)
    assert np.abs(forecasts - plan.series.x[:149, 0]).max() > 0.1 * scale, "persistence: the weights were not used"
