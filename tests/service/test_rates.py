"""Rates of a stream and of the server: exactly as many ticks per second as allowed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.spec import ModelSpec
from service.access.grants import Access, Quota
from service.access.rates import BURST_S, Rate
from service.common.errors import Reason, Refusal
from service.common.names import ModelKey
from service.serving.live import LivePath
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from tests.service.one_process import World, world
from tests.service.test_serving import next_tick

RATES = st.sampled_from([0.25, 1.0, 3.0, 10.0, 1000.0])
PAUSES = st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 7.0]), min_size=1, max_size=200)
ROUNDING = 1e-5  # tokens: `ROUNDING_S` at the highest rate here, and the rounding of sums of seconds


class Bucket:
    """The plain twin: a number of tokens that grows with time."""

    def __init__(self, per_s: float) -> None:
        self._per_s, self._most, self._at = per_s, max(per_s * BURST_S, 1.0), 0.0
        self.tokens = self._most

    def at(self, now: float) -> float:
        self.tokens, self._at = min(self._most, self.tokens + (now - self._at) * self._per_s), now
        return self.tokens


@given(RATES, PAUSES)
def test_a_bucket_has_a_token_whenever_the_plain_one_has(per_s, pauses):
    rate, plain, full_at, now = Rate(per_s), Bucket(per_s), 0.0, 1e5
    for pause in pauses:
        now += pause
        tokens = plain.at(now)
        whole = {math.floor(tokens - ROUNDING), math.floor(tokens + ROUNDING)}

        assert rate.tokens(full_at, now) in {max(n, 0) for n in whole}
        wait = rate.wait(full_at, now)
        assert wait == pytest.approx(max(1 - tokens, 0) / per_s, abs=ROUNDING)
        assert rate.has_token(np.array([full_at]), now) == [wait == 0]

        if wait == 0:
            assert rate.spend_each(np.array([full_at]), now) == [rate.spend(full_at, now)]
            full_at, plain.tokens = rate.spend(full_at, now), tokens - 1


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wound(service: World) -> Clock:
    """Replace the world's monotonic clock by one that the test sets."""
    clock = Clock()
    service.clock = clock
    return clock


async def taken(service: World, model: ServedModel, *sessions: Session) -> list[Answer | Refusal]:
    """Send one tick of each session, one after the other."""
    now = service.clock()
    return [await service.serving.ticks.submit(replace(next_tick(model, s), arrived=now)) for s in sessions]


async def packed(serving: LivePath, model: ServedModel, *sessions: Session) -> list[bool]:
    """Send one tick of each session in one wave; returns which were accepted. The others are refused as overloaded."""
    rows = np.array([session.row for session in sessions])
    seqs = np.array([session.last_seq + 1 for session in sessions], np.uint64)
    wave = await serving.waves.answer(
        model, rows, seqs, np.full(len(rows), np.nan), np.ones((len(rows), 1), np.float32)
    )
    refused = [outcome for outcome in wave.others.values() if isinstance(outcome, Refusal)]
    assert [(r.reason, r.retry_s > 0) for r in refused] == [(Reason.OVERLOADED, True)] * len(refused)
    assert len(refused) + len(wave.stepped.at) == len(rows)
    return [i in wave.stepped.at for i in range(len(rows))]


async def test_a_stream_beyond_its_rate_is_refused_with_a_delay_and_others_continue(tmp_path):
    async with world(tmp_path, stream_ticks_per_s=2.0) as service:
        model = await service.model()
        hasty, other = service.open(model, "hasty"), service.open(model, "other")
        clock = wound(service)

        first, second, third, another = await taken(service, model, hasty, hasty, hasty, other)

        assert isinstance(first, Answer) and isinstance(second, Answer) and isinstance(another, Answer)  # noqa: PT018
        assert isinstance(third, Refusal)
        assert third.reason is Reason.OVERLOADED
        assert third.retry_s == pytest.approx(0.5)
        assert "2 ticks per second" in third.remedy
        clock.now += third.retry_s
        assert [a.seq for a in await taken(service, model, hasty)] == [3]
        assert isinstance((await taken(service, model, hasty))[0], Refusal)


async def test_repeated_and_refused_ticks_do_not_count_against_the_rate(tmp_path):
    async with world(tmp_path, stream_ticks_per_s=2.0) as service:
        model = await service.model()
        session = service.open(model, "s")
        wound(service)
        await service.tick(model, session, 1.0)

        for _ in range(5):
            await service.tick(model, session, 1.0, seq=1)
            assert isinstance(await service.serving.ticks.submit(next_tick(model, session, np.nan)), Refusal)

        assert (await service.tick(model, session, 2.0)).seq == 2


