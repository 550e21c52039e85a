"""One stream in memory, seen as an object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.common.names import Origin
from service.streams.answers import Answer

if TYPE_CHECKING:
    from service.streams.served import ServedModel


class Session:
    """A view of a stream's row. It is valid while the stream stays in memory."""

    __slots__ = ("_model", "id", "number", "row")

    def __init__(self, model: ServedModel, row: int) -> None:
        self._model, self.row = model, row
        self.id, self.number = model.table.ids[row], int(model.table.number[row])

    def __repr__(self) -> str:
        model = self._model
        id = f"{model.tenant}/{model.name}/{self.id}"
        if model.table.row_of(self.number) != self.row:
            return f"Session({id}, not in memory)"
        return (
            f"Session({id}, epoch {self.epoch}, last_seq {self.last_seq}, durable_seq {self.durable_seq}, "
            f"judged {self.judged}, state {self.origin.name.lower()})"
        )

    @property
    def epoch(self) -> int:
        """Goes up by one at each takeover."""
        return self._model.table.epoch.item(self.row)

    @property
    def last_seq(self) -> int:
        """The stream's last tick; 0 before the first."""
        return self._model.table.last_seq.item(self.row)

    @property
    def durable_seq(self) -> int:
        """The last tick that is on disk."""
        return self._model.table.durable_seq.item(self.row)

    @property
    def last_time(self) -> float:
        """Event time of the last tick that had one, seconds since 1970; NaN: none."""
        return self._model.table.last_time.item(self.row)

    @property
    def origin(self) -> Origin:
        """Where the state comes from, as the next Welcome reports it."""
        return Origin(int(self._model.table.origin[self.row]))

    @property
    def judged(self) -> int:
        """The seq through which labels are judged."""
        return self._model.judged_seq(self.row)

    @property
    def state(self) -> NDArray[np.float32]:
        """A copy of the state, [S]."""
        state: NDArray[np.float32] = self._model.table.state[self.row].copy()
        return state

    @property
    def answers(self) -> list[Answer]:
        """The answers that are kept, oldest first."""
        return self._model.log.chain(int(self._model.table.newest[self.row]))

    def find(self, seq: int) -> Answer | None:
        """Return the kept answer to tick `seq`."""
        return self._model.log.find(int(self._model.table.newest[self.row]), seq)
