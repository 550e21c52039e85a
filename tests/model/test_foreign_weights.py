"""A state_dict becomes the same computation in our layout; a wrong one is refused by the name of the tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.fold.learner import Learner
from model.foreign.answers import answers, arrangement_of
from model.foreign.fitting import fit_spec, fit_weights
from model.foreign.layers import Stack
from model.foreign.options import Options
from model.foreign.refused import ForeignError
from model.foreign.state_dict import Stored, from_state_dict
from model.graph.step import export_step
from model.network import Network
from model.parameters import Array, Weights
from model.spec import SpecError
from tests import graphs

INPUTS, HIDDEN, OUTPUTS, STEPS, ROWS = 2, 4, 2, 7, 3
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
TORCH = {"cell": "lstm", "layers": ["rnn.*_l0", "rnn.*_l1"], "head": "head.*"}


def stored(tensors: dict[str, Array]) -> dict[str, Stored]:
    kinds = {"float32": "F32", "float64": "F64", "int64": "I64"}
    return {name: Stored(kinds[str(a.dtype)], a.shape, a.tobytes()) for name, a in tensors.items()}


def torch_weights(cell: str = "lstm", layers: int = 2, seed: int = 0) -> dict[str, Array]:
    """Return a state_dict as torch.nn.LSTM, GRU or RNN and a Linear have it."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Array:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    made, rows = {}, GATES[cell] * HIDDEN
    for n in range(layers):
        made[f"rnn.weight_ih_l{n}"] = weight(rows, INPUTS if n == 0 else HIDDEN)
        made[f"rnn.weight_hh_l{n}"] = weight(rows, HIDDEN)
        made |= {f"rnn.bias_{side}_l{n}": weight(rows) for side in ("ih", "hh")}
    return made | {"head.weight": weight(OUTPUTS, HIDDEN), "head.bias": weight(OUTPUTS)}


def read(tensors: dict[str, Array], **options: Any) -> tuple[Stack, Options]:
    asked = Options.from_mapping(TORCH | options)
    return from_state_dict(stored(tensors), asked), asked


def built(stack: Stack, options: Options) -> tuple[Network, Weights]:
    network = Network(fit_spec(stack, options))
    return network, network.weights(fit_weights(network, stack, options))


def imported(**options: Any) -> tuple[Network, Weights]:
    return built(*read(torch_weights(), **options))


def x_of(scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng(1).normal(0, 1, (ROWS, STEPS, INPUTS))).astype(np.float32)


def outputs(network: Network, weights: Weights, x: Array) -> Array:
    """Answers at every step [B, T, O]."""
    how = arrangement_of({"x": x}, {"y": np.zeros((ROWS, STEPS, OUTPUTS), np.float32)}, False)
    return answers(network, weights, how, {"x": x})["y"]


def sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def by_hand(weights: dict[str, Array], x: Array) -> Array:
    """PyTorch's equations of LSTM, in float64: gates i f g o."""
    layers = sum(name.startswith("rnn.weight_ih") for name in weights)
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    h, c = np.zeros((layers, ROWS, HIDDEN)), np.zeros((layers, ROWS, HIDDEN))
    made = []
    for step in x.transpose(1, 0, 2).astype(np.float64):
        below = step
        for n in range(layers):
            a = below @ w[f"rnn.weight_ih_l{n}"].T + h[n] @ w[f"rnn.weight_hh_l{n}"].T
            i, f, g, o = np.split(a + w[f"rnn.bias_ih_l{n}"] + w[f"rnn.bias_hh_l{n}"], 4, axis=1)
            c[n] = sigmoid(f) * c[n] + sigmoid(i) * np.tanh(g)
            h[n] = sigmoid(o) * np.tanh(c[n])
            below = h[n]
        made.append(below @ w["head.weight"].T + w["head.bias"])
    return np.stack(made, axis=1)


def test_the_network_computes_the_equations_of_pytorch():
    np.testing.assert_allclose(outputs(*imported(), x_of()), by_hand(torch_weights(), x_of()), atol=1e-6)


