"""Whatever bytes are sent as a request of the Open Inference Protocol, they are read or refused, and never a fault."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from model.spec import ModelSpec
from service.common.errors import Invalid
from service.edge.oip import bodies, messages
from service.edge.oip import inference_pb2 as pb
from service.edge.oip.asked import Request, Response, asked, parameters
from service.edge.oip.tensors import Made, described
from service.streams.served import ServedModel

SPECS: dict[str, dict[str, Any]] = {
    "plain": {"channels": ["a", "b"]},
    "covered": {"channels": ["a"], "known": ["k"], "static": ["s"], "interval": 60.0, "intervals": [0.9]},
    "regress": {"channels": ["a"], "targets": ["a"], "task": "regress"},
}
MODELS = {
    name: described(ServedModel(1, "default", name, ModelSpec.from_mapping(spec))) for name, spec in SPECS.items()
}
NAMES = st.sampled_from(["x", "y", "u", "time", "seq", "static", "z", ""])
TYPES = st.sampled_from(["FP32", "FP64", "UINT64", "BYTES", "", "FP16"])
SIZES = st.one_of(st.integers(-2, 4), st.sampled_from([2**31, 2**62, -(2**63)]))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=6,
)
FIELDS = {
    "name": st.one_of(NAMES, ANYTHING), "datatype": st.one_of(TYPES, ANYTHING),
    "shape": st.one_of(st.lists(SIZES, max_size=3), ANYTHING),
    "data": st.one_of(st.lists(st.floats(), max_size=4), ANYTHING),
    "parameters": st.one_of(st.fixed_dictionaries({"binary_data_size": SIZES}), ANYTHING),
}  # fmt: skip
TENSOR = st.fixed_dictionaries({}, optional=FIELDS)
PARAMETERS = st.dictionaries(
    st.sampled_from(["sequence_id", "sequence_start", "sequence_end", "timeout", "priority", "durable", "triton_x"]),
    ANYTHING, max_size=4,
)  # fmt: skip
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.one_of(st.lists(TENSOR, max_size=3), ANYTHING),
        "outputs": st.one_of(st.lists(TENSOR, max_size=2), ANYTHING),
        "parameters": st.one_of(PARAMETERS, ANYTHING), "id": ANYTHING,
    },
)  # fmt: skip


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Let the block be refused, in a message of bounded length."""
    try:
        yield
    except Invalid as error:
        size = len(str(error))
    else:
        return
    assert size < 1000


def understood(request: Request) -> None:
    """Read a request for each model, as far as it goes."""
    with refused():
        parameters(request.parameters)
    for name, tensors in MODELS.items():
        with refused():
            asked(name, tensors, request)


@given(DOCUMENT, st.binary(max_size=16), st.one_of(st.none(), st.text(max_size=5)))
def test_a_body_is_read_or_refused(document, more, length):
    text = json.dumps(document).encode()
    for given_length in (length, str(len(text))):
        with refused():
            understood(bodies.read("plain", "", text + more, given_length).request)


@given(st.binary(max_size=64))
@example(b"")
def test_bytes_that_are_no_json_are_refused(data):
    with refused():
        understood(bodies.read("plain", "", data, None).request)


VALUES = {"bool_param": True, "int64_param": -5, "string_param": "a", "double_param": 0.5, "uint64_param": 5}


@st.composite
def wire_messages(draw: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="plain")
    for _ in range(draw(st.integers(0, 3))):
        tensor = message.inputs.add(name=draw(NAMES), datatype=draw(TYPES))
        tensor.shape.extend(draw(st.lists(SIZES, max_size=3)))
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    for name in draw(st.lists(NAMES, max_size=2)):
        message.outputs.add(name=name)
    for name in draw(st.lists(st.sampled_from(["sequence_id", "timeout", "priority", "durable"]), max_size=3)):
        kind = draw(st.sampled_from(sorted(VALUES)))
        value = {"bool_param": True, "int64_param": -5, "string_param": "a", "double_param": 0.5, "uint64_param": 5}[
            kind
        ]
        setattr(message.parameters[name], kind, value)
    return message


@given(wire_messages())
def test_a_message_is_read_or_refused(message):
    with refused():
        understood(messages.request(message))


@given(st.binary(max_size=200))
def test_bytes_on_the_wire_are_read_or_refused(data):
    with contextlib.suppress(DecodeError), refused():
        understood(messages.request(pb.ModelInferRequest.FromString(data)))


def test_an_answer_says_the_same_raw_and_as_json():
    y = np.array([[1.5, np.nan]], "<f4")
    answer = Response("m", "3", "id", [Made("y", "FP32", (1, 2), y), Made("state_origin", "BYTES", (1, 1), ["FRESH"])])

    message = pb.ModelInferResponse.FromString(messages.serialised(answer))
    body = bodies.write(answer, bodies.Body(Request("m", "", "", {}, []), {}, False))

    assert list(message.raw_output_contents) == [y.tobytes(), b"\x05\x00\x00\x00FRESH"]
    said = json.loads(body.body)
    assert body.json_bytes is None
    assert [output["data"] for output in said["outputs"]] == [[1.5, None], ["FRESH"]]
    assert (said["model_name"], said["model_version"], said["id"]) == ("m", "3", "id")
