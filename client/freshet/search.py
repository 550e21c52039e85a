"""Which node is called next: pure decisions, without calls, clocks and sockets. See nodes.py for those.

The servers decide which of them has a model, and say so ("moved"). A client only needs a good first guess, and to go on
when a node is gone.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MOST_MOVES = 8  # followed before a pause, should each node name one that was not asked yet
NEXT_S = 0.3  # after this long without a connection, the next node is tried beside it
LONGEST_S = 5.0  # gRPC itself gives up a connection after 2 s, but not a name that does not resolve


def rendezvous(key: str, addresses: Iterable[str]) -> list[str]:
    """Return the addresses, each once, in the order of their hashes with `key`: highest random weight.

    The order is the same in every process and does not depend on the order given; without one address, the others keep
    theirs. Source: Thaler & Ravishankar 1998, doi:10.1109/90.663936.
    """
    return sorted(set(addresses), key=lambda one: hashlib.sha256(f"{one}\0{key}".encode()).digest(), reverse=True)


class Search:
    """Where one caller calls next.

    A round ends when every node was tried; the caller then waits before the next one. `moved` leads to a node before
    its turn, but not again to one that was tried in this round, so two nodes that name each other end a round.
    """

    def __init__(self) -> None:
        self.heard = False  # some node has answered in this round, if only with an error
        self._tried: dict[str, str] = {}  # in this round: how the call there ended, by address
        self._last: dict[str, str] = {}  # the same of the round before
        self.named = ""  # where the model is, as a node said, until that node is called; empty: unknown
        self._moves = 0  # in this round

    def candidates(self, order: Sequence[str], home: str = "") -> list[str]:
        """Return the nodes to call now, best first. order: the known ones, not empty; home: where it was last."""
        first = [one for one in (self.named, home) if one]
        return [one for one in dict.fromkeys([*first, *order]) if one not in self._tried] or list(order)

    def reached(self, address: str) -> None:
        """Record that the next call goes to this node."""
        if self.named == address:
            self.named = ""

    def failed(self, address: str, why: str) -> None:
        """Record that a call to this node ended. A reason recorded before stays."""
        self._tried.setdefault(address, why)
        self.reached(address)

    def moved(self, address: str, to: str) -> None:
        """Record that this node names another. The next call goes there, if this round has not tried it."""
        self.heard = True
        self.failed(address, f"it is at {to}")
        self.named, self._moves = to, self._moves + 1

    def again(self, order: Sequence[str]) -> bool:
        """Whether to call again without a pause. If not, the round ends."""
        named = [self.named] if self.named and self._moves <= MOST_MOVES else []
        if any(one not in self._tried for one in [*named, *order]):
            return True
        self._last, self._tried = self._tried, {}
        self._moves, self.heard = 0, False
        return False

    def succeeded(self) -> None:
        """Begin a new round. The node that was named stays so: it may still answer for a while."""
        if self._tried or self._last:
            self._tried, self._last = {}, {}
            self._moves, self.heard = 0, False

    @property
    def why(self) -> str:
        """How the calls of this round ended, or of the last one; with the addresses if there are several."""
        ended = self._tried or self._last
        several = len(ended) > 1 or bool(self.named)
        return "; ".join(f"{one}: {text}" if several else text for one, text in ended.items())


class State(enum.Enum):
    """A connection."""

    READY = enum.auto()
    WAITING = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """over: no more waiting, `winner` is connected or nothing is (None). start: connect to this one too. wait_s: look
    again after this long, or when a state changes."""

    over: bool = False
    winner: str | None = None
    start: str | None = None
    wait_s: float = 0.0


def race(order: Sequence[str], states: Mapping[str, State], since_s: float) -> Decision:
    """Decide how to go on connecting: to one node after the other, each beside those that do not answer.

    order: best first. states: of those begun, a beginning of `order`. since_s: seconds since the newest was begun. The
    idea is that of RFC 8305, with nodes in place of a host's addresses.
    """
    for one in order:
        if states.get(one) is State.READY:
            return Decision(over=True, winner=one)
    waiting = any(state is State.WAITING for state in states.values())
    if len(states) < len(order):
        if not waiting or since_s >= NEXT_S:
            return Decision(start=order[len(states)])
        return Decision(wait_s=NEXT_S - since_s)
    if not waiting or since_s >= LONGEST_S:
        return Decision(over=True)
    return Decision(wait_s=LONGEST_S - since_s)
