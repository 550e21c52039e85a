"""Ticks of one stream that come together have the outcomes that each would have alone, bit for bit."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.common import limits
from service.common.errors import Refusal, Unavailable
from service.journal.writer import JournalFailed
from service.serving import stepping, waves
from service.serving.admission import Admission
from service.serving.ticks import Fenced, Tick
from service.serving.waves import Answered
from service.streams.answers import Answer
from service.streams.runs import Run, advance_run, step_runs
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import StreamTable
from tests import memory
from tests.conftest import examples
from tests.service.one_process import World, world

STATIC = 2.0
SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "timed, with intervals": {"channels": ["a", "b"], "interval": 60.0, "horizon": 3, "intervals": [0.5, 0.9]},
    "holds": {"channels": ["a", "b"], "missing": "hold"},
    "known, static, categories": {"known": ["k"], "static": ["s"], "categories": ["k:3"], "horizon": 2},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ample": {},
    "few undurable": {"max_undurable": 7},
    "slow stream": {"stream_ticks_per_s": 6.0},
    "slow server": {"ticks_per_s": 9.0},
}
BEGUN = 1.7e9  # event time of tick 0, seconds
BAD_VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "huge": 2e15, "large": 0.9e15}
BAD_TIMES = {"no time": math.nan, "time inf": math.inf, "time back": 0.0, "time ahead": 1e12, "time -inf": -math.inf}
KINDS = st.sampled_from(["good"] * 30 + ["other", "no category", "time same", *BAD_VALUES, *BAD_TIMES])


class Sent(NamedTuple):
    """One message: the seq of its first tick, relative to the stream's next, and the kind of each tick."""

    ahead: int
    kinds: list[str]


MESSAGES = st.lists(
    st.builds(Sent, st.sampled_from([0] * 8 + [-1, -3, -9, 1, 40]), st.lists(KINDS, min_size=1, max_size=40)),
    min_size=1,
    max_size=4,
)


