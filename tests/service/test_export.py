"""A version's files say what the weights are, and nothing else does."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from safetensors import numpy as safetensors

from model.graph.step import EDITIONS
from model.network import Network
from model.scalers import SCALERS
from model.spec import ModelSpec
from service.common.errors import Invalid
from service.engine.export import Canary, export, exports, read_weights
from service.engine.loaded import Engine
from service.engine.session import PARITY, BadVersion, StepSession, parity
from service.publishing.control import check_graph

SPEC = ModelSpec(channels=("a", "b"), targets=("b",), horizon=2, interval=60.0, hidden=4, layers=2, head_init=0.3)


@pytest.fixture
def network() -> Network:
    return Network(SPEC)


def test_equal_weights_give_equal_bytes(network):
    first, second = (export(Network(SPEC), network.weights(network.init_params())) for _ in range(2))

    assert first == second
    assert first.digest == hashlib.sha256(first.onnx).digest()


def test_other_weights_give_other_bytes(network):
    flat = network.init_params()
    before = export(network, network.weights(flat))
    flat[0] += np.float32(1e-3)

    after = export(network, network.weights(flat))

    assert before.digest != after.digest
    assert before.weights != after.weights


def test_every_edition_of_a_graph_passes_its_canary_and_is_accepted_beside_its_weights(network):
    known = network.weights(network.init_params())
    made = list(exports(network, known))

    assert made[0] == export(network, known)
    assert len({each.onnx for each in made}) == len(made) == len(EDITIONS)
    for each in made:
        assert (each.weights, each.canary) == (made[0].weights, made[0].canary)
        check_graph(each.onnx, exports(network, known))
        other = network.weights(network.init_params() * np.float32(1.01))
        with pytest.raises(Invalid, match=r"answers otherwise|not the step graph"):
            check_graph(each.onnx, exports(network, other))


def test_weights_come_back_bit_for_bit(network):
    flat = network.init_params() + np.float32(1e-7)

    made = export(network, network.weights(flat))

    np.testing.assert_array_equal(read_weights(network, made.weights), flat)


def test_weights_of_another_layout_are_refused(network):
    other = Network(ModelSpec(channels=("a",), hidden=4))

    with pytest.raises(ValueError, match="expected"):
        read_weights(network, export(other, other.weights(other.init_params())).weights)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff" * 100])
def test_bytes_that_are_no_weights_are_refused(network, data):
    with pytest.raises(ValueError, match="not a weights file"):
        read_weights(network, data)


def test_the_canary_is_the_networks_own_step_from_states_off_zero(network):
    weights = network.weights(network.init_params())

    canary = Canary.unpack(export(network, weights).canary)

    y, after = network.step(weights, canary.x, canary.u, canary.state)
    np.testing.assert_array_equal(y, canary.y)
    np.testing.assert_array_equal(after, canary.next_state)
    assert np.abs(canary.state[:, network.scaler.size :]).min() > 0  # the values of the season too
    assert (canary.scale > 0).all()
    assert canary.scale.shape == canary.y.shape


def test_a_graph_that_reads_the_season_otherwise_is_not_served():
    network = Network(ModelSpec(channels=("a",), hidden=4, interval=3600.0))
    weights = network.weights(network.init_params())
    weights.experts["mixing"][...] = 1
    canary = Canary.unpack(export(network, weights).canary)
    assert Engine().prepare(export(network, weights).onnx, canary)[1] < PARITY

    weights.experts["squares"][:, -1] += np.float32(1e-2)  # of the change since a week ago

    with pytest.raises(BadVersion, match="differ"):
        Engine().prepare(export(network, weights).onnx, canary)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e5, 1e8])
def test_a_regression_of_labels_far_from_zero_is_served_and_an_error_of_its_unit_is_not(mean):
    network = Network(ModelSpec(channels=("a", "b"), task="regress", targets=("t", "v"), head_init=0.3))
    weights = network.weights(network.init_params())
    weights.target["mean"][...], weights.target["scale"][...] = mean, (1.0, 7e-3 * max(1, abs(mean)))

    made = export(network, weights)

    canary = Canary.unpack(made.canary)
    np.testing.assert_array_equal(canary.scale, np.tile(weights.target["scale"], (len(canary.y), 1)))
    _, error = Engine().prepare(made.onnx, canary)
    assert error < PARITY
    weights.target["mean"][1] += weights.target["scale"][1]
    with pytest.raises(BadVersion, match="differ"):
        Engine().prepare(export(network, weights).onnx, canary)


def test_the_canary_of_a_classifier_is_compared_in_probabilities():
    network = Network(ModelSpec(channels=("a", "b"), task="classify", classes=("n", "p", "q"), head_init=0.3))

    made = export(network, network.weights(network.init_params()))

    canary = Canary.unpack(made.canary)
    np.testing.assert_allclose(canary.y.sum(axis=1), 1, rtol=1e-6)
    assert np.std(canary.y) > 0.01
    assert (canary.scale == 1).all()
    assert Engine().prepare(made.onnx, canary)[1] < PARITY


@pytest.mark.parametrize("scaler", sorted(SCALERS))
def test_the_canary_of_a_model_that_holds_has_gaps_and_a_graph_that_minds_them_is_not_served(scaler):
    mixed = "mixture" if scaler == "residual" else "network"
    network = Network(replace(SPEC, missing="hold", scaler=scaler, forecaster=mixed, seasons=()))
    weights = network.weights(network.init_params())

    made = export(network, weights)

    canary = Canary.unpack(made.canary)
    assert 0 < np.isnan(canary.x).sum() < canary.x.size
    assert np.isfinite(canary.y).all()
    assert np.isfinite(canary.next_state).all()
    _, error = Engine().prepare(made.onnx, canary)
    assert error <= PARITY
    graph = onnx.load_from_string(made.onnx)
    next(node for node in graph.graph.node if node.op_type == "IsNaN").op_type = "IsInf"  # sees no gap
    with pytest.raises(BadVersion):
        Engine().prepare(graph.SerializeToString(), canary)


def test_a_canary_comes_back_as_it_was(network):
    packed = export(network, network.weights(network.init_params())).canary

    assert Canary.unpack(packed).pack() == packed


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", safetensors.save({"x": np.zeros(3, np.float32)})], ids=["", "text", "x"]
)
def test_bytes_that_are_no_canary_are_refused(data):
    with pytest.raises(ValueError, match="not a canary"):
        Canary.unpack(data)


@pytest.mark.parametrize("init", [{"init_gain": 2.0}, {"init": "orthogonal", "init_gain": 1.4}, {"init": "identity"}])
def test_units_that_grow_without_bound_are_compared_relative_to_the_largest(init):
    """Small relu units are differences of large terms: float32 rounds them to the size of those."""
    network = Network(ModelSpec(channels=("a", "b"), cell="rnn", activation="relu", layers=2, head_init=0.3, **init))
    weights = network.weights(network.init_params())
    made = export(network, weights)
    canary = Canary.unpack(made.canary)
    assert np.abs(canary.next_state[:, network.scaler.size :]).max() > 50

    _, error = Engine().prepare(made.onnx, canary)

    assert error < PARITY
    weights.cells[1]["W"][:, -1] += np.float32(1e-2)
    weights.cells[1]["W"][:, :-1] *= np.float32(1.001)
    with pytest.raises(BadVersion, match="answers differ"):
        Engine().prepare(export(network, weights).onnx, canary)


@pytest.mark.parametrize("fields", [{"cell": "lstm"}, {"cell": "gru"}, {"cell": "rnn", "init_gain": 5.0}])
def test_answers_of_cells_with_bounded_units_are_compared_in_scaled_units_as_they_are(fields):
    network = Network(ModelSpec(channels=("a", "b"), layers=2, head_init=0.3, **fields))
    weights = network.weights(network.init_params())
    canary = Canary.unpack(export(network, weights).canary)
    _, scale, _ = network.observe(canary.state[:, : network.scaler.size].copy(), canary.x, canary.u)
    np.testing.assert_array_equal(canary.scale, network.task.units(weights.target, scale))
    np.testing.assert_array_equal(canary.state_scale, np.maximum(1, np.abs(canary.next_state)))


@pytest.mark.parametrize("loss", ["mse", "pinball", "student_t"])
def test_a_versions_files_carry_the_half_widths_of_intervals(loss: str) -> None:
    network = Network(ModelSpec(channels=("a",), hidden=4, horizon=2, intervals=(0.5, 0.9), loss=loss))
    weights = network.weights(network.init_params())
    weights.interval["log"][...] = np.random.default_rng(0).normal(size=(2, 2))
    files = export(network, weights)

    read = network.weights(read_weights(network, files.weights))
    np.testing.assert_array_equal(read.interval["log"], weights.interval["log"])
    session, canary = StepSession(files.onnx), Canary.unpack(files.canary)
    assert parity(session, canary) <= PARITY
    weights.interval["log"][0, 0] += 0.01
    assert parity(StepSession(export(network, weights).onnx), canary) > PARITY
