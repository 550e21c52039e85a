"""Every act on a real server leaves its line in the audit log, by whom and from where, and no token is in any log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest_asyncio

import freshet
from freshet.v1 import models_pb2, streams_pb2, training_pb2, types_pb2
from freshet.v1.models_pb2_grpc import ModelsStub
from freshet.v1.streams_pb2_grpc import StreamsStub
from freshet.v1.training_pb2_grpc import TrainingStub
from service.access.grants import token_digest
from service.common.limits import AUDIT_REFUSALS
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.credentials import Entry, bearer, once, replace, status, written
from tests.journeys.raw import DEADLINE_S, channel_to
from tests.journeys.scraped import get

ADMIN = Entry("tok-admin-1", "acme", "admin", 'name = "ci"')
READER = Entry("tok-reader-2", "acme", "predict", 'name = "app"')
TOKENS = [ADMIN.token, READER.token, "tok-wrong-3"]


class Audited:
    """A server with an access file and an audit file of its own."""

    def __init__(self, folder: Path) -> None:
        self.access, self.file, self.log = folder / "access.toml", folder / "audit.jsonl", folder / "log"
        self.access.write_text(written(ADMIN, READER))
        settings = QUICK | {"access": self.access, "audit": self.file}
        self.child = ServerChild(folder / "data", self.log, settings=settings)

    def lines(self, **wanted: object) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [line for line in found if wanted.items() <= line.items()]

    async def until(self, **wanted: object) -> dict[str, object]:
        async with asyncio.timeout(DEADLINE_S):
            while not (found := self.lines(**wanted)):
                await asyncio.sleep(0.05)
        return found[-1]


@pytest_asyncio.fixture(loop_scope="session")
async def audited(tmp_path: Path) -> AsyncIterator[Audited]:
    made = Audited(tmp_path)
    await made.child.start()
    try:
        yield made
        assert await made.child.stop() == 0, made.child.last_words()
        everything = made.file.read_text() + made.log.read_text()
        for token in TOKENS:
            assert token not in everything
            assert token_digest(token) not in everything
    finally:
        if made.child.running:
            made.child.kill()
            await made.child.wait()


async def test_each_act_has_a_line_with_who_and_how_it_ended(audited):
    spec = types_pb2.ModelSpec(channels=["x"], hidden=4)
    async with channel_to(audited.child.grpc) as channel:
        models, streams, training = ModelsStub(channel), StreamsStub(channel), TrainingStub(channel)
        who: dict[str, Any] = {"metadata": bearer(ADMIN.token), "timeout": DEADLINE_S}
        await models.Create(models_pb2.CreateModelRequest(name="flow", spec=spec), **who)
        made = await models.Export(models_pb2.ExportRequest(name="flow"), **who)
        digest = sha256(made.weights).hexdigest()
        await models.Import(models_pb2.ImportRequest(name="flow", weights=made.weights, digest=digest), **who)
        await models.Promote(models_pb2.PromoteRequest(name="flow", version=1), **who)
        await models.Rollback(models_pb2.RollbackRequest(name="flow", version=1), **who)
        await models.Pause(models_pb2.PauseRequest(name="flow"), **who)
        await models.Resume(models_pb2.ResumeRequest(name="flow"), **who)
        changes = types_pb2.ModelSpec(learning_rate=1e-3, warmup=5)
        await models.Update(models_pb2.UpdateModelRequest(name="flow", changes=changes, defaults=["clip"]), **who)
        client = freshet.connect(audited.child.grpc, token=ADMIN.token)
        async with client, client.stream("flow", "pump") as stream:
            await stream.step([1.0])
        state = await streams.Get(streams_pb2.GetStreamRequest(model="flow", stream="pump", with_state=True), **who)
        await streams.Put(streams_pb2.PutStreamRequest(stream=state), **who)
        await streams.Delete(streams_pb2.DeleteStreamRequest(model="flow", stream="pump"), **who)
        await training.Replay(training_pb2.ReplayRequest(model="flow"), **who)
        await models.Delete(models_pb2.DeleteModelRequest(name="flow"), **who)

    seen = [line for line in audited.lines() if line.get("model") == "flow" and "by" not in line]
    assert [line["action"] for line in seen] == [
        "create", "export", "import", "promote", "rollback", "pause", "resume", "update", "state put", "state delete",
        "quarantine replay", "delete",
    ]  # fmt: skip
    for line in seen:
        assert {"outcome": "ok", "tenant": "acme", "token": "ci", "role": "admin"}.items() <= line.items()
        assert str(line["peer"]).startswith("ipv4:127.0.0.1:")
    [update] = [line for line in seen if line["action"] == "update"]
    assert (update["changes"], update["defaults"]) == ("learning_rate, warmup", "clip")
    assert [line["stream"] for line in seen if "stream" in line] == ["pump", "pump"]


async def test_what_the_server_publishes_has_a_line(audited):
    async with freshet.connect(audited.child.grpc, token=ADMIN.token) as client:
        await client.create_model("flow", channels=["x"], hidden=4)
        async with client.stream("flow", "pump") as stream:
            for x in np.sin(np.arange(200) / 5):
                await stream.step([float(x)])
        line = await audited.until(action="publish", tenant="acme", model="flow", by="server")
        assert int(str(line["version"])) >= 2


async def test_acts_that_fail_and_tokens_that_are_refused_have_their_lines(audited):
    request = models_pb2.PauseRequest(name="nothing").SerializeToString()
    pause = "/freshet.v1.Models/Pause"
    async with channel_to(audited.child.grpc) as channel:
        assert (await status(channel, pause, ADMIN.token, request))[0] is grpc.StatusCode.NOT_FOUND
        assert (await status(channel, pause, READER.token, request))[0] is grpc.StatusCode.PERMISSION_DENIED
        assert (await status(channel, pause, "tok-wrong-3", request))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert (await asyncio.to_thread(get, f"http://{audited.child.http}/metrics", "tok-wrong-3"))[0] == 401

    # `status` repeats a call whose write raced its end, and each try has a line.
    paused = audited.lines(action="pause")
    assert paused
    for line in paused:
        assert {"outcome": "not_found", "token": "ci", "model": "nothing"}.items() <= line.items()
    refused = {(line["outcome"], line["asked"]): line for line in audited.lines(action="token refused")}
    forbidden, unknown = refused.pop(("forbidden", pause)), refused.pop(("unauthenticated", pause))
    metrics = refused.pop(("unauthenticated", "/metrics"))
    assert not refused
    assert {"tenant": "acme", "token": "app"}.items() <= forbidden.items()
    assert "token" not in unknown
    assert str(metrics["peer"]).startswith("127.0.0.1:")


async def test_a_flood_of_guessed_tokens_is_counted(audited):
    tries = 200
    async with channel_to(audited.child.grpc) as channel:
        for _ in range(tries):  # each one call: `status` would call again after a status that gRPC has hidden
            await once(channel, "/freshet.v1.Models/List", "tok-wrong-3", b"", DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            refused = audited.lines(action="token refused")
            counts = [int(str(line["left_out"])) for line in refused if "left_out" in line]
            alone = len(refused) - len(counts)
            if alone + sum(counts) == tries:
                break
            await asyncio.sleep(0.05)
    assert alone >= AUDIT_REFUSALS
    assert counts


async def test_access_files_taken_and_refused_have_their_lines(audited):
    assert audited.lines(action="access file", outcome="ok", tokens=2, tenants=1)
    replace(audited.access, written(ADMIN) + '[[token]]\nsha256 = "tok-wrong-3"\n')
    await audited.until(action="access file", outcome="refused")
    replace(audited.access, written(ADMIN))
    await audited.until(action="access file", outcome="ok", tokens=1)