def test_keras_stores_kernels_transposed_and_one_bias():
    torch = torch_weights(layers=1)
    names = ["k/lstm/kernel", "k/lstm/recurrent_kernel", "k/y/kernel"]
    kernels = ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    keras = {name: np.ascontiguousarray(torch[old].T) for name, old in zip(names, kernels, strict=True)}
    keras |= {"k/lstm/bias": torch["rnn.bias_ih_l0"] + torch["rnn.bias_hh_l0"], "k/y/bias": torch["head.bias"]}
    network, weights = built(*read(keras, format="keras", layers=["k/lstm/*"], head="k/y/*"))
    np.testing.assert_allclose(outputs(network, weights, x_of()), by_hand(torch, x_of()), atol=1e-6)


def test_another_order_of_gates_and_other_names_are_options():
    torch = torch_weights(layers=1)
    blocks = [1, 0, 3, 2]  # f i o g
    other = {
        f"cell.{name.split('.')[1].replace('_l0', '').upper()}": np.concatenate([np.split(a, 4)[n] for n in blocks])
        for name, a in torch.items()
        if name.startswith("rnn")
    } | {"head.weight": torch["head.weight"], "head.bias": torch["head.bias"]}
    names = {"input": "WEIGHT_IH", "recurrent": "WEIGHT_HH", "input_bias": "BIAS_IH", "recurrent_bias": "BIAS_HH"}
    network, weights = built(*read(other, layers=["cell.*"], gates=["f", "i", "o", "g"], names=names))
    np.testing.assert_allclose(outputs(network, weights, x_of()), by_hand(torch, x_of()), atol=1e-6)


def test_without_biases_they_are_zero():
    torch = {name: value for name, value in torch_weights().items() if "bias" not in name}
    network, weights = built(*read(torch, bias=False, head_bias=False))
    zeros = {name: np.zeros_like(value) for name, value in torch_weights().items() if "bias" in name}
    np.testing.assert_allclose(outputs(network, weights, x_of()), by_hand(torch | zeros, x_of()), atol=1e-6)


def test_means_and_deviations_of_training_are_folded_into_the_weights():
    mean, std, out_mean, out_std = [3.0, -1.0], [2.0, 0.5], [10.0, 20.0], [4.0, 0.1]
    units = {"input_mean": mean, "input_std": std, "output_mean": out_mean, "output_std": out_std}
    raw = (np.array(mean) + np.array(std) * x_of()).astype(np.float32)
    expected = np.array(out_mean) + np.array(out_std) * by_hand(torch_weights(), x_of())
    for model in ({}, {"task": "forecast", "channels": ["a", "b"]}):
        network, weights = imported(model=model, **units)
        np.testing.assert_allclose(outputs(network, weights, raw), expected, rtol=1e-5, atol=1e-5)
    assert weights.target == {}
    network, weights = imported(**units)
    assert (weights.target["mean"].tolist(), weights.target["scale"][0]) == (out_mean, 4.0)


@pytest.mark.parametrize("predicts", ["value", "change"])
def test_a_forecaster_gives_the_future_value(predicts):
    network, weights = imported(predicts=predicts, model={"task": "forecast", "channels": ["a", "b"]})
    expected = by_hand(torch_weights(), x_of()) + (x_of() if predicts == "change" else 0)
    np.testing.assert_allclose(outputs(network, weights, x_of()), expected, atol=2e-6)
    one = {"channels": ["a", "b"], "task": "forecast", "horizon": 2, "targets": ["b"]}
    network, weights = imported(model=one)
    np.testing.assert_allclose(outputs(network, weights, x_of()), by_hand(torch_weights(), x_of()), atol=2e-6)


def test_a_classifier_gives_the_probabilities_of_the_logits():
    network, weights = imported(model={"task": "classify", "classes": ["no", "yes"]})
    np.testing.assert_allclose(outputs(network, weights, x_of()), by_hand(torch_weights(), x_of()), atol=1e-6)
    y, _ = network.step(
        weights, x_of()[:, 0], np.zeros((ROWS, 0), np.float32), np.zeros((ROWS, network.state_size), np.float32)
    )
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


