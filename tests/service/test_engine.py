"""A version serves only if it loads and reproduces its recorded answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from model.network import Network
from model.spec import ModelSpec
from service.engine.export import Canary, Export, export
from service.engine.loaded import Engine
from service.engine.session import PARITY, BadVersion, StepSession, parity


def made(seed: int = 1, **spec: Any) -> Export:
    """A version of a small model with a readout off zero."""
    network = Network(ModelSpec(channels=("a", "b"), hidden=4, head_init=0.3, seed=seed, **spec))
    return export(network, network.weights(network.init_params()))


def canary_of(version: Export) -> Canary:
    return Canary.unpack(version.canary)


SPECS: list[dict[str, Any]] = [
    {},
    {"cell": "gru", "layers": 2},
    {"interval": 3600.0},
    {"horizon": 3, "targets": ("b",)},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_version_as_it_was_made_is_taken(spec):
    version = made(**spec)

    session, error = Engine().prepare(version.onnx, canary_of(version))

    assert 0 <= error <= PARITY
    assert isinstance(session, StepSession)


def test_a_graph_with_other_weights_is_refused():
    with pytest.raises(BadVersion, match="answers differ"):
        Engine().prepare(made(seed=2).onnx, canary_of(made(seed=1)))


def test_a_graph_of_another_layout_is_refused():
    with pytest.raises(BadVersion):
        Engine().prepare(made(horizon=2).onnx, canary_of(made()))


def test_one_weight_moved_by_a_thousandth_is_refused():
    version = made()
    graph = onnx.load_from_string(version.onnx)
    largest = max(graph.graph.initializer, key=lambda t: np.prod(t.dims))
    values = numpy_helper.to_array(largest).copy()
    values.flat[0] += 1e-3
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))

    with pytest.raises(BadVersion, match="answers differ"):
        Engine().prepare(graph.SerializeToString(), canary_of(version))


def test_a_graph_with_other_names_is_refused():
    version = made()
    graph = onnx.load_from_string(version.onnx)
    graph.graph.output[0].name = "z"
    next(n for n in graph.graph.node if "y" in n.output).output[0] = "z"

    with pytest.raises(BadVersion, match="does not load"):
        Engine().prepare(graph.SerializeToString(), canary_of(version))


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_file_cut_short_is_refused(size):
    version = made()

    with pytest.raises(BadVersion, match="does not load"):
        Engine().prepare(version.onnx[:size], canary_of(version))


def test_no_flipped_bit_is_served_unless_the_answers_stay_as_recorded():
    """Loading is no integrity check: many flipped files load. (In service, the digest is checked first.)"""
    version, rng, refused = made(), np.random.default_rng(0), 0
    canary = canary_of(version)
    for _ in range(200):
        data = bytearray(version.onnx)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            session, _ = Engine().prepare(bytes(data), canary)
        except BadVersion:
            refused += 1
        else:
            y, after = session.run(canary.x, canary.u, canary.state)
            assert np.abs((y - canary.y) / canary.scale).max() <= PARITY
            assert np.abs(after - canary.next_state).max() <= PARITY * max(1, np.abs(canary.next_state).max())
    assert refused > 100


@pytest.mark.parametrize("field", ["y", "next_state"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_infinitely_wrong(field, bad):
    version = made()
    recorded = canary_of(version)
    spoilt = getattr(recorded, field).copy()
    spoilt[1, 0] = bad  # as if the graph had answered so: only the difference counts

    with np.errstate(invalid="ignore"):
        assert parity(StepSession(version.onnx), replace(recorded, **{field: spoilt})) == float("inf")


def test_a_single_row_is_answered_as_the_same_row_in_a_batch():
    version = made(cell="gru", interval=60.0)
    canary, session = canary_of(version), StepSession(version.onnx)
    y, after = session.run(canary.x, canary.u, canary.state)

    for i in range(len(canary.x)):
        row = slice(i, i + 1)
        y1, after1 = session.run(canary.x[row], canary.u[row], canary.state[row])
        np.testing.assert_allclose(y1, y[row], rtol=1e-6)
        np.testing.assert_allclose(after1, after[row], rtol=1e-6, atol=1e-7)


def test_sessions_are_found_by_model_and_version_until_they_are_retired():
    engine, session = Engine(), StepSession(made().onnx)
    for key in [(1, 1), (1, 2), (2, 1)]:
        engine.install(*key, session)

    engine.retire(1, keep={2})

    assert engine.get(1, 1) is None
    assert engine.get(1, 2) is session
    assert engine.get(2, 1) is session
