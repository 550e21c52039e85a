"""An imported ONNX graph computes what onnxruntime does; any other graph is refused by the name of the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model.foreign.answers import TOLERANCE, answers, difference
from model.foreign.constants import MAX_ELEMENTS
from model.foreign.fitting import plain
from model.foreign.graph import read_graph
from model.foreign.refused import ForeignError
from tests.conftest import examples
from tests.model.foreign_graphs import HIDDEN, INPUTS, GraphOf, changed, node, stacked, tensor, x_of

LSTM = stacked("LSTM")


def compared(data: bytes, **inputs: np.ndarray) -> float:
    """Return the largest difference between onnxruntime and the import."""
    given = {"x": x_of(), **inputs}
    graph = read_graph(data)
    network, weights = plain(graph.stack)
    made = answers(network, weights, graph.how, given)
    expected = onnxruntime.InferenceSession(data).run(list(made), given)
    assert [e.shape for e in expected] == [m.shape for m in made.values()]
    return max(difference(e, m) for e, m in zip(expected, made.values(), strict=True))


@pytest.mark.parametrize("kinds", [("LSTM",), ("GRU",), ("RNN",), ("LSTM", "LSTM"), ("GRU", "LSTM", "RNN")])
@pytest.mark.parametrize("last", [True, False])
def test_the_import_computes_what_onnxruntime_does(kinds, last):
    assert compared(stacked(*kinds, last=last)) < TOLERANCE / 10


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("RNN", {"activations": ["Relu"]}),
        ("GRU", {"linear_before_reset": 0}),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"], "direction": "forward", "input_forget": 0, "layout": 0}),
    ],
)
def test_the_forms_of_a_node_that_have_an_equivalent_are_read(kind, attributes):
    assert compared(stacked(kind, **attributes)) < TOLERANCE / 10


def test_without_a_readout_the_hidden_state_is_the_answer():
    assert compared(stacked("LSTM", head=False)) == pytest.approx(0, abs=1e-6)
    assert read_graph(stacked("LSTM", head=False)).stack.outputs == HIDDEN


def test_linear_maps_around_the_layers_are_folded_into_their_weights():
    g = GraphOf()
    mean, std = (
        g.constant("mean", np.array([1, -2, 3], np.float32)),
        g.constant("std", np.array([0.5, 2, 4], np.float32)),
    )
    x = g.op("Div", [g.op("Sub", ["x", mean], "centred"), std], "scaled")
    x = g.op("MatMul", [x, g.weight("P", INPUTS, 7)], "wide")
    x = g.layer("LSTM", g.op("Transpose", [x], "by_time", perm=[1, 0, 2]), 0, 7)
    x = g.op("MatMul", [x, g.weight("Q", HIDDEN, HIDDEN)], "between")
    x = g.op("MatMul", [g.layer("GRU", x, 1, HIDDEN), g.weight("A", HIDDEN, 9)], "first")
    x = g.op("Add", [g.op("MatMul", [x, g.weight("C", 9, 2)], "second"), g.weight("b", 2)], "sum")
    x = g.op("Mul", [x, g.constant("unit", np.float32(10))], "answer")
    assert compared(g.bytes(x, ["time", "batch", 2])) < TOLERANCE


def test_start_states_are_read_where_the_graph_has_them():
    g = GraphOf()
    g.inputs.append(helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, "batch", HIDDEN]))
    g.op("Transpose", ["x"], "by_time", perm=[1, 0, 2])
    weights = [g.weight("W", 1, 3 * HIDDEN, INPUTS), g.weight("R", 1, 3 * HIDDEN, HIDDEN)]
    g.op("GRU", ["by_time", *weights, "", "", "h0"], ["", "hn"], hidden_size=HIDDEN, linear_before_reset=1)
    data = g.bytes("hn", [1, "batch", HIDDEN])
    start = np.random.default_rng(2).uniform(-1, 1, (1, 5, HIDDEN)).astype(np.float32)
    assert compared(data, h0=start) < TOLERANCE / 10


# --- refusals


def attribute(kind: str, **attributes: Any):
    def change(model):
        made = helper.make_node(kind, ["x"], ["y"], **attributes).attribute
        node(model, kind).attribute.extend(made)

    return change


def bidirectional(model):
    attribute("LSTM", direction="bidirectional")(model)


def peepholes(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3 * HIDDEN), np.float32), "P"))
    node(model, "LSTM").input.extend(["", "", "", "P"])


def lengths(model):
    model.graph.initializer.append(numpy_helper.from_array(np.full(5, 6, np.int32), "lengths"))
    node(model, "LSTM").input.append("lengths")


def computed_weights(model):
    model.graph.input.append(helper.make_tensor_value_info("W0", TensorProto.FLOAT, [1, 4 * HIDDEN, INPUTS]))
    del model.graph.initializer[[t.name for t in model.graph.initializer].index("W0")]


def nan(model):
    W = np.array(numpy_helper.to_array(tensor(model, "R0")))
    W[0, 1, 2] = np.nan
    tensor(model, "R0").CopyFrom(numpy_helper.from_array(W, "R0"))


def doubles(model):
    W = numpy_helper.to_array(tensor(model, "W0")).astype(np.float64)
    tensor(model, "W0").CopyFrom(numpy_helper.from_array(W, "W0"))


def halves(model):
    W = numpy_helper.to_array(tensor(model, "W0")).astype(np.float16)
    tensor(model, "W0").CopyFrom(numpy_helper.from_array(W, "W0"))


def transposed(model):
    W = numpy_helper.to_array(tensor(model, "W0")).transpose(0, 2, 1)
    tensor(model, "W0").CopyFrom(numpy_helper.from_array(np.ascontiguousarray(W), "W0"))


def elsewhere(model):
    W = tensor(model, "W0")
    W.ClearField("raw_data")
    W.data_location = TensorProto.EXTERNAL
    entry = W.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def loop(model):
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["z"], body=body))


def branch(model):
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))


def unrolled(model):
    node(model, "LSTM").op_type = "Tanh"


def custom(model):
    node(model, "MatMul").domain = "evil"


def function(model):
    model.functions.add().name = "f"


def softmax(model):
    node(model, "Add").op_type = "Softmax"


def other_step(model):
    tensor(model, "end").CopyFrom(numpy_helper.from_array(np.array(-2, np.int64), "end"))


def started(model):
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 7, HIDDEN), np.float32), "h0"))
    node(model, "LSTM").input.extend(["", "h0"])


def dangling(model):
    node(model, "MatMul").input[0] = "nowhere"


def inner_output(model):
    model.graph.output[0].name = "x_by_time"


def open_features(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "features"


def huge_tensor(model):
    tensor(model, "W0").dims[1] = 10**12


def huge_constant(model):
    shape = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "huge")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["zeros"]))


def huge_view(model):
    shape = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "huge")
    model.graph.initializer.extend([shape, numpy_helper.from_array(np.zeros((), np.float32), "zero")])
    model.graph.node.insert(0, helper.make_node("Expand", ["zero", "huge"], ["zeros"]))


def growing(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1024, np.float32), "g0"))
    for n in range(20):
        model.graph.node.insert(n, helper.make_node("Concat", [f"g{n}"] * 2, [f"g{n + 1}"], axis=0))


def outer_product(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((10**5, 1), np.float32), "column"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 10**5), np.float32), "row"))
    model.graph.node.insert(0, helper.make_node("MatMul", ["column", "row"], ["huge"]))


def negative(model):
    tensor(model, "W0").dims[1] = -4


CHANGES = [
    (bidirectional, "direction = 'bidirectional'"),
    (attribute("LSTM", direction="reverse"), "direction = 'reverse'"),
    (attribute("LSTM", clip=3.0), "clip = 3.0: cells here do not clip"),
    (attribute("LSTM", input_forget=1), "input_forget = 1: cells here have separate gates"),
    (attribute("LSTM", layout=1), "layout = 1: export with layout = 0"),
    (attribute("LSTM", activations=["Sigmoid", "Tanh", "Relu"]), "activations Sigmoid, Tanh, Relu"),
    (attribute("LSTM", activation_alpha=[0.1]), "activation_alpha"),
    (attribute("LSTM", hidden_size=5), "hidden_size"),
    (peepholes, "peepholes"),
    (lengths, "sequence_lens"),
    (computed_weights, "W is W0: weights must be constants"),
    (nan, "tensor R0 = NaN or infinite"),
    (doubles, "tensor W0 = float64: convert"),
    (halves, "tensor W0 = FLOAT16: convert"),
    (transposed, "tensor W0 = 1 × 3 × 16: expected 1 × 16 × 16"),
    (elsewhere, "tensor 'W0' keeps its data in another file"),
    (loop, "= Loop: a loop cannot be read"),
    (branch, "= If: a branch cannot be read"),
    (unrolled, "the exporter has unrolled the recurrence"),
    (custom, "evil.MatMul: only operators of ONNX itself"),
    (function, "functions, sparse tensors"),
    (softmax, "= Softmax: an operator that no supported exporter uses here"),
    (other_step, "it selects other steps than the last"),
    (started, "its initial_h is not zero"),
    (dangling, "value nowhere = read by MatMul: nothing computes it"),
    (inner_output, "output x_by_time = not of the last layer"),
    (open_features, "the graph must fix the number of features"),
    (huge_tensor, "value W0 = 1 × 1000000000000 × 3: constants of a graph"),
    (huge_constant, f"at most {MAX_ELEMENTS} numbers"),
    (huge_view, f"at most {MAX_ELEMENTS} numbers"),
    (growing, f"at most {MAX_ELEMENTS} numbers"),
    (outer_product, f"at most {MAX_ELEMENTS} numbers"),
    (negative, "value W0 = 1 × -4 × 3"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[c.__name__ + str(n) for n, (c, _) in enumerate(CHANGES)])
def test_another_graph_is_refused_by_the_name_of_the_reason(change, reason):
    with pytest.raises(ForeignError) as refused:
        read_graph(changed(LSTM, change))
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 50, LSTM[:-30], LSTM[: len(LSTM) // 2], b"\n" * 100_000])
def test_bytes_that_are_no_whole_graph_are_refused(data):
    with pytest.raises(ForeignError):
        read_graph(data)


@given(st.lists(st.tuples(st.integers(0, len(LSTM) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@examples(400)
def test_a_damaged_graph_is_read_or_refused_and_nothing_else_happens(edits):
    data = bytearray(LSTM)
    for place, byte in edits:
        data[place] = byte
    try:
        graph = read_graph(bytes(data))
    except ForeignError:
        return
    assert graph.stack.outputs > 0


def test_layers_that_no_spec_describes_are_refused():
    g = GraphOf()
    x = g.layer("RNN", g.op("Transpose", ["x"], "by_time", perm=[1, 0, 2]), 0, INPUTS)
    x = g.layer("RNN", x, 1, HIDDEN, activations=["Relu"])
    with pytest.raises(ForeignError, match=r"layer 1: activation = relu: layer 0 has tanh: all layers must have"):
        read_graph(g.bytes(x, ["time", "batch", HIDDEN]))


def test_the_graphs_of_these_tests_are_valid_onnx():
    onnx.checker.check_model(onnx.load_model_from_string(LSTM))
