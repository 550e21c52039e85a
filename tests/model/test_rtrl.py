"""Rule rtrl: the gradient of every update reaches a stream's first tick, at the cost of a short window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.cells.contract import Traced
from model.fold.histories import Histories
from model.fold.keeping import width
from model.fold.learner import Learner
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec
from model.update.bptt import Batch, gradient, trace_after
from model.update.rounds import GROUP_ROWS
from tests.contracts import registry
from tests.contracts.test_cells import central_differences
from tests.contracts.test_learning import windows
from tests.model.labelled import label_spec, world
from tests.model.test_learner import RATE, WEIGHT_TOLERANCE, difference, moved, pair, slow_ticks
from tests.model.worlds import Checkpoint, Chunk, Server, chunks, digest, feed, spec, with_gaps

KINDS = registry.traced()
every_kind = pytest.mark.parametrize("kind", KINDS)
TICKS, B = 40, 3


def history(kind: str, window: int) -> tuple[Network, Array, Batch]:
    """Return a network, weights without a zero, and a whole history with labels in its last `window` ticks."""
    network = Network(spec(**KINDS[kind], window=window, horizon=min(window, 2), hidden=4, forecaster="network"))
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 0.5, network.layout.size)
    weights = network.weights(flat)
    if "nu" in weights.cells[0]:
        weights.cells[0]["nu"] -= 3  # a memory of about 20 ticks
    else:
        weights.cells[0]["W"][:4, -1] -= 3
    shape = (TICKS, B, network.spec.outputs)
    weight = np.zeros(shape)
    weight[-window:] = rng.random((window, *shape[1:])) < 0.7
    weight[-1] = 1
    start = np.zeros((B, network.hidden_size))
    return network, flat, Batch(start, rng.normal(0, 1, (TICKS, B, network.features)), rng.normal(0, 1, shape), weight)


def of_history(network: Network, flat: Array, batch: Batch) -> Array:
    """Return the gradient by backpropagation through the whole history."""
    grad = network.weights(np.empty_like(flat))
    gradient(network, network.weights(flat), batch, network.tape(TICKS, B, np.float64), grad)
    return grad.flat


def of_window(network: Network, flat: Array, batch: Batch, T: int) -> Array:
    """Return the gradient of the last T ticks, with the traces that were advanced tick by tick before them."""
    weights, step, tape = network.weights(flat), network.tape(1, B, np.float64), network.tape(T, B, np.float64)
    state, trace = batch.start, np.zeros((B, network.trace_size))
    for t in range(TICKS - T):
        network.forward(weights, state, batch.X[t : t + 1], step)
        state, trace = network.state_after(step, 1), trace_after(network, step, trace, 1)
    grad = network.weights(np.empty_like(flat))
    gradient(network, weights, Batch(state, batch.X[-T:], batch.Y[-T:], batch.weight[-T:], trace), tape, grad)
    return grad.flat


def assert_exact(got: Array, expected: Array, network: Network, relative: float) -> None:
    for name, wanted in network.layout.views(expected).items():
        size = np.abs(wanted).max()
        assert size > 1e-3, name
        np.testing.assert_allclose(network.layout.views(got)[name], wanted, rtol=0, atol=relative * size, err_msg=name)


@every_kind
@pytest.mark.parametrize("T", [1, 5])
def test_the_gradient_of_a_short_window_with_traces_is_that_of_the_whole_history(kind: str, T: int) -> None:
    network, flat, batch = history(kind, T)

    got, expected = of_window(network, flat, batch, T), of_history(network, flat, batch)

    assert_exact(got, expected, network, 1e-9)


@every_kind
def test_the_gradient_equals_finite_differences_of_the_loss_from_the_first_tick(kind: str) -> None:
    network, flat, batch = history(kind, 1)
    tape, grad = network.tape(TICKS, B, np.float64), network.weights(np.empty_like(flat))
    moving = flat.copy()

    def loss() -> float:
        return gradient(network, network.weights(moving), batch, tape, grad)[0]

    assert_exact(of_window(network, flat, batch, 1), central_differences(loss, moving), network, 1e-6)


@every_kind
@pytest.mark.parametrize("broken", ["no trace", "trace without its past", "trace without direct effect"])
def test_a_gradient_that_drops_a_term_of_the_trace_is_caught(
    kind: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, flat, batch = history(kind, 1)
    cell: Any = type(network.cells[0])
    advance = cell.advance_trace
    if broken == "no trace":
        monkeypatch.setattr(cell, "trace_gradient", lambda *args: None)
    elif broken == "trace without its past":
        monkeypatch.setattr(cell, "advance_trace", lambda self, tape, e, n: advance(self, tape, np.zeros_like(e), n))
    else:
        monkeypatch.setattr(cell, "advance_trace", lambda self, tape, e, n: 0.9 * advance(self, tape, e, n))

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_exact(of_window(network, flat, batch, 1), of_history(network, flat, batch), network, 1e-9)


@every_kind
def test_traces_advanced_in_one_piece_equal_those_advanced_step_by_step(kind: str) -> None:
    network, flat, batch = history(kind, 1)
    weights, one, step = network.weights(flat), network.tape(TICKS, B, np.float64), network.tape(1, B, np.float64)
    state, trace = batch.start, np.zeros((B, network.trace_size))
    network.forward(weights, state, batch.X, one)
    whole = trace_after(network, one, trace[:2], TICKS)  # of fewer rows than the tape has
    for t in range(TICKS):
        network.forward(weights, state, batch.X[t : t + 1], step)
        state, trace = network.state_after(step, 1), trace_after(network, step, trace, 1)

    np.testing.assert_allclose(whole, trace[:2], rtol=1e-12, atol=1e-14)


@every_kind
def test_a_trace_of_an_input_that_became_zero_decays_and_never_becomes_subnormal(kind: str) -> None:
    network = Network(spec(**KINDS[kind], hidden=8, forecaster="network"))
    weights, rng = network.weights(network.init_params()), np.random.default_rng(0)
    if "nu" in weights.cells[0]:
        weights.cells[0]["nu"][...] = 0  # a memory of one tick
    step, state = network.tape(1, 1), np.zeros((1, network.hidden_size), np.float32)
    trace, X = np.zeros((1, network.trace_size), np.float32), rng.normal(0, 1, (1, 1, network.features))
    for t in range(400):
        if t == 5:
            X[..., ::2] = 0
        network.forward(weights, state, X.astype(np.float32), step)
        state, trace = network.state_after(step, 1), trace_after(network, step, trace, 1)

    sizes = np.abs(trace)
    assert (sizes < 1e-25).mean() > 0.2
    assert not ((sizes > 0) & (sizes < np.finfo(np.float32).tiny)).any()


@every_kind
@pytest.mark.parametrize(("horizon", "every", "window"), [(1, 1, 0), (3, 2, 0), (2, 1, 6)])
def test_weights_and_forecasts_equal_those_of_a_learner_with_full_matrices_of_traces(
    kind: str, horizon: int, every: int, window: int
) -> None:
    learner, slow = pair(**KINDS[kind], horizon=horizon, learn_every=every, window=window, missing="hold")
    assert learner.spec.window == (window or horizon + every - 1)
    server = Server(learner)
    for chunk in with_gaps(chunks([3] * 40, once=True)):
        feed(learner, chunk)
        got, expected = server.forecasts(chunk), slow_ticks(slow, chunk)
        np.testing.assert_allclose(got, expected, rtol=0, atol=60 * WEIGHT_TOLERANCE)

    assert moved(learner) > 5 * RATE
    assert difference(learner, slow) < WEIGHT_TOLERANCE


@every_kind
def test_a_trace_is_part_of_the_context_and_begins_at_zero_after_put_reset_and_eviction(kind: str) -> None:
    learner = Learner(spec(**KINDS[kind], window=9), GROUP_ROWS)
    plain = Network(spec(**KINDS[kind] | {"rule": "tbptt"}, window=9))
    assert width(learner.network) == width(plain) + learner.network.trace_size

    for chunk in chunks([4] * 20, once=True):
        feed(learner, chunk)

    def trace(stream: int) -> Array:
        found = learner.contexts.load([stream])[1].trace  # type: ignore[union-attr]  # of task forecast
        assert found is not None
        return np.asarray(found[0])

    kept = trace(10)
    assert np.count_nonzero(kept) > 0.9 * kept.size
    learner.put(10, np.ones(learner.network.state_size, np.float32))
    learner.reset(11)
    assert not trace(10).any()
    assert not trace(11).any()
    assert trace(12).any()
    for stream in range(100, 100 + GROUP_ROWS):
        trace(stream)  # evicts all
    assert not trace(12).any()


@every_kind
def test_a_broken_update_leaves_finite_traces_and_a_paused_learner_keeps_them_moving(kind: str) -> None:
    learner, stream = Learner(spec(**KINDS[kind], forecaster="network")), chunks([4] * 30, once=True)
    for chunk in stream[:10]:
        feed(learner, chunk)
    learner.weights.flat[...] = np.nan
    assert feed(learner, stream[10])[0].refused
    learner.weights.flat[...] = learner.network.init_params()
    block = learner.contexts.load([10, 11, 12, 13])[1]  # type: ignore[union-attr]  # of task forecast
    assert block.trace is not None
    assert np.isfinite(block.trace).all()

    learner.paused = True
    for chunk in stream[11:20]:
        assert feed(learner, chunk) == []
    after = learner.contexts.load([10, 11, 12, 13])[1]  # type: ignore[union-attr]
    assert (np.asarray(after.trace) != block.trace).any(axis=1).all()
    learner.paused = False
    assert feed(learner, stream[20])[0].loss > 0


def gradient_of_a_label(tick: int, **fields: Any) -> Array:
    """Return the gradient of the only label of a stream of 30 ticks, whose weights do not change."""
    learner = Learner(label_spec("regress", hidden=6, head_init=0.5, clip=1e6, learning_rate=1e-30, optimizer="sgd",
                                 scaler="standard", **fields))  # fmt: skip
    for chunk in chunks([1] * 30, entities=1):
        feed(learner, chunk)
    streams, seq = np.array([10], np.uint32), np.array([tick], np.uint64)
    for value in (3.0, 9.0):  # the first label only sets the unit of the labels
        learner.labels(streams, seq, np.array([[value, value / 5]], np.float32))
        seq = seq - np.uint64(1)
    return learner._grad.flat / np.float32(1e-30)


@every_kind
@pytest.mark.parametrize("tick", [3, 19, 30])
def test_the_gradient_of_a_late_label_is_that_of_its_whole_history(kind: str, tick: int) -> None:
    exact = gradient_of_a_label(tick, **KINDS[kind], window=9)
    whole = gradient_of_a_label(tick, **KINDS[kind] | {"rule": "tbptt"}, window=64)
    truncated = gradient_of_a_label(tick, **KINDS[kind] | {"rule": "tbptt"}, window=9)

    size = np.abs(whole).max()
    np.testing.assert_allclose(exact, whole, rtol=0, atol=1e-4 * size)
    assert tick < 30 or np.abs(truncated - whole).max() > 1e-3 * size


@every_kind
@pytest.mark.parametrize("task", ["regress", "classify"])
def test_learning_late_labels_continues_from_a_checkpoint_with_the_same_traces(kind: str, task: str) -> None:
    model = label_spec(task, **KINDS[kind], window=9)
    straight, restored, checkpoint = Learner(model, 100), Learner(model, 100), Checkpoint()
    for event in world(model, [9] * 12):
        for learner in (straight, restored):
            (learner.ticks if isinstance(event, Chunk) else learner.labels)(*event)
        checkpoint.save(restored)
        restored = checkpoint.load(model, 100)

    assert straight.counts.updates > 10
    assert digest(restored) == digest(straight)
    assert isinstance(straight.contexts, Histories)
    assert straight.contexts.trace[:4].all(axis=1).any()


@every_kind
def test_windows_as_a_whole_are_learned_as_with_tbptt(kind: str) -> None:
    fields: dict[str, Any] = {"channels": ("a", "b"), "hidden": 6, "horizon": 3, "learning_rate": 0.01}
    traced, plain = (Learner(ModelSpec(**fields, **KINDS[kind] | {"rule": rule})) for rule in ("rtrl", "tbptt"))
    for learner in (traced, plain):
        learner.windows(windows(learner.spec))

    np.testing.assert_array_equal(traced.weights.flat, plain.weights.flat)
    assert traced.counts.updates == 1


@every_kind
def test_the_report_of_an_update_has_norms_by_layer_and_the_lags_of_the_window(kind: str) -> None:
    learner = Learner(spec(**KINDS[kind], window=4, head_init=0.3))
    reports = [update.report for chunk in chunks([1] * 40, entities=1) for update in feed(learner, chunk)]
    last = [report for report in reports if report is not None][-1]

    assert len(last.lag_norms["cell0"]) == 4
    assert min(last.lag_norms["cell0"]) > 0
    assert last.by_layer["cell0"] > 0
    assert 0 <= last.saturated["cell0"] <= 1


@every_kind
def test_a_killed_learner_continues_from_its_checkpoint_with_the_same_traces(kind: str) -> None:
    model, stream = spec(**KINDS[kind], horizon=2), chunks([5] * 30)
    straight, checkpoint = Learner(model, 100), Checkpoint()
    for chunk in stream[:15]:
        feed(straight, chunk)
    checkpoint.save(straight)
    restored = checkpoint.load(model, 100)
    for chunk in stream[15:]:
        feed(straight, chunk)
        feed(restored, chunk)

    assert digest(restored) == digest(straight)
    without = checkpoint.load(model, 100)
    slots, block = without.contexts.load([10])  # type: ignore[union-attr]  # of task forecast
    assert block.trace is not None
    block.trace[...] = 0
    without.contexts.store(slots, block)  # type: ignore[union-attr]
    for chunk in stream[15:]:
        feed(without, chunk)
    assert (without.weights.flat != straight.weights.flat).any()  # a lost trace would be seen


def test_every_cell_with_traces_is_one_that_the_rule_accepts_and_no_other() -> None:
    assert {fields["cell"] for fields in KINDS.values()} == {"lru", "mingru"}
    assert not isinstance(Network(spec(cell="gru")).cells[0], Traced)
