"""An exported .onnx says what it is: its metadata are the model's facts, after the graph that is served."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest

from model.graph.importing import check_step
from model.graph.metadata import described, facts, spec_digest
from model.graph.step import export_step
from model.network import Network
from model.spec import ModelSpec
from service.common.errors import Invalid
from service.engine.export import download

SPEC = ModelSpec(channels=("flow", "Stärke"), targets=("flow",), interval=900.0, horizon=4, hidden=3)
NETWORK = Network(SPEC)
GRAPH = export_step(NETWORK, NETWORK.weights(NETWORK.init_params()))


def read(data: bytes) -> dict[str, str]:
    found: dict[str, str] = onnxruntime.InferenceSession(data).get_modelmeta().custom_metadata_map
    return found


def test_the_facts_can_be_read_by_key():
    found = read(download(NETWORK, GRAPH, 7, "CC-BY-4.0"))
    assert json.loads(found["freshet.channels"]) == ["flow", "Stärke"]
    assert json.loads(found["freshet.targets"]) == ["flow"]
    assert (found["freshet.interval"], found["freshet.horizon"], found["freshet.task"]) == ("900", "4", "forecast")
    assert (found["freshet.version"], found["freshet.licence"]) == ("7", "CC-BY-4.0")
    text = json.dumps(SPEC.to_stored(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert found["freshet.spec_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_without_a_licence_its_field_is_empty():
    assert read(download(NETWORK, GRAPH))["freshet.licence"] == ""


def test_a_stranger_can_start_from_the_metadata_alone():
    session = onnxruntime.InferenceSession(download(NETWORK, GRAPH))
    found = session.get_modelmeta().custom_metadata_map
    state = np.zeros((1, int(found["freshet.state_size"])), np.float32)
    u = np.zeros((1, int(found["freshet.u_size"])), np.float32)
    assert sum(json.loads(found["freshet.u_parts"]).values()) == u.shape[1]
    x = np.ones((1, len(json.loads(found["freshet.channels"]))), np.float32)
    y, after = session.run(["y", "next_state"], {"x": x, "u": u, "state": state})
    assert (y.shape, after.shape) == ((1, 4), state.shape)


def test_the_graph_comes_first_unchanged_and_is_still_accepted_as_the_step_of_its_spec():
    data = described(GRAPH, facts(NETWORK, "1.2.3"))
    assert data.startswith(GRAPH)
    assert data == described(GRAPH, facts(NETWORK, "1.2.3"))
    check_step(data, GRAPH)
    onnx.checker.check_model(onnx.load_model_from_string(data))


def test_another_spec_has_another_digest():
    assert spec_digest(SPEC) != spec_digest(ModelSpec(channels=("flow", "Stärke"), targets=("flow",)))


@pytest.mark.parametrize("licence", ["x" * 257, "a\nb"])
def test_a_licence_that_is_no_short_text_is_refused(licence):
    with pytest.raises(Invalid, match="at most 256 printable characters"):
        download(NETWORK, GRAPH, licence=licence)
