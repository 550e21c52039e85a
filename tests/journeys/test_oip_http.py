"""The Open Inference Protocol over HTTP: JSON and binary tensors, the same sequences as over gRPC, and bad bodies."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.credentials import Entry, written
from tests.journeys.inferences import Inference, value
from tests.journeys.scraped import scrape
from tests.journeys.web import Answer, ask

SETTINGS = {"oip_metrics": True}
ROWS = np.cumsum(np.random.default_rng(5).standard_normal((9, 2)), axis=0).astype(np.float32)
LENGTH = "inference_header_content_length"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def models(server: ServerChild) -> AsyncIterator[None]:
    async with freshet.connect(server.grpc) as client:
        await client.create_model("plain", ["a", "b"], hidden=8, head_init=0.3, learn=False)
        await client.create_model("spread", ["a", "b"], hidden=8, intervals=[0.9], learn=False)
        yield


def document(sequence: object, rows: Any = (), start: bool = False, **more: Any) -> dict[str, Any]:
    """A request with its tensor as JSON."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(np.shape(rows)), "data": np.asarray(rows).tolist()}
    parameters = {"sequence_id": sequence, "sequence_start": start}
    return {"inputs": [tensor], "parameters": parameters | more.pop("parameters", {}), **more}


def packed(sequence: object, rows: Any, start: bool = False, **more: Any) -> tuple[bytes, str]:
    """A request with its tensor as bytes, and the length of its JSON."""
    sent = document(sequence, rows, start, **more)
    raw = np.asarray(rows, "<f4").tobytes()
    del sent["inputs"][0]["data"]
    sent["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    text = json.dumps(sent).encode()
    return text + raw, str(len(text))


class Rest:
    """Requests to one server."""

    def __init__(self, server: ServerChild, token: str | None = None) -> None:
        self._address, self._token = server.http, token

    async def get(self, path: str) -> Answer:
        return await ask(self._address, f"/v2{path}", self._token)

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return await ask(self._address, f"/v2{path}", self._token, method="POST", body=body, **headers)

    async def infer(self, model: str, *args: Any, **named: Any) -> Answer:
        return await self.post(f"/models/{model}/infer", json.dumps(document(*args, **named)).encode())


@pytest.fixture
def rest(server: ServerChild, models: None) -> Rest:
    return Rest(server)


def values(answer: Answer) -> dict[str, Any]:
    """The outputs of an answer by name, wherever they are."""
    assert answer.status == 200, answer.body
    at = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    text, rest = answer.body[:at], answer.body[at:]
    found = {}
    for output in json.loads(text)["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        dtype = {"FP32": "<f4", "UINT64": "<u8", "BYTES": "u1"}[output["datatype"]]
        found[output["name"]], rest = np.frombuffer(rest[:size], dtype).tolist(), rest[size:]
    assert not rest
    return found


async def test_json_and_binary_tensors_are_answered_as_over_grpc(rest, channel):
    unbroken = value(await Inference(channel).infer("plain", "grpc", start=True, x=ROWS[:6]), "y")

    as_json = await rest.infer("plain", "rest", ROWS[:2], True)
    body, length = packed("rest", ROWS[2:4], parameters={"binary_data_output": True})
    as_bytes = await rest.post("/models/plain/infer", body, **{LENGTH: length})
    then = await Inference(channel).infer("plain", "rest", x=ROWS[4:6])

    assert as_json.headers["content-type"] == "application/json"
    assert as_json.json["model_version"] == "1"
    assert as_bytes.headers["content-type"] == "application/octet-stream"
    found = [values(as_json)["y"], values(as_bytes)["y"], value(then, "y").reshape(-1).tolist()]
    assert [*found[0], *found[1], *found[2]] == unbroken.reshape(-1).tolist()
    assert [values(a)["seq"] for a in (as_json, as_bytes)] == [[1, 2], [3, 4]]
    assert values(as_json)["state_origin"] == ["FRESH", "RESUMED"]
    assert bytes(values(as_bytes)["state_origin"]) == (struct.pack("<I", 7) + b"RESUMED") * 2


async def test_each_output_is_sent_as_it_is_asked_for(rest):
    outputs = [{"name": "seq", "parameters": {"binary_data": True}}, {"name": "y"}]

    answer = await rest.infer("plain", "mixed", ROWS[:1], True, outputs=outputs, id="42")

    at = int(answer.headers["inference-header-content-length"])
    shown = json.loads(answer.body[:at])
    assert shown["id"] == "42"
    assert [output["name"] for output in shown["outputs"]] == ["seq", "y"]
    assert answer.body[at:] == struct.pack("<Q", 1)
    assert len(shown["outputs"][1]["data"]) == 2


async def test_what_is_no_number_yet_is_null(rest):
    answer = await rest.infer("spread", "new", ROWS[:1], True)

    assert values(answer)["lower"] == [None, None]


async def test_the_server_and_its_models_are_described(rest):
    assert (await rest.get("")).json["name"] == "freshet"
    assert (await rest.get("/")).json["name"] == "freshet"
    for path in ("/health/live", "/health/ready", "/models/plain/ready", "/models/plain/versions/1/ready"):
        assert True in (await rest.get(path)).json.values()
    assert (await rest.get("/models/nobody/ready")).status == 503
    metadata, config = (await rest.get("/models/plain")).json, (await rest.get("/models/plain/config")).json
    assert metadata["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    assert config["input"][0] == {"name": "x", "data_type": "TYPE_FP32", "dims": [2], "optional": False}
    assert "sequence_batching" in config
    [counted] = (await rest.get("/models/plain/stats")).json["model_stats"]
    assert counted["name"] == "plain"
    assert {m["name"] for m in (await rest.get("/models/stats")).json["model_stats"]} == {"plain", "spread"}
    assert {m["name"] for m in (await rest.post("/repository/index", b"")).json} == {"plain", "spread"}


# --- bad input

GOOD = document("s", ROWS[3:4])


def spoiled(**tensor: Any) -> bytes:
    """A request for tick 4 whose tensor has other fields; None: without that field."""
    sent = {name: new for name, new in (GOOD["inputs"][0] | tensor).items() if new is not None}
    return json.dumps(GOOD | {"inputs": [sent]}).encode()


DEEP = b"[" * 5000 + b"]" * 5000
BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", {}, 400, "failed to parse the request JSON buffer"),
    "no JSON": (b"{", {}, 400, "failed to parse the request JSON buffer"),
    "no UTF-8": (b'{"id": "\xff"}', {}, 400, "failed to parse the request JSON buffer"),
    "deep JSON": (b'{"inputs": ' + DEEP + b"}", {}, 400, "failed to parse"),
    "a list": (b"[]", {}, 400, "send an object"),
    "no inputs": (json.dumps(GOOD | {"inputs": []}).encode(), {}, 400, "missing required input(s) ['x']"),
    "inputs no list": (json.dumps(GOOD | {"inputs": {}}).encode(), {}, 400, "send a list of objects"),
    "parameters no object": (json.dumps(GOOD | {"parameters": []}).encode(), {}, 400, "send an object"),
    "no name": (spoiled(name=None), {}, 400, "name = None"),
    "no datatype": (spoiled(datatype=None), {}, 400, "datatype = None"),
    "wrong datatype": (spoiled(datatype="INT8"), {}, 400, "data-type is 'INT8', but model 'plain' expects 'FP32'"),
    "no shape": (spoiled(shape=None), {}, 400, "x.shape"),
    "shape no numbers": (spoiled(shape=[1, "2"]), {}, 400, "whole numbers"),
    "wrong shape": (spoiled(shape=[1, 3]), {}, 400, "unexpected shape for input 'x' for model 'plain'"),
    "absurd shape": (spoiled(shape=[2**62, 2]), {}, 400, "byte size mismatch"),
    "absurd number": (spoiled(shape=[10**4000, 2]), {}, 400, "whole numbers"),
    "absurd rank": (spoiled(shape=[1] * 50_000), {}, 400, "whole numbers"),
    "too little data": (spoiled(data=[1.0]), {}, 400, "Expected 2, got 1"),
    "no data": (spoiled(data=None), {}, 400, "Expected 2, got 0"),
    "data no numbers": (spoiled(data=["a", "b"]), {}, 400, "send numbers that are FP32"),
    "data of objects": (spoiled(data=[{}, {}]), {}, 400, "send numbers that are FP32"),
    "data null": (spoiled(data=[None, 1.0]), {}, 400, "finite"),
    "data too large": (spoiled(data=[1e300, 1.0]), {}, 400, "inf"),
    "data twice": (spoiled(parameters={"binary_data_size": 0}), {}, 400, "not both"),
    "binary size absurd": (spoiled(data=None, parameters={"binary_data_size": 2**62}), {}, 400, "binary_data_size"),
    "binary size negative": (spoiled(data=None, parameters={"binary_data_size": -1}), {}, 400, "binary_data_size"),
    "binary size no number": (spoiled(data=None, parameters={"binary_data_size": "8"}), {}, 400, "binary_data_size"),
    "JSON longer than the body": (spoiled(), {LENGTH: "99999"}, 400, "Inference-Header-Content-Length"),
    "JSON of absurd length": (spoiled(), {LENGTH: "9" * 5000}, 400, "Inference-Header-Content-Length"),
    "JSON of no length": (spoiled(), {LENGTH: "-1"}, 400, "Inference-Header-Content-Length"),
    "bytes that no tensor has": (spoiled() + b"1234", {LENGTH: str(len(spoiled()))}, 400, "unexpected additional"),
    "compressed": (spoiled(), {"content_encoding": "gzip"}, 400, "content-encoding"),
    "too large": (b" " * (1 << 20) + b"{}", {}, 400, "send at most 1048576 bytes"),
    "of another site": (spoiled(), {"sec_fetch_site": "cross-site"}, 403, "browser"),
    "of another origin": (spoiled(), {"origin": "https://attacker.example"}, 403, "browser"),
}


@pytest.mark.parametrize("case", BODIES)
async def test_a_bad_body_has_its_status_and_the_next_request_is_answered(rest, case):
    body, headers, status, words = BODIES[case]
    await rest.infer("plain", "s", ROWS[:3], True)

    answer = await rest.post("/models/plain/infer", body, **headers)

    assert answer.status == status
    assert words in answer.json["error"]
    assert len(answer.body) < 1500
    after = values(await rest.infer("plain", "s", ROWS[3:5]))
    unbroken = values(await rest.infer("plain", "its twin", ROWS[:5], True))
    assert after["y"] == unbroken["y"][6:]


PATHS = {
    ("GET", "/models/nobody"): 404, ("POST", "/models/nobody/infer"): 404, ("GET", "/models/plain/versions/9"): 404,
    ("GET", "/nothing"): 404, ("GET", "/models/plain/infer"): 405, ("POST", "/health/live"): 405,
    ("GET", "/models/%ff"): 400,
}  # fmt: skip


@pytest.mark.parametrize(("verb", "path"), PATHS)
async def test_a_wrong_path_has_its_status(rest, server, verb, path):
    body = json.dumps(document("s", ROWS[:1])).encode() if verb == "POST" else None

    answer = await ask(server.http, f"/v2{path}", method=verb, body=body)

    assert answer.status == PATHS[verb, path]
    assert isinstance(answer.json["error"], str)


# --- who may ask


async def test_tokens_roles_and_tenants_are_those_of_grpc(tmp_path: Path):
    access = tmp_path / "access.toml"
    entries = [Entry("p", "a", "predict"), Entry("t", "a", "train"), Entry("o", "a", "admin"), Entry("b", "b", "admin")]
    access.write_text(written(*entries, Entry("m", "a", "metrics")))
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK | {"access": access})
    async with child, freshet.connect(child.grpc, token="o") as client:
        await client.create_model("plain", ["a", "b"], task="regress", targets=["a"], hidden=4)
        statuses = {}
        for token in (None, "wrong", "m", "b", "p", "t"):
            rest = Rest(child, token)
            paths = "", "/health/live", "/models/plain"
            statuses[token] = [(await rest.get(path)).status for path in paths]
            statuses[token].append((await rest.infer("plain", token or "", ROWS[:1], True)).status)
            labelled = document(token or "", ROWS[:1], True)
            labelled["inputs"].append({"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [1.0]})
            statuses[token].append((await rest.post("/models/plain/infer", json.dumps(labelled).encode())).status)

    assert statuses[None] == statuses["wrong"] == [401] * 5
    assert statuses["m"] == [403] * 5
    assert statuses["b"] == [200, 200, 404, 404, 404]
    assert statuses["p"] == [200, 200, 200, 200, 403]
    assert statuses["t"] == [200] * 5


# --- metrics


async def test_tritons_metrics_count_requests_by_model(rest, server):
    before = await scrape(server.http)
    await rest.infer("plain", "counted", ROWS[:3], True)
    await rest.infer("plain", "unknown", ROWS[:3])
    after = await scrape(server.http)

    grown = {
        name: after.total(name, model="plain") - before.total(name, model="plain")
        for name in ("nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count")
    }
    assert grown == {
        "nv_inference_request_success": 1, "nv_inference_request_failure": 1, "nv_inference_count": 3,
    }  # fmt: skip
    assert after.total("nv_inference_request_duration_us", model="plain") > 0
    assert after.total("nv_inference_pending_request_count", model="plain") == 0


async def test_many_requests_at_once_are_all_answered(rest):
    answers = await asyncio.gather(*(rest.infer("plain", f"many {i}", ROWS[:1], True) for i in range(8)))

    assert [answer.status for answer in answers] == [200] * 8
