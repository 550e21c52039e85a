"""Ghosts: a stream as a version would have forecast it, had nothing been learned since. Only weights are frozen.

A stream's own statistics and readout are part of its state, and move. A ghost copies the live state once and is then
stepped through the same ticks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from service.common.errors import NotFound
from service.engine.session import StepSession
from service.serving.loading import UNREADABLE
from service.streams.answers import Kept
from service.streams.served import ServedModel
from service.viewing.seen import MAX_TICKS, Seen

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

MAX_GHOSTS = 16  # at the same time, of one process
TICKS_PER_LOOK = 256  # that a ghost is stepped through; where more have come, it restarts
WARM_UP = 16  # ticks after a start that are not scored: the state is another version's
KEPT_BYTES = 2 << 20  # of forecasts of one ghost
SESSIONS_BYTES = 64 << 20  # of all ghosts' versions together, about
SAME = 1e-3  # relative difference of statistics below which they are of the same ticks


class Ghost:
    """One version on one stream. `follow` in one thread at a time; the rest reads."""

    def __init__(self, network: Network, version: int, session: StepSession) -> None:
        self._network, self.version, self.session = network, version, session
        self.seq = self.since = 0  # the last tick stepped through, and the one whose state it began with
        self.restarts = -1  # after the first start
        self._state: Array = np.zeros((1, network.state_size), np.float32)
        outputs = network.spec.outputs
        self._most = max(1, min(MAX_TICKS * 2, KEPT_BYTES // (4 * outputs)))
        self._moment = 0
        self._first, self._rows = 1, np.zeros((0, outputs), np.float32)  # seq of the first row, forecasts

    @property
    def nbytes(self) -> int:
        """Bytes of state and forecasts."""
        return self._state.nbytes + self._rows.nbytes

    @property
    def scored_from(self) -> int:
        """The first tick whose forecast counts."""
        return self.since + WARM_UP + 1

    def follow(self, new: Kept, seq: int, state: Array, moment: int) -> None:
        """Step through new ticks, whole rows, up to the live stream's `seq`, whose state [S] is given.

        moment: number of the copy; one before the last is ignored: another view was faster. Restarts from that state
        where they do not follow, or where the live statistics are not of the same ticks: the stream was reset or put.
        """
        if moment <= self._moment:
            return
        self._moment, new = moment, _after(new, self.seq)
        end = int(new.seq[-1]) if len(new.seq) else self.seq
        follows = self.restarts >= 0 and end == seq and (not len(new.seq) or int(new.seq[0]) == self.seq + 1)
        if follows:
            self._step(new)
        if not follows or not self._is_same(state):
            self._start(seq, state)

    def _start(self, seq: int, state: Array) -> None:
        self.seq = self.since = seq
        self._state = state[None].copy()
        self._first, self._rows = seq + 1, self._rows[:0]
        self.restarts += 1

    def _step(self, new: Kept) -> None:
        made = []
        for i in range(len(new.seq)):
            x, u = self._network.inputs(new.time[i : i + 1], new.x[i : i + 1])
            y, self._state = self.session.compute(x, u, self._state)
            made.append(y[:, : self._rows.shape[1]])
            self.seq = int(new.seq[i])
        if made:
            self._rows = np.concatenate([self._rows, *made])[-self._most :].copy()
            self._first = self.seq - len(self._rows) + 1

    def _is_same(self, state: Array) -> bool:
        """Whether the scaler's statistics, which no weight moves, are those of the live state."""
        size = self._network.scaler.size
        return np.allclose(self._state[0, :size], state[:size], rtol=SAME, atol=1e-6, equal_nan=True)

    def rows(self, seqs: NDArray[np.uint64], columns: NDArray[np.intp]) -> Floats:
        """Return the forecasts that it made at these ticks, [n, columns]; NaN where it made none, or they are gone."""
        at = seqs.astype(np.int64) - self._first
        known = (at >= 0) & (at < len(self._rows))
        out = np.full((len(seqs), len(columns)), np.nan)
        out[known] = self._rows[at[known]][:, columns]
        return out

    def forecasts(self, seqs: NDArray[np.uint64], column: np.intp) -> Floats:
        """Return `rows` of one column, (n,)."""
        return self.rows(seqs, np.array([column]))[:, 0]


def _after(kept: Kept, seq: int) -> Kept:
    """Return the ticks after `seq`."""
    first = int(np.searchsorted(kept.seq, seq, side="right"))
    return Kept._make(column[first:] for column in kept) if first else kept


class Ghosts:
    """All ghosts, each shared by those who watch the same version on the same stream. For the event loop."""

    def __init__(self, in_thread: Callable[..., Awaitable[StepSession]]) -> None:
        """in_thread: runs a function with arguments beside the loop."""
        self._in_thread = in_thread
        self._ghosts: dict[tuple[ServedModel, int, str], tuple[Ghost, int]] = {}  # and their users

    def __len__(self) -> int:
        return len(self._ghosts)

    async def take(self, seen: Seen, model: ServedModel, version: int, stream: str, chosen: bool) -> Ghost | None:
        """Return the ghost of a version on a stream; None where there is no room for another. To be given back.

        chosen: by its number. Raises NotFound for a chosen version that is not kept or cannot be read; one that was not
        chosen has no ghost then.
        """
        key = model, version, stream
        if key not in self._ghosts:
            session = await self._session(seen, model, version, chosen)
            if key not in self._ghosts:  # as it may be by now
                if session is None or not self._has_room(session):
                    return None
                self._ghosts[key] = Ghost(model.network, version, session), 0
        ghost, users = self._ghosts[key]
        self._ghosts[key] = ghost, users + 1
        return ghost

    async def _session(self, seen: Seen, model: ServedModel, version: int, chosen: bool) -> StepSession | None:
        """Return the session of another ghost of the version, or load it; None: no room, or it cannot be read."""
        for (its_model, its_version, _), (ghost, _) in self._ghosts.items():
            if its_model is model and its_version == version:
                return ghost.session
        if len(self._ghosts) >= MAX_GHOSTS:
            return None
        try:
            return await self._in_thread(seen.loader.load, model, version)
        except UNREADABLE as error:
            if not chosen:
                return None
            remedy = f"model {model.name} keeps no such version that can be read: list its versions"
            raise NotFound("ghost", version, remedy) from error

    def give_back(self, model: ServedModel, version: int, stream: str) -> None:
        """Let go of a ghost that was taken; without users it is gone."""
        ghost, users = self._ghosts.pop((model, version, stream))
        if users > 1:
            self._ghosts[model, version, stream] = ghost, users - 1

    def _has_room(self, session: StepSession) -> bool:
        others = {id(ghost.session): ghost.session for ghost, _ in self._ghosts.values()}
        others[id(session)] = session
        size = sum(each.nbytes for each in others.values())
        return len(self._ghosts) < MAX_GHOSTS and (size <= SESSIONS_BYTES or len(others) == 1)
