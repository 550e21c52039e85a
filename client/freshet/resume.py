"""What to send next, and what to send again: the client's half of the step protocol, without any I/O.

Every tick sent on a call is answered on it, in order, by one Forecast or one Refused. The server takes ticks at once
and writes them to disk a little later; a crash takes it back to a seq that is at least the durable one. So the client
keeps each tick until it is both answered (to the user) and durable (on the server's disk):

    base … answered      answered, not yet durable: sent again if the server lost it, the second answer is dropped
    answered+1 … next-1  not answered: sent (again) after a reconnect, answered from the server's ring or anew

A tick that the server refuses leaves the state untouched and its number free, so every later tick on the wire comes
back refused as a gap: those answers are ignored, the refused tick is dropped, the later ones move up by one.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from freshet.errors import FreshetError, Reason, StateLost, TakenOver

P = TypeVar("P")


class ProtocolError(FreshetError):
    """The server answered what was not asked."""


@dataclass(slots=True, eq=False)
class Entry(Generic[P]):
    """A kept tick. `seq` changes when an earlier one is refused; `max_staleness` None: send without waiting."""

    seq: int
    payload: P
    max_staleness: int | None = None
    sent: bool = False


class Reset(enum.Enum):
    """Stands for a Reset message among the ticks to send."""

    RESET = "reset"


RESET: Final = Reset.RESET


class Action(enum.Enum):
    """What a refusal means."""

    IGNORE = enum.auto()  # the echo of an earlier refusal
    DROP = enum.auto()  # this tick is refused; the ones behind it go out again, renumbered
    LOST = enum.auto()  # taken before, its answer is gone: the stream has advanced
    HOLD = enum.auto()  # overloaded: goes out again after the next Durable, or `release`
    FAIL = enum.auto()  # client and server disagree about the stream


class Outbox(Generic[P]):
    """The ticks of one stream between user, wire and disk. in_flight: bound on unanswered ticks on the wire."""

    def __init__(self, in_flight: int) -> None:
        self.base = self.next_seq = 1
        self.answered = self.durable = self.judged = 0
        self._in_flight = in_flight
        self._entries: deque[Entry[P]] = deque()  # base … next_seq-1
        self._resets: dict[int, bool] = {}  # a Reset before tick k; True: sent on this call
        self._welcomed = self._connected = self._held = False
        self._cursor = self._server_next = 1
        self._max_undurable = 0
        self._wire: deque[int] = deque()  # seqs sent on this call and not answered on it, oldest first
        self._echoes = 0  # so many of the oldest on the wire were sent behind a refused tick

    # --- what the user adds

    def append(self, payload: P, max_staleness: int | None = None) -> Entry[P]:
        """Take one more tick. It is sent once judged >= seq - max_staleness."""
        entry = Entry(self.next_seq, payload, max_staleness)
        self._entries.append(entry)
        self.next_seq += 1
        return entry

    def reset(self) -> None:
        """Put a Reset between the ticks so far and the next one."""
        self._resets.setdefault(self.next_seq, False)

    def discard_unsent(self) -> list[P]:
        """Forget the ticks that were never on any wire; returns them, oldest first."""
        dropped: list[P] = []
        while self._entries and not self._entries[-1].sent:
            dropped.append(self._entries.pop().payload)
            self.next_seq -= 1
        self._resets = {seq: sent for seq, sent in self._resets.items() if seq <= self.next_seq}
        return dropped[::-1]

    # --- what goes out

    def next_to_send(self) -> Entry[P] | Reset | None:
        """The next thing to send now, counted as sent; None: nothing, or nothing yet."""
        if not self._connected or self._held:
            return None
        seq = self._cursor
        if self._reset_due(seq):
            if self._wire:  # a refusal now would move ticks from behind the Reset to before it
                return None
            self._resets[seq] = True
            return RESET
        if seq >= self.next_seq or len(self._wire) >= self._in_flight:
            return None
        if self._max_undurable and seq > self.durable + self._max_undurable:
            return None
        entry = self._entries[seq - self.base]
        if entry.max_staleness is not None and seq > self.answered and self.judged < seq - entry.max_staleness:
            return None
        entry.sent = True
        self._wire.append(seq)
        self._cursor = seq + 1
        return entry

    def _reset_due(self, seq: int) -> bool:
        return seq >= self._server_next and not self._resets.get(seq, True)

    # --- what comes in

    def welcome(self, next_seq: int, durable_seq: int, judged: int, max_undurable: int) -> None:
        """A call is open; the server wants `next_seq`. Raises StateLost, TakenOver: nothing sensible can be sent."""
        if not self._welcomed:
            self.base = self.next_seq = next_seq
            self.answered = next_seq - 1
            self._welcomed = True
        elif next_seq < self.base:
            raise StateLost(
                f"the server asks for tick {next_seq}, ticks before {self.base} were on disk and are no longer kept; "
                "open the stream again to go on from the server's state"
            )
        elif next_seq > self.next_seq:
            raise TakenOver(
                f"the server asks for tick {next_seq}, this client has sent up to {self.next_seq - 1}: "
                "another client has advanced the stream"
            )
        self.durable, self.judged, self._max_undurable = durable_seq, judged, max_undurable
        self._cursor = min(self.answered + 1, next_seq)
        self._server_next = next_seq
        self._resets = dict.fromkeys(self._resets, False)
        self._connected = True
        self._trim()

    def disconnected(self) -> None:
        """The call is over; nothing on its wire will be answered on it."""
        self._connected = self._held = False
        self._wire.clear()
        self._echoes = 0

    def forecast(self, seq: int, judged: int) -> P | None:
        """An answer came: the tick it is for, or None where that tick was answered before."""
        if self._pop(seq):
            raise ProtocolError(f"the server took tick {seq} after refusing one before it")
        self.judged = max(self.judged, judged)
        return self._answer(seq)

    def refused(self, seq: int, reason: Reason) -> tuple[Action, P | None]:
        """A tick was refused: what that means, and the tick (LOST, DROP and FAIL, where it is not answered yet)."""
        if self._pop(seq):
            return Action.IGNORE, None
        if reason is Reason.ANSWER_LOST:
            return Action.LOST, self._answer(seq)
        self._echoes = len(self._wire)
        if reason is Reason.OVERLOADED:
            self._cursor, self._held = seq, True
            return Action.HOLD, None
        if seq <= self.answered:
            return Action.FAIL, None
        if reason in (Reason.GAP, Reason.CONFLICT):
            return Action.FAIL, self._entries[seq - self.base].payload
        return Action.DROP, self._drop(seq)

    def durable_through(self, seq: int, judged: int) -> None:
        """Ticks up to seq are on disk, labels up to `judged` are judged."""
        if seq > self.durable:
            self.durable = seq
            self._held = False
            self._trim()
        self.judged = max(self.judged, judged)

    def release(self) -> None:
        """Try an overloaded server again without waiting for Durable."""
        self._held = False

    # --- what is true now

    @property
    def connected(self) -> bool:
        """Whether a call is open and welcomed."""
        return self._connected

    @property
    def owes(self) -> bool:
        """Whether a tick has no answer."""
        return self.answered + 1 < self.next_seq

    @property
    def wants(self) -> str:
        """What the oldest tick without an answer waits for, in words."""
        seq = self.answered + 1
        staleness = self._entries[seq - self.base].max_staleness
        if not self._connected:
            return f"a call that takes tick {seq}"
        if seq < self._cursor or self._held:
            return f"the answer to tick {seq}"
        if staleness is not None and self.judged < seq - staleness:
            return f"labels up to {seq - staleness} to be judged (max_staleness), {self.judged} are"
        if self._max_undurable and seq > self.durable + self._max_undurable:
            return f"tick {seq - self._max_undurable} to reach the server's disk, {self.durable} has"
        return f"the answer to tick {seq}"

    @property
    def known_before(self) -> int:
        """Ticks below this seq are answered, and the server has them or is sent them on this call: label those."""
        return min(self.answered + 1, self._cursor) if self._connected else 0

    @property
    def on_wire(self) -> int:
        """Ticks sent on this call and not answered on it."""
        return len(self._wire)

    @property
    def reset_waiting(self) -> bool:
        """Whether a Reset has yet to be sent."""
        return any(self._reset_due(seq) and seq >= self._cursor for seq in self._resets)

    @property
    def waiting(self) -> bool:
        """Whether anything has yet to be sent, now or later."""
        return self._cursor < self.next_seq or bool(self._resets and self.reset_waiting)

    @property
    def quiet(self) -> bool:
        """Whether a call is open on which everything is sent and answered."""
        return self._connected and not self._wire and not self.waiting

    def unanswered(self) -> Iterator[P]:
        """The ticks that the user still waits for, oldest first."""
        return (entry.payload for entry in self._entries if entry.seq > self.answered)

    # --- inside

    def _pop(self, seq: int) -> bool:
        """Match an answer with the oldest tick on the wire; True: it is an echo of a refusal."""
        if not self._wire or self._wire[0] != seq:
            raise ProtocolError(f"the server answered tick {seq}, on the wire are {list(self._wire)[:3]} …")
        self._wire.popleft()
        echo = self._echoes > 0
        self._echoes -= echo
        return echo

    def _answer(self, seq: int) -> P | None:
        if seq <= self.answered:
            return None
        payload = self._entries[seq - self.base].payload
        self.answered = seq
        self._trim()
        return payload

    def _drop(self, seq: int) -> P:
        payload = self._entries[seq - self.base].payload
        del self._entries[seq - self.base]
        for number, entry in enumerate(self._entries, self.base):
            entry.seq = number
        self.next_seq -= 1
        self._cursor = seq
        # Two Resets with only the refused tick between them become one.
        self._resets = {at - (at > seq): sent for at, sent in self._resets.items()}
        return payload

    def _trim(self) -> None:
        """Forget what is both answered and durable."""
        keep_from = min(self.answered, self.durable) + 1
        while self._entries and self.base < keep_from:
            self._entries.popleft()
            self.base += 1
        if not self._entries:
            self.base = self.next_seq
        if self._resets:
            self._resets = {seq: sent for seq, sent in self._resets.items() if seq > self.durable}
