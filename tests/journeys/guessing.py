"""Somebody with a token of one tenant, who tries names that another tenant may have, and compares what comes back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import grpc
import numpy as np

from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, types_pb2
from tests.journeys.credentials import Entry, bearer, written
from tests.journeys.raw import DEADLINE_S

OWNER, GUESSER = Entry("the-owner-s-token", "owner", "admin"), Entry("the-guesser-s-token", "guesser", "admin")
ACCESS = written(OWNER, GUESSER)
MODELS, STREAMS = 20, 200  # of the owner's
OWN = "guessed"  # a model that the guesser has, and the owner too
ANY = b"*"
IN_FLIGHT = 64


class Guess(NamedTuple):
    """A model's name or a stream's id in Streams.Get; `hit`: the owner has it. All names are of one length."""

    name: str
    hit: bool

    @property
    def message(self) -> bytes:
        """What is sent: a model's name, with a stream that is there if the model is; or a stream's, in one's own."""
        model, stream = (self.name, "stream-000000001") if self.name.startswith("m") else (OWN, self.name)
        return streams_pb2.GetStreamRequest(model=model, stream=stream).SerializeToString()


class Answer(NamedTuple):
    """All that comes back, the guessed name in it replaced."""

    code: str
    details: bytes
    metadata: tuple[tuple[str, bytes], ...]


async def furnish(channel: grpc.aio.Channel) -> None:
    """Both tenants' models, and the owner's streams."""
    create = models_pb2_grpc.ModelsStub(channel).Create
    spec = types_pb2.ModelSpec(channels=["x"], hidden=4, learn=False)
    owners = [f"model-{n:06}" for n in range(1, MODELS + 1)]
    for entry, name in [(OWNER, name) for name in (OWN, *owners)] + [(GUESSER, OWN)]:
        request = models_pb2.CreateModelRequest(name=name, spec=spec)
        await create(request, metadata=bearer(entry.token), timeout=DEADLINE_S)
    for model, n in [(OWN, STREAMS), *((name, 1) for name in owners)]:
        await bind(channel, OWNER, model, [f"stream-{i:09}" for i in range(1, n + 1)])


async def bind(channel: grpc.aio.Channel, entry: Entry, model: str, streams: list[str]) -> list[streams_pb2.Bound]:
    """What a Mux says of these streams once it has bound them."""
    call = channel.stream_stream(
        "/freshet.v1.Streams/Mux",
        request_serializer=streams_pb2.MuxRequest.SerializeToString,
        response_deserializer=streams_pb2.MuxResponse.FromString,
    )(metadata=bearer(entry.token), timeout=DEADLINE_S)
    binds = [streams_pb2.Bind(handle=handle, stream=stream) for handle, stream in enumerate(streams)]
    await call.write(streams_pb2.MuxRequest(model=model, bind=binds))
    await call.done_writing()
    bound = [b async for answer in call for b in answer.bound]
    assert len(bound) == len(streams)
    return bound


def guesses(n: int, seed: int) -> Iterator[Guess]:
    """Names of models and of streams, of each kind half as the owner has them, in an order that tells nothing."""
    rng = np.random.default_rng(seed)
    for of_model, hit, number in zip(
        rng.integers(0, 2, n), rng.integers(0, 2, n), rng.integers(0, 10**5, n), strict=True
    ):
        if of_model:
            yield Guess(f"model-{number % MODELS + 1 if hit else number + 10**5:06}", bool(hit))
        else:
            yield Guess(f"stream-{number % STREAMS + 1 if hit else number + 10**5:09}", bool(hit))


class Guesser:
    """Asks for what it has no right to."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._get: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/freshet.v1.Streams/Get")
        self._metadata = bearer(GUESSER.token)

    async def ask(self, guess: Guess) -> tuple[Answer, float]:
        """What comes back, and after how many seconds."""
        request, begun = guess.message, time.perf_counter()
        call = self._get(request, metadata=self._metadata, timeout=DEADLINE_S)
        code = await call.code()
        took = time.perf_counter() - begun
        name = guess.name.encode()

        def hidden(text: str | bytes) -> bytes:
            return (text if isinstance(text, bytes) else text.encode()).replace(name, ANY)

        said = [*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ())]
        metadata = tuple((key, hidden(value)) for key, value in said)
        return Answer(code.name, hidden(await call.details() or ""), metadata), took

    async def ask_all(self, asked: Iterable[Guess]) -> dict[str, Counter[tuple[Answer, bool]]]:
        """How often which answer came, and whether to a name that is the owner's; by kind of name. Many at once."""
        heard: dict[str, Counter[tuple[Answer, bool]]] = {"model": Counter(), "stream": Counter()}
        todo = iter(asked)

        async def go_on() -> None:
            for guess in todo:
                answer, _ = await self.ask(guess)
                heard[guess.name.partition("-")[0]][answer, guess.hit] += 1

        await asyncio.gather(*(go_on() for _ in range(IN_FLIGHT)))
        return heard
