"""Questions of a node to its peers."""

from __future__ import annotations

import asyncio
import socket

from service.cluster.hosting.peers import Peers, Standing
from service.server.config import ServeConfig


async def test_questions_to_a_node_that_is_gone_do_not_cancel_each_other():
    peers = Peers(ServeConfig())
    with socket.socket() as taken:  # nobody listens on its port, and nobody else can
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for _ in range(5):
            asked = [asyncio.create_task(peers.standing(address, shard)) for shard in range(8)]
            await asyncio.sleep(0)
            asked += [asyncio.create_task(peers.standing(address, shard)) for shard in range(8)]
            assert await asyncio.gather(*asked, return_exceptions=True) == [Standing.NONE] * 16
    await peers.close()
