"""Large steps, beside the loop: whatever happens to stream or model meanwhile, each answer is bit for bit that of the
version that the journal names at its tick, and no tick is applied twice or lost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.common import limits
from service.common.errors import NotFound, Reason, Refusal, Unavailable
from service.engine.session import StepSession
from service.journal.records import Chunk, ModelDelete, Reset, StatePut, StreamOpened, Ticks
from service.serving.steps import Piece, Steps, Turns
from service.serving.ticks import Fenced, Tick
from service.serving.waves import Wave
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from tests.oracles import replay
from tests.service.one_process import World, world

DEADLINE_S = 60.0
SPEC: dict[str, Any] = {"channels": ["x"], "hidden": 8, "head_init": 0.5, "learn": False}
Noted = dict[tuple[int, int], tuple[int, bytes]]  # by stream number and seq: version and y


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch) -> None:
    """Make every step too large for the loop."""
    monkeypatch.setattr(limits, "MAX_TURN_WORK", 0)
    monkeypatch.setattr(limits, "MAX_LONE_WORK", 0)


class Held:
    """A version's session whose steps beside the loop wait until the test releases them."""

    def __init__(self, session: StepSession) -> None:
        self._session = session
        self.begun, self._go = threading.Event(), threading.Event()
        self.nbytes = session.nbytes
        self.computed = 0
        self.fails = False

    def run(self, *inputs: Any) -> Any:
        return self._session.run(*inputs)

    def compute(self, *inputs: Any) -> Any:
        self.begun.set()
        assert self._go.wait(DEADLINE_S)
        self.computed += 1
        if self.fails:
            raise RuntimeError("a step fails")
        return self._session.compute(*inputs)

    async def under_way(self) -> None:
        """Wait until a step has begun."""
        assert await asyncio.to_thread(self.begun.wait, DEADLINE_S)

    def let_go(self) -> None:
        self._go.set()


def hold(service: World, model: ServedModel) -> Held:
    """Hold the steps of the serving version."""
    session = service.server.engine.get(model.number, model.champion)
    assert session is not None
    held = Held(session)
    service.server.engine.install(model.number, model.champion, held)  # type: ignore[arg-type]  # stands in for one
    return held


def a_tick(model: ServedModel, session: Session, x: float, seq: int = 0) -> Tick:
    return Tick(model, session, session.epoch, seq or session.last_seq + 1, np.nan, np.array([x], np.float32), 0.0)


def send(service: World, tick: Tick) -> asyncio.Task[Any]:
    """Send a tick."""
    return asyncio.create_task(service.serving.ticks.answer(tick))


async def packed(service: World, model: ServedModel, sessions: list[Session], x: float) -> Wave:
    """Send the next tick of each session as one wave."""
    rows = np.array([session.row for session in sessions])
    seq = model.table.last_seq[rows] + np.uint64(1)
    values = x + np.arange(len(rows), dtype=np.float32)[:, None]
    return await service.serving.waves.answer(model, rows, seq, np.full(len(rows), np.nan), values)


def note(noted: Noted, number: int, answer: Any) -> None:
    assert isinstance(answer, Answer), answer
    noted[number, answer.seq] = answer.version, answer.y


def note_wave(noted: Noted, sessions: list[Session], wave: Wave, seq: int) -> None:
    for i, y in zip(wave.stepped.at.tolist(), wave.stepped.y, strict=True):
        noted[sessions[i].number, seq] = wave.stepped.version, y.tobytes()


class ByNumber(replay.Serving):
    """The oracle, keyed by stream numbers, which distinguish the lives of one id, and with put states."""

    def take(self, chunk: Chunk) -> None:
        for record in chunk.records:
            match record:
                case StreamOpened(stream=number):
                    self._ids[number] = str(number)
                case StatePut(stream=number, last_seq=seq, state=state):
                    self._states[number] = state[None].copy()
                    self.answers[str(number), seq] = NO_ANSWER
                case _:
                    self.apply(replace(chunk, records=(record,)))


NO_ANSWER = replay.Answered(np.zeros(0, np.float32), 0, np.zeros(0, np.float32))


def oracle(data: Path, copy: Path) -> Noted:
    """Return the answers that the first model's journal implies, one tick at a time."""
    serving = ByNumber(replay.Files.of(data))
    for chunk in replay.survivors(data, copy):
        if chunk.model == 1:
            serving.take(chunk)
    return {(int(n), seq): (found.version, found.y.tobytes()) for (n, seq), found in serving.answers.items()}


