"""Export of a version as ONNX: the whole forecaster as one step, scaler and head included (DESIGN R9).

x [B, C], u [B, F], state [B, S] → y [B, O], state' [B, S] and, only with intervals, bounds [B, 2·levels·O].
Opset 17, IR 8, so that older runtimes load it. The graph
computes what `Network.step` does in as few nodes as possible: at one row, every node costs about the same. A test
compares the two on long runs with perturbed weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper

from model.answers.columns import LAGS
from model.graph import first, mixture, own
from model.graph.builder import EDITION, Graph
from model.graph.cells import layer
from model.graph.covariates import covariates
from model.graph.scalers import SCALER_TWINS, fill
from model.graph.tasks import TASK_TWINS, bounds, chosen, forecast, targets
from model.network import Network
from model.parameters import Weights

OPSET, IR = 17, 8
EDITIONS = tuple(range(EDITION, 0, -1))  # the newest first


def export_step(network: Network, weights: Weights, edition: int = EDITION) -> bytes:
    """Return the serialized step graph with these weights copied into it. Equal weights give equal bytes.

    edition: one of EDITIONS; an earlier one gives the bytes that earlier versions of freshet stored.
    """
    g = Graph(edition)
    twins = SCALER_TWINS | first.SCALERS if edition == 1 else SCALER_TWINS
    scaler = network.scaler
    widths = [[bound.size for bound in cell.bounds] for cell in network.cells]
    kept = mixture.parts(network.mixture)
    sizes = [scaler.parts, kept, [size for size in network.covariates.parts if size], own.parts(network.own)]
    parts = g.split("state", [*(size for part in sizes for size in part), *(w for layer in widths for w in layer)])
    one, two, three, four = np.cumsum([len(part) for part in sizes])
    value, observed = fill(g, scaler, "state", "x")
    scaled = twins[type(scaler)](g, scaler, parts[:one], value, observed)
    calendar, slot, sent = _ahead(g, network)
    covered = covariates(g, network.covariates, weights, parts[two:three], sent)
    known = [*([observed] if observed else []), *calendar, *covered.seen]
    inputs, hidden, states = [*scaled.seen, *known], [], iter(parts[four:])
    for cell, params, sizes_of in zip(network.cells, weights.cells, widths, strict=True):
        output, after_tick = layer(g, cell, params, [next(states) for _ in sizes_of], inputs)
        hidden += after_tick
        inputs = [output]
    given = [*inputs, *scaled.unseen, *scaled.seen, *known, *covered.later]
    if edition == 1 or network.mixture is None or network.loss.columns > 1:
        given = [g.concat(*given)]
    features = given[0]  # with parts, the mixture reads them, and nothing reads the whole
    after: list[str] = []
    learned: list[str] = []
    if network.mixture is not None:
        last, unit = targets(g, network, value, scaled.scale)
        statistics = [chosen(g, network, part) for part in scaled.parts[1:3]]  # after the count: means, variances
        mixed = parts[one:two]
        p, read, after = mixture.mixed(g, network, weights, mixed, given, last, slot, unit, statistics)
        if network.own is not None:
            before, there = _before(g, network, mixed[0], observed)
            tick = own.Tick(p, read, last, before, there, unit)
            p, learned = own.owned(g, network.own, network.mixture, weights, parts[three:four], tick)
        forecast(g, network, p, last, unit)
    else:
        unit = TASK_TWINS[type(network.task)](g, network, weights, features, value, scaled.scale)
    if network.spec.intervals:
        bounds(g, network, weights, unit, features)
    g.op("Concat", *scaled.parts, *after, *covered.parts, *learned, *hidden, axis=1, outputs=["next_state"])
    return _serialize(g, network)


def _before(g: Graph, network: Network, recent: str, observed: str | None) -> tuple[str, str]:
    """Return the targets' values of the last tick [B, K], and which are observed now, "" if all are."""
    K = network.targets.size
    before = g.leading(recent, K, (LAGS - 1) * K)
    return before, chosen(g, network, observed) if observed else ""


def _ahead(g: Graph, network: Network) -> tuple[list[str], str, str]:
    """Return the columns of u that are features, as zero or one value; the slot of the season; and what was sent.

    "" for a part that the model does not have.
    """
    ahead = network.ahead
    sizes = [ahead.features, bool(ahead.slots), ahead.sent]
    if not ahead.size:
        return [], "", ""
    named = iter(g.split("u", [int(size) for size in sizes if size]))
    features, slot, sent = [next(named) if size else "" for size in sizes]
    return [features] if features else [], slot, sent


def _serialize(g: Graph, network: Network) -> bytes:
    def rows(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width])

    inputs = [
        rows("x", len(network.spec.channels)),
        rows("u", network.ahead.size),
        rows("state", network.state_size),
    ]
    outputs = [rows("y", network.spec.outputs), rows("next_state", network.state_size)]
    if network.spec.intervals:
        outputs.append(rows("bounds", network.answer_size - network.spec.outputs))
    graph = helper.make_graph(g.nodes, "freshet_step", inputs, outputs, list(g.constants.values()))
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="freshet"
    )
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
