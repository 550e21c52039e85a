"""What one subject's looks keep in memory, and the events that each look makes of it.

`copy` runs on the loop and copies little; `take` and `opening` run in the thread and touch nothing but copies.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.storage.versions import Versions
from service.streams.answers import Kept
from service.streams.served import ServedModel
from service.viewing.encoding import event
from service.viewing.ghost import TICKS_PER_LOOK, Ghost
from service.viewing.scores import LeastSquares, scores
from service.viewing.states import Loaded, StateView
from service.viewing.ticks import Lens, Track, block

Array = NDArray[np.float32]
Json = dict[str, Any]

BLOCK_TICKS = 256  # of a block that begins a view
SCORES_S = 1.0  # between two events `scores`
NOTHING = np.zeros(0, np.intp)
LEARNED_PER_LOOK = 64  # ticks that the least squares of all streams learn
BREATH_S = 5e-5
MOMENTS = count(1)  # numbers of copies, ascending


def breathe() -> None:
    """Let the event loop run. Otherwise it waits for up to 5 ms until the interpreter takes turns by itself."""
    time.sleep(BREATH_S)


class Copied(NamedTuple):
    """One stream at one moment."""

    moment: int
    kept: Kept  # new ticks in the lens's columns
    newest: Kept  # the last answer, in the columns ahead
    raw: Kept  # whole rows of new ticks, for ghost and state
    seq: int  # of the state
    state: Array  # [S]; empty: not needed


class Shown:
    """One stream of a scene."""

    def __init__(self, model: ServedModel, lens: Lens, id: str, ghost: Ghost | None, with_state: bool) -> None:
        self.id, self.ghost, self._model = id, ghost, model
        self.track, self.baseline = Track(lens), LeastSquares(max(1, lens.step))
        self._states = StateView(model.network) if with_state else None
        self._mark: tuple[int, ...] = ()  # of the last copy
        self._raw_since = 0
        self._newest: Kept | None = None
        self._last_state: Json | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept of the ticks, and of the ghost."""
        return self.track.nbytes + (self.ghost.nbytes if self.ghost else 0)

    def copy(self) -> Copied | None:
        """Copy what has changed since the last copy; None: nothing, or the stream is not in memory."""
        model, t = self._model, self._model.table
        row = t.by_id.get(self.id)
        if row is None:
            return None
        mark = int(t.number[row]), int(t.newest[row]), int(t.last_seq[row]), int(t.origin[row])
        if mark == self._mark:
            return None
        self._mark = mark
        _, newest, seq, _ = mark
        kept = self.track.copied(model.log, newest)
        ahead = model.log.last(newest, 1, 0, NOTHING, self.track.lens.ahead)
        whole = self.ghost is not None or self._states is not None
        raw = model.log.last(newest, TICKS_PER_LOOK if whole else 0, self._raw_since, None, NOTHING)
        if len(raw.seq) and int(raw.seq[0]) != self._raw_since + 1:
            raw = model.log.last(newest, TICKS_PER_LOOK, 0, None, NOTHING)
        self._raw_since = seq
        state = t.state[row].copy() if whole else np.zeros(0, np.float32)
        return Copied(next(MOMENTS), kept, ahead, raw, seq, state)

    def take(self, copied: Copied, loaded: Loaded, versions: Versions) -> list[bytes]:
        """Take in a copy; return the events of what is new."""
        added, restart = self.track.extend(copied.kept)
        if self.ghost is not None:
            self.ghost.follow(copied.raw, copied.seq, copied.state, copied.moment)
        self._newest = copied.newest
        events = [self.block(min(added, BLOCK_TICKS) if restart else added, restart)] if added else []
        if self._states is not None:
            weights = partial(loaded.get, versions, self._model)
            if made := self._states.look(copied.raw, copied.seq, copied.state, weights):
                self._last_state = {"stream": self.id, "version": self._of("version", made["seq"], copied.raw)} | made
                self._last_state["time"] = self._of("time", made["seq"], copied.raw)
                events.append(event("state", self._last_state))
        return events

    def block(self, last: int = BLOCK_TICKS, restart: bool = True) -> bytes:
        """Return the event of a block of the last ticks."""
        newest = self._newest or self.empty()
        return event("block", block(self.track, newest, self.id, last, restart, self.ghost))

    @staticmethod
    def _of(name: str, seq: int, raw: Kept) -> Any:
        """Return the version or the event time of a tick; None where it is not among those copied."""
        at = np.flatnonzero(raw.seq == seq)
        return getattr(raw, name)[at[0]] if len(at) else None

    def empty(self) -> Kept:
        """Return no tick."""
        return self._model.log.last(-1, 0, 0, NOTHING, self.track.lens.ahead)

    def opening(self) -> list[bytes]:
        """Return the events of all that is shown now."""
        return [self.block(), *([event("state", self._last_state)] if self._last_state else [])]