async def agrees(service: World, noted: Noted, tmp_path: Path) -> None:
    """Assert that everything noted is in the journal, answered by the version that it names."""
    await service.server.journal.flush()
    expected = oracle(service.server.config.data, tmp_path / "copy")
    assert noted == {key: expected.get(key) for key in noted}


@contextlib.asynccontextmanager
async def held_model(tmp_path: Path, **settings: Any) -> Any:
    """A world, a model whose steps are held, and its streams a, b and c, each after one tick."""
    async with world(tmp_path / "data", **settings) as service:
        model = await service.model(**SPEC)
        sessions = [service.open(model, id) for id in "abc"]
        noted: Noted = {}
        for session in sessions:
            note(noted, session.number, await send(service, a_tick(model, session, 2.0)))
        held = hold(service, model)
        try:
            yield service, model, sessions, held, noted
        finally:
            held.let_go()


async def test_the_loop_goes_on_while_a_step_is_computed_and_another_model_is_answered(tmp_path, monkeypatch):
    async with held_model(tmp_path) as (service, model, [a, b, c], held, noted):
        answering = [send(service, a_tick(model, session, 3.0)) for session in (a, b, c)]
        await held.under_way()
        other = await service.model("light", **SPEC)
        monkeypatch.setattr(limits, "MAX_TURN_WORK", 1 << 26)
        light = await send(service, a_tick(other, service.open(other, "x"), 1.0))

        assert isinstance(light, Answer)
        assert not any(task.done() for task in answering)
        held.let_go()
        for session, task in zip((a, b, c), answering, strict=True):
            note(noted, session.number, await task)
        assert held.computed == 1, "distinct streams share a step"
        await agrees(service, noted, tmp_path)


async def test_small_steps_are_computed_on_the_loop_until_the_turn_has_had_enough(tmp_path, monkeypatch):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, noted):
        monkeypatch.setattr(limits, "MAX_TURN_WORK", limits.step_work(model.row_work, 1))
        monkeypatch.setattr(limits, "MAX_SMALL_WORK", 0)
        first, late = (asyncio.create_task(packed(service, model, [stream], 1.0)) for stream in (a, b))
        await held.under_way()  # a turn has no room for a second one
        assert first.done()
        held.let_go()
        note_wave(noted, [a], await first, 2)
        note_wave(noted, [b], await late, 2)
        held.begun.clear()
        note_wave(noted, [a], await packed(service, model, [a], 5.0), 3)

        assert not held.begun.is_set(), "a later turn has room again"
        await agrees(service, noted, tmp_path)


async def test_a_small_step_has_room_in_a_turn_that_large_ones_have_filled(tmp_path, monkeypatch):
    async with held_model(tmp_path) as (service, model, [a, b, c], held, noted):
        one = limits.step_work(model.row_work, 1)
        monkeypatch.setattr(limits, "MAX_TURN_WORK", limits.step_work(model.row_work, 2))
        monkeypatch.setattr(limits, "MAX_SMALL_WORK", one)
        large = asyncio.create_task(packed(service, model, [a, b], 1.0))
        small = asyncio.create_task(packed(service, model, [c], 1.0))
        note_wave(noted, [a, b], await large, 2)
        note_wave(noted, [c], await small, 2)

        assert not held.begun.is_set()
        await agrees(service, noted, tmp_path)


async def test_no_step_has_more_rows_than_the_model_may_step_at_once(tmp_path):
    async with held_model(tmp_path) as (service, model, sessions, held, noted):
        model.step_rows = 2
        held.let_go()
        answers = await asyncio.gather(*[send(service, a_tick(model, s, 3.0)) for s in sessions])
        for session, answer in zip(sessions, answers, strict=True):
            note(noted, session.number, answer)
        assert held.computed == 2
        await agrees(service, noted, tmp_path)


SWAPS: dict[str, Callable[[World, ServedModel], Any]] = {
    "publish": lambda service, model: service.publish(model, seed=5),
    "roll back": lambda service, model: service.control.roll_back(model.key, 1),
    "promote": lambda service, model: service.control.promote(model.key, 1),
}


@pytest.mark.parametrize("how", SWAPS)
@pytest.mark.parametrize("way", ["single", "packed"])
async def test_a_swap_during_a_step_answers_its_ticks_by_the_new_version(tmp_path, how, way):
    async with held_model(tmp_path) as (service, model, [a, b, c], held, noted):
        if how != "publish":
            held.let_go()
            await service.publish(model, seed=4)
            held = hold(service, model)
        before = model.champion
        sessions = [a] if way == "single" else [a, b, c]
        stepping: Any = (
            send(service, a_tick(model, a, 3.0)) if way == "single"
            else asyncio.create_task(packed(service, model, sessions, 3.0))
        )  # fmt: skip
        await held.under_way()
        await SWAPS[how](service, model)
        held.let_go()
        answer = await stepping

        if way == "single":
            note(noted, a.number, answer)
        else:
            assert len(answer.stepped.at) == 3
            note_wave(noted, sessions, answer, 2)
        assert noted[a.number, 2][0] == model.champion != before
        for session in (a, b, c):  # an answer must not be the session's buffer, which this step overwrites
            note(noted, session.number, await send(service, a_tick(model, session, 9.0)))
        await agrees(service, noted, tmp_path)


