"""An imported .onnx reaches the runtime only if it is the self-contained step graph of the same spec."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from model.graph.importing import check_step
from model.graph.step import export_step
from model.network import Network
from model.spec import ModelSpec

SPECS = [
    ModelSpec(channels=("a",), hidden=1),
    ModelSpec(channels=("a", "b"), hidden=3, layers=2, cell="gru", interval=60.0, horizon=3, targets=("b",)),
]


def exported(spec: ModelSpec, seed: int = 0) -> bytes:
    network = Network(spec)
    rng = np.random.default_rng(seed)
    flat = rng.normal(0, 0.3, network.layout.size).astype(np.float32)
    return export_step(network, network.weights(flat))


def changed(data: bytes, change) -> bytes:
    model = ModelProto.FromString(data)
    change(model)
    return model.SerializeToString()


@pytest.mark.parametrize("spec", SPECS)
def test_an_export_of_the_same_spec_passes_with_any_weights(spec):
    check_step(exported(spec, 1), exported(spec, 2))


@pytest.mark.parametrize("spec", SPECS)
def test_metadata_of_other_tools_is_ignored(spec):
    def sign(model):
        model.producer_name, model.doc_string, model.model_version = "somebody", "hello", 7
        model.graph.name = "other"

    check_step(changed(exported(spec), sign), exported(spec))


def elsewhere(tensor) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def external(model):
    tensor = model.graph.initializer[1]
    tensor.name, tensor.raw_data = "cell0.W", b""
    elsewhere(tensor)


def external_without_saying_so(model):
    external(model)
    model.graph.initializer[1].data_location = TensorProto.DEFAULT


def external_in_an_attribute(model):
    tensor = helper.make_tensor("hidden-away", TensorProto.FLOAT, [1], [0.0])
    elsewhere(tensor)
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_graph([node], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner))


@pytest.mark.parametrize(
    ("hide", "name"),
    [(external, "cell0.W"), (external_without_saying_so, "cell0.W"), (external_in_an_attribute, "hidden-away")],
)
def test_external_data_is_refused_and_the_error_names_the_tensor(hide, name):
    with pytest.raises(ValueError, match=f"tensor '{name}' keeps its data in another file: save it inside"):
        check_step(changed(exported(SPECS[0]), hide), exported(SPECS[0]))


def loop(model):
    model.graph.node.insert(0, helper.make_node("Loop", ["x", "x"], ["v0_0"]))


def grown(model):
    model.graph.initializer[0].dims[0] += 1


def doubled(model):
    for n in range(40):
        model.graph.node.append(helper.make_node("Concat", [f"d{n}"] * 2, [f"d{n + 1}"], axis=1))


def custom_operator(model):
    model.graph.node[0].domain = "evil"


def function(model):
    model.functions.add().name = "f"


def newer(model):
    model.opset_import[0].version = 21


def wider(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value += 1


def without_output(model):
    del model.graph.output[1]


def rewired(model):
    model.graph.node[-1].input[0] = "x"


def shortened(model):
    del model.graph.node[-1]


@pytest.mark.parametrize(
    "change",
    [
        loop,
        grown,
        doubled,
        custom_operator,
        function,
        newer,
        wider,
        without_output,
        rewired,
        shortened,
    ],
)
def test_a_different_graph_is_refused_and_the_error_names_the_first_difference(change):
    with pytest.raises(ValueError, match=r"not the step graph of this spec: it has .*, expected "):
        check_step(changed(exported(SPECS[0]), change), exported(SPECS[0]))


def test_the_graph_of_another_spec_is_refused():
    with pytest.raises(ValueError, match="not the step graph"):
        check_step(exported(SPECS[1]), exported(SPECS[0]))


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 50, exported(SPECS[0])[:-30], b"\n" * 100_000])
def test_bytes_that_are_not_a_graph_are_refused(data):
    with pytest.raises(ValueError, match=r"not an ONNX file|not the step graph"):
        check_step(data, exported(SPECS[0]))


def test_the_error_about_a_name_of_a_megabyte_is_short():
    def shout(model):
        model.graph.node[0].op_type = "x" * 10**6

    with pytest.raises(ValueError, match="not the step graph") as refused:
        check_step(changed(exported(SPECS[0]), shout), exported(SPECS[0]))

    assert len(str(refused.value)) < 500


def test_the_graphs_of_these_tests_are_valid_onnx():
    for spec in SPECS:
        onnx.checker.check_model(onnx.load_model_from_string(exported(spec)))
