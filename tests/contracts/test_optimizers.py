"""What every optimizer in the registry must satisfy, and each one's plain form."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from model.cell import Array
from model.optimizers import OPTIMIZERS, Optimizer, OptimizerState
from tests.oracles.adam import PlainAdam

N, STEPS, RATE = 257, 200, 1e-2
PLAIN = {"adam": PlainAdam}

every_optimizer = pytest.mark.parametrize("name", sorted(OPTIMIZERS))


def gradients(dtype: Any = np.float64) -> Array:
    """[STEPS, N]: sizes from 1e-9 to 1e3, with zeros and changes of sign, as a network's gradient has them."""
    rng = np.random.default_rng(0)
    grads: Array = rng.normal(0, 1, (STEPS, N)) * 10.0 ** rng.integers(-9, 4, N)
    grads[rng.random((STEPS, N)) < 0.1] = 0
    return grads.astype(dtype)


def run(name: str, grads: Array) -> tuple[Array, OptimizerState]:
    optimizer: Optimizer = OPTIMIZERS[name](RATE)
    params = np.linspace(-1, 1, N).astype(grads.dtype)
    state = optimizer.init(N, grads.dtype.type)
    for grad in grads:
        optimizer.update(params, grad.copy(), state)
    return params, state


def test_every_optimizer_has_a_plain_form_to_be_compared_with() -> None:
    assert set(PLAIN) == set(OPTIMIZERS)


@every_optimizer
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Sums of STEPS changes of at most RATE: float64 roundings; float32 eps 6e-8 times the params' size 3, at each step.
    [(np.float64, 1e-12), (np.float32, STEPS * 6e-8 * 3)],
)
def test_an_optimizer_equals_its_plain_form(name: str, dtype: Any, tolerance: float) -> None:
    grads = gradients(dtype)
    plain = PLAIN[name](N, RATE)
    expected = np.linspace(-1, 1, N)
    for grad in grads.astype(np.float64):
        plain.update(expected, grad)

    params, _ = run(name, grads)

    assert np.abs(expected - np.linspace(-1, 1, N)).max() > 10 * RATE  # it went somewhere
    np.testing.assert_allclose(params, expected, rtol=0, atol=tolerance)


@every_optimizer
def test_the_state_advances_with_every_step(name: str) -> None:
    optimizer = OPTIMIZERS[name](RATE)
    params, state = np.zeros(N, np.float32), optimizer.init(N)
    assert (state.step, state.moments.dtype, state.moments.shape[1]) == (0, np.float32, N)
    seen = [state.moments.copy()]
    for grad in gradients(np.float32)[:3]:
        optimizer.update(params, grad, state)
        seen.append(state.moments.copy())
    assert state.step == 3
    assert all((a != b).any() for a, b in pairwise(seen))


@every_optimizer
def test_two_runs_are_bit_equal(name: str) -> None:
    (first, first_state), (second, second_state) = (run(name, gradients(np.float32)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first_state.moments, second_state.moments)


@every_optimizer
def test_a_state_that_was_copied_half_way_continues_bit_equal(name: str) -> None:
    grads = gradients(np.float32)
    params, state = run(name, grads[: STEPS // 2])
    # Scratch is not part of the state: a checkpoint does not store it.
    restored = OptimizerState(state.step, state.moments.copy(), np.full_like(state.scratch, np.nan))
    optimizer = OPTIMIZERS[name](RATE)
    for grad in grads[STEPS // 2 :]:
        optimizer.update(params, grad.copy(), restored)

    np.testing.assert_array_equal(params, run(name, grads)[0])


@every_optimizer
def test_parameters_change_in_place_and_the_gradient_ends_as_the_step_taken(name: str) -> None:
    optimizer = OPTIMIZERS[name](RATE)
    whole = np.linspace(-1, 1, 2 * N).astype(np.float32)
    before, params, state = whole.copy(), whole[:N], optimizer.init(N)
    grad = gradients(np.float32)[0]
    optimizer.update(params, grad, state)

    assert (whole[:N] != before[:N]).any()
    np.testing.assert_array_equal(whole[:N], before[:N] + grad)
    np.testing.assert_array_equal(whole[N:], before[N:])


@every_optimizer
def test_a_parameter_that_never_had_a_gradient_does_not_move(name: str) -> None:
    grads = gradients(np.float32)
    grads[:, 5] = 0
    params, _ = run(name, grads)
    assert params[5] == np.linspace(-1, 1, N).astype(np.float32)[5]
