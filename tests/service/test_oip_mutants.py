"""Each safety check of the Open Inference Protocol is seen to fail: without it, its scenario turns red."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from service.access.grants import EVERYBODY, Role
from service.common import limits
from service.common.errors import Forbidden, Invalid
from service.edge.guard import security
from service.edge.oip import asked, inferring, sequences, tensors
from service.edge.oip.asked import Request
from service.edge.oip.inferring import Inferring
from service.edge.oip.tensors import Sent
from service.edge.parts import OnePlace
from tests.service.one_process import World, world


@contextlib.asynccontextmanager
async def door(folder: Path) -> AsyncIterator[tuple[World, Inferring]]:
    async with world(folder) as live:
        yield live, Inferring(OnePlace(live.server.parts()), lambda: live.clock())


def tensor(name: str, *values: float, shape: tuple[int, ...] = (), datatype: str = "FP32") -> Sent:
    raw = np.array(values, tensors.DTYPES[datatype]).tobytes()
    return Sent(name, datatype, shape or (len(values), 1), raw)


def request(*inputs: Sent, start: bool = False, sequence: str = "pump") -> Request:
    return Request("flow", "", "", {"sequence_id": sequence, "sequence_start": start}, inputs)


async def overlapping_requests_are_in_order(folder: Path) -> None:
    """Steps beside the loop: without turns, requests that overlap would all be the stream's next tick."""
    async with door(folder) as (live, inference):
        await live.model(learn=False)
        await inference.infer(request(tensor("x", 0.0), start=True))
        limits_before = limits.MAX_TURN_WORK, limits.MAX_LONE_WORK
        limits.MAX_TURN_WORK = limits.MAX_LONE_WORK = 0
        try:
            requests = [inference.infer(request(tensor("x", float(n)))) for n in range(8)]
            answers = await asyncio.gather(*requests, return_exceptions=True)
        finally:
            limits.MAX_TURN_WORK, limits.MAX_LONE_WORK = limits_before
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        assert not failed, failed
        assert live.serving.catalog.models[1].session("pump").last_seq == 9


async def a_bad_restart_loses_nothing(folder: Path) -> None:
    async with door(folder) as (live, inference):
        model = await live.model()
        await inference.infer(request(tensor("x", 1.0, 2.0), start=True))
        before = model.session("pump").state
        with pytest.raises(Invalid):
            await inference.infer(request(tensor("x", 3.0, np.nan), start=True))
        assert np.array_equal(model.session("pump").state, before), "the state is gone"
        assert model.session("pump").last_seq == 2, "half of it was taken"


async def labels_need_the_role_train(folder: Path) -> None:
    async with door(folder) as (live, inference):
        await live.model(task="regress", targets=["x"], label_horizon=8, window=16)
        token = security._CALLER.set(replace(EVERYBODY, role=Role.PREDICT))
        try:
            await inference.infer(request(tensor("x", 1.0), tensor("y", 1.0), start=True))
        except Forbidden:
            return
        finally:
            security._CALLER.reset(token)
        raise AssertionError("a label was accepted")


async def a_tensor_is_as_large_as_its_shape_says(folder: Path) -> None:
    async with door(folder) as (live, inference):
        await live.model()
        with pytest.raises(Invalid):
            await inference.infer(request(tensor("x", 1.0, 2.0, shape=(1, 1)), start=True))
        assert "pump" not in live.serving.catalog.models[1].table.by_id, "more ticks were taken than were said"


async def a_sequence_that_another_call_has_opened_is_opened_again(folder: Path) -> None:
    async with door(folder) as (live, inference):
        model = await live.model()
        await inference.infer(request(tensor("x", 1.0), start=True))
        live.open(model, "pump")  # as Streams.Open does
        epoch = model.session("pump").epoch

        await inference.infer(request(tensor("x", 2.0)))

        assert model.session("pump").epoch == epoch + 1, "two owners at once"


class Unordered(sequences.Order):
    def turn(self, name: Any, timeout_s: float) -> Any:
        return contextlib.nullcontext()


def everything_is_ours(self: Any, id: str) -> Any:
    kept = self._open.get(id)
    return kept and kept._replace(epoch=int(self._model.table.epoch[kept.session.row]))


def as_sent(model: str, tensor: Any, sent: Sent) -> Any:
    return np.frombuffer(sent.raw or b"", tensors.DTYPES[sent.datatype]).reshape(-1, *tensor.dims)


class Mutant(NamedTuple):
    owner: Any
    attribute: str
    instead: Any
    scenario: Callable[[Path], Awaitable[None]]


MUTANTS = {
    "no order": Mutant(inferring, "Order", Unordered, overlapping_requests_are_in_order),
    "no check beforehand": Mutant(inferring, "_check", lambda *_: None, a_bad_restart_loses_nothing),
    "no role": Mutant(inferring, "_check_may_train", lambda *_: None, labels_need_the_role_train),
    "no size": Mutant(asked, "read", as_sent, a_tensor_is_as_large_as_its_shape_says),
    "no epoch": Mutant(
        sequences.OpenSequences, "find", everything_is_ours, a_sequence_that_another_call_has_opened_is_opened_again
    ),
}


@pytest.fixture(autouse=True)
def admitted() -> Any:
    token = security._CALLER.set(EVERYBODY)
    yield
    security._CALLER.reset(token)


@pytest.mark.parametrize("name", MUTANTS)
async def test_a_scenario_is_green(tmp_path, name):
    await MUTANTS[name].scenario(tmp_path)


@pytest.mark.parametrize("name", MUTANTS)
async def test_without_its_check_a_scenario_is_red(tmp_path, monkeypatch, name):
    mutant = MUTANTS[name]
    monkeypatch.setattr(mutant.owner, mutant.attribute, mutant.instead)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await mutant.scenario(tmp_path)