class Look(NamedTuple):
    """What the loop hands to the thread."""

    copies: list[tuple[Shown, Copied]]
    facts: list[tuple[str, Any]]  # further events, not encoded yet
    wall: float  # seconds since 1970
    with_scores: bool


class Scene:
    """All streams of one subject. Only what a subject shows is computed."""

    def __init__(self, streams: list[Shown], show: frozenset[str], loaded: Loaded, versions: Versions) -> None:
        self.streams, self._show = streams, show
        self._loaded, self._versions = loaded, versions
        self._scored_at = float("-inf")  # clock seconds
        self._scores: bytes = b""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept of all streams."""
        return sum(stream.nbytes for stream in self.streams)

    @property
    def is_behind(self) -> bool:
        """Whether there is work left over from the last look."""
        return "scores" in self._show and any(s.baseline.is_behind(s.track) for s in self.streams)

    def copy(self, clock: float, wall: float, facts: list[tuple[str, Any]]) -> Look:
        """Copy what is new, on the loop. clock, wall: monotonic seconds, and seconds since 1970."""
        made = [(stream, stream.copy()) for stream in self.streams]
        due = "scores" in self._show and clock - self._scored_at >= SCORES_S
        self._scored_at = clock if due else self._scored_at
        return Look([(stream, copied) for stream, copied in made if copied is not None], facts, wall, due)

    def take(self, look: Look) -> list[bytes]:
        """Compute and encode the events of a look, in the thread."""
        events = []
        for stream, copied in look.copies:
            events += stream.take(copied, self._loaded, self._versions)
            breathe()
        if "ticks" not in self._show:
            events = [e for e in events if not e.startswith(b"event: block\n")]
        share = LEARNED_PER_LOOK // max(1, len(self.streams))
        for stream in self.streams if "scores" in self._show else ():
            stream.baseline.follow(stream.track, max(1, share), breathe)
        if look.with_scores and (made := self._scored(look.wall)):
            events.append(made)
        return events + [event(name, value) for name, value in look.facts]

    def _scored(self, wall: float) -> bytes:
        """Return the event of the scores; empty where they are as before."""
        each = [scores(s.track, s.id, s.baseline, s.ghost) for s in self.streams]
        ghosts = [stream.ghost for stream in self.streams if stream.ghost is not None]
        first = ghosts[0] if ghosts else None
        found = [one for one in each if one is not None]
        ghost = first and {
            "version": first.version, "since": first.since, "scored": sum(one["ghost_labels"] for one in found),
            "restarts": max(0, first.restarts),
        }  # fmt: skip
        made = event("scores", {"streams": found, "ghost": ghost})
        if made == self._scores or not found:
            return b""
        self._scores = made
        return event("scores", {"time": wall, "streams": found, "ghost": ghost})

    def opening(self, first: list[tuple[str, Any]], last: list[tuple[str, Any]]) -> list[bytes]:
        """Return the events that begin a view, in the thread: the first ones, what is shown now, the last ones."""
        shown = [e for stream in self.streams for e in stream.opening()]
        shown = shown if "ticks" in self._show else [e for e in shown if not e.startswith(b"event: block\n")]
        scored = [self._scores] if self._scores else []
        return [event(*each) for each in first] + shown + scored + [event(*each) for each in last]

    def whole_blocks(self) -> list[bytes]:
        """Return whole blocks, for those who have lost events; in the thread."""
        return [stream.block() for stream in self.streams] if "ticks" in self._show else []
