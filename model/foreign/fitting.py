"""A stack of layers as a spec and flat parameters.

The network computes cells and readout of the stack. Inputs that the stack does not have, such as the calendar's, have
weights of zero: the answers are the stack's until the model learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.answers.popart import FLOOR, FOLLOWED
from model.foreign.layers import Layer, Linear, Stack
from model.foreign.options import Options
from model.foreign.refused import ForeignError
from model.network import Network
from model.parameters import Array, Weights
from model.spec import ModelSpec

SCALERS = ("none", "standard")  # those whose features are one value per channel, which a stack reads


def fit_spec(stack: Stack, options: Options) -> ModelSpec:
    """Return the spec of a stack: what the user gave, completed. Raises ForeignError, SpecError.

    Without other keys the task is regress, the scaler none, and channels and targets are numbered.
    """
    first, given = stack.layers[0], dict(options.model)
    own: dict[str, Any] = {"cell": first.cell, "layers": len(stack.layers), "hidden": first.hidden}
    own |= {"layer_norm": False, "residual": False}
    for layer in stack.layers:
        own |= {"rnn": {"activation": layer.activation}, "gru": {"reset": layer.reset}}.get(layer.cell, {})
    if len({layer.cell for layer in stack.layers}) > 1:
        own["cells"] = [layer.cell for layer in stack.layers]
    for key, value in own.items():
        if given.setdefault(key, value) != value:
            raise ForeignError(f"model.{key}", given[key], f"the weights have {value}: leave it out")
    given.setdefault("channels", [f"x{i}" for i in range(first.inputs)])
    given.setdefault("scaler", "none")
    given.setdefault("task", "regress")
    if given["task"] == "regress":
        given.setdefault("targets", [f"y{i}" for i in range(stack.outputs)])
    if given["task"] == "forecast":
        given.setdefault("forecaster", "network")
    spec = ModelSpec.from_mapping(given)
    _check(spec, stack, options)
    return spec


def _check(spec: ModelSpec, stack: Stack, options: Options) -> None:
    cells = tuple(layer.cell for layer in stack.layers)
    if spec.stack != cells:
        raise ForeignError("model.cells", spec.stack, f"the weights have {', '.join(cells)}: leave it out")
    if spec.scaler not in SCALERS:
        raise ForeignError("model.scaler", spec.scaler, f"choose {' or '.join(SCALERS)}")
    if spec.forecaster != "network":
        raise ForeignError("model.forecaster", spec.forecaster, "choose network: the weights have no experts")
    if spec.scaler != "none" and options.input_mean:
        raise ForeignError(
            "input_mean", options.input_mean, f"scaler {spec.scaler} measures its own: choose one of both"
        )
    inputs = stack.layers[0].inputs
    if len(spec.channels) != inputs:
        raise ForeignError("model.channels", f"{len(spec.channels)} names", f"the weights read {inputs} values")
    if spec.outputs != stack.outputs:
        key = {"regress": "targets", "classify": "classes", "forecast": "targets"}[spec.task]
        what = "horizon × targets" if spec.task == "forecast" else key
        raise ForeignError(
            f"model.{key}", f"{spec.outputs} outputs", f"the weights give {stack.outputs}: {what} is that"
        )
    if spec.task == "classify" and options.output_mean:
        raise ForeignError("output_mean", options.output_mean, "probabilities have no unit: leave it out")


def plain(stack: Stack) -> tuple[Network, Weights]:
    """Return a network that answers as the original does, in its units, whatever the options say; and its weights."""
    network = Network(fit_spec(stack, Options()))
    return network, network.weights(fit_weights(network, stack, Options()))


def fit_weights(network: Network, stack: Stack, options: Options) -> Array:
    """Return the flat parameters [layout.size] float32, new, of a network of `fit_spec`. Raises ForeignError."""
    flat = network.init_params()
    weights = network.weights(flat)
    layers = list(stack.layers)
    units = options.units("input", layers[0].inputs)
    if units is not None:  # W·(x - mean)/std = (W/std)·x - (W/std)·mean
        mean, std = units
        layers[0] = layers[0].after(Linear((np.diag(1 / std)).astype(np.float32), (-mean / std).astype(np.float32)))
    for params, layer in zip(weights.cells, layers, strict=True):
        _write(params, layer)
    head = stack.head or Linear.identity(layers[-1].hidden)
    _write_head(network, weights, head, options)
    if not np.isfinite(flat).all():
        raise ForeignError("weights", "infinite", "they overflow float32 with these means and deviations")
    return flat


def _write_joined(params: dict[str, Array], layer: Layer) -> None:
    """Write W of an LSTM or RNN, columns h | x | 1; the two biases add up."""
    H, W = layer.hidden, params["W"]
    W[...] = 0
    W[:, :H], W[:, H : H + layer.inputs], W[:, -1] = layer.R, layer.W, layer.bW + layer.bR


def _write_gru(params: dict[str, Array], layer: Layer) -> None:
    """Write U rows hn | r | z, columns h | 1, and W rows r | z | n. The candidate keeps its two biases apart."""
    H, U, W = layer.hidden, params["U"], params["W"]
    n = slice(2 * H, 3 * H)
    both = layer.bW + layer.bR
    U[:, :H] = np.roll(layer.R, H, axis=0)
    U[:, H] = np.concatenate([layer.bR[n], both[: 2 * H]])
    W[...] = 0
    W[:, : layer.inputs] = layer.W
    params["b"][...] = layer.bW[n]


def _write_gru_before(params: dict[str, Array], layer: Layer) -> None:
    """Write U and W of a GRU whose reset gate comes before the product: columns of W x | 1, the biases add up."""
    W = params["W"]
    W[...] = 0
    W[:, : layer.inputs], W[:, -1], params["U"][...] = layer.W, layer.bW + layer.bR, layer.R


def _write(params: dict[str, Array], layer: Layer) -> None:
    """Write the parameters of a layer. Weights of inputs that it does not have are zero."""
    if layer.cell != "gru":
        _write_joined(params, layer)
    elif layer.reset == "after":
        _write_gru(params, layer)
    else:
        _write_gru_before(params, layer)


def _write_head(network: Network, weights: Weights, head: Linear, options: Options) -> None:
    """Write the readout and, for task regress, the statistics of the labels.

    With them, answers stay the same when the statistics begin to follow labels (`popart`).
    """
    spec, W, H = network.spec, weights.head["W"], network.spec.hidden
    units = options.units("output", len(spec.targets) or spec.outputs)
    A, b = head.A.astype(np.float64), head.b.astype(np.float64)
    if spec.task == "regress":
        target = weights.target
        mean, std = units or (np.zeros(spec.outputs), np.ones(spec.outputs))
        for name, value in (("count", FOLLOWED), ("mean", mean), ("scale", std), ("floor", FLOOR * std)):
            target[name][...] = value
    elif units is not None:
        mean, std = (np.tile(unit, spec.horizon) for unit in units)
        A, b = A * std[:, None], b * std + (mean if options.predicts == "value" else 0)
    W[...] = 0
    W[:, :H], W[:, -1] = A, b
    if spec.task == "forecast" and options.predicts == "value":  # an answer is the present value + scale · p
        columns = H + np.tile(network.targets, spec.horizon)
        W[np.arange(spec.outputs), columns] -= 1
