"""A client of several nodes: it follows where its models are, and outlives each node with one outcome per tick."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import numpy as np
import pytest

import freshet
from freshet import nodes as known
from freshet.search import Search
from freshet.target import Address
from freshet.v1 import models_pb2
from freshet.v1 import streams_pb2 as pb
from tests.client.certificates import Authority
from tests.client.fake_nodes import cluster, silent
from tests.client.fake_server import FakeServer, oracle
from tests.client.fake_training import FakeTraining

VALUES = np.arange(1.0, 41.0)
HOURS = 3_600_000


async def gone(node: FakeServer) -> None:
    """The node's process dies with what was not on disk."""
    for stream in node.streams.values():
        stream.cut(stream.durable)
        stream.call = None
        stream.origin = pb.Welcome.RESUMED
    await node.stop()


# --- addresses


async def test_addresses_are_one_text_or_a_sequence_and_each_is_known_once():
    for target in ("h1:1, h2:2,h1:1", ["h1:1", "h2:2"], ("h1:1", "h2:2", "h2:2")):
        async with freshet.connect(target) as client:
            assert client.nodes == ("h1:1", "h2:2")
    assert "h1:1,h2:2" in repr(client)


@pytest.mark.parametrize(
    "target", ["h1:1,", "h1:1,h2", [], ["h1:1", 5], ["h1:1,h2:2"], {"h1:1"}, b"h:1", ["http://h:1"]]
)
def test_what_is_no_list_of_addresses_is_refused(target):
    for connect in (freshet.connect, freshet.sync.connect):
        with pytest.raises(freshet.InvalidArgument, match="target = ") as refused:
            connect(target)
        assert refused.value.field == "target"
        assert "HOST:PORT" in refused.value.remedy or "give" in refused.value.remedy


def test_a_token_is_sent_to_none_of_the_addresses_in_plain_text():
    with pytest.raises(freshet.InvalidArgument, match=r"10\.0\.0\.1:1"):
        freshet.connect("127.0.0.1:1,10.0.0.1:1", token="secret")


async def test_each_address_of_a_dns_name_is_a_node(monkeypatch):
    async with cluster(FakeServer) as two:
        two.only(1)

        async def resolve(name: Any) -> list[str]:
            assert name == ("freshet.example", 8300)
            return sorted(two.addresses)

        monkeypatch.setattr(known, "resolve", resolve)
        async with freshet.connect("dns:///freshet.example:8300") as client, client.stream("m", "s") as stream:
            assert client.nodes == tuple(sorted(two.addresses))
            assert (await stream.step(1.0)).seq == 1
            assert stream.address == two.addresses[1]


async def test_a_dns_name_is_asked_again_once_no_node_is_left(monkeypatch):
    monkeypatch.setattr(known, "RESOLVE_S", 0.0)
    async with cluster(FakeServer, 3) as three:
        answers = [three.addresses[:2]]

        async def resolve(name: Any) -> list[str]:
            return answers[-1]

        monkeypatch.setattr(known, "resolve", resolve)
        async with freshet.connect("dns:freshet.example:8300") as client, client.stream("m", "s") as stream:
            await stream.step(1.0)
            answers.append(three.addresses[1:])
            for node in three.nodes[:2]:
                await gone(node)
            assert (await stream.step(2.0)).seq == 2
            assert stream.address == three.addresses[2]


async def test_a_dns_name_with_one_address_or_none_is_left_to_grpc(monkeypatch):
    node = FakeServer()
    await node.start()
    async with freshet.connect(f"dns:///127.0.0.1:{node.port}") as client:
        assert client.nodes == (f"dns:///127.0.0.1:{node.port}",)
        assert len(await client.list_models()) == 1
    await node.stop()

    async def nothing(name: Any) -> list[str]:
        raise OSError("no such name")

    monkeypatch.setattr(known, "resolve", nothing)
    async with freshet.connect("dns:///nowhere.invalid:1") as client:
        assert client.nodes == ("dns:///nowhere.invalid:1",)


