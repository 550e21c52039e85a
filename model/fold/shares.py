"""How much of a model's learning each stream has had lately: one that sends far more than the others is thinned."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

WINDOW = 4096  # labels that count as lately


class Shares:
    """The last WINDOW labels that arrived, each with its stream and whether it was learned."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, bool]] = deque()
        self._arrived: dict[int, int] = {}  # of them, by stream; no zeros
        self._learned: dict[int, int] = {}  # for the same streams

    def admit(self, streams: Iterable[int], max_share: float) -> NDArray[np.bool_]:
        """Which of these labels are to be learned, in order: of the last WINDOW, at most `max_share` of one stream,
        as long as there is another one among them."""
        arrived, learned, most = self._arrived, self._learned, max_share * WINDOW
        admitted = []
        for stream in streams:  # a few operations for each: there are up to 32 of them in an update
            if len(self._last) == WINDOW:
                self._forget_oldest()
            arrived[stream] = arrived.get(stream, 0) + 1
            had = learned.get(stream, 0)
            within = had + 1 <= most or len(arrived) == 1
            learned[stream] = had + within
            self._last.append((stream, within))
            admitted.append(within)
        return np.array(admitted, np.bool_)

    def _forget_oldest(self) -> None:
        stream, was_learned = self._last.popleft()
        if self._arrived[stream] == 1:
            del self._arrived[stream], self._learned[stream]
        else:
            self._arrived[stream] -= 1
            self._learned[stream] -= was_learned

    def pack(self) -> bytes:
        """What a checkpoint stores: `unpack` is its inverse."""
        return np.array([2 * stream + learned for stream, learned in self._last], np.uint64).tobytes()

    @classmethod
    def unpack(cls, data: bytes) -> Shares:
        """From what `pack` gave."""
        made = cls()
        for packed in np.frombuffer(data, np.uint64).tolist():
            stream, learned = packed >> 1, bool(packed & 1)
            made._last.append((stream, learned))
            made._arrived[stream] = made._arrived.get(stream, 0) + 1
            made._learned[stream] = made._learned.get(stream, 0) + learned
        return made
