"""The quick loader finds every case that the whole suite has for the operators that our tests read."""

import pytest

from tests.outside.onnx_suite import cases, every_name

READ = {  # operators by the module that makes their cases
    "lstm": ["LSTM"], "gru": ["GRU"], "rnn": ["RNN"], "adagrad": ["Adagrad"], "adam": ["Adam"],
    "momentum": ["Momentum"], "softmax_cross_entropy_loss": ["SoftmaxCrossEntropyLoss"],
}  # fmt: skip


def test_a_case_is_one_node_with_named_inputs_and_outputs():
    case = cases("lstm", "LSTM")["test_lstm_with_initial_bias"]
    assert (case.node.op_type, case.attributes) == ("LSTM", {"hidden_size": 4})
    assert case.inputs["X"].shape == (1, 3, 3)
    assert list(case.outputs) == ["Y_h"]


@pytest.mark.long
def test_no_other_module_of_the_suite_makes_cases_for_these_operators():
    found = {name for module, operators in READ.items() for name in cases(module, *operators)}
    assert found == every_name(*(operator for operators in READ.values() for operator in operators))
