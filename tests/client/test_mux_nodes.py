"""A Mux whose streams are on several nodes: a call to each, streams that move, nodes that are lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.bindings import Bindings
from freshet.calls import Opener
from freshet.leg import Leg, Shared
from freshet.nodes import Nodes
from freshet.packed import Ticks, Unconfirmed, Wave
from freshet.waits import Waits
from tests.client.fake_mux import FakeMux
from tests.client.fake_nodes import Cluster, cluster, silent

IDS = ["a", "b", "c", "d"]
SECOND = ["c", "d"]  # streams on the second node


@pytest.fixture
async def two() -> AsyncIterator[Cluster]:
    """Two nodes; the first has a and b, the second c and d."""
    async with cluster(FakeMux) as found:
        place(found, {id: int(id in SECOND) for id in IDS})
        yield found


def place(nodes: Cluster, where: dict[str, int]) -> None:
    for number, node in enumerate(nodes.nodes):
        node.places = {id: nodes.addresses[at] for id, at in where.items() if at != number}


@contextlib.asynccontextmanager
async def mux_of(nodes: Cluster, **settings: Any) -> AsyncIterator[freshet.Mux]:
    settings = {"close_s": 0.0} | settings
    async with freshet.connect(nodes.target) as client, client.mux("m", **settings) as mux:
        yield mux


def taken(nodes: Cluster) -> dict[str, list[float]]:
    return {id: kept.rows for id, kept in nodes.nodes[0].streams.items()}


async def test_streams_are_bound_where_nodes_say_and_stay_there(two):
    async with mux_of(two) as mux:
        for number in range(3):
            packed = await mux.step([*IDS, "c"], [number + 0.0, 1.0, 2.0, 3.0, 4.0])
            assert packed.y.ravel().tolist() == [number + 0.0, 1.0, 2.0, 3.0, 4.0]
            assert not packed.refused
        assert sorted(mux.addresses) == sorted(two.addresses)
        assert two.nodes[0].calls == [IDS]
        assert two.nodes[1].calls == [SECOND]
        assert taken(two)["c"] == [2.0, 4.0] * 3
        assert "open, 4 streams" in repr(mux)


async def test_a_whole_mux_opens_where_a_node_says(two):
    place(two, {})
    two.only(1)
    async with mux_of(two) as mux:
        assert (await mux.step(IDS, [1.0] * 4)).seq.tolist() == [1] * 4
        assert mux.addresses == two.addresses[1:]


@pytest.mark.parametrize("answered", [True, False])
async def test_a_stream_that_moves_takes_its_ticks_along_and_each_has_one_answer(two, answered):
    first, second = two.nodes
    first.committing = answered
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0, 2.0, 3.0, 4.0])
        if not answered:
            first.answering.clear()
        step = asyncio.create_task(mux.step(IDS, [5.0, 6.0, 7.0, 8.0]))
        await first.until_taken("b", 2)
        if answered:
            await step
        del first.streams["b"].rows[1 + answered :]  # what the first node had not written is gone
        place(two, {"a": 0, "b": 1, "c": 1, "d": 1})
        first.move(["b"], two.addresses[1])
        first.answering.set()

        packed = await step
        last = await mux.step(IDS, [9.0] * 4)

        assert (packed.y.ravel().tolist(), packed.refused) == ([5.0, 6.0, 7.0, 8.0], {})
        assert last.seq.tolist() == [3] * 4
        assert taken(two) == {"a": [1.0, 5.0, 9.0], "b": [2.0, 6.0, 9.0], "c": [3.0, 7.0, 9.0], "d": [4.0, 8.0, 9.0]}
        assert second.calls == [[*SECOND, "b"]]


async def test_when_all_streams_of_a_node_have_moved_its_call_is_ended(two):
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        place(two, dict.fromkeys(IDS, 1))
        two.nodes[0].move(["a", "b"], two.addresses[1])
        await mux.step(IDS, [2.0] * 4)
        assert mux.addresses == two.addresses[1:]
        await mux.step(["e"], [1.0])
        assert two.nodes[0].calls == [IDS], "new streams are asked for where the others are"


async def test_a_call_that_is_sent_elsewhere_takes_all_its_streams_along(two):
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        place(two, dict.fromkeys(IDS, 1))
        two.nodes[0].send_away(two.addresses[1])
        assert (await mux.step(IDS, [2.0] * 4)).seq.tolist() == [2] * 4
        assert mux.addresses == two.addresses[1:], "one call per node"
        assert two.nodes[1].calls == [["c", "d", "a", "b"]]


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("committing", [True, False])
async def test_the_streams_of_a_lost_node_go_on_at_another_with_each_tick_answered_once(two, lost, committing):
    for node in two.nodes:
        node.committing = committing
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        two.nodes[lost].answering.clear()
        step = asyncio.create_task(mux.step(IDS, [2.0, 3.0, 4.0, 5.0]))
        await two.nodes[lost].until_taken("ac"[lost], 2)
        place(two, {})
        await two.nodes[lost].stop()
        for id in ["ab", "cd"][lost]:
            kept = two.nodes[0].streams[id]
            del kept.rows[kept.durable :]

        packed = await step

        assert (packed.y.ravel().tolist(), packed.seq.tolist()) == ([2.0, 3.0, 4.0, 5.0], [2] * 4)
        assert taken(two) == {id: [1.0, 2.0 + number] for number, id in enumerate(IDS)}
        assert mux.addresses == [two.addresses[1 - lost]]


async def test_a_step_waits_only_for_the_nodes_of_its_own_streams(two):
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        two.nodes[0].answering.clear()
        stuck = asyncio.create_task(mux.step(["a"], [2.0]))
        await two.nodes[0].until_taken("a", 2)
        both = asyncio.create_task(mux.step(["a", "c"], [3.0, 3.0]))

        assert (await mux.step(["d"], [2.0])).seq.tolist() == [2]

        assert [stuck.done(), both.done()] == [False, False]
        assert taken(two)["c"] == [1.0], "a step is sent as a whole, in its turn"
        two.nodes[0].answering.set()
        assert (await stuck).seq.tolist() == [2]
        assert (await both).seq.tolist() == [3, 2]


async def test_a_new_stream_does_not_wait_for_answers_of_another_node_either(two):
    async with mux_of(two) as mux:
        await mux.step(["a", "c"], [1.0, 1.0])
        two.nodes[0].silent = {"a"}
        stuck = asyncio.create_task(mux.step(["a"], [2.0]))
        await two.nodes[0].until_taken("a", 2)
        assert (await mux.step(["d"], [1.0])).seq.tolist() == [1]
        assert not stuck.done()
        two.nodes[0].silent.clear()
        two.nodes[0].end.set()
        assert (await stuck).seq.tolist() == [2]


async def test_ticks_of_a_cancelled_step_are_waited_for_at_their_own_node_only(two):
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        two.nodes[0].silent = {"a"}
        step = asyncio.create_task(mux.step(["a"], [2.0]))
        await two.nodes[0].until_taken("a", 2)
        step.cancel()
        await asyncio.gather(step, return_exceptions=True)
        following = asyncio.create_task(mux.step(["a"], [3.0]))

        assert (await mux.step(["c"], [2.0])).seq.tolist() == [2]

        two.nodes[0].silent.clear()
        two.nodes[0].end.set()
        assert ((await following).seq.tolist(), (await following).refused) == ([3], {})


async def test_steps_of_a_stream_that_is_being_bound_again_keep_their_turns(two):
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        two.nodes[0].binding.clear()
        two.nodes[0].end.set()
        await two.nodes[0].until(2, ["a", "b"])
        steps = [asyncio.create_task(mux.step(["a"], [value])) for value in (2.0, 3.0, 4.0)]
        assert (await mux.step(["c"], [2.0])).seq.tolist() == [2]
        two.nodes[0].binding.set()
        assert [(await step).seq.tolist() for step in steps] == [[2], [3], [4]]
        assert taken(two)["a"] == [1.0, 2.0, 3.0, 4.0]


async def test_nothing_more_of_a_stream_is_written_where_it_left():
    bindings, sent = Bindings(), Unconfirmed()
    shared = Shared("m", bindings, sent, Waits(1.0, lambda: None), 1.0, {}, lambda *_: None, lambda _: False)
    nodes = Nodes(["h:1"], lambda address: None)  # type: ignore[arg-type,return-value]
    here, there = (Leg(shared, bindings.add_leg(), Opener(nodes, "m", lambda _: None, tuple), None) for _ in "ab")  # type: ignore[arg-type,return-value]
    bindings.want(["a", "b"], here.number)
    bindings.ask(here.number)
    one, both = (Wave(np.arange(n, dtype=np.uint32), np.ones(n, np.uint64), np.ones((n, 1), np.float32), None, 1)
                 for n in (1, 2))  # fmt: skip

    here.outgoing.extend([Ticks(one), Ticks(both)])
    here.release(0)
    there.take(0)

    assert here._next() is None, "all ticks of the first message are of the stream that left"
    message = here._next()
    assert message is not None
    assert np.frombuffer(message.ticks.handle, "<u4").tolist() == [1]

    here.outgoing.extend([Ticks(one), Ticks(both)])
    there.release(0)
    here.take(0)
    assert [ticks.part.tolist() for ticks in here.outgoing if ticks.part is not None] == [[1]], "of its time before"


async def test_a_stream_that_nodes_refer_to_each_other_ends_the_mux_with_both_named(two):
    two.nodes[0].places["x"], two.nodes[1].places["x"] = two.addresses[1], two.addresses[0]
    async with mux_of(two) as mux:
        await mux.step(IDS, [1.0] * 4)
        mux._give_up_s = 0.4  # of being referred; the steps before may take as long as they take
        with pytest.raises(freshet.Unavailable, match="stream 'x'") as raised:
            await mux.step(["x", "a"], [1.0, 2.0])
        assert all(f"it is at {address}" in str(raised.value) for address in two.addresses)
        assert all(len(call) < 30 for node in two.nodes for call in node.calls), "it does not spin"


async def test_a_stream_that_was_referred_in_a_circle_is_bound_once_a_node_has_it(two):
    two.nodes[0].places["x"], two.nodes[1].places["x"] = two.addresses[1], two.addresses[0]
    async with mux_of(two) as mux:
        await mux.step(["d"], [1.0])
        step = asyncio.create_task(mux.step(["x"], [1.0]))
        async with two.nodes[0].asked:
            await two.nodes[0].asked.wait_for(lambda: sum(call.count("x") for call in two.nodes[0].calls) >= 2)
        assert (await mux.step(["d"], [1.0])).seq.tolist() == [2], "others do not wait for it"
        del two.nodes[1].places["x"]
        assert (await step).y.ravel().tolist() == [1.0]


async def test_a_node_that_could_not_be_reached_when_it_was_named_is_called_once_it_can(two):
    """It accepts connections and is silent: the call goes to the other node then, which names it again."""
    place(two, {})
    async with mux_of(two, give_up_s=20.0) as mux:
        await mux.step(IDS, [1.0] * 4)
        await two.nodes[1].stop()
        with silent(two.nodes[1].port):
            two.nodes[0].move(IDS, two.addresses[1])
            step = asyncio.create_task(mux.step(IDS, [2.0] * 4))
            async with two.nodes[0].asked:
                await two.nodes[0].asked.wait_for(lambda: len(two.nodes[0].calls) >= 2)
        await two.nodes[1].start()

        assert (await step).seq.tolist() == [2] * 4

        assert mux.addresses == two.addresses[1:]
        assert taken(two) == {id: [1.0, 2.0] for id in IDS}


async def test_a_handle_that_becomes_another_streams_is_not_taken_for_one_that_left(two):
    two.nodes[1].unbindable = {"c"}
    async with mux_of(two) as mux:
        packed = await mux.step(["a", "c"], [1.0, 1.0])
        assert isinstance(packed.refused[1], freshet.InvalidArgument)
        assert (await mux.step(["b", "a"], [5.0, 6.0])).y.ravel().tolist() == [5.0, 6.0]


async def test_a_node_without_the_right_address_ends_the_mux(two):
    two.nodes[0].places["a"] = "no address"
    async with mux_of(two) as mux:
        with pytest.raises(freshet.InvalidArgument, match="no address"):
            await mux.step(["a"], [1.0])


class Chaos:
    """Streams change their nodes at random, calls end at random; nothing that is on disk is lost."""

    def __init__(self, nodes: Cluster, ids: list[str], rng: random.Random) -> None:
        self._nodes, self._rng = nodes, rng
        self._where = {id: rng.randrange(len(nodes.nodes)) for id in ids}
        place(nodes, self._where)

    async def happen(self) -> None:
        rng, nodes = self._rng, self._nodes.nodes
        source, to = rng.randrange(len(nodes)), rng.randrange(len(nodes))
        ids = [id for id, at in self._where.items() if at == source]
        what = rng.choice(["move", "move", "away", "end", "restart"])
        if what in ("move", "away"):
            moving = [id for id in ids if what == "away" or rng.random() < 0.5] if to != source else []
            for id in moving:
                if (kept := nodes[0].streams.get(id)) is not None:
                    del kept.rows[kept.durable :]
            self._where |= dict.fromkeys(moving, to)
            place(self._nodes, self._where)
            if what == "move":
                nodes[source].move(moving, self._nodes.addresses[to])
            elif to != source:
                nodes[source].send_away(self._nodes.addresses[to])
        elif what == "end":
            nodes[source].end.set()
        else:
            await nodes[source].stop()
            for id in ids:
                if (kept := nodes[0].streams.get(id)) is not None:
                    del kept.rows[kept.durable :]
            await nodes[source].start()


# What happens before a step has ended, at most, and for each step. Without bounds it would be what the machine's speed
# makes it: a pause of the Mux lasts for thousands of turns of the loop.
AT_ONCE, PER_STEP = 6, 3


@pytest.mark.parametrize("seed", range(12))
async def test_each_tick_has_one_outcome_and_is_taken_once_whatever_moves_and_ends(seed):
    rng = random.Random(seed)
    ids = [f"s{number}" for number in range(8)]
    async with cluster(FakeMux, 3) as three:
        chaos = Chaos(three, ids, rng)
        for node in three.nodes:
            node.committing = rng.random() < 0.5
        sent: dict[str, list[float]] = {id: [] for id in ids}
        may_happen = asyncio.Semaphore(AT_ONCE)

        async def source(mine: list[str], mux: freshet.Mux) -> None:
            for number in range(25):
                chosen = rng.sample(mine, rng.randint(1, len(mine)))
                values = [number + 100.0 * ids.index(id) for id in chosen]
                packed = await mux.step(chosen, values)
                assert (packed.refused, packed.lost) == ({}, [])
                assert packed.y.ravel().tolist() == values
                for id, value, seq in zip(chosen, values, packed.seq.tolist(), strict=True):
                    sent[id].append(value)
                    assert seq == len(sent[id])
                for _ in range(PER_STEP):
                    may_happen.release()

        async def trouble() -> None:
            while True:
                for _ in range(rng.randint(1, 300)):
                    await asyncio.sleep(0)
                await may_happen.acquire()
                await chaos.happen()

        async with mux_of(three) as mux:
            troubling = asyncio.create_task(trouble())
            await asyncio.gather(source(ids[:5], mux), source(ids[5:], mux))
            troubling.cancel()
            await asyncio.gather(troubling, return_exceptions=True)
            assert len(mux.addresses) <= 3
        assert all(sent[id] == rows or sent[id][: len(rows)] == rows for id, rows in taken(three).items())


async def test_the_blocking_form_splits_too(two):
    def block() -> tuple[list[float], list[str]]:
        with freshet.sync.connect(two.target) as client, client.mux("m") as mux:
            return mux.step(IDS, [1.0, 2.0, 3.0, 4.0]).y.ravel().tolist(), mux.addresses

    values, addresses = await asyncio.to_thread(block)
    assert values == [1.0, 2.0, 3.0, 4.0]
    assert sorted(addresses) == sorted(two.addresses)
