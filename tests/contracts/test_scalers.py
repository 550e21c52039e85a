"""The contract of every registered scaler: its slow twin, its ONNX twin, its first ticks, its equivariance."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from model.graph.scalers import SCALER_TWINS
from model.graph.step import export_step
from model.network import Network
from model.parameters import Array
from model.scalers import SCALERS
from model.scalers.contract import Scaler, fill
from model.spec import ModelSpec
from tests.conftest import covering
from tests.contracts.registry import Unproven, chosen, proven
from tests.graphs import session
from tests.model.scaled import gaps, run, run_slow, series, units
from tests.oracles.slow_scaler import SLOW_SCALERS

FLOAT32_EPS = 2.0**-23
PARITY = 1e-5
EQUIVARIANT = {  # under x → a·x + b, as the module of each says
    "residual": True,
    "standard": True,
    "none": False,
    "residual_v1": True,
    "standard_v1": True,
}


def proven_scalers(registry: Any) -> list[str]:
    with_twin = {name: True for name, make in registry.items() if type(make(1, 1, False)) in SCALER_TWINS}
    return proven(registry, a_slow_twin=SLOW_SCALERS, an_onnx_twin=with_twin, equivariance=EQUIVARIANT)


every_scaler = pytest.mark.parametrize("name", proven_scalers(chosen(SCALERS, "scaler")))
either_way = pytest.mark.parametrize("hold", [False, True], ids=["refuse", "hold"])
EQUIVARIANTS = sorted(name for name, yes in EQUIVARIANT.items() if yes)
every_equivariant = pytest.mark.parametrize("name", EQUIVARIANTS)


def network(name: str, **fields: Any) -> Network:
    values: dict[str, Any] = {"channels": ("a", "b"), "horizon": 3, "hidden": 8, "scaler": name}
    return Network(ModelSpec(**values | fields))


def perturbed(net: Network, seed: int = 3) -> Array:
    """Return weights without a zero: a zero readout would forecast persistence and test nothing."""
    flat = np.random.default_rng(seed).normal(0, 0.3, net.layout.size).astype(np.float32)
    assert np.abs(flat).min() > 0
    return flat


def forecasts(net: Network, flat: Array, x: Array) -> Array:
    """Return forecasts [n, H, C] float64 of one stream of raw values."""
    weights, tape = net.weights(flat), net.tape(1, 1)
    state, out = np.zeros((1, net.state_size), np.float32), []
    for value in x.astype(np.float32):
        y, state = net.step(weights, value[None], np.zeros((1, 0), np.float32), state, tape)
        out.append(y.reshape(net.spec.horizon, -1))
    return np.array(out, np.float64)


def test_a_scaler_without_a_reference_fails_the_collection() -> None:
    class Untwinned:
        def __init__(self, channels: int, horizon: int, hold: bool) -> None: ...

    with pytest.raises(Unproven, match="new: registered without a_slow_twin"):
        proven_scalers(SCALERS | {"new": SCALERS["none"]})
    with pytest.raises(Unproven, match="residual: registered without an_onnx_twin"):
        proven_scalers(SCALERS | {"residual": Untwinned})


DEFINED = list(itertools.product(SCALERS, [1, 3], [0.0, 1e4], [False, True]))


@pytest.mark.parametrize(("name", "horizon", "offset", "hold"), covering(DEFINED, *itertools.combinations(range(4), 2)))
def test_features_and_scales_equal_their_definition_as_weighted_sums_in_float64(
    name: str, horizon: int, offset: float, hold: bool
) -> None:
    x = series() + offset
    x = gaps(x) if hold else x

    features, scales = run(SCALERS[name](2, horizon, hold), x)
    expected_features, expected_scales = run_slow(name, horizon, x)

    # Differences are exact. Running float32 sums round by 2⁻²³ of their size; a few such roundings remain.
    np.testing.assert_allclose(scales, expected_scales, rtol=1e-5, atol=0)
    # A level compares x with a mean that float32 rounds by offset·2⁻²³ and that drifts by a few of those.
    np.testing.assert_allclose(features, expected_features, rtol=0, atol=2e-5 + 16 * offset * FLOAT32_EPS)


@every_scaler
@either_way
def test_update_takes_and_returns_arrays_of_the_declared_sizes(name: str, hold: bool) -> None:
    scaler: Scaler = SCALERS[name](2, 3, hold)
    assert (scaler.channels, scaler.horizon, scaler.hold) == (2, 3, hold)
    assert scaler.size == sum(scaler.parts)
    assert all(part > 0 for part in scaler.parts)
    assert 0 <= scaler.unseen < scaler.features

    x = np.ones((5, 2), np.float32)
    row = np.zeros((5, scaler.size), np.float32)
    features, scale = scaler.update(row, *fill(scaler, row, x))

    assert (features.shape, scale.shape) == ((5, scaler.features), (5, 3, 2))
    assert features.dtype == scale.dtype == np.float32
    assert not np.shares_memory(features, x)


@every_scaler
@either_way
def test_update_changes_only_the_state_and_the_rows_of_a_batch_are_independent(name: str, hold: bool) -> None:
    scaler, x = SCALERS[name](2, 2, hold), np.stack([series(80, s) for s in range(5)], axis=1).astype(np.float32)
    x = gaps(x).astype(np.float32) if hold else x
    given, rows = x.copy(), np.zeros((5, scaler.size), np.float32)
    together = [scaler.update(rows, *fill(scaler, rows, tick)) for tick in x]
    np.testing.assert_array_equal(x, given)
    for stream in range(5):
        features, scales = run(scaler, x[:, stream])
        np.testing.assert_array_equal(features, [f[stream] for f, _ in together])
        np.testing.assert_array_equal(scales, [s[stream] for _, s in together])


@every_scaler
def test_the_forecast_of_a_constant_channel_is_its_value_unless_there_is_no_scaler(name: str) -> None:
    net = network(name)
    x = np.column_stack([np.full(200, 123.456), series(200)[:, 0]])

    y = forecasts(net, perturbed(net), x)

    assert np.isfinite(y).all()
    assert (y[5:, :, 1] != x[5:, None, 1]).all()
    if EQUIVARIANT[name]:  # the unit of a channel that never changed is 0
        np.testing.assert_array_equal(y[:, :, 0], np.float32(123.456))


@every_scaler
@pytest.mark.parametrize("value", [0.0, 1e15, -1e15, 1e-30])
def test_extreme_constants_and_the_return_from_them_stay_finite(name: str, value: float) -> None:
    net = network(name)
    x = np.zeros((60, 2)) + value
    x[30:40] = -value
    x[50:] = 1.0
    assert np.isfinite(forecasts(net, perturbed(net), x)).all()


@every_scaler
def test_the_features_of_the_first_tick_of_an_equivariant_scaler_do_not_depend_on_its_value(name: str) -> None:
    for value in (0.0, -7.5, 1e15):
        features, scales = run(SCALERS[name](1, 2, False), np.array([[value]]))
        if EQUIVARIANT[name]:
            assert not features.any()
            assert not scales.any()


CHANGES = list(itertools.product(EQUIVARIANTS, [1e-6, 1e-3, 7.0, 1e3, 1e6], [0.0, 1.0, -300.0, 1e5]))


@pytest.mark.parametrize(("name", "a", "b"), covering(CHANGES, (0, 1), (0, 2)))
def test_forecasts_are_equivariant_under_x_to_a_x_plus_b_with_b_in_spreads(name: str, a: float, b: float) -> None:
    net = network(name)
    flat = perturbed(net)
    # The same numbers in both units: values that float32 holds after the change, converted back in float64.
    moved = (a * (series(300) + b)).astype(np.float32).astype(np.float64)
    x = moved / a - b

    got, expected = forecasts(net, flat, moved), forecasts(net, flat, x)

    # In spreads: roundings of numbers near 1, and at offset b roundings of values, mean and answer, b·2⁻²³ each.
    tolerance = 1e-5 + 4 * abs(b) * FLOAT32_EPS
    np.testing.assert_allclose(got / a - b, expected, rtol=0, atol=tolerance)
    persistence = np.repeat(x[:, None], 3, axis=1)
    assert np.abs(expected - persistence).mean() > 5 * tolerance  # the forecasts are not persistence


@every_equivariant
@pytest.mark.parametrize(("a", "b"), [(1e-6, 1e5), (1e6, -300.0)])
def test_forecasts_around_gaps_are_equivariant_under_x_to_a_x_plus_b(name: str, a: float, b: float) -> None:
    net = network(name, missing="hold")
    flat, gappy = perturbed(net), gaps(series(300))
    moved = (a * (gappy + b)).astype(np.float32).astype(np.float64)
    x = moved / a - b

    got, expected = forecasts(net, flat, moved), forecasts(net, flat, x)

    begun = np.logical_or.accumulate(~np.isnan(x))  # before its first value the forecast of a channel is 0
    # As above, but after a gap and a jump a unit is several spreads, which multiplies the rounding of the level.
    tolerance = 1e-5 + 4 * abs(b) * FLOAT32_EPS * np.maximum(1, run(net.scaler, x)[1])
    for channel in (0, 1):
        at = begun[:, channel]
        assert (np.abs(got / a - b - expected) <= tolerance)[at, :, channel].all()
    assert not got[~begun[:, 1], :, 1].any()


@every_scaler
def test_without_gaps_a_scaler_that_holds_equals_one_that_does_not_to_the_bit(name: str) -> None:
    x = series(200)
    for plain, holding in zip(run(SCALERS[name](2, 3, False), x), run(SCALERS[name](2, 3, True), x), strict=True):
        np.testing.assert_array_equal(plain, holding)


@every_scaler
def test_a_gap_in_one_channel_does_not_change_the_statistics_of_another(name: str) -> None:
    x = series(200)
    gappy = np.column_stack([x[:, 0], gaps(x)[:, 1]])
    scaler = SCALERS[name](2, 3, True)
    rows, noticed = np.zeros((2, scaler.size), np.float32), False
    for whole, holed in zip(x, gappy, strict=True):
        both = np.stack([whole, holed]).astype(np.float32)
        features, scales = scaler.update(rows, *fill(scaler, rows, both))
        for values in (features, scales, rows):  # channels are the columns of each array
            first = values.reshape(2, -1, 2)[:, :, 0]
            np.testing.assert_array_equal(first[0], first[1])
        noticed |= bool((rows[0] != rows[1]).any())
    assert noticed


@every_scaler
def test_scales_do_not_change_at_missing_values_and_are_zero_before_the_first_value(name: str) -> None:
    x = gaps(series(200))
    missing, begun = np.isnan(x), np.logical_or.accumulate(~np.isnan(x))
    features, scales = run(SCALERS[name](2, 3, True), x)

    still = missing[1:, None] & np.ones((1, 3, 1), bool)
    np.testing.assert_array_equal(scales[1:][still], scales[:-1][still])
    assert not scales[~begun[:, None] & np.ones((1, 3, 1), bool)].any()
    assert not features.reshape(200, -1, 2)[~begun[:, None] & np.ones((1, features.shape[1] // 2, 1), bool)].any()
    assert missing.all(axis=1).sum() > 5  # some ticks have no value at all


def ticks(net: Network, B: int, steps: int) -> list[tuple[Array, Array]]:
    """Return (x, u) of each step: channels of different sizes and offsets, some jumps, and one constant channel.

    All values are near 1 for the scaler none, which expects scaled data.
    """
    rng, C, values, us = np.random.default_rng(0), len(net.spec.channels), [], []
    x = np.zeros((B, C))
    for step in range(steps):
        x = 0.9 * x + rng.normal(0, 1, (B, C)) + 20 * (rng.random((B, C)) < 0.01)
        raw = x * (1e-3, 1.0, 50.0)[-C:] + (0, -7, 3000)[-C:] if EQUIVARIANT[net.spec.scaler] else x / 3
        raw[0, C // 2] = 4.25
        values.append(raw)
        us.append(net.ahead.inputs(1.4e9 + 900.0 * step + 60.0 * np.arange(B, dtype=np.float64)))
    whole = np.array(values, np.float32)
    return list(zip(gaps(whole) if net.scaler.hold else whole, us, strict=True))


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"channels": ("a", "b", "c")},
    "everything": {
        "channels": ("a", "b", "c"), "horizon": 4, "targets": ("c", "a"), "interval": 900.0, "cell": "gru", "layers": 2,
    },
    "one channel": {"channels": ("a",), "horizon": 3, "cell": "gru"},
    "least": {"channels": ("a",), "horizon": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "missing"),
    covering(list(itertools.product(SCALERS, SHAPES, ["refuse", "hold"])), (0, 1), (0, 2), (1, 2)),
)
def test_the_onnx_twin_equals_numpy_over_600_steps(name: str, shape: str, missing: str) -> None:
    net = network(name, **{"horizon": 1, "missing": missing} | SHAPES[shape])
    assert_parity(net, ticks(net, 3, 600))


def assert_parity(net: Network, steps: list[tuple[Array, Array]]) -> None:
    """Run both, each with its own states, on weights without a zero."""
    weights, B, n = net.weights(perturbed(net)), len(steps[0][0]), net.scaler.size
    graph, tape, moved = session(export_step(net, weights)), net.tape(1, B), 0.0
    state = other = np.zeros((B, net.state_size), np.float32)
    largest = units(net.scaler, 0.0)
    for x, u in steps:
        _, scale, value = net.observe(state[:, :n].copy(), x, u)
        unit = np.where(scale > 0, scale, 1).reshape(B, -1)
        y, state = net.step(weights, x, u, state, tape)
        got, other = graph.run(None, {"x": x, "u": u, "state": other})

        # float32 rounds the answer by 2⁻²³ of its size: a value near 3000 in units of 50 by 7e-6 of a unit.
        assert (np.abs(got - y) / unit <= PARITY + np.abs(y) * FLOAT32_EPS / unit).all()
        # The memory of a cell may exceed 1: compare relative to its size, as the check of a new version does.
        off = np.abs(other[:, n:] - state[:, n:]) / np.maximum(1, np.abs(state[:, n:]))
        assert off.max() <= PARITY
        largest = np.maximum(largest, np.abs(state[:, :n]).max(axis=0))
        assert (np.abs(other[:, :n] - state[:, :n]) <= PARITY * np.maximum(largest, 1e-20)).all()
        last = np.tile(value, (1, net.spec.horizon))
        moved = max(moved, float((np.abs(y - last) / unit).max()))
    assert moved > 0.5  # the forecasts are not persistence


@every_scaler
@pytest.mark.parametrize("horizon", [1, 4])
@either_way
def test_a_rows_statistics_have_the_same_bits_in_any_batch(name: str, horizon: int, hold: bool) -> None:
    """The graph of a scaler uses only operations that IEEE 754 rounds exactly."""
    net = network(name, horizon=horizon, missing="hold" if hold else "refuse", channels=("a", "b", "c"))
    graph, n = session(export_step(net, net.weights(perturbed(net)))), net.scaler.size
    state = np.zeros((33, net.state_size), np.float32)
    for x, u in ticks(net, 33, 60):
        whole = graph.run(["next_state"], {"x": x, "u": u, "state": state})[0]
        for size in (1, 5, 32):
            part = graph.run(["next_state"], {"x": x[:size], "u": u[:size], "state": state[:size]})[0]
            np.testing.assert_array_equal(part[:, :n], whole[:size, :n])
        state = whole