async def test_a_packed_wave_is_answered_as_far_as_streams_and_server_have_tokens(tmp_path):
    async with world(tmp_path, stream_ticks_per_s=2.0, ticks_per_s=6.0) as service:
        model = await service.model()
        a, b, c = (service.open(model, id) for id in "abc")
        clock = wound(service)

        assert await packed(service.serving, model, a, b) == [True, True]
        assert await packed(service.serving, model, a, b) == [True, True]
        assert await packed(service.serving, model, a, b, c) == [False, False, True]  # a and b have had two each
        clock.now += 0.5  # one more for each, three more for the server, which has one left
        assert await packed(service.serving, model, a, b, c) == [True, True, True]
        assert await packed(service.serving, model, c) == [True]
        assert await packed(service.serving, model, c, a) == [False, False]  # the server has none


@pytest.mark.parametrize("jump", [-1e9, 1e9])
async def test_wall_clock_jumps_change_no_rate_and_no_idle_time(tmp_path, jump):
    async with world(tmp_path, stream_ticks_per_s=2.0, idle_s=100.0) as service:
        model = await service.model()
        session, idle = service.open(model, "s"), service.serving.opening.open(model, "idle", pinned=False)[0]
        clock = wound(service)
        await taken(service, model, session, session, idle)
        model.judge(service.server.journal.offset(model.number))
        before = service.wall()

        service.wall = lambda: before + jump
        await service.snapshot()

        assert isinstance((await taken(service, model, session))[0], Refusal)
        assert "idle" in model.table.by_id
        clock.now += 0.5
        assert isinstance((await taken(service, model, session))[0], Answer)
        clock.now += 100.0
        await service.snapshot()
        assert "idle" not in model.table.by_id


async def test_ticks_beyond_the_rate_of_work_are_refused_with_a_delay_however_they_arrive(tmp_path):
    async with world(tmp_path, work_per_s=1e6) as service:
        model = await service.model()
        a, b, c = (service.open(model, id) for id in "abc")
        clock = wound(service)
        service.serving.admission._work_rate = Rate(2.0 * model.row_work)  # two of its ticks

        assert [type(t) for t in await taken(service, model, a, b)] == [Answer, Answer]
        [over] = await taken(service, model, c)
        assert isinstance(over, Refusal)
        clock.now += over.retry_s + 1e-6  # a bucket with any tokens admits a tick, whatever it costs
        assert [type(t) for t in await taken(service, model, c)] == [Answer]
        [over] = await taken(service, model, a)
        assert isinstance(over, Refusal)
        assert over.reason is Reason.OVERLOADED
        assert over.retry_s == pytest.approx(0.5, rel=1e-2)
        assert "multiply-adds" in over.remedy
        assert await packed(service.serving, model, a, b, c) == [False, False, False]

        clock.now += over.retry_s + 1e-6
        assert await packed(service.serving, model, a, b, c) == [True, False, False]
        clock.now += 10
        assert await packed(service.serving, model, a, b, c) == [True, True, False]


async def test_work_is_limited_per_tenant_and_one_tick_may_exceed_a_second_of_it(tmp_path):
    async with world(tmp_path) as service:
        model, other = (
            await service.model(),
            await service.control.create(ModelKey("acme", "flow"), ModelSpec(channels=("x",), hidden=4)),
        )
        a, b = service.open(model, "a"), service.open(other, "b")
        clock = wound(service)
        service.server.tenants.apply(Access(quotas={"acme": Quota(work_per_s=other.row_work / 4)}))

        assert [type(t) for t in await taken(service, other, b, b)] == [Answer, Refusal]
        assert [type(t) for t in await taken(service, model, a, a)] == [Answer, Answer]
        [late] = await taken(service, other, b)
        assert isinstance(late, Refusal)
        assert late.retry_s == pytest.approx(3.0, rel=1e-2)  # four seconds of work, one of them in advance
        clock.now += late.retry_s + 1e-3
        assert await packed(service.serving, other, b) == [True]
        metric = service.server.metrics.access.quota_reached.labels("acme", "work_per_s")
        assert metric._value.get() == 2


@given(st.floats(1.0, 1e6), st.integers(1, 10**7), st.integers(1, 50), st.floats(0, 5))
def test_portions_equal_the_number_of_single_takes_allowed(per_s, cost, wanted, pause):
    rate, full_at, alone = Rate(per_s), 0.0, 0.0
    for now in (10.0, 10.0 + pause):
        let_in = 0
        while let_in < wanted and not rate.wait(alone, now):
            alone = rate.spend(alone, now, cost)
            let_in += 1
        taken = min(wanted, rate.portions(full_at, now, cost))
        full_at = rate.spend(full_at, now, cost * taken)

        assert abs(taken - let_in) <= 1  # the last token, by rounding
        alone = full_at
