"""Every step of a Mux ends once, and what ends one step leaves the next in order: cancelled, refused, lost, silent."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.v1 import streams_pb2 as pb

GIVE_UP_S = 1.0  # enough for the calls that must succeed first, on a busy machine


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def turned(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# --- cancelled


@pytest.mark.parametrize("opened", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("turns", range(40))
async def test_a_step_cancelled_after_any_turn_of_the_loop_leaves_the_next_one_in_order(client, fake, turns, opened):
    async with client.mux("m", close_s=0.0) as mux:
        if opened:
            await mux.step(["a", "b"], [0.0, 0.0])
        step = asyncio.create_task(mux.step(["a", "b", "a"], [1.0, 2.0, 3.0]))
        await turned(turns)
        await cancelled(step)

        packed = await mux.step(["b", "c", "a"], [5.0, 6.0, 7.0])

        assert (packed.y.ravel().tolist(), packed.refused) == ([5.0, 6.0, 7.0], {})
        for id, begin in {"a": [1.0, 3.0], "b": [2.0], "c": []}.items():
            rows = [row for row in fake.streams[id].rows if row]
            assert rows[:-1] in ([], begin), "a tick was sent once, or not at all"
        assert packed.seq.tolist() == [len(fake.streams[id].rows) for id in "bca"]


async def test_a_step_whose_time_is_over_while_the_server_thinks_leaves_the_next_one_in_order(client, fake):
    async with client.mux("m") as mux:
        fake.answering.clear()
        step = asyncio.create_task(mux.step(["a"], [1.0]))
        await fake.until_taken("a", 1)
        await cancelled(step)
        fake.answering.set()

        packed = await mux.step(["a"], [2.0])

        assert (packed.refused, packed.seq.tolist(), fake.streams["a"].rows) == ({}, [2], [1.0, 2.0])


async def test_a_step_cancelled_while_its_message_is_being_written_does_not_end_the_call(client, fake):
    """A server that does not read holds up the write, once the windows are full."""
    ids, big = [f"s{n}" for n in range(30_000)], np.arange(30_000.0)
    async with client.mux("m", close_s=0.0) as mux:
        await mux.step(["a"], [1.0])
        fake.reading.clear()
        step = asyncio.create_task(mux.step(ids, big))
        await turned(50)
        await cancelled(step)
        fake.reading.set()

        assert (await mux.step(["a"], [2.0])).seq.tolist() == [2]
        assert len(fake.calls) == 1


async def test_steps_behind_a_cancelled_one_get_their_turn(client, fake):
    async with client.mux("m") as mux:
        fake.answering.clear()
        steps = [asyncio.create_task(mux.step(["a"], [float(n)])) for n in range(1, 6)]
        await fake.until_taken("a", 1)
        await cancelled(steps[0])
        await cancelled(steps[2])
        fake.answering.set()

        seqs = [(await steps[n]).seq.tolist() for n in (1, 3, 4)]

        assert seqs == [[2], [3], [4]]
        assert fake.streams["a"].rows == [1.0, 2.0, 4.0, 5.0], "what had no turn yet was not sent"


async def test_a_reconnect_that_the_end_of_the_call_does_not_follow_is_gone_through(client, fake, monkeypatch):
    monkeypatch.setattr("freshet.leg.LEAVE_S", 0.01)
    async with client.mux("m") as mux:
        await mux.step(["a"], [1.0])
        fake.leave()
        packed = await mux.step(["a"], [2.0])
        assert (packed.refused, fake.streams["a"].rows) == ({}, [1.0, 2.0])
        await fake.until(2, ["a"])


async def test_closing_may_be_cancelled_and_ends_the_mux_all_the_same(client, fake):
    fake.committing = False
    mux = await client.mux("m", close_s=60.0).open()
    await mux.step(["a"], [1.0])
    closing = asyncio.create_task(mux.aclose())
    await turned(5)
    await cancelled(closing)
    with pytest.raises(freshet.StreamClosed):
        await mux.step(["a"], [2.0])
    await mux.aclose()


# --- refused


class Strange:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise OSError("not now")


BAD_IDS: dict[str, Any] = {
    "a float": 1.5, "NumPy's float": np.float64(7), "a stranger": Strange(), "empty": "", "none": None, "a tab": "a\tb",
    "too long": "x" * 257, "bytes": b"a", "a list": ["a"], "half a surrogate": "\ud800", "a line": "a\n", "true": True,
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("case", BAD_IDS)
async def test_an_id_that_none_can_be_is_refused_alone(client, fake, case, first):
    async with client.mux("m") as mux:
        if not first:
            await mux.step(["a", "b"], [0.0, 0.0])

        packed = await mux.step(["a", BAD_IDS[case], "b"], [1.0, 2.0, 3.0])

        assert list(packed.refused) == [1]
        error = packed.refused[1]
        assert isinstance(error, freshet.InvalidArgument)
        assert error.field == "streams[1]"
        assert f"{error.value}: {error.remedy}" in str(error)
        np.testing.assert_array_equal(packed.y.ravel(), [1.0, np.nan, 3.0])
        assert (await mux.step(["a", "b"], [4.0, 5.0])).y.ravel().tolist() == [4.0, 5.0]
        assert mux.streams == ["a", "b"]


@pytest.mark.parametrize("ids", [[7, "7", "a"], [np.int64(7), 7, "a"], np.array([7, 7, 8])], ids=repr)
async def test_a_whole_number_is_the_id_of_its_decimal_digits(client, fake, ids):
    async with client.mux("m") as mux:
        packed = await mux.step(ids, [1.0, 2.0, 3.0])
        assert (packed.refused, packed.seq.tolist()) == ({}, [1, 2, 1])
        assert mux.streams == ["7", str(ids[2])]
        assert fake.streams["7"].rows == [1.0, 2.0]


async def test_an_id_that_the_server_does_not_bind_is_refused_alone_and_may_be_tried_again(client, fake):
    fake.unbindable = {"b"}
    async with client.mux("m") as mux:
        for _ in range(3):
            packed = await mux.step(["a", "b", "c", "b"], [1.0, 2.0, 3.0, 4.0])
            assert {row: error.field for row, error in packed.refused.items()} == {1: "bind.stream", 3: "bind.stream"}
        fake.unbindable = set()
        packed = await mux.step(["b", "a"], [5.0, 6.0])
        assert (packed.refused, packed.seq.tolist()) == ({}, [1, 4])


async def test_a_stream_that_is_not_bound_again_after_a_break_is_refused_alone(client, fake):
    async with client.mux("m") as mux:
        await mux.step(["a", "b"], [1.0, 2.0])
        fake.answering.clear()
        step = asyncio.create_task(mux.step(["a", "b"], [3.0, 4.0]))
        await fake.until_taken("a", 2)
        fake.unbindable = {"b"}
        fake.answering.set()
        fake.end.set()
        packed = await step
        again = await mux.step(["a", "b"], [5.0, 6.0])
        assert set(packed.refused) <= {1}
        assert list(again.refused) == [1]


async def test_a_batch_of_nothing_or_of_bad_ids_alone_is_answered_at_once(client):
    async with client.mux("m") as mux:
        assert (await mux.step([], [])).y.shape == (0, 1, 1)
        packed = await mux.step([None, ""], [1.0, 2.0])
        assert (list(packed.refused), packed.seq.tolist()) == ([0, 1], [0, 0])


@pytest.mark.parametrize("streams", ["ab", {"a"}, {"a": 1, "b": 2}, 7, None], ids=repr)
async def test_what_is_no_list_of_ids_is_refused_by_name(client, streams):
    async with client.mux("m") as mux:
        with pytest.raises(freshet.InvalidArgument, match=r"streams = .*: give a list") as caught:
            await mux.step(streams, [1.0, 2.0])
        assert caught.value.field == "streams"


async def test_ids_that_together_are_larger_than_a_message_are_bound_in_several(client, fake, monkeypatch):
    monkeypatch.setattr("freshet.bindings.BIND_BYTES", 100)
    ids = ["x" * 60 + str(n) for n in range(20)]
    async with client.mux("m") as mux:
        assert not (await mux.step(ids, np.ones(20))).refused
        fake.end.set()
        assert (await mux.step(ids, np.ones(20))).seq.tolist() == [2] * 20


# --- lost


@pytest.mark.parametrize("under_way", [False, True], ids=["between steps", "under way"])
async def test_streams_that_the_server_has_lost_are_told_once_and_go_on_from_its_state(client, fake, under_way):
    async with client.mux("m") as mux:
        for _ in range(5):
            await mux.step(["a", "b"], [1.0, 2.0])
        step = None
        if under_way:
            fake.answering.clear()
            step = asyncio.create_task(mux.step(["a", "b", "new"], [3.0, 4.0, 5.0]))
            await fake.until_taken("a", 6)
        fake.restore(3)
        fake.answering.set()

        with pytest.raises(freshet.StateLost, match="lost the state of 2 streams, 'a', 'b'") as caught:
            await (step or mux.step(["a", "b"], [3.0, 4.0]))

        assert caught.value.streams == ("a", "b")
        packed = await mux.step(["a", "b"], [6.0, 7.0])
        assert (packed.refused, packed.seq.tolist()) == ({}, [4, 4])
        assert fake.streams["a"].rows == [1.0, 1.0, 1.0, 6.0]


async def test_a_lost_stream_is_told_to_the_step_that_has_it_and_no_other(client, fake):
    async with client.mux("m") as mux:
        for _ in range(5):
            await mux.step(["a", "b"], [1.0, 2.0])
        fake.streams["a"].rows.clear()
        fake.streams["a"].durable = 0
        fake.end.set()
        await fake.until(2, ["a", "b"])
        assert (await mux.step(["b"], [3.0])).seq.tolist() == [6]
        with pytest.raises(freshet.StateLost):
            await mux.step(["b", "a"], [4.0, 5.0])
        assert (await mux.step(["b", "a"], [4.0, 5.0])).seq.tolist() == [7, 1]


async def test_who_accepts_lost_states_goes_on_without_being_told(client, fake):
    async with client.mux("m", accept_lost=True) as mux:
        for _ in range(5):
            await mux.step(["a"], [1.0])
        fake.restore(2)
        await fake.until(2, ["a"])
        assert (await mux.step(["a"], [2.0])).seq.tolist() == [3]


async def test_another_mux_goes_on_from_the_servers_state(client, fake):
    async with client.mux("m") as mux:
        for _ in range(5):
            await mux.step(["a"], [1.0])
    fake.restore(2)
    async with client.mux("m") as mux:
        assert (await mux.step(["a"], [2.0])).seq.tolist() == [3]


async def test_a_fresh_state_instead_of_a_damaged_one_is_told_once(client, fake):
    async with client.mux("m") as mux:
        await mux.step(["a"], [1.0])
    fake.streams["a"].origin = pb.Welcome.LOST
    async with client.mux("m") as mux:
        with pytest.raises(freshet.StateLost, match="fresh state"):
            await mux.step(["a"], [2.0])
        fake.end.set()
        await fake.until(3, ["a"])
        assert (await mux.step(["a"], [2.0])).seq.tolist() == [2]
    async with client.mux("m", accept_lost=True) as mux:
        fake.streams["a"].origin = pb.Welcome.LOST
        assert (await mux.step(["a"], [3.0])).seq.tolist() == [3]


async def test_the_step_that_finds_states_lost_hands_over_what_was_answered(client, fake):
    fake.silent = {"a"}
    async with client.mux("m") as mux:
        await mux.step(["b"], [0.0])
        step = asyncio.create_task(mux.step(["a", "b"], [1.0, 2.0]))
        await fake.until_taken("a", 1)
        fake.streams["a"].rows.clear()
        fake.streams["a"].durable, fake.streams["a"].origin = 0, pb.Welcome.LOST
        fake.end.set()
        with pytest.raises(freshet.StateLost) as caught:
            await step
        assert caught.value.packed is not None
        np.testing.assert_array_equal(caught.value.packed.y.ravel(), [np.nan, 2.0])


# --- silent


@pytest.mark.parametrize("knob", ["reading", "binding", "answering"])
async def test_a_step_ends_within_give_up_s_while_the_server_lives_and_says_nothing(client, fake, knob):
    mux = await client.mux("m", give_up_s=GIVE_UP_S, close_s=0.0).open()
    getattr(fake, knob).clear()
    results = await asyncio.gather(*(mux.step(["a"], [1.0]) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, freshet.Unavailable) for error in results), results
    assert f"no success for {GIVE_UP_S:g} s, waiting for" in str(results[0])
    with pytest.raises(freshet.Unavailable):
        await mux.step(["a"], [1.0])
    await mux.aclose()


async def test_a_step_ends_within_give_up_s_where_one_row_of_it_has_no_answer(client, fake):
    fake.silent = {"b"}
    async with client.mux("m", give_up_s=GIVE_UP_S, close_s=0.0) as mux:
        with pytest.raises(freshet.Unavailable, match="forecasts of 2 ticks"):
            await mux.step(["a", "b"], [1.0, 2.0])


async def test_opening_ends_within_give_up_s_while_the_server_lives_and_says_nothing(client, fake):
    fake.reading.clear()
    with pytest.raises(freshet.Unavailable):
        await client.mux("m", give_up_s=GIVE_UP_S).open()
    with pytest.raises(freshet.Unavailable):
        await client.learn("m", "s", give_up_s=GIVE_UP_S).open()


async def test_a_server_that_answers_slowly_is_waited_for(client, fake):
    """Each answer is a success: only give_up_s without any ends the Mux."""
    async with client.mux("m", give_up_s=GIVE_UP_S, close_s=0.0) as mux:
        fake.answering.clear()
        steps = [asyncio.create_task(mux.step([f"s{n}"], [1.0])) for n in range(4)]
        for n, step in enumerate(steps):
            await fake.until_taken(f"s{n}", 1)
            fake.answering.set()
            await step
            fake.answering.clear()
        fake.answering.set()
