"""Authorization: every method that reflection lists, with every kind of credential."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from freshet.v1 import models_pb2, streams_pb2, streams_pb2_grpc, training_pb2, types_pb2
from freshet.v1.models_pb2_grpc import ModelsStub
from service.edge.oip import inference_pb2
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate
from tests.journeys.credentials import Entry, bearer, methods, replace, status, written
from tests.journeys.raw import DEADLINE_S, channel_to
from tests.journeys.scraped import get, scrape

OK, UNKNOWN_CALLER = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
TOO_LOW, ABSENT = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
PAST = "expires = 2020-01-01T00:00:00Z"
ENTRIES = (
    Entry("a-predict", "a", "predict"), Entry("a-train", "a", "train"), Entry("a-admin", "a", "admin"),
    Entry("a-expired", "a", "admin", PAST), Entry("b-admin", "b", "admin"), Entry("scraper", "a", "metrics"),
)  # fmt: skip
NOT_GOOD = {"nothing": None, "wrong": "a-admim", "expired": "a-expired", "empty": "", "a digest": "0" * 64}
RANKS = {"scraper": 0, "a-predict": 1, "a-train": 2, "a-admin": 3}

# Written down again, by hand: a method that is new, or opened to others, must be entered here.
STREAMS, MODELS, TRAINING, CLUSTER = (f"/freshet.v1.{name}" for name in ("Streams", "Models", "Training", "Cluster"))
INFERENCE = "/inference.GRPCInferenceService"
HEALTH, REFLECTION = "/grpc.health.v1.Health", "/grpc.reflection.v1alpha.ServerReflection"
NEEDED = {
    f"{STREAMS}/Open": 1, f"{STREAMS}/Mux": 1, f"{STREAMS}/Get": 1, f"{STREAMS}/List": 1,
    f"{STREAMS}/Errors": 1, f"{STREAMS}/Put": 2, f"{STREAMS}/Delete": 2,
    f"{MODELS}/Get": 1, f"{MODELS}/List": 1, f"{MODELS}/Versions": 1, f"{MODELS}/Watch": 1, f"{MODELS}/Export": 2,
    f"{MODELS}/Create": 3, f"{MODELS}/Import": 3, f"{MODELS}/Promote": 3, f"{MODELS}/Rollback": 3,
    f"{MODELS}/Update": 3, f"{MODELS}/Pause": 3, f"{MODELS}/Resume": 3, f"{MODELS}/Delete": 3,
    f"{TRAINING}/Learn": 2, f"{TRAINING}/Quarantine": 2, f"{TRAINING}/Replay": 2,
    f"{CLUSTER}/Nodes": 1,
    f"{INFERENCE}/ServerLive": 1, f"{INFERENCE}/ServerReady": 1, f"{INFERENCE}/ServerMetadata": 1,
    f"{INFERENCE}/ModelReady": 1, f"{INFERENCE}/ModelMetadata": 1, f"{INFERENCE}/ModelConfig": 1,
    f"{INFERENCE}/ModelStatistics": 1, f"{INFERENCE}/ModelInfer": 1, f"{INFERENCE}/ModelStreamInfer": 1,
    f"{INFERENCE}/RepositoryIndex": 1, f"{INFERENCE}/RepositoryModelLoad": 3, f"{INFERENCE}/RepositoryModelUnload": 3,
    f"{INFERENCE}/SystemSharedMemoryStatus": 1, f"{INFERENCE}/SystemSharedMemoryRegister": 1,
    f"{INFERENCE}/SystemSharedMemoryUnregister": 1, f"{INFERENCE}/CudaSharedMemoryStatus": 1,
    f"{INFERENCE}/CudaSharedMemoryRegister": 1, f"{INFERENCE}/CudaSharedMemoryUnregister": 1,
    f"{INFERENCE}/TraceSetting": 3, f"{INFERENCE}/LogSettings": 3,
    f"{HEALTH}/Watch": 1, f"{HEALTH}/List": 1, f"{REFLECTION}/ServerReflectionInfo": 1,
}  # fmt: skip
OPEN_TO_ALL = {f"{HEALTH}/Check"}

# The first message of each method that names a model: of tenant a's, "flow", with stream "pump".
NAMING = {
    f"{STREAMS}/Open": streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="flow", stream="pump")),
    f"{STREAMS}/Mux": streams_pb2.MuxRequest(model="flow"),
    f"{STREAMS}/Get": streams_pb2.GetStreamRequest(model="flow", stream="pump"),
    f"{STREAMS}/List": streams_pb2.ListStreamsRequest(model="flow"),
    f"{STREAMS}/Errors": streams_pb2.ErrorsRequest(model="flow", worst=10),
    f"{STREAMS}/Put": streams_pb2.PutStreamRequest(stream=streams_pb2.Stream(model="flow", stream="pump")),
    f"{STREAMS}/Delete": streams_pb2.DeleteStreamRequest(model="flow", stream="pump"),
    f"{MODELS}/Get": models_pb2.GetModelRequest(name="flow"),
    f"{MODELS}/Versions": models_pb2.VersionsRequest(name="flow"),
    f"{MODELS}/Watch": models_pb2.WatchRequest(name="flow", recent_only=True),
    f"{MODELS}/Export": models_pb2.ExportRequest(name="flow"),
    f"{MODELS}/Import": models_pb2.ImportRequest(name="flow"),
    f"{MODELS}/Promote": models_pb2.PromoteRequest(name="flow", version=1),
    f"{MODELS}/Rollback": models_pb2.RollbackRequest(name="flow", version=1),
    f"{MODELS}/Update": models_pb2.UpdateModelRequest(name="flow", changes=types_pb2.ModelSpec(clip=2.0)),
    f"{MODELS}/Pause": models_pb2.PauseRequest(name="flow"),
    f"{MODELS}/Resume": models_pb2.ResumeRequest(name="flow"),
    f"{MODELS}/Delete": models_pb2.DeleteModelRequest(name="flow"),
    f"{TRAINING}/Learn": training_pb2.LearnRequest(hello=training_pb2.LearnHello(model="flow", source="s")),
    f"{TRAINING}/Quarantine": training_pb2.QuarantineRequest(model="flow"),
    f"{TRAINING}/Replay": training_pb2.ReplayRequest(model="flow"),
    f"{INFERENCE}/ModelMetadata": inference_pb2.ModelMetadataRequest(name="flow"),
    f"{INFERENCE}/ModelConfig": inference_pb2.ModelConfigRequest(name="flow"),
    f"{INFERENCE}/ModelStatistics": inference_pb2.ModelStatisticsRequest(name="flow"),
    f"{INFERENCE}/ModelInfer": inference_pb2.ModelInferRequest(model_name="flow"),
}
NAMES_NONE = {f"{MODELS}/Create", f"{MODELS}/List", f"{CLUSTER}/Nodes"}
SPEC = types_pb2.ModelSpec(channels=["x"], hidden=4)


class House:
    """A server with an access file; tenant a has a model "flow" with a stream "pump"."""

    def __init__(self, child: ServerChild, access: Path, channel: grpc.aio.Channel) -> None:
        self.child, self.access, self.channel = child, access, channel

    async def furnish(self) -> None:
        """As it was at first, whatever a test has done."""
        replace(self.access, written(*ENTRIES))
        create = models_pb2.CreateModelRequest(name="flow", spec=SPEC).SerializeToString()
        async with asyncio.timeout(DEADLINE_S):
            while await status(self.channel, f"{MODELS}/Create", "a-admin", create) != (OK, ""):
                pass
            while await self.status(f"{TRAINING}/Quarantine", "a-train") != (OK, ""):
                pass
        assert await self.status(f"{STREAMS}/Open", "a-predict") == (OK, "")

    async def status(self, method: str, token: str | None) -> tuple[grpc.StatusCode, str]:
        """How a call ends that names tenant a's model, where it names one."""
        message = NAMING.get(method)
        return await status(self.channel, method, token, message.SerializeToString() if message else b"")

    async def scraped(self, name: str) -> float:
        """A metric's value."""
        return (await scrape(self.child.http, "scraper")).total(name)