async def test_the_nodes_of_a_dns_name_have_certificates_for_that_name(monkeypatch, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = (file.read_bytes() for file in authority.sign("node", host="freshet.example"))

    def encrypted() -> FakeServer:
        node = FakeServer()
        node.credentials = grpc.ssl_server_credentials([(key, certificate)])
        return node

    async with cluster(encrypted) as two:
        two.only(1)

        async def resolve(name: Any) -> list[str]:
            return two.addresses

        monkeypatch.setattr(known, "resolve", resolve)
        async with freshet.connect("dns:///other.example:1", tls=authority.pem) as client:
            with pytest.raises(freshet.Unavailable, match=r"other\.example"):
                await client.get_model("m")
        async with freshet.connect("dns:///freshet.example:1", tls=authority.pem) as client:
            assert (await client.get_model("m")).name == "m"
        one = f"127.0.0.1:{two.nodes[0].port}"
        tls = freshet.Tls(ca=authority.pem, server_name="freshet.example")
        async with freshet.connect(one, tls=tls) as client:
            assert (await client.get_model("m")).name == "m", "also for addresses that a node named"


async def test_names_are_resolved_to_addresses_with_the_port():
    found = await known.resolve(Address("localhost", 8300))
    assert "127.0.0.1:8300" in found
    assert set(found) <= {"127.0.0.1:8300", "[::1]:8300"}


# --- connections


class Watched:
    """A channel whose state the test sets. looks: how often that was asked for."""

    def __init__(self) -> None:
        self.state, self.looks, self._changed = grpc.ChannelConnectivity.CONNECTING, 0, asyncio.Event()
        self.watched = asyncio.Event()

    def become(self, state: grpc.ChannelConnectivity) -> None:
        self.state = state
        self._changed.set()

    def get_state(self, try_to_connect: bool) -> grpc.ChannelConnectivity:
        assert try_to_connect
        self.looks += 1
        return self.state

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        self.watched.set()
        await self._changed.wait()


async def test_a_node_that_refuses_does_not_keep_the_loop_busy_while_another_connects():
    channels = {"h1:1": Watched(), "h2:2": Watched()}
    nodes = known.Nodes(list(channels), channels.__getitem__)  # type: ignore[arg-type]  # fakes
    first, second = (channels[one] for one in nodes.order("m"))
    reached = asyncio.create_task(nodes.reach(Search(), "m"))
    await first.watched.wait()
    first.become(grpc.ChannelConnectivity.TRANSIENT_FAILURE)
    await second.watched.wait()
    before = second.looks
    for _ in range(100):
        await asyncio.sleep(0)
    assert second.looks <= before + 1
    second.become(grpc.ChannelConnectivity.READY)
    assert channels[await reached] is second


# --- unary calls


@pytest.mark.parametrize("listed", ["both", "one"])
async def test_a_call_about_a_model_goes_where_a_node_says_and_the_next_one_goes_there_at_once(listed):
    async with cluster(FakeServer) as two:
        two.only(1)
        target = two.target if listed == "both" else two.addresses[0]
        async with freshet.connect(target) as client:
            assert (await client.get_model("m")).name == "m"
            assert [door.asked for door in two.doors] == [["Models/Get"]] * 2
            await client.versions("m")
            async with client.stream("m", "s") as stream:
                assert stream.address == two.addresses[1]
            assert two.doors[0].asked == ["Models/Get"], "what one call has learned, all know"
            assert set(client.nodes) == set(two.addresses)


async def test_a_call_that_must_not_be_repeated_follows_too_for_the_first_node_did_nothing():
    class Deleting(FakeServer):
        deleted = 0

        async def Delete(self, request: pb.DeleteStreamRequest, context: Any) -> pb.DeleteStreamResponse:
            self.deleted += 1
            if self.deleted == 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "who knows whether it is done")
            return pb.DeleteStreamResponse()

    async with cluster(Deleting, 3) as three:
        three.only(1)
        three.doors[2].elsewhere = ""
        async with freshet.connect(three.target) as client:
            with pytest.raises(freshet.Unavailable, match="who knows"):
                await client.delete_stream("m", "s")
            await three.nodes[0].stop()
            await client.delete_stream("m", "s")  # the first node cannot have executed it
        assert [node.deleted for node in three.nodes] == [0, 2, 0]


async def test_an_idempotent_call_is_repeated_at_the_next_node():
    async with cluster(FakeServer, 3) as three:
        await three.nodes[0].stop()
        three.nodes[1].models.clear()  # it answers, and its answer counts
        async with freshet.connect(three.target) as client:
            with pytest.raises(freshet.NotFound):
                await client.get_model("m")
            await three.nodes[1].stop()
            assert (await client.get_model("m")).name == "m"


async def test_the_node_that_is_asked_lists_the_models_of_all():
    async with cluster(FakeServer, 3) as three:
        async with freshet.connect(three.target) as client:
            assert [model.name for model in await client.list_models()] == ["m"]
        assert sum(len(door.asked) for door in three.doors) == 1


async def test_nodes_that_name_each_other_end_a_call_with_both_named():
    async with cluster(FakeServer) as two:
        two.doors[0].elsewhere, two.doors[1].elsewhere = two.addresses[1], two.addresses[0]
        async with freshet.connect(two.target) as client:
            with pytest.raises(freshet.Unavailable) as raised:
                await client.get_model("m")
            assert all(f"it is at {address}" in str(raised.value) for address in two.addresses)
            assert all(len(door.asked) <= 5 for door in two.doors)


