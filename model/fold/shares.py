"""Each stream's share of a model's recent labels: a stream that sends far more than the others is thinned."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

WINDOW = 4096  # recent labels that count


class Shares:
    """The last WINDOW labels, each with its stream and whether it was learned."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, bool]] = deque()
        self._arrived: dict[int, int] = {}  # labels of each stream among them; no zeros
        self._learned: dict[int, int] = {}  # learned labels, for the same streams

    def admit(self, streams: Iterable[int], max_share: float) -> NDArray[np.bool_]:
        """Record labels of these streams, in order, and return which to learn, bool [n].

        At most `max_share` of the last WINDOW labels are learned of one stream, unless it is the only one among them.
        """
        arrived, learned, most = self._arrived, self._learned, max_share * WINDOW
        admitted = []
        for stream in streams:  # up to 32 per update
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
        """Return the bytes that a checkpoint stores. `unpack` is the inverse."""
        return np.array([2 * stream + learned for stream, learned in self._last], np.uint64).tobytes()

    @classmethod
    def unpack(cls, data: bytes) -> Shares:
        """Return the shares that `pack` stored."""
        made = cls()
        for packed in np.frombuffer(data, np.uint64).tolist():
            stream, learned = packed >> 1, bool(packed & 1)
            made._last.append((stream, learned))
            made._arrived[stream] = made._arrived.get(stream, 0) + 1
            made._learned[stream] = made._learned.get(stream, 0) + learned
        return made
