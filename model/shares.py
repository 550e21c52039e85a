"""How much of a model's learning each stream has had lately: one that sends far more than the others is thinned."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

WINDOW = 4096  # labels that count as lately


class Shares:
    """The last WINDOW labels that arrived, each with its stream and whether it was learned."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, bool]] = deque()
        self._arrived: Counter[int] = Counter()  # of them, by stream; no zeros
        self._learned: Counter[int] = Counter()

    def admit(self, streams: Iterable[int], max_share: float) -> NDArray[np.bool_]:
        """Which of these labels are to be learned, in order: of the last WINDOW, at most `max_share` of one stream,
        as long as there is another one among them."""
        return np.array([self._admit(stream, max_share) for stream in streams], np.bool_)

    def _admit(self, stream: int, max_share: float) -> bool:
        if len(self._last) == WINDOW:
            oldest, learned = self._last.popleft()
            self._arrived[oldest] -= 1
            self._learned[oldest] -= learned
            if not self._arrived[oldest]:
                del self._arrived[oldest], self._learned[oldest]
        self._arrived[stream] += 1
        admitted = len(self._arrived) == 1 or self._learned[stream] + 1 <= max_share * WINDOW
        self._learned[stream] += admitted
        self._last.append((stream, admitted))
        return admitted

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
            made._arrived[stream] += 1
            made._learned[stream] += learned
        return made