@contextlib.asynccontextmanager
async def a_house(folder: Path) -> AsyncIterator[House]:
    access = folder / "access.toml"
    access.write_text(written(*ENTRIES))
    child = ServerChild(folder / "data", folder / "log", settings=QUICK | {"access": access})
    async with child, channel_to(child.grpc) as channel:
        yield House(child, access, channel)
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log[-4000:]
    assert not [e.token for e in ENTRIES if f" {e.token}" in log or f"={e.token}" in log]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with a_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="session")
async def house(shared: House) -> House:
    await shared.furnish()
    return shared


async def wrong_admissions(house: House) -> list[str]:
    """Return the entries of the whole matrix that are wrong. Deletions come last: they leave nothing."""
    found = await methods(house.channel, "a-predict")
    assert set(found) == NEEDED.keys() | OPEN_TO_ALL, "a method that is new is to be entered in NEEDED"
    wrong = []
    for method in sorted(NEEDED, key=lambda method: method.endswith("/Delete")):
        expected: dict[str | None, set[grpc.StatusCode]] = {token: {UNKNOWN_CALLER} for token in NOT_GOOD.values()}
        for token, rank in RANKS.items():
            expected[token] = {TOO_LOW} if rank < NEEDED[method] else set(grpc.StatusCode) - {TOO_LOW, UNKNOWN_CALLER}
        if method in NAMING:
            expected["b-admin"] = {ABSENT}
        for caller, codes in expected.items():
            code, why = await house.status(method, caller)
            if code not in codes:
                wrong.append(f"{method} with {caller}: {code.name} {why}")
    return wrong


