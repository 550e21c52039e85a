"""The Open Inference Protocol on a cluster: a node names the one that has a model, and a sequence outlives its node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import freshet
from tests.journeys.clusters import cluster, name_on, until
from tests.journeys.inferences import Inference, value
from tests.journeys.raw import DEADLINE_S, channel_to
from tests.journeys.web import ask

ROWS = np.cumsum(np.random.default_rng(2).standard_normal((6, 2)), axis=0).astype(np.float32)
SPEC: dict[str, Any] = {"hidden": 8, "head_init": 0.3, "learn": False}


async def test_a_sequence_is_served_by_the_node_that_has_its_model_and_outlives_it(tmp_path: Path):
    # A node that leaves waits for calls at most so long, and not for a sequence that waits for its next request.
    async with cluster(tmp_path, settings={"drain_s": 3600}) as (one, other):
        found = await until(one.grpc, lambda found: True)
        shard = next(s.shard for s in found.shards if s.node == one.grpc)
        model = name_on(shard)
        async with freshet.connect(one.grpc) as client:
            await client.create_model(model, ["a", "b"], **SPEC)
        async with channel_to(one.grpc) as has, channel_to(other.grpc) as lacks:
            first = await Inference(has).infer(model, 7, start=True, x=ROWS[:3], parameters={"durable": True})
            error = await Inference(lacks).refused(model, 7, x=ROWS[3:])
            body = json.dumps({"parameters": {"sequence_id": 7}, "inputs": []}).encode()
            over_http = await ask(other.http, f"/v2/models/{model}/infer", method="POST", body=body)

            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert one.grpc in (error.details() or "")
            assert over_http.status == 421
            assert one.grpc in over_http.json["error"]

            await one.stop()
            then = await answered(Inference(lacks), model)

        async with freshet.connect(other.grpc) as client:
            await client.create_model(name_on(shard, "twin"), ["a", "b"], **SPEC)
        async with channel_to(other.grpc) as channel:
            unbroken = await Inference(channel).infer(name_on(shard, "twin"), 7, start=True, x=ROWS)
        assert value(then, "seq")[:, 0].tolist() == [4, 5, 6]
        np.testing.assert_array_equal(
            np.concatenate([value(first, "y"), value(then, "y")]), value(unbroken, "y")
        )  # both models begin with the same weights


async def answered(inference: Inference, model: str) -> Any:
    """The answer of a node that is about to have the model."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await inference.infer(model, 7, x=ROWS[3:])
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)
