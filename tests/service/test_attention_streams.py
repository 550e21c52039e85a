"""A stream of a model with attention carries its ring of keys and values wherever a state goes."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.network import Network
from model.spec import ModelSpec
from service.engine.export import Canary, export
from service.engine.loaded import Engine
from service.engine.session import PARITY
from service.streams.served import ServedModel
from tests.service.one_process import World, world

FIELDS: dict[str, Any] = {"cells": ["gru", "attention"], "attention_window": 5}


def state_of(model: ServedModel, id: str) -> np.ndarray:
    return np.frombuffer(model.row(model.table.by_id[id]).state, np.float32)


async def moved(service: World, model: ServedModel, id: str, values: list[float]) -> np.ndarray:
    """Send ticks to a stream and return its state."""
    session = service.open(model, id)
    for value in values:
        await service.tick(model, session, value)
    return state_of(model, id)


async def test_the_window_of_a_stream_outlives_a_version_a_put_a_snapshot_and_a_restart(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model(learn=False, **FIELDS)
        early = await moved(service, model, "a", [1.0, 2.0, 4.0])
        await service.publish(model, seed=3)
        late = await moved(service, model, "a", [3.0, 5.0])
        size = 4 * 5
        ring = model.network.statistics_size + 4  # after the state of the GRU
        np.testing.assert_array_equal(late[ring : ring + size - 8], early[ring + 8 : ring + size])  # two ticks later
        assert (early[-1], late[-1]) == (3, 5)
        service.serving.opening.put(model, "b", 1, 5, np.nan, late)
        await service.server.upkeep.save()
        await service.server.journal.flush()

    async with world(tmp_path) as service:
        [model] = service.serving.catalog.models.values()
        await service.serving.residency.bring(model, ["a", "b"])
        np.testing.assert_array_equal(state_of(model, "a"), late)
        np.testing.assert_array_equal(state_of(model, "b"), late)
        np.testing.assert_array_equal(
            await moved(service, model, "a", [2.0, 7.0]), await moved(service, model, "b", [2.0, 7.0])
        )


def test_a_version_with_attention_is_prepared_and_its_canary_has_a_window_that_fills():
    network = Network(ModelSpec(channels=("a", "b"), head_init=0.3, cells=("gru", "attention")))
    weights = network.weights(np.random.default_rng(1).normal(0, 0.2, network.layout.size).astype(np.float32))
    canary = Canary.unpack(export(network, weights).canary)

    _, error = Engine().prepare(export(network, weights).onnx, canary)

    assert error < PARITY
    assert (canary.next_state[:, -1] == 24).all()
