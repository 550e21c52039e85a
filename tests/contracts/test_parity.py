"""The exported step equals NumPy for every cell × task × scaler, with and without missing values (DESIGN R9)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from model.graph.step import export_step
from model.network import Network
from model.parameters import Array
from model.scalers import SCALERS
from model.spec import CHOICES, ModelSpec
from tests.conftest import covering
from tests.contracts import registry
from tests.graphs import session
from tests.model.scaled import gaps

STEPS, B, PARITY, EPS = 80, 3, 1e-5, 2.0**-23
KINDS = registry.cells()


def build(kind: str, task: str, scaler: str, missing: str, **more: Any) -> Network:
    fields: dict[str, Any] = {**KINDS[kind], **registry.EXAMPLES[task], "task": task, "scaler": scaler, **more}
    return Network(ModelSpec(channels=("a", "b"), hidden=8, layers=2, interval=900.0, missing=missing, **fields))


def perturbed(network: Network) -> Array:
    """Return weights without a zero; tasks with a scale of their own get a positive one, experts all a part."""
    flat = np.random.default_rng(1).normal(0, 0.3, network.layout.size).astype(np.float32)
    weights = network.weights(flat)
    if "scale" in weights.target:
        weights.target["scale"][...] = np.abs(weights.target["scale"]) + 0.1
    if "mixing" in weights.experts:
        weights.experts["mixing"][...] = np.abs(weights.experts["mixing"]) + 0.1
    assert np.abs(flat).min() > 0
    return flat


def ticks(network: Network, steps: int) -> list[tuple[Array, Array]]:
    rng, x, values = np.random.default_rng(0), np.zeros((B, 2)), []
    for _ in range(steps):
        x = 0.9 * x + rng.normal(0, 0.5, (B, 2))
        values.append(x)
    whole = np.array(values, np.float32)
    times = 1.4e9 + 900.0 * np.arange(steps)[:, None] + 60.0 * np.arange(B)
    known = [network.ahead.inputs(time) for time in times]
    return list(zip(gaps(whole) if network.spec.missing == "hold" else whole, known, strict=True))


@pytest.mark.parametrize("stack", registry.stacks().values(), ids=registry.stacks())
def test_the_graph_of_layers_that_differ_equals_numpy(stack: dict[str, Any]) -> None:
    assert_parity(Network(ModelSpec(channels=("a", "b"), hidden=8, interval=900.0, **stack)), steps=300)


CASES = list(itertools.product(KINDS, CHOICES["task"], sorted(SCALERS), CHOICES["missing"]))


@pytest.mark.parametrize(
    ("kind", "task", "scaler", "missing"), covering(CASES, *itertools.combinations(range(4), 2), (1, 2, 3))
)
def test_the_graph_equals_numpy(kind: str, task: str, scaler: str, missing: str) -> None:
    assert_parity(build(kind, task, scaler, missing))


def assert_parity(network: Network, steps: int = STEPS, flat: Array | None = None) -> None:
    """Compare states and answers of many ticks. flat: the weights; None: perturbed ones."""
    weights, tape, n = (
        network.weights(perturbed(network) if flat is None else flat),
        network.tape(1, B),
        network.scaler.size,
    )
    graph = session(export_step(network, weights))
    state = other = np.zeros((B, network.state_size), np.float32)
    answers = []
    for x, u in ticks(network, steps):
        _, scale, _ = network.observe(state[:, :n].copy(), x, u)
        unit = network.task.units(weights.target, scale)
        y, state = network.step(weights, x, u, state, tape)
        got, other = graph.run(None, {"x": x, "u": u, "state": other})

        # In scaled units, and relative: float32 rounds the answer by 2⁻²³ of its size.
        assert (np.abs(got - y) <= PARITY * unit + EPS * np.abs(y)).all()
        np.testing.assert_allclose(other[:, n:], state[:, n:], rtol=PARITY, atol=PARITY)
        # Statistics: relative, or absolute by the channel's size, about 1, where they pass through zero.
        np.testing.assert_allclose(other[:, :n], state[:, :n], rtol=PARITY, atol=PARITY)
        answers.append(y)
    assert np.std(answers, axis=0).min() > 1e-3  # every output of every row changed


@pytest.mark.parametrize("loss", registry.SPREAD)
@pytest.mark.parametrize("task", ["forecast", "regress"])
@pytest.mark.parametrize("missing", CHOICES["missing"])
def test_the_graph_of_a_loss_with_a_spread_equals_numpy(loss: str, task: str, missing: str) -> None:
    fields = {"loss": loss, **registry.SPREAD[loss]}
    network = build("gru", task, "residual", missing, **fields)
    weights, tape, n = network.weights(perturbed(network)), network.tape(1, B), network.scaler.size
    graph, outputs, levels = session(export_step(network, weights)), network.spec.outputs, len(network.spec.intervals)
    state = other = np.zeros((B, network.state_size), np.float32)
    widths = []
    for x, u in ticks(network, STEPS):
        _, scale, _ = network.observe(state[:, :n].copy(), x, u)
        unit = network.task.unit(weights.target, scale)
        y, state = network.step(weights, x, u, state, tape)
        got, other, bounds = graph.run(None, {"x": x, "u": u, "state": other})

        assert (got.shape, bounds.shape) == ((B, outputs), (B, 2 * levels * outputs))
        tolerance = PARITY * unit + EPS * np.abs(y[:, :outputs])
        assert (np.abs(got - y[:, :outputs]) <= tolerance).all()
        np.testing.assert_allclose(other, state, rtol=PARITY, atol=PARITY)
        expected = y[:, outputs:]
        np.testing.assert_array_equal(np.isnan(bounds), np.isnan(expected))
        size = np.tile(unit + np.abs(y[:, :outputs]), 2 * levels)
        known = ~np.isnan(expected)
        assert (np.abs(bounds - expected)[known] <= (PARITY * np.maximum(size, np.abs(expected)))[known]).all()
        low, high = expected.reshape(B, 2, levels, outputs).transpose(1, 0, 2, 3)
        lower = np.diff(low, axis=1) <= 0
        assert (lower | np.isnan(low[:, 1:])).all()  # bounds of a higher level contain those of a lower one
        assert ((np.diff(high, axis=1) >= 0) | np.isnan(high[:, 1:])).all()
        widths.append((high - low) / np.where(unit > 0, unit, 1)[:, None])
    assert np.nanstd(widths, axis=0).min() > 1e-3  # every half-width of every row changed