async def test_a_token_is_not_sent_where_a_node_says_if_that_is_in_plain_text_to_another_machine():
    async with cluster(FakeServer) as two:
        two.doors[0].elsewhere = "192.0.2.1:8300"
        async with freshet.connect(two.addresses[0], token="secret") as client:
            with pytest.raises(freshet.InvalidArgument, match=r"192\.0\.2\.1:8300.*plain text"):
                await client.get_model("m")
            with pytest.raises(freshet.InvalidArgument, match="plain text"):
                async with client.stream("m", "s"):
                    pass
        two.doors[0].elsewhere = "no address"
        async with freshet.connect(two.addresses[0]) as client:
            with pytest.raises(freshet.InvalidArgument, match="no address"):
                await client.get_model("m")


async def test_a_watch_follows_and_outlives_its_node():
    def event(version: int) -> models_pb2.ModelEvent:
        return models_pb2.ModelEvent(model="m", version=version)

    async with cluster(FakeServer) as two:
        two.only(1)
        async with freshet.connect(two.target) as client:
            events: Any = client.watch("m")
            two.nodes[1].events.put_nowait(event(1))
            assert (await anext(events)).version == 1
            two.only(0)
            two.nodes[0].events.put_nowait(event(2))
            await two.nodes[1].stop()
            assert (await anext(events)).version == 2
            await events.aclose()


# --- streams


async def test_a_stream_opens_where_a_node_says():
    async with cluster(FakeServer, 3) as three:
        three.only(2)
        async with freshet.connect(three.addresses[0]) as client, client.stream("m", "s") as stream:
            assert [f.y.item() async for f in stream.forecasts(VALUES)] == [y.item() for y in oracle(VALUES)]
            assert (stream.address, stream.reconnects) == (three.addresses[2], 0)


async def test_a_stream_goes_on_where_its_node_sends_it_with_each_tick_answered_once():
    async with cluster(FakeServer) as two:
        two.only(0)
        async with freshet.connect(two.addresses[0]) as client, client.stream("m", "s") as stream:
            first, second = two.nodes

            def hand_over(tick: pb.Tick) -> None:
                if tick.seq == 20:
                    two.only(1)
                    call = first.streams["s"].call
                    call.send(reconnect=pb.Reconnect(reason="handed over", address=two.addresses[1]))
                    call.end(grpc.StatusCode.OK)
                    first.streams["s"].call = None

            first.on_tick = hand_over
            outcomes = [f async for f in stream.forecasts(VALUES)]

            assert [f.y.item() for f in outcomes] == [y.item() for y in oracle(VALUES)]
            assert [f.seq for f in outcomes] == list(range(1, 41))
            assert (stream.address, stream.reconnects) == (two.addresses[1], 1)
            assert second.rows("s") == [[value] for value in VALUES]


@pytest.mark.parametrize("disk", [1, 7])
async def test_a_stream_whose_node_is_lost_goes_on_at_the_next_with_each_tick_answered_once(disk):
    async with cluster(FakeServer, 3) as three:
        for node in three.nodes:
            node.commit_every = disk
        async with freshet.connect(three.target) as client, client.stream("m", "s") as stream:
            for number, at in enumerate((13, 27)):
                node = three.nodes[number]
                node.on_tick = lambda tick, node=node, at=at: node.soon(gone(node)) if tick.seq == at else None

            outcomes = [f async for f in stream.forecasts(VALUES)]

            assert [f.y.item() for f in outcomes] == [y.item() for y in oracle(VALUES)]
            assert [f.seq for f in outcomes] == list(range(1, 41))
            assert (stream.address, stream.reconnects) == (three.addresses[2], 2)


async def test_a_stream_between_nodes_that_name_each_other_ends_with_both_named():
    async with cluster(FakeServer) as two, freshet.connect(two.target) as client:
        stream = await client.stream("m", "s").open()
        await stream.step(1.0)
        stream._engine._backoff.give_up_s = 0.4  # of being referred; what came before may take as long as it takes
        two.doors[0].elsewhere, two.doors[1].elsewhere = two.addresses[1], two.addresses[0]
        two.nodes[0].reconnect()
        with pytest.raises(freshet.Unavailable) as raised:
            await stream.step(2.0)
        assert all(f"it is at {address}" in str(raised.value) for address in two.addresses)
        assert all(len(door.asked) < 20 for door in two.doors), "it does not spin"


async def test_a_node_that_welcomes_and_ends_is_left_for_another_only_once_per_pause():
    class Leaving(FakeServer):
        def _attach(self, hello: pb.Hello) -> Any:
            call, stream = super()._attach(hello)
            call.end(grpc.StatusCode.UNAVAILABLE, "leaving")
            return call, stream

    async with cluster(Leaving) as two, freshet.connect(two.target) as client:
        with contextlib.suppress(freshet.Unavailable):
            async with client.stream("m", "s", give_up_s=0.4) as stream:
                await stream.step(1.0)
        assert all(len(door.asked) < 20 for door in two.doors), "it does not spin"