def columns(model: ServedModel, first: int, kinds: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return times (n,) and rows [n, row]: the same for the same seq and kind."""
    network, times, rows = model.network, [], []
    for seq, kind in enumerate(kinds, first):
        row = np.random.default_rng([seq % 2**32, kind == "other"]).normal(size=network.row).astype(np.float32)
        if own := network.covariates.sent:
            row[-own:] = [seq % 3, (seq + 1) % 3, STATIC]
            row[-own] = 7.0 if kind == "no category" else row[-own]
        row[len(model.spec.channels) - 1] = BAD_VALUES.get(kind, row[len(model.spec.channels) - 1])
        time = BEGUN + 60.0 * (seq - (kind == "time same"))
        times.append(BAD_TIMES.get(kind, time if model.spec.interval else math.nan))
        rows.append(row)
    return np.array(times), np.array(rows)


async def alone(service: World, model: ServedModel, session: Session, first: int, kinds: list[str]) -> list[Any]:
    """The oracle: send each tick by itself."""
    time, x = columns(model, first, kinds)
    ticks = (Tick(model, session, session.epoch, first + i, float(time[i]), x[i], 0.0) for i in range(len(kinds)))
    return [await service.serving.ticks.answer(tick) for tick in ticks]


async def together(service: World, model: ServedModel, session: Session, first: int, kinds: list[str]) -> list[Any]:
    """Send all ticks at once, and return their outcomes in the form of `alone`."""
    time, x = columns(model, first, kinds)
    answered = await service.serving.runs.answer(model, session, session.epoch, first, time, x, 0.0)
    return outcomes(answered, first, time, x)


def outcomes(answered: Answered, first: int, time: NDArray[np.float64], x: NDArray[np.float32]) -> list[Any]:
    refused = {refusal.seq: refusal for refusal in answered.refused}
    assert list(refused) == sorted(refused), "refusals are in the order of seq"
    y, version, judged = iter(answered.y), iter(answered.version.tolist()), iter(answered.judged.tolist())
    found = [
        refused.get(first + i)
        or Answer(first + i, float(time[i]), x[i].tobytes(), next(y).tobytes(), next(version), next(judged))
        for i in range(len(x))
    ]
    assert next(y, None) is None
    return found


def same(outcome: Answer | Refusal) -> str:
    """Text that differs if any field does; NaN equals itself."""
    return repr(outcome)


def stands(service: World, model: ServedModel, session: Session) -> dict[str, Any]:
    """Everything that serving keeps of a stream, but for the clock's."""
    table, row = model.table, session.row
    kept = {name: getattr(table, name)[row].tobytes() for name in COLUMNS}
    kept |= {"answers": [same(answer) for answer in session.answers]}
    return kept | {"journal": service.server.journal.offset(model.number), "log": model.log.end}


COLUMNS = [
    name for name, column in vars(StreamTable(1)).items() if isinstance(column, np.ndarray) and name != "touched"
]


class Twins:
    """Two servers with the same model: one gets each tick alone, the other all of a message together."""

    def __init__(self, spec: dict[str, Any], limited: dict[str, Any]) -> None:
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self.clock, self._streams = 1000.0, 0  # seconds
        self.each = [self._runner.run(self._one(spec, limited)) for _ in range(2)]

    async def _one(self, spec: dict[str, Any], limited: dict[str, Any]) -> tuple[World, ServedModel]:
        """A server that commits nothing any more, and whose clock stands still: only the ticks decide."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(dir=memory.folder()))
        service = await self._stack.enter_async_context(world(Path(folder), **limited))
        model = await service.model(seed=5, **spec)
        await service.serving.champions.bring(model)
        service.server.journal.pace_s = 1e9
        service.open(model, "the last that is committed")
        await service.server.journal.flush()
        service.clock, service.wall = lambda: self.clock, lambda: BEGUN + 1e6
        return service, model

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def compare(self, messages: list[Sent]) -> set[str]:
        """Send the messages to a new stream of each server. Returns the kinds of outcomes."""
        self._streams += 1
        self.clock += 1000.0  # all rates have recovered
        return self._runner.run(self._compare(f"s{self._streams}", messages))

    async def _compare(self, id: str, messages: list[Sent]) -> set[str]:
        one, two = [(service, model, service.open(model, id)) for service, model in self.each]
        kinds: set[str] = set()
        for message in messages:
            first = max(one[2].last_seq + 1 + message.ahead, 0)
            expected = await alone(*one, first, message.kinds)
            found = await together(*two, first, message.kinds)
            assert list(map(same, found)) == list(map(same, expected))
            kinds |= {"answer" if isinstance(outcome, Answer) else outcome.reason.name for outcome in expected}
        assert stands(*two) == stands(*one)
        return kinds


@pytest.fixture(scope="module", params=SPECS)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SPECS[request.param]


@pytest.fixture(scope="module", params=SETTINGS)
def twins(request: pytest.FixtureRequest, spec: dict[str, Any]) -> Iterator[Twins]:
    found = Twins(spec, SETTINGS[request.param])
    yield found
    found.close()


@examples(50)
@given(messages=MESSAGES)
def test_ticks_that_come_together_have_the_outcomes_of_single_ticks(twins, messages):
    for kind in sorted(twins.compare(messages)):
        event(kind)


EVERYTHING = [
    Sent(0, ["good"] * 20),
    Sent(-3, ["good"] * 5 + ["nan", "good"]),
    Sent(0, ["time same", "good"]),
    Sent(0, ["good"] * 3),
]


def forgets_the_state(model: ServedModel, session: Any, runs: list[Run]) -> Any:
    stream, seq, time, x = runs[0]
    parts = [Run(stream, seq[i : i + 1], time[i : i + 1], x[i : i + 1]) for i in range(len(x))]
    each = [step_runs(model, session, [part])[0] for part in parts]
    return [(np.concatenate([y for y, _ in each]), each[-1][1])]


def forgets_the_time(model: ServedModel, run: Run, *rest: Any) -> int:
    return advance_run(model, run._replace(time=np.full(len(run.time), math.nan)), *rest)


def loses_an_answer(model: ServedModel, run: Run, *rest: Any) -> int:
    judged = advance_run(model, run, *rest)
    model.table.newest[run.session.row] -= 1
    return judged


@pytest.mark.parametrize(
    ("place", "mutant"),
    [("step_runs", forgets_the_state), ("advance_run", forgets_the_time), ("advance_run", loses_an_answer)],
    ids=lambda mutant: getattr(mutant, "__name__", None),
)
def test_a_run_that_differs_from_single_ticks_would_be_noticed(monkeypatch, place, mutant):
    twins = Twins(SPECS["timed, with intervals"], {})
    try:
        twins.compare(EVERYTHING)
        monkeypatch.setattr(stepping, place, mutant)
        with pytest.raises(AssertionError):
            twins.compare(EVERYTHING)
    finally:
        twins.close()


def test_ticks_that_are_not_looked_at_would_be_noticed(monkeypatch):
    twins = Twins(SPECS["plain"], {})
    try:
        monkeypatch.setattr(Admission, "sound_run", lambda *_: 1)
        with pytest.raises(AssertionError):
            twins.compare([Sent(0, ["good", "nan"])])
    finally:
        twins.close()


@pytest.mark.parametrize("most", [1, 3])
def test_ticks_of_several_turns_have_the_same_outcomes(monkeypatch, most):
    monkeypatch.setattr(waves, "RUN_STEPS", most)
    twins = Twins(SPECS["timed, with intervals"], {})
    twins.compare(EVERYTHING)
    twins.close()


@pytest.mark.parametrize("turn", ["on the loop", "beside it"])
def test_ticks_of_a_large_model_have_the_same_outcomes(monkeypatch, turn):
    monkeypatch.setattr(limits, "MAX_LONE_WORK", 1)
    if turn == "beside it":
        monkeypatch.setattr(limits, "MAX_TURN_WORK", 1)
    twins = Twins(SPECS["timed, with intervals"], {})
    twins.compare(EVERYTHING)
    twins.close()


async def test_a_swap_between_messages_leaves_earlier_answers_as_they_were(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")
        before = await together(service, model, session, 1, ["good"] * 6)
        await service.server.journal.flush()
        await service.publish(model, seed=1)

        after = await together(service, model, session, 3, ["good"] * 6)

        assert list(map(same, after[:4])) == list(map(same, before[2:]))
        assert [answer.version for answer in after] == [1] * 4 + [2] * 2
        assert [answer.judged_through for answer in after] == [0] * 4 + [6] * 2


async def test_ticks_of_a_former_owner_change_nothing(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")
        epoch = session.epoch
        service.open(model, "s")  # another call takes the stream over

        with pytest.raises(Fenced):
            await service.serving.runs.answer(model, session, epoch, 1, np.full(3, np.nan), np.ones((3, 1), "f4"), 0.0)

        assert session.last_seq == 0


async def test_a_stream_taken_over_between_two_turns_keeps_the_ticks_before(tmp_path, monkeypatch):
    monkeypatch.setattr(waves, "RUN_STEPS", 2)
    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")
        step = stepping.Stepper.runs

        def takes_over(*given: Any) -> Any:
            stepped = step(*given)
            service.open(model, "s")
            return stepped

        monkeypatch.setattr(stepping.Stepper, "runs", takes_over)
        with pytest.raises(Fenced):
            await together(service, model, session, 1, ["good"] * 6)
        again = service.open(model, "s")

        assert again.last_seq == 2
        outcomes = await together(service, model, again, 1, ["good"] * 3)
        assert [answer.seq for answer in outcomes] == [1, 2, 3]


async def test_runs_of_several_streams_share_steps_and_each_has_its_own_outcomes(tmp_path):
    messages = [["good"] * n for n in (5, 1, 16, 9, 5, 40)]
    messages[3][4], messages[4][0], messages[5][20] = "nan", "huge", "inf"
    async with world(tmp_path) as service:
        model, other = await service.model(), await service.model("other", horizon=2)
        one, many = ([service.open(model, f"{kind}{i}") for i in range(len(messages))] for kind in ("one", "many"))
        expected = [await alone(service, model, s, 1, kinds) for s, kinds in zip(one, messages, strict=True)]
        rows = service.server.metrics.serving.batch_rows
        before: Any = rows.mark()

        found = await asyncio.gather(
            *(together(service, model, s, 1, kinds) for s, kinds in zip(many, messages, strict=True)),
            together(service, other, service.open(other, "s"), 1, ["good"] * 3),
        )

        assert [list(map(same, outcomes)) for outcomes in found[:-1]] == [list(map(same, e)) for e in expected]
        assert [session.state.tobytes() for session in many] == [session.state.tobytes() for session in one]
        after: Any = rows.mark()
        stepped = sum(session.last_seq for session in many) + 3
        assert after[1] - before[1] == stepped
        assert sum(after[0]) - sum(before[0]) < stepped, "some steps had several rows"


async def test_shadows_get_the_ticks_too(tmp_path):
    async with world(tmp_path) as service:
        model = await service.model()
        shadow = await service.model("shadow", shadow="flow")
        session, journal = service.open(model, "s"), service.server.journal
        had = journal.offset(shadow.number)

        await together(service, model, session, 1, ["good"] * 5)

        assert journal.offset(shadow.number) == had + 5


async def test_nothing_is_answered_once_the_journal_has_failed(tmp_path, monkeypatch):
    def fails(*_: object) -> int:
        raise JournalFailed("a test's")

    async with world(tmp_path) as service:
        model = await service.model()
        session = service.open(model, "s")
        with monkeypatch.context() as failing:
            failing.setattr(service.server.journal, "append", fails)
            with pytest.raises(Unavailable, match="journal"):
                await together(service, model, session, 1, ["good"] * 5)

        assert session.last_seq == 0
