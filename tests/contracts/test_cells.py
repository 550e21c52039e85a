"""The contract of every registered cell. Gradients are compared with central differences in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.attend import BLOCK
from model.cells import CELLS
from model.cells.attention import Block
from model.cells.between import Between
from model.cells.gru import GRU
from model.cells.lru import LRU
from model.cells.lstm import LSTM
from model.cells.mingru import MinGRU
from model.cells.rnn import RNN
from model.network import Network
from model.parameters import Array, Layout
from model.spec import ModelSpec
from model.update.bptt import Batch, gradient, predict
from tests.conftest import covering, examples
from tests.contracts import registry
from tests.oracles import plain_losses, slow_cells

# Central differences in float64 with step 1e-5: truncation ~1e-10, cancellation ~1e-11, so 1e-6 leaves a margin.
STEP, RELATIVE = 1e-5, 1e-6
T = 5

KINDS, STACKS, OBJECTIVES = registry.cells(), registry.stacks(), registry.objectives()
every_cell = pytest.mark.parametrize("kind", KINDS)


def compared(kind: str, objective: str, layers: int, B: int) -> bool:
    """Whether a case adds something: a loss with a spread differs from others in the readout only, and a layer of
    attention has five times the parameters of another, so that few of their many cases are enough."""
    if OBJECTIVES[objective]["loss"] in registry.SPREAD:
        return (layers, B) == (1, 3)
    return not kind.startswith("attention") or (B == 3 and layers <= 1 + (objective == "forecast-mse"))


CASES = [
    case for pair in registry.pairs() for layers in (1, 2, 3) for B in (1, 3) if compared(*(case := (*pair, layers, B)))
]


def build(kind: str, layers: int = 1, objective: str = "forecast-mse") -> Network:
    fields = {**KINDS[kind], **OBJECTIVES[objective], "layers": layers}
    return Network(ModelSpec(channels=("a", "b"), hidden=3, interval=1800.0, **fields))


# These cells compute the ticks of a window together, so that the last bits depend on its length: rotary positions count
# from its first tick, and BLAS sums products of other shapes in another order.
TOGETHER = ("attention",)


def assert_same(kind: str, got: Array, expected: Array) -> None:
    """Compare bit for bit; of cells that compute a window together up to roundings of float64, which layers amplify."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 if kind.startswith(TOGETHER) else 0)


def some_state(rng: np.random.Generator, cells: list[Any], B: int) -> Array:
    """Return hidden states [B, …] of these cells without a zero; counts are whole numbers of their range."""
    bounds = [bound for cell in cells for bound in cell.bounds]
    state, start = rng.normal(0, 0.5, (B, sum(bound.size for bound in bounds))), 0
    for bound in bounds:
        if "count" in bound.name:
            state[:, start : start + bound.size] = rng.integers(0, int(bound.high) + 1, (B, bound.size))
        start += bound.size
    return state


