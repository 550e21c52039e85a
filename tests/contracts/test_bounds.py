"""Bounds of states from outside: every reachable state is accepted; every accepted state gives finite forecasts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.bounds import SLACK, Bound, Bounds
from model.cells import CELLS
from model.network import Network
from model.parameters import Array
from model.scalers import SCALERS
from model.spec import ModelSpec
from service.common.limits import MAX_MAGNITUDE
from tests.conftest import covering, examples

PRODUCT = covering(list(itertools.product(CELLS, SCALERS, ("refuse", "hold"))), (0, 1), (0, 2), (1, 2))
MODELS: dict[str, dict[str, Any]] = {
    "-".join(case.values): dict(zip(("cell", "scaler", "missing"), case.values, strict=True)) for case in PRODUCT
}
MARKS = dict(zip(MODELS, (case.marks for case in PRODUCT), strict=True))
MODELS["relu"] = {"cell": "rnn", "activation": "relu", "init": "identity"}
COVARIATES = {"known": ("k", "c"), "static": ("s", "r"), "categories": ("c:3", "r:2")}
MODELS |= {f"covariates-{missing}": {"missing": missing, **COVARIATES} for missing in ("refuse", "hold")}
MODELS |= {
    f"own-readout-{missing}": {"missing": missing, "horizon": 1, "forecaster": "mixture", "own_readout": True}
    for missing in ("refuse", "hold")
}
every_model = pytest.mark.parametrize(
    "fields", [pytest.param(fields, id=name, marks=MARKS.get(name, ())) for name, fields in MODELS.items()]
)

HOSTILE = (0.0, -0.0, 1e-45, -1e-45, 1e-20, 1.0, -1.0, 6.5, 1e6, 1e15, -1e15, 1e30, -1e30, 3.4e38, -3.4e38)
NOT_NUMBERS = (np.nan, np.inf, -np.inf)
TICKS = 60  # more than any capped start


def network(fields: dict[str, Any], **more: Any) -> Network:
    return Network(ModelSpec(**{"channels": ("a", "b"), "horizon": 3, "hidden": 4, **fields, **more}))


def run(net: Network, state: Array, x: Array, seed: int = 3) -> tuple[Array, Array]:
    """Return forecasts [n, O] and states [n, S] of one stream from this state on. No weight is 0."""
    weights = net.weights(np.random.default_rng(seed).normal(0, 0.3, net.layout.size).astype(np.float32))
    u, tape, answers, states = np.zeros((1, net.ahead.size), np.float32), net.tape(1, 1), [], []
    state = state[None]
    for value in x.astype(np.float32):
        y, state = net.step(weights, value[None], u, state, tape)
        answers.append(y[0])
        states.append(state[0])
    return np.array(answers), np.array(states)


def wild(hold: bool) -> Array:
    """Return each extreme that validation accepts, followed by ordinary values: [n, 2]."""
    rng = np.random.default_rng(5)
    ends = np.float32(MAX_MAGNITUDE) * np.array([[0, 1], [1, -1], [-1, 1], [1, 1], [-1, -1], [0, 0]], np.float32)
    x = np.concatenate([np.tile(ends, (TICKS, 1)), rng.standard_normal((TICKS, 2)).astype(np.float32), ends * 1e-30])
    if hold:
        x[rng.random(x.shape) < 0.3] = np.nan
    return x


@every_model
def test_the_bounds_cover_the_whole_row(fields):
    net = network(fields)

    assert [bound.size for bound in net.scaler.bounds] == list(net.scaler.parts)
    for cell in net.cells:
        assert sum(bound.size for bound in cell.bounds) == cell.state_size
    assert net.bounds.low.shape == net.bounds.high.shape == (net.state_size,)
    assert net.bounds.outside(np.zeros(net.state_size, np.float32)) is None


@every_model
def test_every_reachable_state_is_within_the_bounds(fields):
    net = network(fields)

    answers, states = run(net, np.zeros(net.state_size, np.float32), wild(net.scaler.hold))

    assert [net.problem(state) for state in states] == [None] * len(states)
    assert np.isfinite(answers).all()


@every_model
def test_forecasts_from_every_corner_of_the_bounds_are_finite_and_stay_finite(fields):
    net = network(fields)
    corners = np.random.default_rng(7).integers(0, 2, (20, net.state_size)).astype(bool)
    for corner in (*corners, np.zeros_like(corners[0]), np.ones_like(corners[0])):
        state = np.where(corner, net.bounds.high, net.bounds.low)
        if net.problem(state):
            continue
        answers, states = run(net, state, wild(net.scaler.hold)[::17])

        assert np.isfinite(answers).all()
        assert [net.bounds.outside(state, SLACK) for state in states] == [None] * len(states)


@every_model
@examples(60)
@given(data=st.data())
def test_a_hostile_state_is_refused_by_index_or_gives_finite_forecasts(fields, data):
    net = network(fields)
    state = np.zeros(net.state_size, np.float32)
    numbers = st.sampled_from(HOSTILE + NOT_NUMBERS) | st.floats(width=32)
    for at in data.draw(st.lists(st.integers(0, net.state_size - 1), max_size=6)):
        state[at] = data.draw(numbers)
    found = net.problem(state)

    if found:
        at, remedy = found
        inside = net.bounds.low[at] <= state[at] <= net.bounds.high[at]
        assert ("with the others" if inside else " is ") in remedy
    else:
        answers, states = run(net, state, np.array([[1, 2], [-1e15, 1e15], [0, 0], [1e-45, 3]], np.float32))
        assert np.isfinite(answers).all()
        assert np.isfinite(states).all()


def test_the_error_names_the_first_value_outside_the_bounds_and_its_part():
    bounds = Bounds([Bound("a", 2, 0, 1), Bound("b", 2, -1, 1)])

    assert bounds.outside(np.array([0, 1, -1, 1], np.float32)) is None
    assert bounds.outside(np.array([0, 1, -1, 1.5], np.float32)) == (
        3, "b is -1 to 1: put a state that a stream of this model has had",
    )  # fmt: skip
    at, remedy = bounds.outside(np.array([0, np.nan, 9, 9], np.float32)) or (0, "")
    assert (at, remedy[:12]) == (1, "all are fini")
