"""The blocking forms of Stream and Forecasts."""

from __future__ import annotations

from collections import deque
from typing import Any, Literal, Self

import numpy.typing as npt

from freshet import shown
from freshet import stream as twin
from freshet.errors import TickRefused
from freshet.forecast import Forecast
from freshet.forecasts import Forecasts as Awaited
from freshet.results import ModelSpec, Welcome
from freshet.sync.portal import Portal, blocking
from freshet.sync.sources import source
from freshet.sync.twins import Blocking, documented_by


@documented_by(twin.Stream)
class Stream(Blocking[twin.Stream]):
    """One entity's ticks and forecasts. Made by `Client.stream`; open it with `with`, or `open` and `close`.

    It reconnects by itself. It sends unanswered ticks again, and also answered ticks that a crashed server had not yet
    written to disk. Each tick has exactly one outcome. Several threads may use it.
    """

    def step(self, x: Any, time: Any = None, *, known: Any = None) -> Forecast:
        return self._portal.call(self._twin.step(x, time, known=known))

    def steps(self, values: Any, times: Any = None, *, known: Any = None) -> list[Forecast]:
        return self._portal.call(self._twin.steps(values, times, known=known))

    def forecasts(
        self,
        values: Any,
        times: Any = None,
        *,
        known: Any = None,
        max_staleness: int | None = None,
        on_refused: Literal["raise", "skip"] = "raise",
    ) -> Forecasts:
        """Send many ticks, several in flight, and iterate over their forecasts in order. Arguments as for
        `freshet.Stream`.

        A generator, or any iterable without a length, may block: it is iterated over in its own thread, a few rows
        ahead.
        """
        found = source(values, times, lambda: self.spec.channels, self._twin.check_ahead, self._twin.inputs, known)
        make = lambda: self._twin.forecasts(found, max_staleness=max_staleness, on_refused=on_refused)  # noqa: E731
        return Forecasts(self._portal, self._portal.run(make))

    def inputs(self) -> tuple[tuple[str, ...], int]:
        return self._twin.inputs()

    def check_ahead(self, rows: npt.NDArray[Any]) -> None:
        self._twin.check_ahead(rows)

    def label(self, seq: int, y: Any) -> None:
        self._portal.call(self._twin.label(seq, y))

    def reset(self) -> None:
        self._portal.call(self._twin.reset())

    def durable(self, seq: int | None = None) -> None:
        self._portal.call(self._twin.durable(seq))

    def wait_judged(self, seq: int) -> None:
        self._portal.call(self._twin.wait_judged(seq))

    # --- the current state

    @property
    def welcome(self) -> Welcome:
        return blocking(lambda: self._twin.welcome)

    @property
    def spec(self) -> ModelSpec:
        return blocking(lambda: self._twin.spec)

    @property
    def next_seq(self) -> int:
        return self._twin.next_seq

    @property
    def last_time(self) -> float | None:
        return self._twin.last_time

    def is_new(self, time: Any) -> bool:
        return self._twin.is_new(time)

    @property
    def durable_seq(self) -> int:
        return self._twin.durable_seq

    @property
    def judged_through(self) -> int:
        return self._twin.judged_through

    @property
    def address(self) -> str:
        return self._twin.address

    @property
    def reconnects(self) -> int:
        return self._twin.reconnects


@documented_by(Awaited)
class Forecasts:
    """Iterator over the forecasts of one source of ticks, in order. Made by `Stream.forecasts`.

    It pulls ticks ahead of the forecasts and fetches together the forecasts that have arrived. If you leave the loop
    early, ticks already sent stay sent. `close` stops the pulling, as does closing the stream. An error of the source
    is raised after the forecasts of the ticks before it.
    """

    def __init__(self, portal: Portal, forecasts: Awaited) -> None:
        self._portal, self._forecasts = portal, forecasts
        self._arrived: deque[Forecast] = deque()

    def __repr__(self) -> str:
        return shown.blocking(repr(self._forecasts))

    @property
    def refused(self) -> list[TickRefused]:
        """The skipped ticks, with on_refused="skip"."""
        return self._forecasts.refused

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Forecast:
        if not self._arrived:
            self._arrived.extend(self._portal.call(self._forecasts.several()))
        if not self._arrived:
            raise StopIteration
        return self._arrived.popleft()

    def several(self) -> list[Forecast]:
        if not self._arrived:
            return self._portal.call(self._forecasts.several())
        arrived = list(self._arrived)
        self._arrived.clear()
        return arrived

    def frame(self) -> Any:
        return self._portal.call(self._forecasts.frame())

    def close(self) -> None:
        self._portal.call(self._forecasts.aclose())
