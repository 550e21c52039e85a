"""Known properties of backpropagation through time: gradients vanish, explode, are clipped, and cost O(T·d²)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.cells.init import Init
from model.cells.rnn import RNN
from model.fold.learner import Learner
from model.network import Network
from model.parameters import Array, Layout
from model.update.bptt import Batch, gradient
from tests.model.worlds import chunks, feed, spec

T, B, H = 48, 4, 32
LATE = 32


def lags(seed: int = 0, **fields: Any) -> Array:
    """Return norms of the gradient by h at each tick before the single label, nearest first. Fresh weights, float64."""
    network = Network(spec(hidden=H, window=T, head_init=0.1, seed=seed, **fields))
    rng = np.random.default_rng(seed)
    batch = Batch(np.zeros((B, network.hidden_size)), rng.normal(0, 1, (T, B, network.features)),
                  rng.normal(0, 1, (T, B, 2)), np.zeros((T, B, 2)))  # fmt: skip
    batch.weight[-1] = 1
    weights = network.weights(network.init_params().astype(np.float64))
    tape = network.tape(T, B, np.float64)
    gradient(network, weights, batch, tape, network.weights(np.empty_like(weights.flat)))
    return network.cells[-1].lag_norms(tape.cells[-1])[::-1]


def kept(**fields: Any) -> float:
    """Return the fraction of the gradient that arrives LATE ticks earlier, median over seeds."""
    return float(np.median([(norms := lags(seed, **fields))[LATE] / norms[0] for seed in range(5)]))


def test_small_recurrent_weights_shrink_a_gradient_at_least_by_their_gain_at_every_tick() -> None:
    """‖dh'/dh‖ ≤ ‖W‖·max|tanh'| = ½ for an orthogonal block of gain ½ (Pascanu et al. 2013, eq. 6–7)."""
    norms = lags(cell="rnn", init="orthogonal", init_gain=0.5)
    assert (norms[1:] <= 0.5 * norms[:-1] * (1 + 1e-6)).all()  # the block is orthogonal to float32
    assert norms[-1] > 0


def test_a_gradient_through_active_relu_units_grows_by_their_weight_at_every_tick() -> None:
    cell, rng = RNN(2, H, "relu", Init("identity", 1.5)), np.random.default_rng(0)
    layout = Layout(cell.shapes())
    params = layout.views(np.empty(layout.size))
    cell.init_params(params, rng)
    params["W"][:, H:-1] = np.abs(params["W"][:, H:-1])  # with positive inputs every unit is always on
    tape, dH = cell.workspace(T, B, np.float64), np.zeros((T, B, H))
    dH[-1] = rng.normal(0, 1, (B, H))

    cell.forward(params, np.zeros((B, H)), np.abs(rng.normal(0, 1, (T, B, 2))), tape)
    cell.backward(params, tape, dH, layout.views(np.zeros(layout.size)), need_dX=False)

    norms = cell.lag_norms(tape)[::-1]
    np.testing.assert_allclose(norms / norms[0], 1.5 ** np.arange(T), rtol=1e-12)


def test_large_recurrent_weights_make_gradients_explode_and_an_lstm_keeps_more_than_an_rnn() -> None:
    assert kept(cell="rnn", init_gain=0.5) < 1e-9
    assert kept(cell="rnn", init_gain=3.0) > 100
    assert kept(cell="lstm") > 10 * kept(cell="rnn")


def test_the_clip_bounds_the_step_for_any_gradient() -> None:
    rate, clip = 1e-3, 0.5
    learner = Learner(spec(cell="rnn", init_gain=3.0, hidden=H, window=T, head_init=0.1, optimizer="sgd",
                           learning_rate=rate, clip=clip, forecaster="network"))  # fmt: skip
    norms, steps = [], []
    for chunk in chunks([1] * 150, entities=1):
        before = learner.weights.flat.astype(np.float64)
        norms += [update.norm for update in feed(learner, chunk)]
        steps.append(float(np.linalg.norm(learner.weights.flat - before)))

    assert max(norms) > 1000 * clip
    assert max(steps) <= rate * clip * 1.01  # computed from float32 weights
    assert max(steps) > 0.9 * rate * clip


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_multiplications_of_a_gradient_grow_as_ticks_times_units_squared(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = 0

    def counted(product: Any) -> Any:
        def multiply(a: Array, b: Array, *args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            spent += int(np.prod(a.shape)) * b.shape[-1] * (len(b) if b.ndim > a.ndim else 1)
            return product(a, b, *args, **kwargs)

        return multiply

    def cost(ticks: int, units: int) -> int:
        nonlocal spent
        network = Network(spec(cell=cell, hidden=units, window=ticks))
        weights = network.weights(network.init_params())
        empty = np.zeros((ticks, B, 2), np.float32)
        batch = Batch(np.zeros((B, network.hidden_size), np.float32), np.zeros((ticks, B, network.features)),
                      empty, empty.copy())  # fmt: skip
        batch.weight[-1] = 1
        tape, grad = network.tape(ticks, B), network.weights(np.empty_like(weights.flat))
        spent = 0
        gradient(network, weights, batch, tape, grad)
        return spent

    monkeypatch.setattr(np, "dot", counted(np.dot))
    monkeypatch.setattr(np, "matmul", counted(np.matmul))
    # Inputs and readout do not scale as T·d²; here they are a few percent of the total.
    assert cost(64, 256) / cost(32, 256) == pytest.approx(2, rel=0.01)
    assert cost(32, 512) / cost(32, 256) == pytest.approx(4, rel=0.03)
