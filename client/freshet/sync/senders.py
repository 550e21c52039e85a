"""The blocking forms of Mux and Learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from freshet import learning, mux
from freshet.errors import LabelRefused, WindowRefused
from freshet.packed import Packed
from freshet.results import ModelSpec
from freshet.sync.twins import Blocking, documented_by


@documented_by(mux.Mux)
class Mux(Blocking[mux.Mux]):
    """Streams of one model, packed. Made by `Client.mux`; open it with `with`, or `open` and `close`.

    It reconnects by itself and sends again the ticks that a crashed server had not yet written to disk. Several threads
    may use it; calls of `step` take turns.
    """

    def step(
        self,
        streams: Sequence[str],
        x: Any,
        time: Any = None,
        *,
        offset: Any = None,
        known: Any = None,
        static: Any = None,
    ) -> Packed:
        return self._portal.call(self._twin.step(streams, x, time, offset=offset, known=known, static=static))

    @property
    def streams(self) -> list[str]:
        return self._portal.run(lambda: self._twin.streams)

    @property
    def addresses(self) -> list[str]:
        return self._portal.run(lambda: self._twin.addresses)

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, every field filled in."""
        return self._twin.spec


@documented_by(learning.Learning)
class Learning(Blocking[learning.Learning]):
    """Sends labels and windows for one model. Made by `Client.learn`; open it with `with`, or `open` and `close`.

    It reconnects by itself: unacknowledged items are sent again and learned once. The next call of a method raises an
    item that the server refused, as LabelRefused or WindowRefused, unless refusals are kept.
    """

    @property
    def refused(self) -> list[LabelRefused | WindowRefused]:
        """The refused items, with on_refused="keep"."""
        return self._twin.refused

    def window(self, x: Any, y: Any, weight: Any = None, initial_state: Any = None) -> None:
        self._portal.call(self._twin.window(x, y, weight, initial_state))

    def label(self, stream: str, seq: int, y: Any) -> None:
        self._portal.call(self._twin.label(stream, seq, y))

    def flush(self) -> None:
        self._portal.call(self._twin.flush())

    @property
    def next_window(self) -> int:
        return self._twin.next_window

    @property
    def address(self) -> str:
        return self._twin.address

    @property
    def reconnects(self) -> int:
        return self._twin.reconnects
