"""What to send next and what to send again: the client's half of the step protocol, without I/O.

Every tick sent on a call is answered on it, in order, by one Forecast or one Refused. The server accepts ticks at once
and writes them to disk a little later; a crash takes it back to a seq at or above the durable one. So the client keeps
each tick until it is both answered (to the user) and durable (on the server's disk):

    base … answered      answered, not yet durable: sent again if the server lost it; the second answer is dropped
    answered+1 … next-1  unanswered: sent (again) after a reconnect; answered from the server's ring or computed

A refused tick leaves the state unchanged and its number free. Every later tick on the wire is then refused as a gap.
These refusals are ignored, the refused tick is dropped, and the later ones move up by one.
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
    """The server sent an answer that does not match any request."""


@dataclass(slots=True, eq=False)
class Entry(Generic[P]):
    """A kept tick. `seq` decreases when an earlier one is refused. max_staleness: None to send without waiting."""

    seq: int
    payload: P
    max_staleness: int | None = None
    sent: bool = False


class Reset(enum.Enum):
    """Stands for a Reset message among the ticks to send."""

    RESET = "reset"


RESET: Final = Reset.RESET


class Action(enum.Enum):
    """The meaning of a refusal."""

    IGNORE = enum.auto()  # the consequence of an earlier refusal
    DROP = enum.auto()  # this tick is refused; later ones are renumbered and sent again
    LOST = enum.auto()  # accepted earlier, but its answer is gone; the stream has advanced
    HOLD = enum.auto()  # overloaded: sent again after the next Durable, or `release`
    FAIL = enum.auto()  # client and server disagree about the stream


class Outbox(Generic[P]):
    """The ticks of one stream between user, wire and disk. in_flight: limit of unanswered ticks on the wire."""

    def __init__(self, in_flight: int) -> None:
        self.base = self.next_seq = 1
        self.answered = self.durable = self.judged = 0
        self._in_flight = in_flight
        self._entries: deque[Entry[P]] = deque()  # base … next_seq-1
        self._resets: dict[int, bool] = {}  # a Reset before tick k; True: sent on this call
        self._welcomed = self._connected = self._held = False
        self._cursor = self._server_next = 1
        self._max_undurable = 0
        self._wire: deque[int] = deque()  # seqs sent and not answered on this call, oldest first
        self._echoes = 0  # number of the oldest ticks on the wire that were sent after a refused one

    # --- added by the user

    def append(self, payload: P, max_staleness: int | None = None) -> Entry[P]:
        """Add a tick. It is sent once judged >= seq - max_staleness."""
        entry = Entry(self.next_seq, payload, max_staleness)
        self._entries.append(entry)
        self.next_seq += 1
        return entry

    def reset(self) -> None:
        """Insert a Reset between the ticks so far and the next one."""
        self._resets.setdefault(self.next_seq, False)

    def discard_unsent(self) -> list[P]:
        """Remove the ticks that were never sent on any call, and return them, oldest first."""
        dropped: list[P] = []
        while self._entries and not self._entries[-1].sent:
            dropped.append(self._entries.pop().payload)
            self.next_seq -= 1
        self._resets = {seq: sent for seq, sent in self._resets.items() if seq <= self.next_seq}
        return dropped[::-1]

    # --- sent to the server

    def next_to_send(self) -> Entry[P] | Reset | None:
        """Return the next item to send, and count it as sent. None if nothing may be sent now."""
        if not self._connected or self._held:
            return None
        seq = self._cursor
        if self._reset_due(seq):
            if self._wire:  # a refusal would move ticks after the Reset to before it
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

    # --- received from the server

    def welcome(self, next_seq: int, durable_seq: int, judged: int, max_undurable: int) -> None:
        """Start a call on which the server expects `next_seq`. Raises StateLost, TakenOver if nothing valid can be
        sent."""
        if not self._welcomed:
            self.base = self.next_seq = next_seq
            self.answered = next_seq - 1
            self._welcomed = True
        elif next_seq < self.base:
            raise StateLost(
                f"the server asks for tick {next_seq}, but ticks before {self.base} were on disk and are no longer "
                "kept; open the stream again to continue from the server's state"
            )
        elif next_seq > self.next_seq:
            raise TakenOver(
                f"the server asks for tick {next_seq}, but this client has sent only up to {self.next_seq - 1}: "
                "another client has advanced the stream"
            )
        self.durable, self.judged, self._max_undurable = durable_seq, judged, max_undurable
        self._cursor = min(self.answered + 1, next_seq)
        self._server_next = next_seq
        self._resets = dict.fromkeys(self._resets, False)
        self._connected = True
        self._trim()

    def disconnected(self) -> None:
        """End the call; its unanswered ticks get no answer on it."""
        self._connected = self._held = False
        self._wire.clear()
        self._echoes = 0

    def forecast(self, seq: int, judged: int) -> P | None:
        """Record an answer. Returns its tick, or None if that tick was answered before."""
        if self._pop(seq):
            raise ProtocolError(f"the server accepted tick {seq} after refusing an earlier one")
        self.judged = max(self.judged, judged)
        return self._answer(seq)

    def refused(self, seq: int, reason: Reason) -> tuple[Action, P | None]:
        """Record a refusal. Returns its meaning, and the tick if it is unanswered (LOST, DROP and FAIL)."""
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
        """Record that ticks up to seq are on disk and labels up to `judged` are judged."""
        if seq > self.durable:
            self.durable = seq
            self._held = False
            self._trim()
        self.judged = max(self.judged, judged)

    def release(self) -> None:
        """Send to an overloaded server again without waiting for Durable."""
        self._held = False

    # --- the current state

    @property
    def connected(self) -> bool:
        """Whether a call is open and welcomed."""
        return self._connected

    @property
    def owes(self) -> bool:
        """Whether some tick is unanswered."""
        return self.answered + 1 < self.next_seq

    @property
    def wants(self) -> str:
        """What the oldest unanswered tick waits for, in words."""
        seq = self.answered + 1
        staleness = self._entries[seq - self.base].max_staleness
        if not self._connected:
            return f"a call that accepts tick {seq}"
        if seq < self._cursor or self._held:
            return f"the answer to tick {seq}"
        if staleness is not None and self.judged < seq - staleness:
            return f"labels up to {seq - staleness} to be judged (max_staleness; so far {self.judged})"
        if self._max_undurable and seq > self.durable + self._max_undurable:
            return f"tick {seq - self._max_undurable} to reach the server's disk (so far {self.durable})"
        return f"the answer to tick {seq}"

    @property
    def known_before(self) -> int:
        """Ticks below this seq may be labelled: they are answered, and on the server or sent on this call."""
        return min(self.answered + 1, self._cursor) if self._connected else 0

    @property
    def on_wire(self) -> int:
        """Number of ticks sent and not answered on this call."""
        return len(self._wire)

    @property
    def reset_waiting(self) -> bool:
        """Whether a Reset is still to be sent."""
        return any(self._reset_due(seq) and seq >= self._cursor for seq in self._resets)

    @property
    def waiting(self) -> bool:
        """Whether anything is still to be sent, now or later."""
        return self._cursor < self.next_seq or bool(self._resets and self.reset_waiting)

    @property
    def quiet(self) -> bool:
        """Whether a call is open and everything is sent and answered."""
        return self._connected and not self._wire and not self.waiting

    def unanswered(self) -> Iterator[P]:
        """Iterate over the ticks that the user still waits for, oldest first."""
        return (entry.payload for entry in self._entries if entry.seq > self.answered)

    # --- inside

    def _pop(self, seq: int) -> bool:
        """Match an answer with the oldest tick on the wire. Returns whether it is the consequence of an earlier
        refusal."""
        if not self._wire or self._wire[0] != seq:
            raise ProtocolError(f"the server answered tick {seq}, but the next ones due are {list(self._wire)[:3]} …")
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
        """Forget ticks that are both answered and durable."""
        keep_from = min(self.answered, self.durable) + 1
        while self._entries and self.base < keep_from:
            self._entries.popleft()
            self.base += 1
        if not self._entries:
            self.base = self.next_seq
        if self._resets:
            self._resets = {seq: sent for seq, sent in self._resets.items() if seq > self.durable}
