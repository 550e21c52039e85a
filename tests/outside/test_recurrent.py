"""The onnx package's own cases of LSTM, GRU and RNN: read by our import, computed by our cells and by our export.

Their weights are inputs of the graph; here they become constants, as in a trained model.
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from model.foreign.answers import TOLERANCE, answers, difference
from model.foreign.fitting import plain
from model.foreign.graph import read_graph
from model.foreign.refused import ForeignError
from model.graph.step import export_step
from model.parameters import Array
from tests import graphs
from tests.outside.onnx_suite import Case, cases

CASES = cases("lstm", "LSTM") | cases("gru", "GRU") | cases("rnn", "RNN")
COMPUTED = {
    "test_lstm_defaults", "test_lstm_with_initial_bias", "test_gru_defaults", "test_gru_with_initial_bias",
    "test_gru_seq_length", "test_simple_rnn_defaults", "test_simple_rnn_with_initial_bias", "test_rnn_seq_length",
}  # fmt: skip
# Why a case is not applicable, in the words of the refusal.
NOT_APPLICABLE = {
    "test_lstm_with_peepholes": "peepholes",
    "test_lstm_batchwise": "layout = 1",
    "test_gru_batchwise": "layout = 1",
    "test_simple_rnn_batchwise": "layout = 1",
    "test_lstm_reverse": "direction = 'reverse'",
    "test_gru_reverse": "direction = 'reverse'",
    "test_simple_rnn_reverse": "direction = 'reverse'",
    "test_lstm_bidirectional": "direction = 'bidirectional'",
    "test_gru_bidirectional": "direction = 'bidirectional'",
    "test_simple_rnn_bidirectional": "direction = 'bidirectional'",
}


def bound(case: Case) -> bytes:
    """The case's graph with every input but X as a constant."""
    model = ModelProto()
    model.CopyFrom(case.model)
    del model.graph.input[1:]
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in case.inputs.items() if name != "X"
    )
    return model.SerializeToString()


def test_every_case_of_the_suite_is_in_one_of_the_two_lists():
    assert COMPUTED | NOT_APPLICABLE.keys() == CASES.keys()
    assert not COMPUTED & NOT_APPLICABLE.keys()


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_our_cells_compute_the_case(name):
    case = CASES[name]
    graph = read_graph(bound(case))
    network, weights = plain(graph.stack)
    made = answers(network, weights, graph.how, {"X": case.inputs["X"]})
    assert made.keys() == case.outputs.keys()
    for output, expected in case.outputs.items():
        assert made[output].shape == expected.shape
        assert difference(expected, made[output]) <= TOLERANCE


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_our_exported_step_computes_the_case(name):
    case = CASES[name]
    network, weights = plain(read_graph(bound(case)).stack)
    session = graphs.session(export_step(network, weights))
    X: Array = case.inputs["X"]
    state = np.zeros((X.shape[1], network.state_size), np.float32)
    for x in X:
        u = np.zeros((len(x), 0), np.float32)
        y, state = session.run(["y", "next_state"], {"x": x, "u": u, "state": state})
    assert difference(case.outputs["Y_h"][0], y) <= TOLERANCE


@pytest.mark.parametrize("name", sorted(NOT_APPLICABLE))
def test_a_case_without_an_equivalent_here_is_refused_by_its_name(name):
    with pytest.raises(ForeignError) as refused:
        read_graph(bound(CASES[name]))
    assert NOT_APPLICABLE[name] in str(refused.value)


@pytest.mark.parametrize("name", ["test_lstm_defaults", "test_gru_defaults", "test_simple_rnn_defaults"])
def test_the_case_as_it_is_has_weights_that_are_no_constants(name):
    with pytest.raises(ForeignError, match=r"W is W: weights must be constants of the graph"):
        read_graph(CASES[name].model.SerializeToString())
