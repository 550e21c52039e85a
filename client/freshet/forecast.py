"""What comes back for a tick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """The answer to one tick.

    y: float32, owned by the caller. Task forecast: (horizon, targets) in the units of the channels, y[0] is the next
        tick. Task regress: (1, targets). Task classify: (1, classes), their probabilities.
    version: the version of the model that made it.
    judged_through: labels of ticks up to this seq were learned, and judged, in the weights that made it.
    latency_s: from first sending the tick to receiving the answer, seconds of the client's monotonic clock.
    lost: the tick was taken, but its answer is no longer kept by the server (after a long reconnect): y is NaN,
        version is 0, and the stream goes on.
    """

    seq: int
    y: npt.NDArray[np.float32]
    version: int
    judged_through: int
    latency_s: float
    lost: bool = False

    @property
    def staleness(self) -> int:
        """Labels that had arrived and were not yet judged in the weights that answered."""
        return self.seq - self.judged_through
