"""The exported step equals NumPy (DESIGN R9), in scaled units, with perturbed weights: a zero head tests nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest

from model.graph.step import IR, OPSET, export_step
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec
from tests.conftest import covering
from tests.contracts import registry
from tests.graphs import session
from tests.model.scaled import units

STEPS, PARITY = 300, 1e-5
KINDS = registry.cells()
TARGETS = [("a", "b", "c"), ("c", "a")]


def build(cell: str, layers: int = 1, horizon: int = 1, targets: Any = TARGETS[0], interval: float = 900.0) -> Network:
    return Network(ModelSpec(channels=("a", "b", "c"), targets=targets, layers=layers, horizon=horizon, hidden=8,
                             interval=interval, **KINDS[cell]))  # fmt: skip


def perturbed(network: Network) -> Array:
    rng = np.random.default_rng(1)
    flat = rng.normal(0, 0.3, network.layout.size).astype(np.float32)
    if network.mixture is not None:
        experts = network.weights(flat).experts
        for (
            name
        ) in network.mixture.bases:  # of up to 60 regressors: 0.3 gives forecasts of 80 scales, and float32 noise
            experts[name] /= 3
        experts["mixing"][...] = rng.uniform(0.1, 1, experts["mixing"].shape)  # every expert has a weight
    assert np.abs(flat).min() > 0
    return flat


def ticks(network: Network, B: int, steps: int = STEPS) -> list[tuple[Array, Array]]:
    """Return (x, u) of each step: channels of different sizes and offsets, some jumps, and one constant channel."""
    rng, x, out = np.random.default_rng(0), np.zeros((B, 3)), []
    for step in range(steps):
        x = 0.9 * x + rng.normal(0, 1, (B, 3)) + 20 * (rng.random((B, 3)) < 0.01)
        raw = x * (1e-3, 1.0, 50.0) + (0, -7, 3000)
        raw[0, 1] = 4.25
        time = 1.4e9 + 900.0 * step + 60.0 * np.arange(B, dtype=np.float64)
        out.append((raw.astype(np.float32), network.ahead.inputs(time)))
    return out


def scales(network: Network, state: Array) -> Array:
    """Return [B, O]: the unit of each forecast of the tick that produced this state; 1 where none is known yet."""
    spec = network.spec
    C, H = len(spec.channels), spec.horizon
    square = state[:, 1 + 2 * C : 1 + (2 + H) * C].reshape(-1, H, C)
    sigma = np.sqrt(state[:, None, 1 + C : 1 + 2 * C])
    scale: Array = (np.sqrt(square) + 1e-3 * sigma)[:, :, spec.target_index]
    return np.where(scale > 0, scale, 1).reshape(len(state), -1)


CASES = list(itertools.product(KINDS, [1, 2], [1, 4], TARGETS, [0.0, 900.0]))


@pytest.mark.parametrize(
    ("cell", "layers", "horizon", "targets", "interval"), covering(CASES, *itertools.combinations(range(5), 2))
)
def test_the_graph_equals_numpy_over_300_steps(
    cell: str, layers: int, horizon: int, targets: Any, interval: float
) -> None:
    network = build(cell, layers, horizon, targets, interval)
    weights = network.weights(perturbed(network))
    graph, tape, B = session(export_step(network, weights)), network.tape(1, 3), 3
    state = other = np.zeros((B, network.state_size), np.float32)
    n, moved = network.statistics_size, 0.0
    sizes = np.full(n, 1e-4)
    sizes[: network.scaler.size] = units(network.scaler, 1e-4)
    for x, u in ticks(network, B):
        y, state = network.step(weights, x, u, state, tape)
        got, other = graph.run(None, {"x": x, "u": u, "state": other})

        unit = scales(network, state)
        # float32 rounds the answer by 2⁻²³ of its size: a value near 3000 in units of 50 by 7e-6 of a unit.
        held = np.abs(y) * 2.0**-23 / unit
        assert (np.abs(got - y) / unit <= PARITY + held).all()
        np.testing.assert_allclose(other[:, n:], state[:, n:], rtol=0, atol=PARITY)
        # Statistics: relative, or absolute by the size of the channel where they pass through zero.
        assert (np.abs(other - state)[:, :n] <= PARITY * (np.abs(state[:, :n]) + sizes)).all()
        last = np.tile(x[:, network.spec.target_index], (1, horizon))
        moved = max(moved, float((np.abs(y - last) / unit).max()))
    assert (
        moved > 0.25
    )  # the forecasts are not persistence; a mingru averages its inputs, so that its units move little


@pytest.mark.parametrize("cell", KINDS)
def test_the_answer_of_a_row_is_the_same_in_batches_of_1_to_64(cell: str) -> None:
    network = build(cell, layers=2, horizon=2)
    weights = network.weights(perturbed(network))
    graph, alone = session(export_step(network, weights)), {}
    state = np.zeros((64, network.state_size), np.float32)
    for step, (x, u) in enumerate(ticks(network, 64, steps=40)):
        whole = graph.run(None, {"x": x, "u": u, "state": state})
        for size in (1, 2, 3, 7, 16, 31, 32, 33) if step % 13 == 0 else ():
            parts = [
                graph.run(None, {"x": x[i : i + size], "u": u[i : i + size], "state": state[i : i + size]})
                for i in range(0, 64, size)
            ]
            for k in (0, 1):
                alone[size, k] = np.concatenate([part[k] for part in parts])
                np.testing.assert_allclose(alone[size, k], whole[k], rtol=PARITY, atol=PARITY)
        state = whole[1]


@pytest.mark.parametrize("cell", KINDS)
def test_the_numpy_step_gives_the_same_answer_of_a_row_in_any_batch(cell: str) -> None:
    network = build(cell, layers=2, horizon=2)
    weights = network.weights(perturbed(network))
    state = np.zeros((64, network.state_size), np.float32)
    for x, u in ticks(network, 64, steps=20):
        _, state = network.step(weights, x, u, state)
    y, after = network.step(weights, x, u, state)
    for size in (1, 5, 32):
        got, got_after = network.step(weights, x[:size], u[:size], state[:size])
        np.testing.assert_allclose(got, y[:size], rtol=PARITY, atol=PARITY)
        np.testing.assert_allclose(got_after, after[:size], rtol=PARITY, atol=PARITY)


@pytest.mark.parametrize("cell", KINDS)
def test_the_export_is_opset_17_ir_8_with_the_promised_inputs_and_outputs(cell: str) -> None:
    network = build(cell, horizon=4, targets=("b",))
    model = onnx.load_from_string(export_step(network, network.weights(perturbed(network))))

    onnx.checker.check_model(model, full_check=True)
    assert (OPSET, IR) == (17, 8)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]

    def shapes(values: Any) -> dict[str, list[Any]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    S = network.state_size
    assert shapes(model.graph.input) == {"x": ["B", 3], "u": ["B", 5], "state": ["B", S]}  # u: calendar, season
    assert shapes(model.graph.output) == {"y": ["B", 4], "next_state": ["B", S]}


@pytest.mark.parametrize("cell", KINDS)
def test_equal_weights_give_equal_bytes_and_other_weights_other_bytes(cell: str) -> None:
    first, again = build(cell, layers=2), build(cell, layers=2)
    flat = perturbed(first)
    data = export_step(first, first.weights(flat))
    assert data == export_step(again, again.weights(flat.copy()))
    flat[0] += 1
    assert data != export_step(first, first.weights(flat))


def test_an_export_does_not_change_with_the_weights_afterwards() -> None:
    network = build("lstm")
    flat = perturbed(network)
    data = export_step(network, network.weights(flat))
    kept = bytes(data)
    flat[...] = 0
    assert data == kept


def test_the_export_of_a_new_model_is_persistence() -> None:
    network = build("lstm", horizon=4)
    graph = session(export_step(network, network.weights(network.init_params())))
    state = np.zeros((2, network.state_size), np.float32)
    for x, u in ticks(network, 2, steps=20):
        y, state = graph.run(None, {"x": x, "u": u, "state": state})
        np.testing.assert_array_equal(y, np.tile(x, (1, 4)))


@pytest.mark.parametrize("part", ["cell0", "head"])
def test_the_comparison_detects_a_wrong_weight(part: str) -> None:
    network = build("lstm")
    flat = perturbed(network)
    x, u = ticks(network, 3, steps=2)[1]
    state = np.full((3, network.state_size), 0.5, np.float32)
    y, after = network.step(network.weights(flat), x, u, state)
    owned = network.layout.layers()[part]
    flat[owned.stop - 1] += 1e-2  # one bias
    got, other = session(export_step(network, network.weights(flat))).run(None, {"x": x, "u": u, "state": state})
    difference = max(np.abs(got - y).max(), np.abs(after - other).max())
    assert difference > 10 * PARITY
