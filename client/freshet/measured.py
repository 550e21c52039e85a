"""Errors of a model's forecasts, as the server measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from freshet.messages import Result


@dataclass(frozen=True, slots=True, repr=False)
class MeanErrors(Result):
    """Mean squared and absolute errors of forecasts, and of persistence on the same labels.

    scaled_…: in units of the scaler; the others in the units of the values. For a regression, persistence is the
    running mean of its labels; for classes, equal probabilities.
    """

    SHOWN: ClassVar[tuple[str, ...]] = ("scaled_squared", "persistence_scaled_squared")
    scaled_squared: float = 0.0
    scaled_absolute: float = 0.0
    persistence_scaled_squared: float = 0.0
    persistence_scaled_absolute: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0
    persistence_squared: float = 0.0
    persistence_absolute: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class StepErrors(Result):
    """Errors of the forecasts of one step ahead.

    labels: those that count, since the model's creation.
    recent: exponential means over about 500 labels; total: means over all.
    """

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"recent": MeanErrors.of, "total": MeanErrors.of}
    SHOWN: ClassVar[tuple[str, ...]] = ("step", "labels", "recent")
    step: int
    labels: int
    recent: MeanErrors
    total: MeanErrors


@dataclass(frozen=True, slots=True, repr=False)
class StreamErrors(Result):
    """Errors of one stream.

    ratio: recent scaled squared error divided by persistence's, over all steps kept; None if persistence makes none.
    steps: steps ahead 1, H/4, H/2, 3H/4 and H of a horizon H.
    """

    READ: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"steps": StepErrors.of}
    SHOWN: ClassVar[tuple[str, ...]] = ("stream", "ratio")
    stream: str
    ratio: float | None = None
    steps: tuple[StepErrors, ...] = ()