def test_a_calendar_and_missing_values_begin_with_weights_of_zero():
    model = {"interval": 3600.0, "missing": "hold", "known": ["k"], "intervals": [0.9]}
    network, weights = imported(model=model)
    assert network.features > INPUTS
    np.testing.assert_allclose(outputs(network, weights, x_of()), by_hand(torch_weights(), x_of()), atol=1e-6)


# --- learning


def labelled(seed: int, ticks: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (ticks, INPUTS)).astype(np.float32)
    y = np.stack([np.tanh(x[:, 0] + 0.5 * np.roll(x[:, 1], 1)), -x[:, 0]], axis=1)
    return x, y.astype(np.float32)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_an_imported_model_learns_and_exports_back(cell):
    stack, options = read(torch_weights(cell), cell=cell, model={"learning_rate": 1e-2, "label_horizon": 8})
    network, weights = built(stack, options)
    before = weights.flat.copy()
    learner = Learner(network.spec)
    learner.weights.flat[:] = weights.flat
    x, y = labelled(2, 400)
    losses = []
    for t in range(0, len(x), 8):
        n = len(x[t : t + 8])
        streams, seq = np.full(n, 5, np.uint32), np.arange(t + 1, t + n + 1, dtype=np.uint64)
        learner.ticks(streams, seq, np.arange(t, t + n, dtype=np.float64), x[t : t + 8])
        updates, rejected = learner.labels(streams, seq, y[t : t + 8])
        assert not rejected
        losses += [update.loss for update in updates]
    tenth = len(losses) // 5
    assert np.mean(losses[-tenth:]) < 0.5 * np.mean(losses[:tenth])
    assert np.abs(learner.weights.flat - before)[: network.readout.start].max() > 1e-2
    session = graphs.session(export_step(network, learner.weights))
    state = np.zeros((1, network.state_size), np.float32)
    theirs, u = state, np.zeros((1, 0), np.float32)
    for row in x[:60]:
        ours, state = network.step(learner.weights, row[None], u, state)
        made, theirs = session.run(["y", "next_state"], {"x": row[None], "u": u, "state": theirs})
        np.testing.assert_allclose(made, ours, atol=1e-5)


def test_the_first_labels_do_not_shift_the_answers_of_an_imported_model():
    network, weights = imported(model={"learning_rate": 1e-9, "label_horizon": 8})
    learner = Learner(network.spec)
    learner.weights.flat[:] = weights.flat
    x = x_of()[0]
    streams, seq = np.full(STEPS, 5, np.uint32), np.arange(1, STEPS + 1, dtype=np.uint64)
    learner.ticks(streams, seq, np.arange(STEPS, dtype=np.float64), x)
    learner.labels(streams, seq, np.full((STEPS, OUTPUTS), 3.0, np.float32))
    assert learner.weights.target["mean"].min() > 0.01, "the statistics have moved"
    np.testing.assert_allclose(outputs(network, learner.weights, x_of()), outputs(network, weights, x_of()), atol=1e-5)


# --- refusals


def without(name: str):
    return lambda w: {k: v for k, v in w.items() if k != name}


def with_(name: str, change: Any):
    return lambda w: w | {name: change(w[name])}


