"""What the SDK sends for people's control over models, what it repeats by itself, and what it never does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

import grpc
import pytest

import freshet
from freshet.v1 import models_pb2, models_pb2_grpc

Event = models_pb2.ModelEvent


class FakeModels(models_pb2_grpc.ModelsServicer):
    """Notes every request; fails the first `failures` of them."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[tuple[str, Any]] = []
        self.failures = 0
        self.code = grpc.StatusCode.UNAVAILABLE
        self.why = "starting"
        for name in ("Create", "Import", "Promote", "Rollback", "Update", "Pause", "Resume", "Delete"):
            setattr(self, name, self._answer(name))

    def _answer(self, name: str) -> Callable[..., Any]:
        async def method(request: Any, context: Any) -> Any:
            self.asked.append((name, request))
            if len(self.asked) <= self.failures:
                await context.abort(self.code, self.why)
            if name == "Delete":
                return models_pb2.DeleteModelResponse()
            return models_pb2.Version(number=2) if name == "Import" else models_pb2.Model(name=request.name)

        return method

    async def Watch(self, request: models_pb2.WatchRequest, context: Any) -> AsyncIterator[Event]:
        self.asked.append(("Watch", request))
        for n in range(request.recent):
            yield Event(model=request.name, version=n)
        if not request.recent_only:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "leaving")


@pytest.fixture
async def fake() -> AsyncIterator[FakeModels]:
    fake, server = FakeModels(), grpc.aio.server()
    models_pb2_grpc.add_ModelsServicer_to_server(fake, server)
    fake.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield fake
    await server.stop(0)


@pytest.fixture
async def client(fake: FakeModels) -> AsyncIterator[freshet.Client]:
    async with freshet.connect(f"127.0.0.1:{fake.port}") as connected:
        yield connected


REPEATED: dict[str, Callable[[freshet.Client], Any]] = {
    "Create": lambda c: c.create_model("m", ["x"], weights=b"w"),
    "Import": lambda c: c.import_version("m", b"w"),
    "Promote": lambda c: c.promote("m", 3),
    "Rollback": lambda c: c.rollback("m"),
    "Update": lambda c: c.update_model("m", learning_rate=1e-4),
    "Pause": lambda c: c.pause("m"),
    "Resume": lambda c: c.resume("m"),
}


@pytest.mark.parametrize("method", REPEATED)
async def test_what_may_be_repeated_is_repeated_until_the_server_is_up(client, fake, method):
    fake.failures = 2

    answer = await REPEATED[method](client)

    assert [name for name, _ in fake.asked] == [method] * 3
    assert answer.name == "m" if method != "Import" else answer.number == 2


async def test_a_deletion_is_never_repeated(client, fake):
    """The first may have succeeded: after it, the name may be somebody else's."""
    fake.failures = 1

    with pytest.raises(freshet.Unavailable, match="starting"):
        await client.delete_model("m")

    assert [name for name, _ in fake.asked] == ["Delete"]


async def test_weights_go_with_their_digest(client, fake):
    await client.create_model("m", ["x"], weights=b"w")
    await client.create_model("m", ["x"])
    await client.import_version("m", b"w", onnx=b"o")
    await client.import_version("m", b"w", digest="noted elsewhere")

    digest = sha256(b"w").hexdigest()
    requests = [request for _, request in fake.asked]
    assert [(r.weights, r.weights_digest) for r in requests[:2]] == [(b"w", digest), (b"", "")]
    assert [(r.digest, r.onnx) for r in requests[2:]] == [(digest, b"o"), ("noted elsewhere", b"")]


async def test_versions_are_named_and_the_anchor_is_0(client, fake):
    await client.promote("m", 7)
    await client.rollback("m", 3)
    await client.rollback("m")

    assert [request.version for _, request in fake.asked] == [7, 3, 0]


async def test_history_ends_by_itself_and_a_watch_does_not(client, fake):
    past = await client.history("m", 3)

    assert [event.version for event in past] == [0, 1, 2]
    assert (fake.asked[-1][1].recent, fake.asked[-1][1].recent_only) == (3, True)
    with pytest.raises(freshet.Unavailable):
        async for _ in client.watch("m", give_up_s=0.0):  # one call, which may take as long as it takes
            pass
    assert not fake.asked[-1][1].recent_only


async def test_a_message_that_is_too_large_for_the_server_is_told_with_its_setting(client, fake):
    fake.failures, fake.code = 1, grpc.StatusCode.RESOURCE_EXHAUSTED
    fake.why = "SERVER: Received message larger than max (5 vs. 4)"

    with pytest.raises(freshet.ResourceExhausted, match=r"larger than max .*; start the server with a larger --max-m"):
        await client.import_version("m", b"w")


async def test_a_client_that_is_not_open_says_how_to_open_it():
    with pytest.raises(RuntimeError, match="async with"):
        await freshet.connect("127.0.0.1:1").promote("m", 1)