def draw(network: Network, B: int, seed: int = 0) -> tuple[Array, Batch]:
    """Return weights without any zero, readout included, and a batch with labels at some positions of every row."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(0, 0.5, network.layout.size)
    outputs = network.spec.outputs
    _, labels, _ = plain_losses.LOSSES[network.spec.loss]
    weight = (rng.random((T, B, outputs)) < 0.5).astype(np.float64)
    weight[2] = 1
    weight[0] = 0  # the labelled span is shorter than the window
    return flat, Batch(
        some_state(rng, network.cells, B), rng.normal(0, 1, (T, B, network.features)),
        labels(rng, (T, B, outputs)), weight,
    )  # fmt: skip


def analytic(network: Network, flat: Array, batch: Batch) -> Array:
    grad = network.weights(np.full_like(flat, np.nan))
    gradient(network, network.weights(flat), batch, network.tape(T, batch.X.shape[1], np.float64), grad)
    return grad.flat


def numeric(network: Network, flat: Array, batch: Batch) -> Array:
    """Return dL/dw by central differences. The loss is computed here, independently of the code under test."""
    flat = flat.copy()
    weights, tape = network.weights(flat), network.tape(T, batch.X.shape[1], np.float64)
    plain, _, _ = plain_losses.LOSSES[network.spec.loss]
    labelled_rows = batch.weight.any(axis=(0, 2)).sum()
    labels = [
        (at, batch.Y[at].tolist(), batch.weight[at].tolist()) for at in np.ndindex(batch.Y.shape[:2])
        if batch.weight[at].any()
    ]  # fmt: skip

    def loss() -> float:
        p = predict(network, weights, batch, tape, (0, T))
        return float(sum(plain(network.spec, p[at].tolist(), y, weight) for at, y, weight in labels) / labelled_rows)

    return central_differences(loss, flat)


def central_differences(loss: Any, values: Array) -> Array:
    """Return d loss() / d values; moves one element at a time, in place."""
    out = np.empty_like(values)
    for i in np.ndindex(values.shape):
        kept = values[i]
        values[i] = kept + STEP
        above = loss()
        values[i] = kept - STEP
        out[i] = (above - loss()) / (2 * STEP)
        values[i] = kept
    return out


def assert_gradients_agree(layout: Layout, got: Array, expected: Array) -> None:
    """Compare relative to the largest element of each parameter: a large layer does not hide errors of a small one."""
    for name, wanted in layout.views(expected).items():
        size = np.abs(wanted).max()
        if name.startswith(("target.", "experts.", "interval.")):  # set from labels, not by gradients
            assert size == np.abs(layout.views(got)[name]).max() == 0
            continue
        assert size > 1e-6, f"{name} has no gradient: nothing was tested"
        np.testing.assert_allclose(layout.views(got)[name], wanted, rtol=0, atol=RELATIVE * size, err_msg=name)


@pytest.mark.parametrize(("kind", "objective", "layers", "B"), covering(CASES, (0, 1), (0, 2), (0, 3), (2, 3)))
def test_the_gradient_of_the_whole_network_equals_central_differences(
    kind: str, objective: str, layers: int, B: int
) -> None:
    network = build(kind, layers, objective)
    flat, batch = draw(network, B)
    assert np.abs(flat).min() > 0

    got = analytic(network, flat, batch)

    assert_gradients_agree(network.layout, got, numeric(network, flat, batch))


@pytest.mark.parametrize("stack", STACKS)
def test_the_gradient_through_layers_that_differ_equals_central_differences(stack: str) -> None:
    network = Network(ModelSpec(channels=("a", "b"), hidden=4, interval=1800.0, **STACKS[stack]))
    flat, batch = draw(network, B=3)

    got = analytic(network, flat, batch)

    assert_gradients_agree(network.layout, got, numeric(network, flat, batch))


@every_cell
@pytest.mark.parametrize("B", [1, 3])
def test_a_cell_returns_gradients_by_inputs_and_start_state_and_adds_those_by_parameters(kind: str, B: int) -> None:
    cell, rng = CELLS[KINDS[kind]["cell"]](4, 3, build(kind).spec), np.random.default_rng(1)
    layout = Layout(cell.shapes())
    flat = rng.normal(0, 0.5, layout.size)
    state, X = some_state(rng, [cell], B), rng.normal(0, 1, (T, B, 4))
    dH = rng.normal(0, 1, (T, B, 3))
    tape = cell.workspace(T, B, np.float64)

    def loss() -> float:
        return float((cell.forward(layout.views(flat), state, X, tape) * dH).sum())

    expected = [central_differences(loss, values) for values in (X, state, flat)]
    given_arrays = [a.copy() for a in (X, state, dH)]
    loss()
    total = np.ones(layout.size)
    dX, dstate = cell.backward(layout.views(flat), tape, dH, layout.views(total), need_dX=True)

    for got, wanted in zip((dX, dstate, total - 1), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=RELATIVE * np.abs(wanted).max())
    for before, after in zip(given_arrays, (X, state, dH), strict=True):
        np.testing.assert_array_equal(before, after)  # backward only reads them


@every_cell
@examples(25)
@given(split=st.integers(1, 11), B=st.sampled_from([1, 3, 8]), layers=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_window_in_one_piece_equals_the_window_in_any_two_pieces(
    kind: str, split: int, B: int, layers: int, seed: int
) -> None:
    network, steps, rng = build(kind, layers), 12, np.random.default_rng(seed)
    dtype = np.float64 if kind.startswith(TOGETHER) else np.float32
    weights = network.weights(rng.normal(0, 0.5, network.layout.size).astype(dtype))
    start = some_state(rng, network.cells, B).astype(dtype)
    X = rng.normal(0, 1, (steps, B, network.features)).astype(dtype)

    whole, first, second = (network.tape(n, B, dtype) for n in (steps, split, steps - split))
    H = network.forward(weights, start, X, whole)
    H1 = network.forward(weights, start, X[:split], first)
    H2 = network.forward(weights, network.state_after(first, split), X[split:], second)

    # Bit for bit: each step computes the same products on the same shapes, whatever the length of the window.
    assert_same(kind, np.concatenate([H1, H2]), H)
    assert_same(kind, network.state_after(second, steps - split), network.state_after(whole, steps))


@every_cell
@pytest.mark.parametrize("layers", [1, 3])
def test_the_state_after_k_steps_is_what_running_k_steps_leaves(kind: str, layers: int) -> None:
    network = build(kind, layers)
    flat, batch = draw(network, B=3)
    weights = network.weights(flat)
    whole = network.tape(T, 3, np.float64)
    network.forward(weights, batch.start, batch.X, whole)

    for k in range(1, T + 1):
        part = network.tape(k, 3, np.float64)
        network.forward(weights, batch.start, batch.X[:k], part)
        assert_same(kind, network.state_after(whole, k), network.state_after(part, k))


@every_cell
@pytest.mark.parametrize(("B", "rows"), [(1, 4), (3, 4), (5, 8)])
def test_a_padded_row_changes_no_gradient_whatever_its_values(kind: str, B: int, rows: int) -> None:
    network, rng = build(kind, layers=2), np.random.default_rng(2)
    flat, batch = draw(network, B)

    def padded(array: Array, axis: int, scale: float = 3.0) -> Array:
        shape = list(array.shape)
        shape[axis] = rows - B
        return np.concatenate([array, scale * rng.normal(0, 1, shape)], axis=axis)

    wide = Batch(padded(batch.start, 0), padded(batch.X, 1), padded(batch.Y, 1), padded(batch.weight, 1, scale=0.0))

    expected = analytic(network, flat, batch)
    # Not bit for bit: BLAS sums a wider product in another order, which costs a few float64 roundings.
    np.testing.assert_allclose(analytic(network, flat, wide), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@every_cell
def test_padding_at_the_end_of_a_window_changes_no_gradient(kind: str) -> None:
    network = build(kind)
    flat, batch = draw(network, B=3)
    batch.weight[-2:] = 0
    expected = analytic(network, flat, batch)

    batch.X[-2:], batch.Y[-2:] = 7.0, -7.0

    np.testing.assert_array_equal(analytic(network, flat, batch), expected)


class LSTMWithoutTanhDerivative(LSTM):
    """Leave out the factor 1 − tanh²(c) of dc."""

    def _local_derivatives(self, s: Any) -> None:
        super()._local_derivatives(s)
        s.Qc[...] = s.A[:-1, : self.hidden]


class LSTMWithoutCellMemory(LSTM):
    """Pass no gradient to the forget gate."""

    def _local_derivatives(self, s: Any) -> None:
        super()._local_derivatives(s)
        s.Q[:, 2 * self.hidden : 3 * self.hidden] = 0


class GRUWithoutUpdateGate(GRU):
    """Leave out the factor 1 − z of the update gate."""

    def _local_derivatives(self, s: Any) -> None:
        super()._local_derivatives(s)
        z = s.A[:, 2 * self.hidden : 3 * self.hidden]
        s.Q[:, 2 * self.hidden : 3 * self.hidden] /= 1 - z


class GRUWithoutResetGate(GRU):
    """Pass no gradient to the reset gate."""

    def _local_derivatives(self, s: Any) -> None:
        super()._local_derivatives(s)
        s.Q[:, self.hidden : 2 * self.hidden] = 0


class RNNWithoutTanhDerivative(RNN):
    """Leave out the factor 1 − h²."""

    def _local_derivatives(self, s: Any) -> None:
        s.Q[...] = 1


class RNNWithReluOfTheStepBefore(RNN):
    """Take the mask of the relu from the step before."""

    def _local_derivatives(self, s: Any) -> None:
        s.Q[...] = s.XH[:-1, : self.hidden] > 0


class MinGRUWithoutGateDerivative(MinGRU):
    """Leave out the factor 1 − z of the gate."""

    def _local_derivatives(self, s: Any) -> None:
        super()._local_derivatives(s)
        s.dA[:, : self.hidden] /= s.keep


class LRUWithoutRotation(LRU):
    """Go back as if λ were real."""

    def backward(self, params: Any, tape: Any, dH: Array, dparams: Any, need_dX: bool) -> Any:
        tape.turn[2] = 0
        return super().backward(params, tape, dH, dparams, need_dX)


class LRUWithFixedGamma(LRU):
    """Leave out that γ depends on ν."""

    def _by_recurrence(self, params: Any, s: Any, dparams: Any) -> None:
        kept = s.rates
        s.rates = kept._replace(radius=np.zeros_like(kept.radius))
        super()._by_recurrence(params, s, dparams)
        s.rates = kept


class AttentionWithoutSoftmaxDerivative(Block):
    """Leave out the term Σ P·dP, by which the weights of one query depend on each other."""

    def backward(self, params: Any, tape: Any, *args: Any, **named: Any) -> Any:
        tape.attention.O = np.zeros_like(tape.attention.O)
        return super().backward(params, tape, *args, **named)


class AttentionWithoutTurningBack(Block):
    """Leave out the rotation of the gradient."""

    def backward(self, params: Any, tape: Any, *args: Any, **named: Any) -> Any:
        tape.turned = np.ones_like(tape.turned)
        return super().backward(params, tape, *args, **named)


class AttentionWithoutLags(Block):
    """Pass the gradient of a lag to the next lag."""

    def backward(self, params: Any, tape: Any, dH: Array, dparams: Any, need_dX: bool) -> Any:
        lags = dparams["lags"].copy()
        found = super().backward(params, tape, dH, dparams, need_dX)
        dparams["lags"][...] = lags + np.roll(dparams["lags"] - lags, 1, axis=1)
        return found


class AttentionToEmptySlots(Block):
    """Read the slots that do not exist yet."""

    def _filled(self, s: Any) -> Array:
        return np.full(s.B, self.window - 1)


def one_step_ignored(kind: str) -> Any:
    """Return a mutant of the cell that drops the loss at one step of the window."""
    cell_class: Any = type(build(kind).cells[0])

    class Mutant(cell_class):  # type: ignore[misc]  # a base that is known only here
        def backward(self, params: Any, tape: Any, dH: Array, dparams: Any, need_dX: bool) -> Any:
            kept = dH.copy()
            kept[2] = 0
            return super().backward(params, tape, kept, dparams, need_dX)

    return Mutant


class NormalizedWithoutMean(Between):
    """Leave out the gradient through the mean and the deviation."""

    def backward(self, params: Any, tape: Any, dH: Array, dparams: Any, need_dX: bool) -> Any:
        dX, dstate = self.cell.backward(params, tape.cell, dH, dparams, True)
        return dX * params["norm"][0] / tape.norm.deviation, dstate


class ResidualWithoutGradient(Between):
    """Pass no gradient around the cell."""

    def backward(self, params: Any, tape: Any, dH: Array, dparams: Any, need_dX: bool) -> Any:
        return self.cell.backward(params, tape.cell, dH, dparams, need_dX)


@pytest.mark.parametrize(
    ("stack", "mutant"), [("normed", NormalizedWithoutMean), ("residual", ResidualWithoutGradient)]
)
def test_a_backward_between_layers_that_drops_one_term_is_caught(stack: str, mutant: Any) -> None:
    network = Network(ModelSpec(channels=("a", "b"), hidden=4, **STACKS[stack]))
    network.cells[1:] = [mutant(**vars(cell)) for cell in network.cells[1:]]
    flat, batch = draw(network, B=3)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_gradients_agree(network.layout, analytic(network, flat, batch), numeric(network, flat, batch))


MUTANTS = [
    ("lstm", LSTMWithoutTanhDerivative), ("lstm", LSTMWithoutCellMemory),
    ("gru", GRUWithoutUpdateGate), ("gru", GRUWithoutResetGate),
    ("rnn", RNNWithoutTanhDerivative), ("rnn-relu", RNNWithReluOfTheStepBefore),
    ("mingru", MinGRUWithoutGateDerivative), ("lru", LRUWithoutRotation), ("lru", LRUWithFixedGamma),
    ("attention", AttentionWithoutSoftmaxDerivative), ("attention", AttentionWithoutTurningBack),
    ("attention-learned", AttentionWithoutLags),
    *((kind, one_step_ignored(kind)) for kind in KINDS),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "mutant"), MUTANTS, ids=lambda v: getattr(v, "__name__", v))
def test_a_backward_that_drops_one_term_is_caught(kind: str, mutant: Any) -> None:
    network = build(kind, layers=2)
    network.cells = [mutant(**vars(cell)) for cell in network.cells]
    flat, batch = draw(network, B=3)

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_gradients_agree(network.layout, analytic(network, flat, batch), numeric(network, flat, batch))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("attention")])
@pytest.mark.parametrize("cell", [None, AttentionToEmptySlots])
def test_attention_equals_the_equations_of_one_tick_also_where_its_window_is_longer_than_the_ring_is_full(
    kind: str, cell: Any
) -> None:
    """Longer than a block of queries, with rings that are empty, partly full and full; W below and above the window."""
    for window, ticks, since in ((4, BLOCK + 3, 0), (30, 5, 3)):
        spec = ModelSpec(channels=("a",), hidden=6, **{**KINDS[kind], "heads": 2, "attention_window": window})
        block: Any = CELLS["attention"](3, 6, spec)
        slow = slow_cells.CELLS["attention"](spec)
        block = cell(**vars(block)) if cell else block
        rng, layout, B = np.random.default_rng(window), Layout(block.shapes()), 3
        params = layout.views(rng.normal(0, 0.5, layout.size))
        state, X = rng.normal(0, 0.5, (B, block.state_size)), rng.normal(0, 1, (ticks, B, 3))
        state[:, -1] = 0, window // 2, window
        tape = block.workspace(ticks, B, np.float64)
        tape.since = since

        H, expected = block.forward(params, state, X, tape), np.zeros((ticks, B, 6))
        for b in range(B):
            after = state[b]
            for t in range(ticks):
                expected[t, b], after, _ = slow.step(params, after, X[t, b])
        expected[:since] = 0

        if cell:
            with pytest.raises(AssertionError):
                np.testing.assert_allclose(H, expected, rtol=0, atol=1e-10)
        else:
            np.testing.assert_allclose(H, expected, rtol=0, atol=1e-10)


def test_the_report_of_attention_is_0_where_all_ticks_count_equally_and_1_where_one_does() -> None:
    spec = ModelSpec(channels=("a",), hidden=4, cell="attention", attention_window=8, positions="learned")
    block, rng = CELLS["attention"](2, 4, spec), np.random.default_rng(0)
    layout = Layout(block.shapes())
    params, tape = layout.views(np.zeros(layout.size)), block.workspace(5, 2, np.float64)
    state, X = np.zeros((2, block.state_size)), rng.normal(0, 1, (5, 2, 2))
    state[1, -1] = 8

    block.forward(params, state, X, tape)
    assert block.saturated(tape) == pytest.approx(0, abs=1e-12)
    params["lags"][:, 0] = 50.0
    block.forward(params, state, X, tape)
    assert block.saturated(tape) == pytest.approx(1, abs=1e-12)


GATES = {"lstm": 3, "gru": 2}  # of a unit; other cells have one, or count the unit itself


@every_cell
def test_the_saturated_units_of_a_step_are_those_that_its_share_counts(kind: str) -> None:
    network, B = build(kind), 4
    cell, rng = network.cells[0], np.random.default_rng(3)
    layout, some = Layout(cell.shapes()), 0
    for size in (0.1, 1.0, 30.0):
        params = layout.views(rng.normal(0, size, layout.size))
        long, last = cell.workspace(T, B, np.float64), cell.workspace(1, B, np.float64)
        state, X = some_state(rng, [cell], B), rng.normal(0, 1, (T, B, cell.inputs))
        cell.forward(params, state, X, long)
        cell.forward(params, cell.state_after(long, T - 1), X[-1:], last)
        units, share = cell.saturated_units(last), cell.saturated(last)

        assert units.shape == (B, cell.hidden)
        np.testing.assert_array_equal(cell.saturated_units(long), units)
        if kind.startswith("attention"):
            assert not units.any()
            continue
        gates = GATES.get(KINDS[kind]["cell"], 1)
        assert share - 1e-12 <= units.mean() <= gates * share + 1e-12
        some += 0 < units.mean() < 1
    assert some or kind.startswith("attention"), "no case has both kinds of units"


@every_cell
def test_the_shown_units_are_one_number_each_and_change_with_a_step(kind: str) -> None:
    network, B = build(kind), 2
    cell, rng = network.cells[0], np.random.default_rng(3)
    layout = Layout(cell.shapes())
    params, tape = layout.views(rng.normal(0, 0.5, layout.size)), cell.workspace(1, B, np.float64)
    state = some_state(rng, [cell], B)
    cell.forward(params, state, rng.normal(0, 1, (1, B, cell.inputs)), tape)

    before, after = cell.units(state), cell.units(cell.state_after(tape, 1))
    assert before.shape == after.shape == (B, cell.hidden)
    assert (before != after).all()