async def test_a_reset_during_a_step_of_its_stream_is_kept(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, noted):
        stepping = asyncio.create_task(packed(service, model, [a, b], 3.0))
        await held.under_way()
        service.serving.opening.reset(model, a)
        held.let_go()
        wave = await stepping

        assert wave.stepped.at.tolist() == [0, 1]
        note_wave(noted, [a, b], wave, 2)
        await agrees(service, noted, tmp_path)
        records = [r for chunk in replay.survivors(tmp_path / "data", tmp_path / "again") for r in chunk.records]
        [reset] = [i for i, record in enumerate(records) if isinstance(record, Reset)]
        assert all(isinstance(record, Ticks) for record in records[reset + 1 :]), "the tick stands behind the reset"


async def put(service: World, model: ServedModel, session: Session) -> None:
    state = np.full(model.network.state_size, 0.03125, np.float32)  # valid in every part
    service.serving.opening.put(model, session.id, session.epoch, 1, np.nan, state)


async def take_over(service: World, model: ServedModel, session: Session) -> None:
    service.serving.opening.open(model, session.id)


async def delete(service: World, model: ServedModel, session: Session) -> None:
    service.serving.opening.delete(model, session.id)


@pytest.mark.parametrize("what", [put, take_over, delete])
@pytest.mark.parametrize("way", ["single", "packed"])
async def test_a_stream_that_is_anothers_after_the_step_has_not_ticked(tmp_path, what, way):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, noted):
        tick = a_tick(model, a, 3.0)
        single = send(service, tick) if way == "single" else None
        wave = asyncio.create_task(packed(service, model, [a, b], 3.0)) if way == "packed" else None
        await held.under_way()
        await what(service, model, a)
        held.let_go()

        if single is not None:
            with pytest.raises(Fenced):
                await single
        if wave is not None:
            took = await wave
            assert (took.stepped.at.tolist(), took.left.tolist()) == ([1], [0])
            note_wave(noted, [a, b], took, 2)
        if what is not delete:
            now = model.session("a")
            assert now.last_seq == 1
            note(noted, now.number, await send(service, a_tick(model, now, 4.0)))
        await agrees(service, noted, tmp_path)
        if what is not delete and way == "single":
            assert (a.number, 2) not in noted or what is take_over


async def test_the_new_owners_tick_that_comes_during_the_step_is_the_one_that_counts(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, _, _], held, noted):
        former = send(service, a_tick(model, a, 3.0))
        await held.under_way()
        mine = service.open(model, "a")
        latter = send(service, a_tick(model, mine, 7.0))
        held.let_go()

        with pytest.raises(Fenced):
            await former
        note(noted, mine.number, await latter)
        assert mine.find(2).x == np.float32(7.0).tobytes()
        await agrees(service, noted, tmp_path)


async def test_a_stream_that_left_memory_during_the_step_has_not_ticked_and_may_again(tmp_path):
    async with held_model(tmp_path, idle_s=0.0) as (service, model, [a, b, _], held, noted):
        await service.server.journal.flush()
        model.table.pinned[:] = False
        model.judge(service.server.journal.offset(model.number))
        stepping = asyncio.create_task(packed(service, model, [a, b], 3.0))
        await held.under_way()
        await service.snapshot()
        assert not len(model.table)
        await service.serving.residency.bring(model, ["c", "b"])  # in other rows than before
        held.let_go()
        wave = await stepping

        assert (wave.stepped.at.tolist(), wave.left.tolist()) == ([1], [0])
        noted[b.number, 2] = wave.stepped.version, wave.stepped.y[0].tobytes()
        await service.serving.residency.bring(model, ["a"])
        again = model.session("a")
        note(noted, again.number, await send(service, a_tick(model, again, 3.0)))
        await agrees(service, noted, tmp_path)


