"""Known properties of backpropagation through time: gradients vanish, explode, are clipped, and cost O(T·d²)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.cells import kernels
from model.cells.init import Init
from model.cells.rnn import RNN
from model.fold.learner import Learner
from model.network import Network, Tape
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


LONG, TINY = 512, np.finfo(np.float32).tiny
KINDS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"}, "relu": {"cell": "rnn", "activation": "relu"}, "gru": {"cell": "gru"},
    "gru before": {"cell": "gru", "reset": "before"},
    "lstm": {"cell": "lstm"},
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def long_window(
    labels: list[int], dtype: type[np.floating[Any]] = np.float32, B: int = 2, **fields: Any
) -> tuple[Array, Tape, Network]:
    """Return the gradient of a window of LONG ticks with labels at these positions, its tape, and the network."""
    network = Network(spec(hidden=16, window=LONG, head_init=0.1, forecaster="network", **fields))
    rng = np.random.default_rng(0)
    batch = Batch(np.zeros((B, network.hidden_size)), rng.normal(0, 1, (LONG, B, network.features)),
                  rng.normal(0, 1, (LONG, B, 2)), np.zeros((LONG, B, 2)))  # fmt: skip
    batch.weight[labels] = 1
    weights = network.weights(network.init_params().astype(dtype))
    tape, grad = network.tape(LONG, B, dtype), network.weights(np.empty_like(weights.flat))
    gradient(network, weights, Batch(*(a.astype(dtype) for a in batch[:4])), tape, grad)
    return grad.flat, tape, network


def subnormal(*arrays: Array) -> int:
    return sum(int(np.count_nonzero((np.abs(a) < TINY) & (a != 0))) for a in arrays)


@pytest.mark.parametrize(
    ("kind", "gain"), [("relu", 0.5)] + [(k, g) for k in ("rnn", "gru", "gru before", "lstm") for g in (0.5, 1, 1.5)]
)
def test_a_gradient_that_vanishes_becomes_zero_and_never_subnormal(kind: str, gain: float) -> None:
    grad, tape, _ = long_window([LONG - 1], init_gain=gain, layers=2, **KINDS[kind])
    lower, upper = tape.cells
    found = subnormal(grad, upper.dA, upper.DH, upper.dX, lower.dA, lower.DH)  # type: ignore[attr-defined]
    assert found <= 1e-4 * upper.DH.size  # type: ignore[attr-defined]
    assert np.abs(upper.DH[-1]).max() > 1e-6  # type: ignore[attr-defined]


@every_kind
@pytest.mark.parametrize("labels", [[LONG - 1], [100, LONG - 1], [0, 1, 200]])
def test_a_flushed_gradient_is_that_of_float64_in_which_nothing_vanishes(kind: str, labels: list[int]) -> None:
    """The tick of an early label is found although everything behind the newest label has vanished."""
    fields = {"init_gain": 0.5, **KINDS[kind]}
    got, tape, network = long_window(labels, **fields)
    wanted, exact, _ = long_window(labels, np.float64, **fields)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    norms, true = (network.cells[0].lag_norms(t.cells[0]) for t in (tape, exact))
    np.testing.assert_allclose(norms, true, rtol=1e-2, atol=1e-22)
    assert (true > 0).sum() >= (norms > 0).sum() > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_values_decide_what_is_flushed(dtype: type[np.floating[Any]]) -> None:
    floor = float(kernels.FLOORS[np.dtype(dtype)])
    kept, gone = [floor, -1, np.inf, np.nan], [0.99 * floor, -np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal]
    d, other = np.array(kept + gone, dtype), np.array(gone + kept, dtype)
    assert not kernels.flush(d, other, scratch=np.empty_like(d))
    np.testing.assert_array_equal(d, [*kept, 0, 0, 0])
    np.testing.assert_array_equal(other, [0, 0, 0, *kept])

    d, other, scratch = np.ones(3, dtype), np.array(gone, dtype), np.empty(3, dtype)
    assert not kernels.flush(d, other, scratch=scratch)
    np.testing.assert_array_equal(other, np.array(gone, dtype))  # nothing of d has vanished: others are not read
    assert kernels.flush(np.array(gone, dtype), other, scratch=scratch)


@pytest.mark.parametrize("T", [1, 16, 32, 33, 48, 64, 100, 512])
def test_the_stretches_of_a_window_are_its_ticks_newest_first(T: int) -> None:
    parts = kernels.stretches(T)
    assert [t for part in parts for t in part] == list(range(T))[::-1]
    assert len(parts) == 1 or T > 32


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
        network = Network(spec(cell=cell, hidden=units, window=ticks, head_init=0.1))  # a gradient of 0 goes nowhere
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
