"""The diagonal cells, lru and mingru: bounded for ever, without subnormal numbers, and how their gradients decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.cells.contract import MAX_SUM
from model.cells.lru import LEAST_DECAY, PHASES, RING, rates
from model.network import Network
from model.parameters import Array, Layout
from model.spec import ModelSpec, SpecError
from tests.contracts.test_parity import assert_parity

H, INPUTS = 16, 3
DIAGONAL = ("lru", "mingru")
TINY = np.finfo(np.float32).tiny


def cell_of(name: str, hidden: int = H, **fields: Any) -> tuple[Any, dict[str, Array]]:
    """Return a layer that reads INPUTS values, and its first parameters."""
    spec = ModelSpec(channels=("a", "b", "c"), scaler="none", cell=name, hidden=hidden, **fields)
    network = Network(spec)
    return network.cells[0], network.weights(network.init_params()).cells[0]


def run(cell: Any, params: dict[str, Array], X: Array, state: Array | None = None) -> tuple[Array, Any]:
    """Return the states after each of T ticks [T, state_size] of one row, and the tape. X: [T, INPUTS]."""
    tape = cell.workspace(len(X), 1, X.dtype.type)
    start = np.zeros((1, cell.state_size), X.dtype) if state is None else state[None]
    cell.forward(params, start, X[:, None], tape)
    return np.concatenate([cell.state_after(tape, t + 1) for t in range(len(X))]), tape


def lag_norms(cell: Any, params: dict[str, Array], T: int, dtype: Any = np.float32) -> Array:
    """Return the gradient norm by lag, nearest first, of a label at the last of T ticks of noise."""
    rng, params = np.random.default_rng(0), {k: v.astype(dtype) for k, v in params.items()}
    _, tape = run(cell, params, rng.normal(0, 1, (T, INPUTS)).astype(dtype))
    dH = np.zeros((T, 1, cell.hidden), dtype)
    dH[-1] = rng.normal(0, 1, cell.hidden)
    layout = Layout(cell.shapes())
    cell.backward(params, tape, dH, layout.views(np.zeros(layout.size, dtype)), need_dX=False)
    return np.asarray(cell.lag_norms(tape)[::-1])


def test_the_first_eigenvalues_of_an_lru_are_uniform_in_a_ring_and_a_sector() -> None:
    _, params = cell_of("lru", hidden=1024)
    of = rates(params)
    (low, high), n = RING, 1024

    assert low - 1e-6 < of.radius.min()
    assert of.radius.max() < high + 1e-6
    for values, width in ((of.radius - low, high - low), (params["theta"], PHASES)):
        assert (values / width).mean() == pytest.approx(0.5, abs=5 / np.sqrt(12 * n))
        assert np.mean(values / width < 0.25) == pytest.approx(0.25, abs=5 * np.sqrt(0.19 / n))
    assert not params["W"][:, -1].any()


@pytest.mark.parametrize(("gain", "low", "high"), [(0.5, 0.45, 0.4996), (1 / 0.9, 1 - 3e-6, 1), (0.0, 0, 1e-3)])
def test_the_gain_multiplies_the_first_radii_and_leaves_them_below_one(gain: float, low: float, high: float) -> None:
    _, params = cell_of("lru", init_gain=gain)
    radius = rates(params).radius

    assert low <= radius.min() <= radius.max() < high


@pytest.mark.parametrize("nu", [-3e38, -100.0, -13.8, 0.0, 2.0, 100.0, 3e38])
def test_no_logarithm_of_decay_gives_a_radius_of_one_or_a_number_that_is_not_finite(nu: float) -> None:
    with np.errstate(all="raise"):
        of = rates({"nu": np.full(1, nu, np.float32), "theta": np.ones(1, np.float32)})

    assert TINY < of.radius[0] <= np.float32(np.exp(-LEAST_DECAY)) < 1
    assert np.sqrt(-np.expm1(-2 * LEAST_DECAY)) <= of.gamma[0] * (1 + 1e-6)


def test_the_state_of_an_lru_stays_within_its_bound_for_the_worst_input() -> None:
    """|s| ≤ max|B x|·√((1+r)/(1−r)): an input in phase with the largest eigenvalue comes close to it."""
    cell, params = cell_of("lru", hidden=1)
    params["nu"][...], params["theta"][...] = np.log(0.01), 0.0
    params["B"][...] = np.array([[1, 0, 0], [0, 0, 0]], np.float32)
    radius = float(rates(params).radius[0])

    states, _ = run(cell, params, np.ones((2000, INPUTS), np.float32))

    bound = np.sqrt((1 + radius) / (1 - radius))
    assert 0.99 * bound < np.abs(states).max() <= bound * (1 + 1e-5)
    assert np.sqrt(2 / LEAST_DECAY) < 1449
    assert MAX_SUM > 1449 * 69 * 1e15


@pytest.mark.parametrize("name", DIAGONAL)
def test_a_state_without_input_decays_to_the_floor_and_never_to_subnormal_numbers(name: str) -> None:
    cell, params = cell_of(name, init_gain=0.5) if name == "lru" else cell_of(name)
    start = np.ones(cell.state_size, np.float32)

    states, _ = run(cell, params, np.zeros((400, INPUTS), np.float32), start)

    assert np.abs(states[-1]).max() < 1e-28
    assert np.abs(states).min() > TINY


@pytest.mark.parametrize("name", DIAGONAL)
def test_a_gradient_that_vanishes_becomes_zero_and_not_subnormal(name: str) -> None:
    cell, params = cell_of(name, init_gain=0.5) if name == "lru" else cell_of(name)

    norms = lag_norms(cell, params, 400)
    exact = lag_norms(cell, params, 400, np.float64)

    assert norms[-1] == 0 < exact[-1] < 1e-60
    clear = exact > 1e-20
    np.testing.assert_allclose(norms[clear], exact[clear], rtol=1e-4)
    assert norms[norms > 0].min() > TINY


def test_an_lru_of_radius_one_keeps_the_whole_gradient_and_a_smaller_radius_decays_by_its_power() -> None:
    kept = lag_norms(*cell_of("lru", init_gain=1 / RING[0]), 500)
    np.testing.assert_allclose(kept / kept[0], 1, rtol=2e-3)  # 500 steps of 1 − 2e-6

    cell, params = cell_of("lru")
    params["nu"][...] = np.log(-np.log(0.9))
    norms = lag_norms(cell, params, 60)
    np.testing.assert_allclose(norms / norms[0], 0.9 ** np.arange(60), rtol=1e-4)


def test_saturation_counts_radii_near_one_and_near_zero_and_gates_that_are_shut_or_open() -> None:
    cell, params = cell_of("lru", hidden=4)
    params["nu"][...] = np.log(-np.log(np.array([0.01, 0.5, 0.99, 0.9999])))
    _, tape = run(cell, params, np.ones((3, INPUTS), np.float32))
    assert cell.saturated(tape) == 0.5

    cell, params = cell_of("mingru", hidden=4)
    params["W"][...] = 0
    params["W"][:4, -1] = [-9, -1, 1, 9]
    _, tape = run(cell, params, np.ones((3, INPUTS), np.float32))
    assert cell.saturated(tape) == 0.5


@pytest.mark.parametrize("gain", [1.0, 1.2])
def test_the_graph_of_an_lru_with_long_memory_equals_numpy_over_many_ticks(gain: float) -> None:
    spec = ModelSpec(channels=("a", "b"), hidden=8, interval=900.0, cell="lru", init_gain=gain, forecaster="network",
                     head_init=0.3)  # fmt: skip
    network = Network(spec)
    assert_parity(network, steps=400, flat=network.init_params())


@pytest.mark.parametrize("fields", [{"cell": "mingru", "init_gain": 2.0}, {"cell": "lru", "init": "orthogonal"}])
def test_an_initialisation_that_a_diagonal_cell_does_not_have_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="has its own, or none"):
        ModelSpec(channels=("a",), **fields)