def nan(array: Array) -> Array:
    return np.where(np.arange(array.size).reshape(array.shape) == 1, np.float32(np.nan), array)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("rnn.bias_hh_l1"), "tensor = rnn.bias_hh_l1: missing; the file has head.bias, head.weight, rnn."),
        (without("head.weight"), "tensor = head.weight: missing"),
        (lambda w: w | {"encoder.weight": w["head.bias"]}, "tensor = encoder.weight: not part of the model"),
        (with_("rnn.weight_ih_l0", lambda a: a.T.copy()), "rnn.weight_ih_l0 = 2 × 16: it is transposed: choose"),
        (with_("rnn.weight_hh_l0", lambda a: a.T.copy()), "rnn.weight_hh_l0 = 4 × 16: it is transposed: choose"),
        (with_("rnn.weight_hh_l0", lambda a: a[:-1].copy()), "rnn.weight_hh_l0 = 15 × 4: expected 4·H × H"),
        (with_("rnn.weight_ih_l1", lambda a: a[:, 1:].copy()), "layer 1: inputs = 3: it must read the 4 units"),
        (with_("rnn.bias_ih_l0", lambda a: a[1:].copy()), "rnn.bias_ih_l0 = 15: expected 16 values"),
        (with_("head.weight", lambda a: a[:, 1:].copy()), "head.weight = 2 × 3: expected outputs × 4"),
        (with_("head.bias", lambda a: np.r_[a, a]), "head.bias = 4: expected 2 values"),
        (with_("rnn.weight_hh_l1", lambda a: a.astype(np.float64)), "rnn.weight_hh_l1 = F64: convert it to float32"),
        (with_("rnn.weight_hh_l1", nan), "rnn.weight_hh_l1 = NaN or infinite: every weight must be a finite number"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_refused_by_its_name(change, reason):
    with pytest.raises(ForeignError) as refused:
        read(change(torch_weights()))
    assert reason in str(refused.value)


def test_tensors_may_be_ignored_by_name():
    extra = torch_weights() | {"norm.num_batches_tracked": np.array(3), "encoder.weight": np.zeros(3, np.float32)}
    stack, _ = read(extra, ignore=["norm.*", "encoder.weight"])
    assert len(stack.layers) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cel": "gru"}, "cel = gru: unknown key; did you mean cell?"),
        ({"cell": "transformer"}, "cell = transformer: choose one of lstm, gru, rnn"),
        ({"cell": ""}, "cell = : say which of lstm, gru, rnn"),
        ({"format": "jax"}, "format = jax: choose one of pytorch, keras"),
        ({"layers": []}, "layers = : give 1 to 8 patterns such as rnn.*_l0; the file has head.bias"),
        ({"layers": ["rnn.*_l0"] * 9}, "give 1 to 8 patterns"),
        ({"layers": ["rnn"]}, "layers = rnn: write * once"),
        ({"layers": "rnn.*_l0"}, "layers = rnn.*_l0: give a list of texts"),
        ({"head": "head"}, "head = head: write * once"),
        ({"bias": "no"}, "bias = no: give true or false"),
        ({"gates": ["i", "f", "g"]}, "gates = i, f, g: order the letters o, i, f, g"),
        ({"names": {"input": 3}}, "names.input = 3: known names are input, recurrent"),
        ({"predicts": "mood"}, "predicts = mood: choose one of value, change"),
        ({"input_mean": [1.0], "input_std": [1.0]}, "input_mean = 1 numbers: give 2, one for each input"),
        ({"input_mean": [1.0, 2.0]}, "input_std = (): give as many as in input_mean, 2"),
        ({"output_mean": [0.0, 0.0], "output_std": [1.0, 0.0]}, "output_std = (1.0, 0.0): give numbers above"),
        ({"input_mean": [np.nan, 0.0], "input_std": [1.0, 1.0]}, "give finite numbers below 1e15"),
        ({"input_mean": [0.0] * 2, "input_std": [1.0] * 2, "model": {"scaler": "standard"}}, "measures its own"),
        ({"model": {"hidden": 8}}, "model.hidden = 8: the weights have 4: leave it out"),
        ({"model": {"cells": ["lstm", "gru"]}}, "model.cells = ('lstm', 'gru'): the weights have lstm, lstm"),
        ({"model": {"layer_norm": True}}, "model.layer_norm = True: the weights have False: leave it out"),
        ({"model": {"channels": ["a"]}}, "model.channels = 1 names: the weights read 2 values"),
        ({"model": {"targets": ["a"]}}, "model.targets = 1 outputs: the weights give 2"),
        ({"model": {"scaler": "residual"}}, "model.scaler = residual: choose none or standard"),
        ({"model": {"task": "forecast", "forecaster": "mixture", "scaler": "none"}}, "mixture needs scaler residual"),
        ({"model": {"learning_rates": 1}}, "learning_rates = 1: unknown key"),
        ({"model": 3}, "model = 3: give a table of keys"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_its_name(options, reason):
    with pytest.raises((ForeignError, SpecError)) as refused:
        imported(**options)
    assert reason in str(refused.value)
