"""deploy/cluster/nginx.conf, before two servers: a model's calls reach the same one, and a lost one is passed by."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2
from service.programs.backtest.child import ServerChild
from tests.conftest import ROOT
from tests.journeys.raw import channel_to, within
from tests.ports import free_port

PROGRAM = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CONFIG = (ROOT / "deploy" / "cluster" / "nginx.conf").read_text()
NAMES = [f"flow-{number}" for number in range(16)]
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # where nginx keeps files of each of its ways

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not there (Debian: nginx-light)")


def here(config: str, folder: Path, port: int, servers: list[str]) -> str:
    """The configuration with these servers as nodes, on this port of this machine alone."""
    nodes = iter(servers)

    def server(found: re.Match[str]) -> str:
        address = next(nodes, "")
        return f"server {address}{found[1]}\n" if address else ""

    config = re.sub(r" +server node\d:8300(.*)\n", server, config)
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in TEMPORARY)
    config = config.replace("access_log off;", f"access_log off; {paths}")
    return config.replace("listen 8300", f"listen 127.0.0.1:{port}")


@asynccontextmanager
async def proxied(folder: Path, config: str, servers: list[str]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to nginx with this configuration before these servers."""
    port, file = free_port(), folder / "nginx.conf"
    file.write_text(here(config, folder, port, servers))
    words = [PROGRAM, "-c", file, "-g", f"daemon off; pid {folder / 'nginx.pid'}; error_log {folder / 'nginx.log'};"]
    process = await asyncio.create_subprocess_exec(*map(str, words))
    try:
        async with channel_to(f"127.0.0.1:{port}") as channel:
            await within(channel.channel_ready())
            yield channel
    finally:
        process.terminate()
        await within(process.wait())


@asynccontextmanager
async def two_servers(folder: Path) -> AsyncIterator[list[ServerChild]]:
    """Two servers that know nothing of each other: only what reaches the same one finds its model again."""
    servers = [ServerChild(folder / f"data-{n}", folder / f"log-{n}") for n in range(2)]
    async with servers[0], servers[1]:
        yield servers


def of(model: str) -> tuple[tuple[str, str], ...]:
    """The metadata by which a proxy finds a model's node."""
    return (("x-freshet-model", model),)


async def create(channel: grpc.aio.Channel, model: str) -> None:
    request = models_pb2.CreateModelRequest(name=model, spec=types_pb2.ModelSpec(channels=["x"], hidden=4))
    await within(models_pb2_grpc.ModelsStub(channel).Create(request, metadata=of(model)))


async def forecasts(channel: grpc.aio.Channel, model: str, ticks: int) -> int:
    """The forecasts of a stream of so many ticks, each sent when the one before is answered."""
    call: Any = streams_pb2_grpc.StreamsStub(channel).Open(metadata=of(model))
    await within(call.write(streams_pb2.OpenRequest(hello=streams_pb2.Hello(model=model, stream="pump"))))
    assert (await within(call.read())).HasField("welcome")
    answered = 0
    for seq in range(1, ticks + 1):
        await within(call.write(streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=seq, x=[float(seq)]))))
        while not (await within(call.read())).HasField("forecast"):
            pass
        answered += 1
    call.cancel()
    return answered


async def models(server: ServerChild) -> set[str]:
    async with channel_to(server.grpc) as channel:
        listed = await within(models_pb2_grpc.ModelsStub(channel).List(models_pb2.ListModelsRequest()))
    return {model.name for model in listed.models}


async def test_a_model_s_calls_reach_the_same_node_and_a_stream_goes_both_ways(tmp_path):
    async with two_servers(tmp_path) as servers, proxied(tmp_path, CONFIG, [s.grpc for s in servers]) as channel:
        for name in NAMES:
            await create(channel, name)
        for name in NAMES:
            assert await forecasts(channel, name, 3) == 3
        each = [await models(server) for server in servers]

    assert all(each), "a node got no model"
    assert sorted([*each[0], *each[1]]) == sorted(NAMES), "a model is on two nodes"


async def test_the_models_of_a_node_that_is_lost_are_asked_for_at_another(tmp_path):
    async with two_servers(tmp_path) as servers, proxied(tmp_path, CONFIG, [s.grpc for s in servers]) as channel:
        for name in NAMES:
            await create(channel, name)
        lost = await models(servers[0])
        servers[0].kill()
        await servers[0].wait()
        for name in lost:
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await forecasts(channel, name, 1)
            assert told.value.code() == grpc.StatusCode.NOT_FOUND, "the other node, which has no such model"
        for name in set(NAMES) - lost:
            assert await forecasts(channel, name, 1) == 1
        await servers[0].start()


async def test_a_proxy_that_does_not_hash_the_model_is_detected(tmp_path):
    mutant = re.sub(r"hash \S+ consistent;", "", CONFIG)
    assert mutant != CONFIG
    async with two_servers(tmp_path) as servers, proxied(tmp_path, mutant, [s.grpc for s in servers]) as channel:
        for name in NAMES:
            await create(channel, name)
        codes = set()
        for name in reversed(NAMES):  # in turn, each would be asked of the other node
            try:
                await forecasts(channel, name, 1)
            except grpc.aio.AioRpcError as error:
                codes.add(error.code())
    assert codes == {grpc.StatusCode.NOT_FOUND}


async def test_nginx_takes_the_configuration_without_a_warning(tmp_path):
    (tmp_path / "nginx.conf").write_text(here(CONFIG, tmp_path, 8300, ["127.0.0.1:1"]))
    words = [PROGRAM, "-t", "-c", tmp_path / "nginx.conf", "-g", f"pid {tmp_path / 'pid'}; error_log stderr;"]
    process = await asyncio.create_subprocess_exec(*map(str, words), stderr=asyncio.subprocess.PIPE)
    _, said = await within(process.communicate())

    assert process.returncode == 0, said
    warnings = [line for line in said.decode().splitlines() if "[warn]" in line]
    assert all("error_log" in line or os.geteuid() for line in warnings), warnings
