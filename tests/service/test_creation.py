"""Models are created several at a time; limits, numbers and names are as if one after another."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import threading
from typing import Any

import numpy as np
import pytest

from model.spec import ModelSpec
from service.common.errors import AlreadyExists, Exhausted, Moved
from service.engine.export import export, pack_weights
from service.journal.records import ModelCreate
from service.publishing import creation
from service.publishing.creation import AT_ONCE
from service.streams.served import ServedModel
from tests.service.one_process import World, key, world

SPEC = ModelSpec.from_mapping({"channels": ["x"], "hidden": 4})


def held_up(live: World, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Semaphore, threading.Event]:
    """Hold first versions in their threads: a release per version that has begun, and one for all."""
    made = live.control._creation._first_version
    begun, go = threading.Semaphore(0), threading.Event()

    def waiting(*args: Any) -> Any:
        begun.release()
        assert go.wait(60)
        return made(*args)

    monkeypatch.setattr(live.control._creation, "_first_version", waiting)
    return begun, go


async def begun_all(begun: threading.Semaphore, n: int) -> None:
    for _ in range(n):
        assert await asyncio.to_thread(begun.acquire, timeout=60)


async def test_many_models_are_made_side_by_side_each_with_a_number_of_its_own(tmp_path, monkeypatch):
    async with world(tmp_path) as live:
        begun, go = held_up(live, monkeypatch)
        creating = [asyncio.create_task(live.control.create(key(f"m{n}"), SPEC)) for n in range(2 * AT_ONCE)]
        await begun_all(begun, 2)  # as many as this machine has threads for, at least two
        go.set()
        models = await asyncio.gather(*creating)

        assert sorted(model.number for model in models) == list(range(1, 2 * AT_ONCE + 1))
        created = [r.name for _, c in live.server.journal.chunks(0) for r in c.records if isinstance(r, ModelCreate)]
        assert sorted(created) == sorted(model.name for model in models)
    async with world(tmp_path) as live:
        assert {m.name: m.number for m in live.serving.catalog.models.values()} == {m.name: m.number for m in models}


async def test_a_creation_whose_shard_is_handed_over_meanwhile_names_the_next_node(tmp_path, monkeypatch):
    async with world(tmp_path) as live:
        begun, go = held_up(live, monkeypatch)
        creating = asyncio.create_task(live.control.create(key("flow"), SPEC))
        await begun_all(begun, 1)
        live.server.versions.close()
        live.serving.admission.draining, live.serving.admission.moved_to = True, "10.0.0.2:8300"
        go.set()

        with pytest.raises(Moved, match=r"10\.0\.0\.2:8300"):
            await creating


async def test_the_same_name_at_once_is_one_model_and_another_spec_is_refused(tmp_path, monkeypatch):
    async with world(tmp_path) as live:
        begun, go = held_up(live, monkeypatch)
        other = ModelSpec.from_mapping({"channels": ["x"], "hidden": 5})
        creating = [asyncio.create_task(live.control.create(key("flow"), s)) for s in (SPEC, SPEC, other)]
        await begun_all(begun, 1)
        go.set()
        first, second, third = await asyncio.gather(*creating, return_exceptions=True)

        assert first is second
        assert isinstance(first, ServedModel)
        assert isinstance(third, AlreadyExists)
        assert (len(live.serving.catalog.models), live.control._creation._names) == (1, {})


async def test_models_on_their_way_count_against_the_limit(tmp_path, monkeypatch):
    async with world(tmp_path, max_models=2) as live:
        begun, go = held_up(live, monkeypatch)
        creating = [asyncio.create_task(live.control.create(key(f"m{n}"), SPEC)) for n in range(2)]
        await begun_all(begun, 2)
        with pytest.raises(Exhausted, match="2 models"):
            await live.control.create(key("one-more"), SPEC)
        go.set()
        await asyncio.gather(*creating)
        assert len(live.serving.catalog.models) == 2


async def test_a_trainer_that_starts_while_a_model_is_made_does_not_take_it_for_deleted(tmp_path, monkeypatch):
    async with world(tmp_path) as live:
        begun, go = held_up(live, monkeypatch)
        creating = asyncio.create_task(live.control.create(key("flow"), SPEC))
        await begun_all(begun, 1)
        trainer = await live.start_trainer()
        go.set()
        model = await creating
        await live.tick(model, live.open(model, "pump"), 1.0)
        await live.learn()

        assert list(trainer.models) == [model.number]


async def test_a_creation_that_fails_leaves_its_place_to_others(tmp_path, monkeypatch):
    async with world(tmp_path, max_models=1) as live:
        with monkeypatch.context() as patch:
            patch.setattr(live.server.versions, "add", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await live.control.create(key("flow"), SPEC)
        assert live.serving.catalog.coming == set()

        assert (await live.control.create(key("flow"), SPEC)).number == 2


async def test_models_of_the_same_spec_share_the_making_of_their_first_version(tmp_path, monkeypatch):
    async with world(tmp_path) as live:
        made = []

        def counted(*args):
            made.append(1)
            return export(*args)

        monkeypatch.setattr(creation, "export", counted)
        specs = [SPEC, SPEC, dataclasses.replace(SPEC, seed=1), SPEC]
        models = [await live.control.create(key(f"m{n}"), spec) for n, spec in enumerate(specs)]

        assert len(made) == 2
        digests = [live.server.versions.get(model.number, 1).digest for model in models]
        assert digests[0] == digests[1] == digests[3] != digests[2]
        for model in models:
            answer = await live.tick(model, live.open(model, "pump"), 1.0)
            assert answer.version == 1

        for seed in range(2, 2 + creation.KEPT_SPECS):
            await live.control.create(key(f"other-{seed}"), dataclasses.replace(SPEC, seed=seed))
        assert len(live.control._creation._made) == creation.KEPT_SPECS


async def test_first_weights_of_a_clients_own_are_not_taken_for_those_of_the_seed(tmp_path):
    async with world(tmp_path) as live:
        first = await live.control.create(key("first"), SPEC)
        flat = first.network.init_params() + np.float32(0.25)
        weights = pack_weights(first.network, flat)
        own = await live.control.create(key("own"), SPEC, weights, hashlib.sha256(weights).hexdigest())

        assert live.server.versions.blobs(own.number, 1).weights == weights
        assert live.server.versions.get(first.number, 1).digest != live.server.versions.get(own.number, 1).digest
