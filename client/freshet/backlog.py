"""Labels and windows until they are acknowledged, without I/O: the client's half of Training.Learn.

Windows are numbered per source and the server accepts each number once, so unacknowledged items are sent again after a
reconnect. A refused window leaves its number free. Every later window on the wire is then refused as a gap; these
refusals are ignored, the refused window is dropped, and the later ones move up by one.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from freshet.errors import Reason, StateLost, TakenOver
from freshet.resume import ProtocolError

P = TypeVar("P")


@dataclass(slots=True, eq=False)
class Item(Generic[P]):
    """A label or window that is not acknowledged. number: a window's, decreased when an earlier one is refused; 0: a
    label."""

    payload: P
    size: int  # bytes
    number: int = 0


class Verdict(enum.Enum):
    """The meaning of a refusal."""

    DROP = enum.auto()  # this item is refused and forgotten
    IGNORE = enum.auto()  # the consequence of an earlier refusal: sent again
    FAIL = enum.auto()  # client and server disagree about the source's windows


class Backlog(Generic[P]):
    """Items of one sender. most, most_bytes: limits of their number and bytes, checked by `room`."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.next_window = 0  # number of the next window to add; 0 before the first welcome
        self.bytes = 0
        self._most, self._most_bytes = most, most_bytes
        self._unsent: deque[Item[P]] = deque()
        self._sent: dict[int, Item[P]] = {}  # on this call and not refused, by number on the call
        self._sent_count = self._acknowledged = 0  # on this call
        self._echoes: set[int] = set()  # windows sent after a refused one: refused too, then sent again
        self._returned: list[Item[P]] = []  # those already refused
        self._connected = False

    def __len__(self) -> int:
        return len(self._unsent) + len(self._sent) + len(self._returned)

    @property
    def connected(self) -> bool:
        """Whether a call is open and welcomed."""
        return self._connected

    @property
    def room(self) -> bool:
        """Whether one more item may be added."""
        return len(self) < self._most and self.bytes < self._most_bytes

    @property
    def sendable(self) -> bool:
        """Whether `next_to_send` returns an item now."""
        return self._connected and bool(self._unsent) and not self._echoes

    def add(self, payload: P, size: int, window: bool) -> None:
        """Add a label, or a window, which gets the next number."""
        self._unsent.append(Item(payload, size, self.next_window if window else 0))
        self.next_window += window
        self.bytes += size

    def next_to_send(self) -> Item[P] | None:
        """Return the next item to send, and count it as sent. None if nothing may be sent now."""
        if not self.sendable:
            return None
        item = self._unsent.popleft()
        self._sent_count += 1
        self._sent[self._sent_count] = item
        return item

    def welcome(self, next_window_seq: int) -> None:
        """Start a call on which the server expects that window. Raises StateLost, TakenOver if nothing valid can be
        sent."""
        first = next((item.number for item in self._unsent if item.number), self.next_window)
        if not self.next_window:
            self.next_window = next_window_seq
        elif next_window_seq < first:
            raise StateLost(
                f"the server asks for window {next_window_seq}, but windows before {first} were acknowledged and are "
                "no longer kept; make another sender to continue from the server's state"
            )
        elif next_window_seq > self.next_window:
            raise TakenOver(
                f"the server asks for window {next_window_seq}, but this sender has sent up to {self.next_window - 1}: "
                "another one has sent windows of this source"
            )
        self._connected = True

    def acknowledged(self, count: int) -> None:
        """Record that this many of the call's items are acknowledged, refused ones not counted."""
        while self._acknowledged < count:
            if not self._sent:
                raise ProtocolError(f"the server acknowledged {count} items, but {self._acknowledged} were sent")
            self._forget(self._sent.pop(next(iter(self._sent))))
            self._acknowledged += 1

    def refused(self, number: int, reason: Reason) -> tuple[Verdict, Item[P]]:
        """Record the refusal of the call's item of that number. Returns its meaning, and the item."""
        item = self._sent.pop(number, None)
        if item is None:
            raise ProtocolError(f"the server refused item {number}, which was not sent or is acknowledged")
        if number in self._echoes:
            self._echoes.remove(number)
            self._returned.append(item)
            if not self._echoes:
                self._unsent.extendleft(reversed(self._returned))
                self._returned.clear()
            return Verdict.IGNORE, item
        if item.number and reason is Reason.GAP:
            return Verdict.FAIL, item
        self._forget(item)
        if item.number:
            self._close_gap(number)
        return Verdict.DROP, item

    def disconnected(self) -> None:
        """End the call; unacknowledged items are sent again on the next."""
        self._connected = False
        pending = [*self._sent.values(), *self._returned, *self._unsent]
        self._unsent = deque(
            sorted(pending, key=lambda item: item.number)
        )  # windows must stay in order; labels need not
        self._sent.clear()
        self._returned.clear()
        self._echoes.clear()
        self._sent_count = self._acknowledged = 0

    def clear(self) -> None:
        """Forget everything."""
        self.disconnected()
        self._unsent.clear()
        self.bytes = 0

    def _close_gap(self, refused: int) -> None:
        """Move windows after the call's item `refused` up by one; those on the wire will be refused."""
        later = {number: item for number, item in self._sent.items() if number > refused and item.number}
        for item in (*later.values(), *(item for item in self._unsent if item.number)):
            item.number -= 1
        self.next_window -= 1
        self._echoes.update(later)

    def _forget(self, item: Item[P]) -> None:
        self.bytes -= item.size
