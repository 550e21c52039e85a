"""What is drawn: panels of lines, bands and marks over rows or times, and a table, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Role(StrEnum):
    """What a line or band stands for; the styles give it a colour, the same in every picture and on the live page."""

    TRUTH = "truth"
    SERVED = "served"
    PERSISTENCE = "persistence"  # and the naive forecasts, which are persistence of a season
    LEAST_SQUARES = "least-squares"
    NOMINAL = "nominal"  # what a share should be
    OTHER = "other"


class Dash(StrEnum):
    """How a line is drawn, to tell apart lines of one colour."""

    SOLID = "solid"
    DASHED = "dashed"
    DOTTED = "dotted"


class Kind(StrEnum):
    """What a mark stands for; each has a shape beside its colour."""

    DRIFT = "drift"
    PUBLISH = "publish"
    ROLLBACK = "rollback"
    WORST = "worst"


@dataclass(frozen=True, slots=True)
class Line:
    """A line. x ascending; y: NaN interrupts it. note: shown after its name in the legend."""

    name: str
    role: Role
    x: F64
    y: F64
    dash: Dash = Dash.SOLID
    note: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """An area between low and high over x, ascending; NaN interrupts it."""

    name: str
    role: Role
    x: F64
    low: F64
    high: F64


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment, with a symbol at the bottom of the panel."""

    x: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Span:
    """A shaded range of x with a short name."""

    begin: float
    end: float
    name: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. about: one sentence on how to read it. timed: whether x is seconds since 1970, UTC, or rows.

    y_most: values above it are cut off and the legend says so; None: the axis holds all. wide: takes the whole width.
    """

    title: str
    about: str
    unit: str
    timed: bool
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    spans: Sequence[Span] = ()
    y_least: float | None = None
    y_most: float | None = None
    wide: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Figures as text: the first column has names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A whole picture. summary: what it shows, in one or two sentences, for those who do not see it too."""

    title: str
    summary: str
    panels: Sequence[Panel]
    tables: Sequence[Table] = field(default=())
