"""A laid-out picture: texts, lines, areas and symbols at pixels, which SVG and PNG draw alike."""

from __future__ import annotations

from dataclasses import dataclass

from service.programs.plots.figure import F64, Dash, Kind, Role


@dataclass(frozen=True, slots=True)
class Text:
    """A text whose baseline begins, has its middle or ends at (x, y). faint: less contrast, still readable."""

    x: float
    y: float
    text: str
    size: float = 12
    anchor: str = "start"  # or "middle", "end"
    bold: bool = False
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points [n, 2], n ≥ 1, all finite."""

    points: F64
    role: Role
    dash: Dash = Dash.SOLID
    width: float = 1.5


@dataclass(frozen=True, slots=True)
class Area:
    """A filled polygon through points [n, 2], all finite."""

    points: F64
    role: Role
    opacity: float = 0.16


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of the grid, or with `strong` an axis."""

    x1: float
    y1: float
    x2: float
    y2: float
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Shade:
    """A shaded rectangle behind everything else."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Symbol:
    """A mark of about 9 pixels around (x, y)."""

    x: float
    y: float
    kind: Kind


Item = Text | Path | Area | Rule | Shade | Symbol


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture of width × height pixels; later items cover earlier ones."""

    width: int
    height: int
    title: str
    summary: str
    items: tuple[Item, ...]