async def test_a_model_deleted_during_a_step_gets_no_record_behind_its_last(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, _):
        single = send(service, a_tick(model, a, 3.0))
        await held.under_way()
        wave = asyncio.create_task(packed(service, model, [b], 3.0))
        await asyncio.sleep(0)
        await service.control.delete(model.key)
        held.let_go()

        with pytest.raises(Fenced):
            await single
        assert (await wave).left.tolist() == [0]
        with pytest.raises(NotFound):
            await packed(service, model, [b], 3.0)
        chunks = replay.survivors(tmp_path / "data", tmp_path / "copy")
        assert chunks[-1].end == service.server.journal.offset(model.number)
        assert isinstance(chunks[-1].records[-1], ModelDelete)


async def test_a_caller_that_leaves_during_its_step_loses_nothing(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, b, c], held, noted):
        single = send(service, a_tick(model, a, 3.0))
        await held.under_way()
        begun = asyncio.create_task(packed(service, model, [b], 4.0))
        await asyncio.sleep(0)
        for task in (single, begun):
            task.cancel()
        await asyncio.gather(single, begun, return_exceptions=True)
        after = asyncio.create_task(packed(service, model, [c], 5.0))
        held.let_go()
        note_wave(noted, [c], await after, 2)

        assert a.last_seq == 2, "the step had begun"
        assert b.last_seq == 1, "its turn had not come"
        note(noted, a.number, await send(service, a_tick(model, a, 3.0, seq=2)))  # sent again
        note(noted, b.number, await send(service, a_tick(model, b, 4.0)))
        assert held.computed == 3
        await agrees(service, noted, tmp_path)


async def test_ticks_of_one_stream_that_come_together_are_successive_steps(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, noted):
        held.let_go()
        answers = await service.ticks(model, [(a, 3.0), (a, 4.0), (b, 1.0), (a, 5.0)])
        for session, answer in zip((a, a, b, a), answers, strict=True):
            note(noted, session.number, answer)

        assert [answer.seq for answer in answers] == [2, 3, 2, 4]
        await agrees(service, noted, tmp_path)


async def test_the_same_tick_twice_is_answered_once_and_again(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, _, _], held, noted):
        first, again = (send(service, a_tick(model, a, 3.0)) for _ in range(2))
        other = send(service, a_tick(model, a, 8.0))
        held.let_go()

        assert (await first)[2:] == (await again)[2:]
        conflict = await other
        assert isinstance(conflict, Refusal)
        assert conflict.reason is Reason.CONFLICT
        note(noted, a.number, first.result())
        await agrees(service, noted, tmp_path)


async def test_a_step_that_fails_fails_its_own_ticks_and_the_next_one_is_computed(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, noted):
        held.fails = True
        held.let_go()
        with pytest.raises(RuntimeError, match="a step fails"):
            await send(service, a_tick(model, a, 3.0))
        with pytest.raises(RuntimeError, match="a step fails"):
            await packed(service, model, [b], 3.0)
        held.fails = False
        note(noted, a.number, await send(service, a_tick(model, a, 3.0)))
        await agrees(service, noted, tmp_path)


