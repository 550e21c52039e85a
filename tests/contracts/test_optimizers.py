"""The contract of every registered optimizer, and comparison with its plain form."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.parameters import Array
from model.update.contract import Optimizer, OptimizerState, Part, update_parts
from model.update.optimizers import OPTIMIZERS
from tests.contracts.registry import chosen, proven
from tests.oracles import plain_optimizers

N, STEPS = 257, 200
SETTINGS: Any = SimpleNamespace(momentum=0.8, weight_decay=0.05)  # the fields of a spec that optimizers read

every_optimizer = pytest.mark.parametrize(
    "name", proven(chosen(OPTIMIZERS, "optimizer"), plain_form=plain_optimizers.OPTIMIZERS)
)


def make(name: str) -> Optimizer:
    return OPTIMIZERS[name](SETTINGS)


def rates() -> list[float]:
    """Return one rate for each step, rising and falling as schedules do: a velocity must be in units of parameters."""
    return [1e-2 * (1 + np.sin(k / 5)) for k in range(STEPS)]


def gradients(dtype: Any = np.float64) -> Array:
    """Return gradients [STEPS, N] of sizes 1e-9 to 1e3 with zeros and changes of sign, as networks have."""
    rng = np.random.default_rng(0)
    grads: Array = rng.normal(0, 1, (STEPS, N)) * 10.0 ** rng.integers(-9, 4, N)
    grads[rng.random((STEPS, N)) < 0.1] = 0
    return grads.astype(dtype)


def first(dtype: Any = np.float64) -> Array:
    params: Array = np.linspace(-1, 1, N).astype(dtype)
    return params


def run(name: str, grads: Array) -> tuple[Array, OptimizerState]:
    optimizer = make(name)
    params, state = first(grads.dtype), optimizer.init(N, grads.dtype.type)
    for grad, rate in zip(grads, rates(), strict=False):
        optimizer.update(params, grad.copy(), state, rate)
    return params, state


@every_optimizer
@pytest.mark.parametrize(("dtype", "eps"), [(np.float64, 1e-15), (np.float32, 6e-8)])
def test_an_optimizer_equals_its_plain_form(name: str, dtype: Any, eps: float) -> None:
    grads = gradients(dtype)
    plain, expected, path = plain_optimizers.OPTIMIZERS[name](SETTINGS, N), first(), [first()]
    for grad, rate in zip(grads.astype(np.float64), rates(), strict=True):
        plain.update(expected, grad, rate)
        path.append(expected.copy())

    params, _ = run(name, grads)

    # Each step rounds every parameter, and its velocity, whose error momentum multiplies by 1/(1−μ).
    tolerance = STEPS * eps * np.abs(path).max(axis=0) / (1 - SETTINGS.momentum)
    assert (np.abs(params - expected) <= tolerance).all()
    assert (np.abs(expected - first()) > 100 * tolerance).mean() > 0.25  # the test sees movement


@every_optimizer
def test_the_state_advances_with_every_step(name: str) -> None:
    optimizer = make(name)
    params, state = np.zeros(N, np.float32), optimizer.init(N)
    assert (state.step, state.moments.shape[1]) == (0, N)
    assert state.moments.dtype == np.float32
    seen = [state.moments.copy()]
    for grad in gradients(np.float32)[:3]:
        optimizer.update(params, grad, state, 1e-2)
        seen.append(state.moments.copy())
    assert state.step == 3
    assert all((a != b).any(axis=1).all() for a, b in pairwise(seen))  # every moment changes in every step


@every_optimizer
def test_two_runs_are_bit_equal(name: str) -> None:
    (one, one_state), (other, other_state) = (run(name, gradients(np.float32)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one_state.moments, other_state.moments)


@every_optimizer
def test_a_state_copied_half_way_continues_bit_equal(name: str) -> None:
    grads, half = gradients(np.float32), STEPS // 2
    params, state = run(name, grads[:half])
    # Scratch is not part of the state: a checkpoint does not store it.
    restored = OptimizerState(state.step, state.moments.copy(), np.full_like(state.scratch, np.nan))
    optimizer = make(name)
    for grad, rate in zip(grads[half:], rates()[half:], strict=True):
        optimizer.update(params, grad.copy(), restored, rate)

    np.testing.assert_array_equal(params, run(name, grads)[0])


@every_optimizer
def test_parameters_change_in_place_and_the_gradient_array_holds_the_step_afterwards(name: str) -> None:
    optimizer = make(name)
    whole = np.linspace(-1, 1, 2 * N).astype(np.float32)
    before, params, state = whole.copy(), whole[:N], optimizer.init(N)
    grad = gradients(np.float32)[0]
    optimizer.update(params, grad, state, 1e-2)

    assert (whole[:N] != before[:N]).any()
    np.testing.assert_array_equal(whole[:N], before[:N] + grad)
    np.testing.assert_array_equal(whole[N:], before[N:])


@every_optimizer
def test_a_parameter_without_a_gradient_moves_by_weight_decay_only(name: str) -> None:
    grads = gradients(np.float32)
    grads[:, 5] = 0
    params, _ = run(name, grads)
    decayed = np.prod([1 - rate * SETTINGS.weight_decay for rate in rates()]) if name == "adamw" else 1.0
    np.testing.assert_allclose(params[5], first(np.float32)[5] * decayed, rtol=STEPS * 6e-8 if name == "adamw" else 0)


@every_optimizer
def test_updating_parts_moves_them_as_the_whole_update_does_and_leaves_the_rest(name: str) -> None:
    grads, parts, optimizer = gradients(np.float32), [Part(slice(0, 40)), Part(slice(90, 200))], make(name)
    params, state = first(np.float32), optimizer.init(N)
    for grad, rate in zip(grads, rates(), strict=True):
        update_parts(optimizer, parts, params, grad.copy(), state, rate)

    expected, whole = run(name, grads)
    taken = np.zeros(N, bool)
    for part in parts:
        taken[part.where] = True
    np.testing.assert_array_equal(params, np.where(taken, expected, first(np.float32)))
    np.testing.assert_array_equal(state.moments, np.where(taken, whole.moments, 0))
    assert state.step == whole.step


@every_optimizer
def test_moments_whose_gradient_stays_zero_do_not_become_subnormal_and_no_weight_notices(name: str) -> None:
    """0.9^1500 is 1e-69: without `settle` the first moment stops at the smallest subnormal number."""
    grads = np.zeros((1500, 3), np.float32)
    grads[:5] = 1, -1e-4, 1e-15
    optimizer, params, plain = make(name), np.ones(3, np.float32), np.ones(3, np.float32)
    state, unsettled = optimizer.init(3), optimizer.init(3)
    for grad in grads:
        update_parts(optimizer, [Part(slice(0, 3))], params, grad.copy(), state, 1e-2)
        optimizer.update(plain, grad.copy(), unsettled, 1e-2)

    assert not ((state.moments != 0) & (np.abs(state.moments) < np.finfo(np.float32).tiny)).any()
    np.testing.assert_array_equal(params, plain)


@every_optimizer
def test_a_step_against_the_gradient_lowers_a_smooth_loss(name: str) -> None:
    curvature = np.geomspace(0.1, 10, N)
    optimizer, params = make(name), np.ones(N)
    state = optimizer.init(N, np.float64)
    rate = 1e-1 if name == "adagrad" else 2e-2  # its steps shrink as 1/√steps
    for _ in range(STEPS):
        optimizer.update(params, curvature * params, state, rate)
    assert np.sum(curvature * params**2) < 0.1 * np.sum(curvature)


def test_nesterov_follows_the_iterates_of_the_paper_where_the_gradient_is_that_of_the_current_point() -> None:
    curvature, mu, rate = np.geomspace(0.1, 10, N), SETTINGS.momentum, 5e-2
    theta, v = first(), np.zeros(N)
    optimizer, held = make("nesterov"), first()
    state = optimizer.init(N, np.float64)
    for _ in range(STEPS):
        v = mu * v - rate * curvature * (theta + mu * v)
        theta = theta + v
        optimizer.update(held, curvature * held, state, rate)
        np.testing.assert_allclose(held, theta + mu * v, rtol=0, atol=1e-13)


@every_optimizer
def test_a_parts_factor_multiplies_its_rate_and_its_weight_decay(name: str) -> None:
    optimizer, grads = make(name), gradients(np.float32)
    slow, whole = first(np.float32), first(np.float32)
    states = [optimizer.init(N) for _ in range(2)]
    for grad, rate in zip(grads, rates(), strict=True):
        parts = [Part(slice(0, 40)), Part(slice(40, N), 0.25)]
        update_parts(optimizer, parts, slow, grad.copy(), states[0], rate)
        optimizer.update(whole, grad.copy(), states[1], 0.25 * rate)

    np.testing.assert_array_equal(slow[40:], whole[40:])
    np.testing.assert_array_equal(slow[:40], run(name, grads)[0][:40])
