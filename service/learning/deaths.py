"""Count the deaths of a trainer at each place in the journal, and decide when the chunk there is to blame."""

from __future__ import annotations

DEATHS = 3  # of the trainer at one place, in a row, before the chunk there is skipped


class Deaths:
    """Deaths of one trainer by journal position, of which each is the next chunk of a model."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}  # by position, at most one for each model

    def died(self, position: int) -> bool:
        """Count a death while the chunk at `position` was learned; True after DEATHS of them."""
        self._counts[position] = self._counts.get(position, 0) + 1
        return self._counts[position] >= DEATHS

    def learned(self, position: int) -> None:
        """Forget the deaths at `position`: the chunk there was learned, so it was not the cause."""
        self._counts.pop(position, None)