async def test_what_waits_for_a_step_is_told_when_the_server_ends(tmp_path):
    async with held_model(tmp_path) as (service, model, [a, b, _], held, _):
        begun = asyncio.create_task(packed(service, model, [b], 3.0))
        await held.under_way()
        waiting = send(service, a_tick(model, a, 3.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        held.let_go()
        service.serving.steps.close()

        with pytest.raises(Unavailable, match="draining"):
            await waiting
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)


async def test_of_many_ticks_that_are_not_good_some_are_decided_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_DECIDED", 3)
    async with held_model(tmp_path) as (service, model, _, held, _):
        held.let_go()
        rows = np.array([service.open(model, f"s{n}").row for n in range(8)])
        seq = np.array([1, 5, 5, 1, 5, 5, 5, 1], np.uint64)
        wave = await service.serving.waves.answer(model, rows, seq, np.full(8, np.nan), np.ones((8, 1), np.float32))

        assert wave.stepped.at.tolist() == [0, 3, 7]
        assert list(wave.others) == [1, 2, 4]
        assert wave.left.tolist() == [5, 6]


# ---- turns


class Order:
    """Record the tenants of steps in the order computed."""

    def __init__(self) -> None:
        self.steps, self.seen = Steps(), list[str]()

    def ask(self, tenant: str, work: float, begin: bool = True) -> asyncio.Future[None]:
        return self.steps.submit(tenant, work, lambda: begin, lambda: self.seen.append(tenant), lambda: None)


async def test_tenants_take_turns_by_the_work_of_their_steps():
    order = Order()
    waiting = [order.ask("first", 1.0)]
    for _ in range(4):
        waiting.append(order.ask("heavy", 4.0))
    for _ in range(4):
        waiting.append(order.ask("light", 1.0))
    await asyncio.gather(*waiting)

    assert order.seen == ["first", "heavy", "light", "light", "light", "light", "heavy", "heavy", "heavy"]
    order.steps.close()


async def test_a_tenant_that_comes_late_is_not_owed_what_the_others_had_before():
    order = Order()
    waiting = [order.ask("old", 1.0) for _ in range(12)]
    await waiting[9]
    waiting += [order.ask("new", 1.0) for _ in range(9)]
    waiting += [order.ask("old", 1.0) for _ in range(9)]
    await asyncio.gather(*waiting)

    late = order.seen[order.seen.index("new") :]
    assert 4 <= late[:10].count("old") <= 5
    order.steps.close()


async def test_a_step_with_nothing_left_to_compute_and_one_that_cannot_begin_hold_nobody_up():
    order = Order()

    def broken() -> bool:
        raise RuntimeError("not loaded")

    first = order.ask("a", 1.0)
    empty = order.ask("a", 1.0, begin=False)
    failing = order.steps.submit("a", 1.0, broken, lambda: None, lambda: None)
    last = order.ask("a", 1.0)

    await asyncio.gather(first, empty, last)
    with pytest.raises(RuntimeError, match="not loaded"):
        await failing
    assert order.seen == ["a", "a"]
    order.steps.close()


# ---- turns of the loop


async def test_calls_that_fill_the_loop_go_one_in_a_turn_and_what_else_there_is_comes_between():
    now, seen = 0.0, list[str]()
    turns = Turns(lambda: now)

    async def filling(name: str) -> None:
        nonlocal now
        for _ in range(3):
            await turns.wait()
            seen.append(name)
            now += 1.0  # longer than one turn

    async def light() -> None:
        while len(seen) < 9:
            seen_before = len(seen)
            await asyncio.sleep(0)
            assert len(seen) <= seen_before + 1

    leaving = asyncio.create_task(filling("gone"))
    async with asyncio.TaskGroup() as group:
        group.create_task(light())
        for name in "abc":
            group.create_task(filling(name))
        await asyncio.sleep(0)
        leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    done = [name for name in seen if name != "gone"]
    assert sorted(done) == sorted("abc" * 3)
    assert done[:3] == ["a", "b", "c"]


async def test_short_work_shares_a_turn():
    turns = Turns(lambda: 0.0)
    for _ in range(5):
        with pytest.raises(StopIteration):  # a coroutine that never waited
            turns.wait().send(None)


# ---- without each check


def unchecked_answers(self: Piece, rows: Any) -> Any:
    return self._y[: np.count_nonzero(rows >= 0)], self._states[: np.count_nonzero(rows >= 0)]


def whoever_owns_it(self: Piece) -> Any:
    table = self.model.table
    rows = table.rows_of(self.numbers)
    rows[self.seq != table.last_seq[rows] + np.uint64(1)] = -1
    return rows


def however_far(self: Piece) -> Any:
    rows = self.model.table.rows_of(self.numbers)
    rows[self.model.table.epoch[rows] != self.epochs] = -1
    return rows


async def the_same_stream_twice(tmp_path: Path) -> None:
    """Two concurrent steps of one owner, which no call makes: the second piece must find that it is out of date."""
    async with held_model(tmp_path) as (service, model, [a, _, _], held, noted):
        both = [asyncio.create_task(packed(service, model, [a], 3.0)) for _ in range(2)]
        await held.under_way()
        held.let_go()
        first, second = await asyncio.gather(*both)
        assert (len(first.stepped.at), len(second.stepped.at)) == (1, 0)
        note_wave(noted, [a], first, 2)
        await agrees(service, noted, tmp_path)


async def test_a_tick_that_was_taken_while_it_waited_is_not_taken_again(tmp_path):
    await the_same_stream_twice(tmp_path)


MUTANTS: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "another version": (
        "answers", unchecked_answers,
        lambda path: test_a_swap_during_a_step_answers_its_ticks_by_the_new_version(path, "publish", "packed"),
    ),
    "another state": ("answers", unchecked_answers, test_a_reset_during_a_step_of_its_stream_is_kept),
    "another owner": (
        "rows", whoever_owns_it,
        lambda path: test_a_stream_that_is_anothers_after_the_step_has_not_ticked(path, take_over, "single"),
    ),
    "another place": ("rows", however_far, the_same_stream_twice),
}  # fmt: skip


@pytest.mark.parametrize("check", MUTANTS)
async def test_without_a_check_of_what_has_changed_it_is_noticed(tmp_path, monkeypatch, check):
    attribute, instead, scenario = MUTANTS[check]
    monkeypatch.setattr(Piece, attribute, instead)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await scenario(tmp_path)