async def test_every_method_admits_the_roles_it_should_and_no_other(house):
    named = {m for m in NEEDED if m.startswith("/freshet.")} | {m for m in NAMING if m.startswith(INFERENCE)}
    assert NAMING.keys() | NAMES_NONE == named

    assert await wrong_admissions(house) == []

    for method in OPEN_TO_ALL:
        for token in (None, "wrong"):
            assert (await house.status(method, token))[0] is OK


OPEN_DOOR = """
import service.access.grants
service.access.grants.Access.admit = lambda self, authorization, now: next(
    (g for g in self.grants.values() if g.role == 3 and g.expires > now), service.access.grants.EVERYBODY)
"""
NO_ROLES = """
import sys, service.access.grants
service.access.grants.Grant.__eq__, every = service.access.grants.Grant.__eq__, service.access.grants.Role.ADMIN
admit = service.access.grants.Access.admit
import dataclasses
service.access.grants.Access.admit = lambda *of: dataclasses.replace(admit(*of), role=every)
"""
ONE_TENANT = """
import service.common.names
class ModelKey(service.common.names.ModelKey):
    def __new__(cls, tenant, name):
        return super().__new__(cls, "all", name)
service.common.names.ModelKey = ModelKey
"""


@pytest.mark.long
@pytest.mark.parametrize("mutant", [OPEN_DOOR, NO_ROLES, ONE_TENANT], ids=["open door", "no roles", "one tenant"])
async def test_a_server_that_admits_others_would_be_detected(mutant, monkeypatch, tmp_path):
    mutate(monkeypatch, tmp_path, mutant)
    async with a_house(tmp_path) as house:
        await house.furnish()
        assert await wrong_admissions(house) != []


@pytest.mark.parametrize("method", [f"{MODELS}/Create", f"{MODELS}/Watch", f"{STREAMS}/Get", f"{STREAMS}/Open"])
async def test_a_message_of_an_unknown_caller_is_not_read(house, method):
    garbage = b"\xff" * 100

    assert (await status(house.channel, method, "wrong", garbage))[0] is UNKNOWN_CALLER
    code, why = await status(house.channel, method, "a-admin", garbage)
    assert (code, why.split(":")[0]) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "message = bytes that are no message",
    ), "which the same bytes are, of somebody who is known"


async def test_anothers_model_looks_exactly_like_a_missing_one(house):
    for method in NAMING:
        theirs = await house.status(method, "b-admin")
        message = NAMING[method]
        other = type(message).FromString(message.SerializeToString().replace(b"flow", b"wolf"))
        absent = await status(house.channel, method, "b-admin", other.SerializeToString())
        assert theirs == (absent[0], absent[1].replace("wolf", "flow")), method


async def test_a_tenant_sees_only_its_own_models_and_names(house):
    ask = ModelsStub(house.channel)
    b, a = ({"metadata": bearer(token), "timeout": DEADLINE_S} for token in ("b-admin", "a-predict"))
    assert not (await ask.List(models_pb2.ListModelsRequest(), **b)).models

    mine = types_pb2.ModelSpec(channels=["p", "q"], hidden=4)
    await ask.Create(models_pb2.CreateModelRequest(name="flow", spec=mine), **b)

    assert [list(m.spec.channels) for m in (await ask.List(models_pb2.ListModelsRequest(), **b)).models] == [["p", "q"]]
    assert [list(m.spec.channels) for m in (await ask.List(models_pb2.ListModelsRequest(), **a)).models] == [["x"]]
    events = [e async for e in ask.Watch(models_pb2.WatchRequest(recent=100, recent_only=True), **b)]
    assert [(e.model, e.kind) for e in events] == [("flow", models_pb2.ModelEvent.CREATED)]
    await ask.Delete(models_pb2.DeleteModelRequest(name="flow"), **b)
    assert list((await ask.Get(models_pb2.GetModelRequest(name="flow"), **a)).spec.channels) == ["x"]


async def test_a_watch_of_all_models_gets_no_event_of_another_tenant(house):
    ask = ModelsStub(house.channel)
    watch = ask.Watch(models_pb2.WatchRequest(), metadata=bearer("b-admin"), timeout=2 * DEADLINE_S)
    await watch.initial_metadata()
    await ask.Pause(models_pb2.PauseRequest(name="flow"), metadata=bearer("a-admin"), timeout=DEADLINE_S)
    await ask.Create(
        models_pb2.CreateModelRequest(name="own", spec=SPEC), metadata=bearer("b-admin"), timeout=DEADLINE_S
    )

    event = await watch.read()

    assert (event.model, event.kind) == ("own", models_pb2.ModelEvent.CREATED)
    watch.cancel()
    for wish in (
        ask.Resume(models_pb2.ResumeRequest(name="flow"), metadata=bearer("a-admin"), timeout=DEADLINE_S),
        ask.Delete(models_pb2.DeleteModelRequest(name="own"), metadata=bearer("b-admin"), timeout=DEADLINE_S),
    ):
        await wish


