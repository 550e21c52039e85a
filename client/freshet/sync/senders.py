"""Many streams in one call, and labels and windows from outside, blocking."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from freshet import learning, mux
from freshet.errors import LabelRefused, WindowRefused
from freshet.packed import Packed
from freshet.results import ModelSpec
from freshet.sync.portal import Portal
from freshet.sync.twins import documented_by


@documented_by(mux.Mux)
class Mux:
    """Streams of one model, packed. Made by `Client.mux`; open it with `with`, or `open` and `close`.

    It reconnects by itself, and sends again what the server had not yet written to disk when it died. Several threads
    may use it; calls of `step` take turns.
    """

    def __init__(self, portal: Portal, twin: mux.Mux) -> None:
        self._portal, self._mux = portal, twin

    def open(self) -> Self:
        self._portal.call(self._mux.open())
        return self

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._portal.call(self._mux.aclose())

    def step(self, streams: Sequence[str], x: Any, time: Any = None, *, offset: Any = None) -> Packed:
        return self._portal.call(self._mux.step(streams, x, time, offset=offset))

    @property
    def streams(self) -> list[str]:
        return self._portal.run(lambda: self._mux.streams)

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, every field filled in."""
        return self._mux.spec


@documented_by(learning.Learning)
class Learning:
    """Labels and windows for one model. Made by `Client.learn`; open it with `with`, or `open` and `close`.

    It reconnects by itself: what is not acknowledged is sent again, and learned once. An item that the server refuses
    is raised by the next call of a method, as LabelRefused or WindowRefused, unless they are kept.
    """

    def __init__(self, portal: Portal, twin: learning.Learning) -> None:
        self._portal, self._learning = portal, twin

    @property
    def refused(self) -> list[LabelRefused | WindowRefused]:
        """What the server refused, with on_refused="keep"."""
        return self._learning.refused

    def open(self) -> Self:
        self._portal.call(self._learning.open())
        return self

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.call(self._learning.__aexit__(kind, error, traceback))

    def close(self) -> None:
        self._portal.call(self._learning.aclose())

    def window(self, x: Any, y: Any, weight: Any = None, initial_state: Any = None) -> None:
        self._portal.call(self._learning.window(x, y, weight, initial_state))

    def label(self, stream: str, seq: int, y: Any) -> None:
        self._portal.call(self._learning.label(stream, seq, y))

    def flush(self) -> None:
        self._portal.call(self._learning.flush())

    @property
    def next_window(self) -> int:
        return self._learning.next_window

    @property
    def reconnects(self) -> int:
        return self._learning.reconnects
