"""Labels and windows between the user and their acknowledgement, without any I/O: the client's half of Training.Learn.

Windows are numbered per source and the server takes each number once, so whatever is not acknowledged is sent again
after a reconnect. A window that the server refuses leaves its number free: every later window on the wire comes back
refused as a gap, those answers are ignored, the refused window is dropped, and the later ones move up by one.
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
    """A label or a window on its way. `number` is a window's, one less after an earlier one is refused; 0: a label."""

    payload: P
    size: int  # bytes
    number: int = 0


class Verdict(enum.Enum):
    """What a refusal means."""

    DROP = enum.auto()  # this one is not taken; it is forgotten
    IGNORE = enum.auto()  # the echo of an earlier refusal: it goes out again
    FAIL = enum.auto()  # client and server disagree about the source's windows


class Backlog(Generic[P]):
    """Items of one sender. most: bound on items and on their bytes, which `room` tells."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.next_window = 0  # number of the next window that the user adds; 0 before the first welcome
        self.bytes = 0
        self._most, self._most_bytes = most, most_bytes
        self._unsent: deque[Item[P]] = deque()
        self._sent: dict[int, Item[P]] = {}  # on this call and not refused: by which of its items it was
        self._sent_count = self._acknowledged = 0  # of this call's items
        self._echoes: set[int] = set()  # windows sent behind a refused one: refused too, then sent again
        self._returned: list[Item[P]] = []  # those of them that were
        self._connected = False

    def __len__(self) -> int:
        return len(self._unsent) + len(self._sent) + len(self._returned)

    @property
    def connected(self) -> bool:
        """Whether a call is open and welcomed."""
        return self._connected

    @property
    def room(self) -> bool:
        """Whether one more may be added."""
        return len(self) < self._most and self.bytes < self._most_bytes

    @property
    def sendable(self) -> bool:
        """Whether `next_to_send` has something now."""
        return self._connected and bool(self._unsent) and not self._echoes

    def add(self, payload: P, size: int, window: bool) -> None:
        """Take one more label, or window, which gets the next number."""
        self._unsent.append(Item(payload, size, self.next_window if window else 0))
        self.next_window += window
        self.bytes += size

    def next_to_send(self) -> Item[P] | None:
        """The next item to send now, counted as sent; None: nothing, or nothing yet."""
        if not self.sendable:
            return None
        item = self._unsent.popleft()
        self._sent_count += 1
        self._sent[self._sent_count] = item
        return item

    def welcome(self, next_window_seq: int) -> None:
        """A call is open; the server wants that window next. Raises StateLost, TakenOver: no sense in sending any."""
        first = next((item.number for item in self._unsent if item.number), self.next_window)
        if not self.next_window:
            self.next_window = next_window_seq
        elif next_window_seq < first:
            raise StateLost(
                f"the server asks for window {next_window_seq}, windows before {first} were acknowledged and are no "
                "longer kept; begin again to go on from the server's state"
            )
        elif next_window_seq > self.next_window:
            raise TakenOver(
                f"the server asks for window {next_window_seq}, this sender has sent up to {self.next_window - 1}: "
                "another one has sent windows of this source"
            )
        self._connected = True

    def acknowledged(self, count: int) -> None:
        """So many of this call's items, those refused left out, have reached what was asked for."""
        while self._acknowledged < count:
            if not self._sent:
                raise ProtocolError(f"the server acknowledged {count} items, {self._acknowledged} were sent")
            self._forget(self._sent.pop(next(iter(self._sent))))
            self._acknowledged += 1

    def refused(self, number: int, reason: Reason) -> tuple[Verdict, Item[P]]:
        """The call's item of that number was refused: what that means, and the item."""
        item = self._sent.pop(number, None)
        if item is None:
            raise ProtocolError(f"the server refused item {number}, which was not sent, or is acknowledged")
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
        """The call is over; what is not acknowledged is sent again on the next."""
        self._connected = False
        pending = [*self._sent.values(), *self._returned, *self._unsent]
        self._unsent = deque(sorted(pending, key=lambda item: item.number))  # only the order of windows matters
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
        """Windows behind the call's item `refused` move up by one; those on the wire will come back."""
        behind = {number: item for number, item in self._sent.items() if number > refused and item.number}
        for item in (*behind.values(), *(item for item in self._unsent if item.number)):
            item.number -= 1
        self.next_window -= 1
        self._echoes.update(behind)

    def _forget(self, item: Item[P]) -> None:
        self.bytes -= item.size
