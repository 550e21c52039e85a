"""Many streams of one model, packed: for gateways and other programs with thousands of entities.

Here are the steps, and which call serves which stream; the calls are in leg.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from freshet import forks, shown
from freshet.batch import Batch
from freshet.bindings import ADRIFT, Bindings
from freshet.calls import Opener
from freshet.errors import FreshetError, NotOpen, StateLost, StreamClosed, Unavailable
from freshet.leg import Leg, Shared, Way
from freshet.offsets import of_channels
from freshet.packed import Packed, Ticks, Unconfirmed, Wave
from freshet.precision import Watch
from freshet.results import Model
from freshet.retry import Backoff
from freshet.search import MOST_MOVES
from freshet.waits import Waits

NAMED = 5  # at most this many streams, or nodes, are named in a message


@dataclass(slots=True, eq=False)
class Turn:
    """A step under way. ids: its streams."""

    ids: list[str]


class Mux:
    """Streams of one model, packed. Made by `Client.mux`; open it with `async with`. For use in one event loop.

    It reconnects by itself and sends again the ticks that a crashed server had not yet written to disk. Calls of `step`
    take turns: each is answered before the next is sent. Streams that are on several nodes have a call to each, and a
    step waits only for the nodes of its own streams.
    """

    # One task reads a call and another writes it. A step only waits, so it may be cancelled at any moment.

    def __init__(
        self,
        opener: Callable[[], Opener[Any]],
        model: Callable[[], Any],
        name: str,
        give_up_s: float,
        close_s: float,
        answer_s: float,
        accept_lost: bool = False,
        offset: Any = None,
    ) -> None:
        self._opener, self._get_model, self._name = opener, model, name
        self._give_up_s, self._close_s, self._accept_lost = give_up_s, close_s, accept_lost
        self._waits, self._bindings, self._sent = Waits(give_up_s, self._check), Bindings(), Unconfirmed()
        self._shared = Shared(name, self._bindings, self._sent, self._waits, answer_s, {}, self._moved, self._reached)
        self._given_offset = offset  # as `offsets.checked` gives it
        self._turns: deque[Turn] = deque()  # steps under way, in the order of their turns
        self._legs: dict[int, Leg] = {}  # a call to each node that has some of the streams, by number
        self._home = self._add_leg()  # new streams are first asked for here
        self._error: Exception | None = None
        self._opened = self._closing = False
        self._runners: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        state = shown.state(
            opened=self._opened, connected=all(leg.ready for leg in self._legs.values()),
            welcomed=any(leg.was_open for leg in self._legs.values()), closing=self._closing, error=self._error,
        )  # fmt: skip
        streams = shown.count(len(self._bindings.handle), "stream")
        unconfirmed = f"{shown.count(len(self._sent.waves), 'message')} not on disk"
        return shown.handle(f"Mux of model {self._name!r}", state, streams, unconfirmed)

    async def open(self) -> Self:
        """Look up the model and start. `async with` calls it. Raises NotFound, Unavailable …"""
        forks.check()
        if self._opened or self._closing:
            raise StreamClosed("this Mux was opened before; make another with client.mux(…)")
        model: Model = await self._get_model()
        self.spec = model.spec
        self._offset = of_channels(self._given_offset, self.spec.channels)
        self._watch = Watch(self.spec.channels)  # by handle
        self._opened = True
        self._start(self._home)
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait, at most `close_s`, until the answered ticks are on disk; then end the call. Safe to repeat."""
        if self._closing or forks.forked():
            return
        self._closing = True
        if not self._opened:
            return
        try:
            with contextlib.suppress(TimeoutError, FreshetError):
                async with asyncio.timeout(self._close_s):
                    await self._waits.until(lambda: not self._sent.waves)
        finally:
            runners = list(self._runners)
            self._fail(StreamClosed("this Mux is closed"))
            for runner in runners:
                runner.cancel()
            await asyncio.gather(*runners, return_exceptions=True)

    # --- for the user

    async def step(
        self,
        streams: Sequence[str],
        x: Any,
        time: Any = None,
        *,
        offset: Any = None,
        known: Any = None,
        static: Any = None,
    ) -> Packed:
        """Send one tick of each of n streams and return all their forecasts.

        streams: n ids; an integer stands for its digits. An id may occur several times; its ticks are in that order.
            The server creates streams with new ids and takes over those open elsewhere.
        x: [n, channels] array-like ((n,) for one channel), or a frame, whose columns are matched to the channels by
            name.
        time: one for all, or n: seconds since 1970-01-01 UTC, datetime or datetime64; required if the model has an
            interval.
        offset: in the shapes of x; subtracted from each row in float64 and added to its forecasts, instead of the Mux's
            own offset. Keep it the same for a stream.
        known: the model's known inputs for the steps that are forecast: a mapping from each name to [n, horizon], or an
            array [n, horizon, known].
        static: the model's static inputs by name, a number for all streams or n; new streams need them.

        Refused ticks, and values that cannot be an id, are in `Packed.refused`; the other rows are answered. Cancelling
        does not withdraw sent ticks. Raises InvalidArgument for wrong shapes and names; StateLost, once for each stream
        whose state the server has lost (the next step continues from the server's state); the error that ended the Mux;
        Unavailable after `give_up_s` without any answer.
        """
        self._check()
        if self._closing:
            raise StreamClosed("this Mux is closed")
        batch = Batch.of(self.spec, streams, x, time, offset, self._offset, known, static)
        turn = Turn(batch.ids)
        self._turns.append(turn)
        try:
            if len(self._legs) > 1:  # new streams find their nodes before their turn, which depends on these
                self._want(batch)
            await self._until(lambda: self._is_next(turn), turn, "the answers to an earlier step")
            await self._bind(batch, turn)
            self._raise_lost(self._bindings.lost.keys() & set(batch.ids))
            self._watch.grow(self._bindings.size)
            batch.watch(self._watch, self._bindings.handle)
            waves = batch.waves(self._bindings.handle, self._bindings.next)
            self._send(waves)  # no await since the streams were bound
            await self._until(
                lambda: all(wave.done for wave in waves), turn, f"the forecasts of {len(batch.ids)} ticks"
            )
        finally:
            self._turns.remove(turn)
            self._waits.notify()
        packed = batch.packed(waves)
        self._raise_lost({batch.id(i) for i, error in packed.refused.items() if isinstance(error, StateLost)}, packed)
        return packed

    @property
    def streams(self) -> list[str]:
        """Ids of the streams stepped so far, in the order of their first ticks."""
        return list(self._bindings.handle)

    @property
    def addresses(self) -> list[str]:
        """Addresses of the nodes that serve the streams, in no particular order; one if all are at one."""
        return [leg.open_call.address for leg in self._legs.values() if leg.was_open]

    # --- inside

    def _is_next(self, turn: Turn) -> bool:
        """Whether a step may be sent: what was sent before it to the nodes of its streams is answered."""
        if len(self._legs) == 1 and not self._bindings.adrift:
            return self._turns[0] is turn and self._sent.answered
        mine = self._legs_of(turn)
        for earlier in itertools.takewhile(lambda one: one is not turn, self._turns):
            if not mine.isdisjoint(self._legs_of(earlier)):
                return False
        return not self._sent.owes(np.isin(self._bindings.leg, list(mine)))

    def _legs_of(self, turn: Turn) -> set[int]:
        return self._bindings.legs_of(turn.ids, self._home.number)

    def _is_bound(self, ids: Sequence[str], turn: Turn) -> bool:
        if len(self._legs) == 1:
            return self._home.ready and self._bindings.bound_or_refused(ids)
        found = self._legs_of(turn) - {ADRIFT}
        return all(self._legs[leg].ready for leg in found) and self._bindings.bound_or_refused(ids)

    def _want(self, batch: Batch) -> None:
        """Request the streams of a step."""
        batch.refuse(self._bindings.remember(batch.statics))
        self._bindings.want(batch.ids, self._home.number)
        self._sent.grow(self._bindings.size)
        self._waits.notify()

    async def _bind(self, batch: Batch, turn: Turn) -> None:
        """Wait until every stream of the batch is bound in its call, or refused."""
        self._want(batch)
        ids = batch.ids
        await self._until(lambda: self._is_bound(ids, turn), turn, f"{len(ids)} streams to be bound")
        batch.refuse(self._bindings.refused)

    def _send(self, waves: Sequence[Wave]) -> None:
        self._sent.waves.extend(waves)
        for wave in waves:
            if len(self._legs) == 1:
                self._home.outgoing.append(Ticks(wave))
                continue
            legs = self._bindings.leg[wave.handle]
            for number in np.unique(legs).tolist():
                self._legs[number].outgoing.append(Ticks(wave, np.flatnonzero(legs == number)))
        self._waits.notify()

    def _raise_lost(self, ids: set[str], packed: Packed | None = None) -> None:
        """Report lost states, once for each stream."""
        why = {id: self._bindings.lost.pop(id, "") for id in sorted(ids)}
        if why and not self._accept_lost:
            names = ", ".join(map(repr, list(why)[:NAMED])) + (" …" if len(why) > NAMED else "")
            error = StateLost(
                f"the server has lost the state of {len(why)} streams, {names}: {next(iter(why.values()))}; step them "
                "again to continue from the server's state, or make the Mux with accept_lost=True"
            )
            error.streams, error.packed = tuple(why), packed
            raise error

    def _check(self) -> None:
        forks.check()
        if self._error is not None:
            raise self._error
        if not self._opened:
            raise NotOpen("Mux", "client.mux(…) as mux")

    async def _until(self, done: Callable[[], bool], turn: Turn, what: str) -> None:
        """Wait for answers of the nodes of a step. If none arrives for `give_up_s`, the Mux fails."""
        try:
            await self._waits.until(done, (what, lambda: self._progress(turn)))
        except Unavailable as error:
            if self._error is None:
                error.args = (f"{error}; {self._waiting()}",)
            self._fail(error)
            raise

    def _waiting(self) -> str:
        """Return what waits in each call, for the error of a step that waited for too long."""
        adrift = len(self._bindings.adrift)
        pausing = [f"{shown.count(adrift, 'stream')} between two nodes"] if adrift else []
        return "; ".join([*map(repr, list(self._legs.values())[:NAMED]), *pausing])

    def _progress(self, turn: Turn) -> object:
        if len(self._legs) == 1:
            return self._home.progress
        return sorted((leg, self._legs[leg].progress) for leg in self._legs_of(turn) if leg in self._legs)

    def _fail(self, error: Exception) -> None:
        """End the Mux and wake every waiter. Only the first error counts."""
        if self._error is None:
            self._error = error
            for runner in self._runners:
                runner.cancel()
        self._waits.notify()

    # --- calls

    def _add_leg(self) -> Leg:
        """Start calling for streams that are to come."""
        leg = Leg(self._shared, self._bindings.add_leg(), self._opener(), Backoff(self._give_up_s, random.Random()))
        self._legs[leg.number] = leg
        return leg

    def _start(self, leg: Leg) -> None:
        task = asyncio.create_task(self._run(leg))
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)

    async def _run(self, leg: Leg) -> None:
        try:
            await leg.run()
        except Exception as error:
            self._fail(error)
        finally:
            if leg.closed:  # not before: until it has ended, its writer takes what is to be bound under its number
                self._bindings.drop_leg(leg.number)

    def _leg_at(self, address: str) -> Leg:
        """Return the call to a node, a new one if there is none."""
        for leg in self._legs.values():
            if leg.open_call.heading == address:
                return leg
        leg = self._add_leg()
        leg.open_call.aim(address)
        self._start(leg)
        return leg

    def _moved(self, leg: Leg, handle: int, address: str) -> None:
        """Bind a stream at the node that another one has named; after a pause if it was sent there before.

        Raises Unavailable if it was bound nowhere for `give_up_s`; InvalidArgument if that is no address.
        """
        way = self._shared.ways.setdefault(handle, Way(Backoff(self._give_up_s, random.Random())))
        loop, id = asyncio.get_running_loop(), self._bindings.id(handle)
        wait = way.backoff.failed(loop.time(), at_once=address not in way.named and len(way.named) < MOST_MOVES)
        way.named[leg.open_call.address] = address
        if wait != 0.0:
            said = "; ".join(f"{one}: it is at {other}" for one, other in list(way.named.items())[-NAMED:])
            self._waits.last_call = f"no node has bound stream {id!r}: {said}"
        if wait is None:
            raise Unavailable(f"no success for {self._give_up_s:g} s: {self._waits.last_call}")
        if wait:
            self._bindings.assign(handle, ADRIFT)
            loop.call_later(wait, self._land, handle, id, address)
        else:
            self._give(handle, address)

    def _land(self, handle: int, id: str, address: str) -> None:
        if not self._closing and self._error is None and self._bindings.handle.get(id) == handle:
            try:
                self._give(handle, address)
            except FreshetError as error:
                self._fail(error)
            self._waits.notify()

    def _give(self, handle: int, address: str) -> None:
        """Give a stream to the call to this node, and end other calls that have none left."""
        to = self._leg_at(address)
        to.take(handle)
        to.turn_back()
        for leg in [one for one in self._legs.values() if one is not to and not self._bindings.streams_of(one.number)]:
            self._retire(leg, to)

    def _retire(self, leg: Leg, to: Leg) -> None:
        """End a call without streams; new streams are first asked for in another one."""
        if self._home is leg:
            self._home = to
        del self._legs[leg.number]
        leg.close()

    def _reached(self, leg: Leg) -> bool:
        """Whether there is a call to this one's node already; it then gets the streams of this one."""
        address = leg.open_call.address
        other = next((one for one in self._legs.values() if one is not leg and one.open_call.address == address), None)
        if other is None:
            return False
        for handle in self._bindings.handles_of(leg.number):
            other.take(handle)
        self._retire(leg, other)
        self._waits.notify()
        return True