async def test_a_label_of_a_role_that_may_not_train_is_refused_and_its_stream_continues(house):
    call = streams_pb2_grpc.StreamsStub(house.channel).Open(metadata=bearer("a-predict"), timeout=DEADLINE_S)
    await call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model="flow", stream="s")))
    assert (await call.read()).HasField("welcome")
    await call.write(streams_pb2.OpenRequest(label=streams_pb2.Label(seq=1, y=[1.0])))

    refused = (await call.read()).refused
    await call.write(streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=1, x=[1.0])))

    assert (refused.reason, refused.item, refused.field) == (types_pb2.Refused.NOT_ALLOWED, 1, "label")
    assert (await call.read()).forecast.seq == 1
    call.cancel()


CHANGES = {
    "revoked": (written(*(e for e in ENTRIES if e.token != "a-train")), UNKNOWN_CALLER),
    "expired": (written(*(e._replace(more=PAST) if e.token == "a-train" else e for e in ENTRIES)), UNKNOWN_CALLER),
    "of a lower role": (written(*(e._replace(role="predict") if e.token == "a-train" else e for e in ENTRIES)), OK),
    "another tenant's": (written(*(e._replace(tenant="b") if e.token == "a-train" else e for e in ENTRIES)), ABSENT),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_token_that_grants_less_ends_the_calls_it_opened_and_no_others(house, change):
    open_, learn, watch = f"{STREAMS}/Open", f"{TRAINING}/Learn", f"{MODELS}/Watch"
    calls = {}
    hello = NAMING | {watch: models_pb2.WatchRequest(name="flow")}
    for method, token in [(open_, "a-train"), (learn, "a-train"), (watch, "a-train"), (watch, "a-predict")]:
        calls[method, token] = house.channel.stream_stream(method)(metadata=bearer(token), timeout=2 * DEADLINE_S)
        await calls[method, token].write(hello[method].SerializeToString())
        await calls[method, token].initial_metadata()
    text, afterwards = CHANGES[change]
    before = await house.scraped("freshet_calls_revoked_total")

    replace(house.access, text)

    async with asyncio.timeout(DEADLINE_S):
        for (_, token), call in calls.items():
            if token == "a-train":
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    async for _ in call:
                        pass
                assert caught.value.code() is UNKNOWN_CALLER
                assert "no longer" in (caught.value.details() or "")
    assert not calls[watch, "a-predict"].done()
    calls[watch, "a-predict"].cancel()
    assert (await house.status(open_, "a-train"))[0] is afterwards
    assert await house.scraped("freshet_calls_revoked_total") - before == 3


async def test_an_invalid_access_file_keeps_the_former_rules_and_is_logged(house):
    replace(house.access, written(*ENTRIES) + "[[token]]\nsha256 = 3\n")

    async with asyncio.timeout(DEADLINE_S):
        while not await house.scraped("freshet_file_invalid"):
            pass
    for token, code in (("a-predict", OK), ("wrong", UNKNOWN_CALLER)):
        assert (await house.status(f"{MODELS}/Get", token))[0] is code

    fresh = Entry("fresh", "a", "admin")
    replace(house.access, written(*ENTRIES, fresh))
    async with asyncio.timeout(DEADLINE_S):
        while (await house.status(f"{MODELS}/Get", "fresh"))[0] is UNKNOWN_CALLER:
            pass
    assert not await house.scraped("freshet_file_invalid")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
async def test_probes_need_no_token(house, path):
    assert (await asyncio.to_thread(get, f"http://{house.child.http}{path}"))[0] == 200


async def test_metrics_cover_all_tenants_and_need_a_role_that_sees_all(house):
    url = f"http://{house.child.http}/metrics"
    answers = {token: await asyncio.to_thread(get, url, token) for token in (*NOT_GOOD.values(), *RANKS, "b-admin")}

    codes = {token: code for token, (code, _) in answers.items()}
    assert codes == dict.fromkeys(NOT_GOOD.values(), 401) | dict.fromkeys(RANKS, 403) | {"scraper": 200, "b-admin": 403}
    assert all("freshet_ticks_total" not in body for code, body in answers.values() if code != 200)
    assert 'model="flow"' in answers["scraper"][1]
    assert 'tenant="a"' in answers["scraper"][1]


async def test_files_with_clients_data_are_readable_by_the_servers_user_alone(house):
    assert stat.S_IMODE(house.child.data.stat().st_mode) == 0o700