async def test_a_silent_machine_delays_nobody_who_can_go_elsewhere():
    """gRPC would wait for a connection for an hour here."""
    options = [("grpc.min_reconnect_backoff_ms", HOURS), ("grpc.max_reconnect_backoff_ms", HOURS)]
    node = FakeServer()
    await node.start()
    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(silent()) for _ in range(3)]
        target = [*dead, f"127.0.0.1:{node.port}"]
        async with freshet.connect(target, options=options) as client:
            assert (await client.get_model("m")).name == "m"
            async with client.stream("m", "s") as stream, client.mux("m") as mux:
                assert (await stream.step(1.0)).seq == 1
                assert stream.address == target[-1]
                del mux
    await node.stop()


async def test_a_call_at_silent_machines_ends_at_its_deadline():
    with silent() as one, silent() as other:
        async with freshet.connect([one, other], timeout_s=0.2) as client:
            with pytest.raises(freshet.Unavailable) as raised:
                await client.get_model("m")
            assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_nodes_that_are_all_gone_are_explained_and_a_lasting_problem_is_raised_at_once(unused):
    async with freshet.connect(unused) as client:
        with pytest.raises(freshet.Unavailable, match="nothing listens on"):
            await client.get_model("m")
        with pytest.raises(freshet.Unavailable, match="nothing listens on"):
            async with client.stream("m", "s", give_up_s=0.0):
                pass
    async with cluster(FakeServer) as two, freshet.connect(two.target, tls=True) as client:
        with pytest.raises(freshet.Unavailable) as raised:
            async with client.stream("m", "s", give_up_s=HOURS):
                pass
        assert raised.value.lasting


@pytest.fixture
async def unused() -> list[str]:
    """Addresses where nothing listens."""
    servers = [await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) for _ in range(2)]
    found = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()
        await server.wait_closed()
    return found


# --- senders, and the blocking form


async def test_a_sender_follows_and_outlives_its_node_with_each_window_taken_once():
    async with cluster(FakeTraining) as two:
        first, second = two.nodes
        second.windows, second.stream_labels = first.windows, first.stream_labels
        two.only(0)
        async with freshet.connect(two.addresses[1]) as client, client.learn("m", "source") as learning:
            assert learning.address == two.addresses[0]
            await learning.window([1.0, 2.0], [[2.0], [3.0]])
            await learning.flush()
            first.acknowledging.clear()
            await learning.window([3.0, 4.0], [[4.0], [5.0]])
            two.only(1)
            await first.stop()
            await learning.window([5.0, 6.0], [[6.0], [7.0]])
            await learning.flush()
            assert learning.address == two.addresses[1]
        assert len(second.windows) == 3


async def test_the_blocking_form_follows_and_outlives_a_node_too():
    async with cluster(FakeServer) as two:
        two.only(1)
        node, loop = two.nodes[1], asyncio.get_running_loop()

        def lose() -> None:
            two.only(0)
            asyncio.run_coroutine_threadsafe(gone(node), loop).result()

        def block() -> tuple[list[float], str, str, tuple[str, ...]]:
            with freshet.sync.connect(two.target) as client, client.stream("m", "s") as stream:
                first = [f.y.item() for f in stream.forecasts(VALUES[:10])]
                at = stream.address
                lose()
                return first + [f.y.item() for f in stream.forecasts(VALUES[10:])], at, stream.address, client.nodes

        made, before, after, nodes = await asyncio.to_thread(block)
        assert made == [y.item() for y in oracle(VALUES)]
        assert [before, after] == two.addresses[::-1]
        assert set(nodes) == set(two.addresses)


# --- what is kept


def test_what_nodes_have_named_is_bounded():
    nodes = known.Nodes(["h:1"], lambda address: grpc.aio.insecure_channel(address))
    for number in range(known.MOST_LEARNED + 5):
        nodes.learn(f"n{number}:1")
    assert nodes.addresses[:2] == ("h:1", "n5:1")
    assert len(nodes.addresses) == 1 + known.MOST_LEARNED
    for number in range(known.MOST_HOMES + 5):
        nodes.remember(f"model-{number}", "h:1")
    assert (nodes.home("model-4"), nodes.home("model-5")) == ("", "h:1")


def test_a_model_has_its_node_only_among_several():
    assert "node" not in repr(freshet.Model.of(models_pb2.Model(name="m")))
    model = freshet.Model.of(models_pb2.Model(name="m", shard=0, node="h:1", epoch=3))
    assert (model.shard, model.node, model.epoch) == (0, "h:1", 3)
    assert "shard=0, node='h:1', epoch=3" in repr(model)
