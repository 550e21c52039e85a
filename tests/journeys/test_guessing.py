"""Guessed names of another tenant: no hit, and no answer that distinguishes existing names from missing ones."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from freshet.v1 import streams_pb2
from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK
from tests.journeys.crash import mutate
from tests.journeys.credentials import status
from tests.journeys.guessing import ACCESS, GUESSER, MODELS, OWN, STREAMS, Guesser, bind, furnish, guesses
from tests.journeys.raw import channel_to

GUESSES = 2_000
ONE_TENANT = """
import service.edge.guard.security as security
security.key = lambda name: security.ModelKey("owner", name)
"""
TALKATIVE = """
from service.common.errors import NotFound
from service.serving.catalog import Catalog
quiet = Catalog.model
def model(self, key):
    if key not in self.by_key and any(other.name == key.name for other in self.by_key):
        raise NotFound("model", key.name, "it is another's")
    return quiet(self, key)
Catalog.model = model
"""


@contextlib.asynccontextmanager
async def furnished(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to a server of two tenants."""
    (folder / "access.toml").write_text(ACCESS)
    settings = QUICK | {"access": folder / "access.toml"}
    async with ServerChild(folder / "data", folder / "log", settings=settings) as child, channel_to(child.grpc) as to:
        await furnish(to)
        yield to


async def kinds_of_answers(channel: grpc.aio.Channel) -> dict[str, set[str]]:
    """Return the codes of all answers; assert that every name gets the same."""
    heard = await Guesser(channel).ask_all(guesses(GUESSES, 1))
    for kind, counted in heard.items():
        assert {hit for _, hit in counted} == {True, False}
        answers = {hit: {answer for answer, was in counted if was is hit} for hit in (True, False)}
        assert answers[True] == answers[False], kind
        assert len(answers[True]) == 1, kind
    return {kind: {answer.code for answer, _ in counted} for kind, counted in heard.items()}


async def test_guessed_names_hit_nothing_and_learn_nothing(tmp_path):
    async with furnished(tmp_path) as channel:
        assert await kinds_of_answers(channel) == {"model": {"NOT_FOUND"}, "stream": {"NOT_FOUND"}}

        owners, others = ([f"stream-{n:09}" for n in range(first, first + STREAMS)] for first in (1, 10**6))
        bound = await bind(channel, GUESSER, OWN, owners + others)
        for one in bound:
            one.ClearField("handle")
        assert all(one == bound[0] for one in bound), "an id that the owner has is as new as any"
        said = {await mux_of(channel, name) for name in ("model-000001", f"model-{MODELS + 1:06}")}
        assert {code for code, _ in said} == {grpc.StatusCode.NOT_FOUND}
        assert len(said) == 1


async def mux_of(channel: grpc.aio.Channel, model: str) -> tuple[grpc.StatusCode, str]:
    """Return how a Mux of a model ends, without the name."""
    request = streams_pb2.MuxRequest(model=model, bind=[streams_pb2.Bind(handle=0, stream="stream-000000001")])
    code, details = await status(channel, "/freshet.v1.Streams/Mux", GUESSER.token, request.SerializeToString())
    return code, details.replace(model, "")


@pytest.mark.long
@pytest.mark.parametrize("mutant", [ONE_TENANT, TALKATIVE], ids=["one tenant", "talkative"])
async def test_a_server_that_leaks_names_would_be_detected(mutant, monkeypatch, tmp_path):
    mutate(monkeypatch, tmp_path, mutant)
    async with furnished(tmp_path) as channel:
        with pytest.raises(AssertionError):
            assert await kinds_of_answers(channel) == {"model": {"NOT_FOUND"}, "stream": {"NOT_FOUND"}}
