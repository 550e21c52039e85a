"""What the server serialises by itself for clients of the Open Inference Protocol has the bytes of protobuf's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.edge.oip import inference_pb2 as pb
from service.edge.oip import messages
from service.edge.oip.asked import Response
from service.edge.oip.tensors import Made, raw

TEXTS = st.one_of(st.sampled_from(["", "é", "a" * 127, "a" * 128, "m" * 20_000]), st.text(max_size=8))
NUMBERS = st.builds(lambda n, seed: np.random.default_rng(seed).random((n, 1)), st.integers(0, 40), st.integers(0, 9))
TENSORS = st.one_of(
    st.builds(lambda name, y: Made(name, "FP32", y.shape, y.astype("<f4")), TEXTS, NUMBERS),
    st.builds(lambda name, y: Made(name, "UINT64", y.shape, (y * 2.0**63).astype("<u8")), TEXTS, NUMBERS),
    st.builds(lambda name, texts: Made(name, "BYTES", (len(texts), 1), texts), TEXTS, st.lists(TEXTS, max_size=3)),
)
ANSWERS = st.builds(Response, TEXTS, TEXTS, TEXTS, st.lists(TENSORS, max_size=7))


def built(answer: Response) -> pb.ModelInferResponse:
    """Build the answer field by field."""
    message = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    for made in answer.outputs:
        message.outputs.add(name=made.name, datatype=made.datatype, shape=made.shape)
        message.raw_output_contents.append(raw(made))
    return message


@given(ANSWERS)
def test_an_answer_is_serialised_as_protobuf_does_it(answer):
    assert messages.serialised(answer) == built(answer).SerializeToString(deterministic=True)


@given(ANSWERS)
def test_an_answer_of_a_stream_is_serialised_as_protobuf_does_it_and_is_final(answer):
    own = pb.ModelStreamInferResponse(infer_response=built(answer))
    own.infer_response.parameters["triton_final_response"].bool_param = True
    assert messages.serialised(answer, streamed=True) == own.SerializeToString(deterministic=True)


@pytest.mark.parametrize("first", ["1", "2"])
def test_parts_that_are_kept_for_the_next_answer_hold_nothing_of_this_one(first):
    for version, id in ((first, "a"), ("9", "")):
        answer = Response("m", version, id, [Made("seq", "UINT64", (1, 1), np.array([[7]], "<u8"))])
        assert pb.ModelInferResponse.FromString(messages.serialised(answer)) == built(answer)


def test_a_field_that_is_not_written_by_hand_would_be_noticed():
    assert {field.name for field in pb.ModelInferResponse.DESCRIPTOR.fields} == {
        "model_name", "model_version", "id", "parameters", "outputs", "raw_output_contents"
    }  # fmt: skip
    assert {field.name for field in pb.ModelStreamInferResponse.DESCRIPTOR.fields} == {
        "error_message", "infer_response"
    }  # fmt: skip
