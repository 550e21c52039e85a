"""From a figure to a drawing: where each panel, axis, line and text is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.programs.plots.drawing import Area, Drawing, Item, Path, Rule, Shade, Symbol, Text
from service.programs.plots.figure import F64, Figure, Line, Mark, Panel
from service.programs.plots.legend import LINE, legend, legend_lines
from service.programs.plots.scales import Scale, Tick, number_ticks, time_ticks, widened
from service.programs.plots.texts import fitted
from service.programs.plots.thinning import envelope, thinned

WIDTH, MARGIN, GAP = 1040, 24, 32  # pixels
HEAD, FOOT = 72, 24
PLOT_HEIGHT, ABOVE, BELOW, LEFT = 190, 64, 34, 52  # of a panel: its plot; room for title and unit, axes
SYMBOL_ROOM = 12  # at the bottom of a plot that has marks
NARROW_TICKS, WIDE_TICKS = 4, 8


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle of a panel's plot, in pixels."""

    x: float
    y: float
    width: float
    height: float


def laid_out(figure: Figure) -> Drawing:
    """Return the drawing of a figure. Narrow panels stand in pairs, wide ones alone."""
    inner = WIDTH - 2 * MARGIN
    items: list[Item] = [
        Text(MARGIN, 34, fitted(figure.title, inner, 20), size=20, bold=True),
        Text(MARGIN, 56, fitted(figure.summary, inner, 13), size=13, faint=True),
    ]
    y = float(HEAD)
    for row in _rows(figure.panels):
        width = (inner - GAP * (len(row) - 1)) / len(row)
        above = ABOVE + LINE * max(legend_lines(panel, width) for panel in row)
        for n, panel in enumerate(row):
            left = MARGIN + n * (width + GAP)
            box = Box(left + LEFT, y + above, width - LEFT, PLOT_HEIGHT)
            items += _panel(panel, left, y, box)
        y += above + PLOT_HEIGHT + BELOW
    return Drawing(WIDTH, int(y) + FOOT, figure.title, figure.summary, tuple(items))


def _rows(panels: Sequence[Panel]) -> Iterator[Sequence[Panel]]:
    waiting: list[Panel] = []
    for panel in panels:
        if panel.wide and waiting:
            yield waiting
            waiting = []
        waiting = [*waiting, panel]
        if panel.wide or len(waiting) == 2:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _panel(panel: Panel, left: float, top: float, box: Box) -> Iterator[Item]:
    right = box.x + box.width
    yield Text(left, top + 18, fitted(panel.title, right - left, 14, bold=True), size=14, bold=True)
    yield Text(left, top + 35, fitted(panel.about, right - left, 12), size=12, faint=True)
    across, up = _scales(panel, box)
    for span in panel.spans:
        begin, end = (float(np.clip(across.at(at), box.x, right)) for at in (span.begin, span.end))
        yield Shade(begin, box.y, max(2.0, end - begin), box.height)
        middle = float(np.clip((begin + end) / 2, box.x + 40, right - 40))
        yield Text(middle, box.y + 12, fitted(span.name, 120, 10), size=10, anchor="middle", faint=True)
    yield from _axes(panel, box, across, up)
    if not _has_values(panel):
        x, y = box.x + box.width / 2, box.y + box.height / 2
        yield Text(x, y, "nothing to show: no value was scored", anchor="middle", faint=True)
        return
    yield from _contents(panel, across, up)
    yield from _marks(panel.marks, box, across)
    yield from legend(panel, left, top + 54, right - left)


def _scales(panel: Panel, box: Box) -> tuple[Scale, Scale]:
    every = [line.x for line in panel.lines] + [band.x for band in panel.bands]
    xs = [ends for x in every for ends in (x[:1], x[-1:])]
    begin, end = widened(*_range(xs))
    values = [line.y for line in panel.lines] + [edge for band in panel.bands for edge in (band.low, band.high)]
    low, high = _range(values)
    low = low if panel.y_least is None else panel.y_least
    high = high if panel.y_most is None else min(high, panel.y_most) if panel.y_most > low else panel.y_most
    low, high = widened(low, high)
    room = 0.04 * (high - low)
    low = low if panel.y_least is not None else low - room
    floor = SYMBOL_ROOM if panel.marks else 0
    return (
        Scale(begin, end, box.x, box.x + box.width),
        Scale(low, high + room, box.y + box.height - floor, box.y),
    )


def _range(values: Sequence[F64]) -> tuple[float, float]:
    """Return the least and the greatest finite value; not finite if there is none."""
    finite = [each[np.isfinite(each)] for each in values]
    found = [each for each in finite if len(each)]
    if not found:
        return float("nan"), float("nan")
    return min(float(each.min()) for each in found), max(float(each.max()) for each in found)


def _has_values(panel: Panel) -> bool:
    edges = [line.y for line in panel.lines] + [band.low for band in panel.bands]
    return any(bool(np.isfinite(values).any()) for values in edges)


def _axes(panel: Panel, box: Box, across: Scale, up: Scale) -> Iterator[Item]:
    bottom, right = box.y + box.height, box.x + box.width
    for tick in number_ticks(up.low, up.high):
        y = up.at(tick.value)
        yield Rule(box.x, y, right, y)
        yield Text(box.x - 6, y + 4, tick.label, size=11, anchor="end", faint=True)
    yield Text(box.x, box.y - 8, fitted(panel.unit, box.width, 11), size=11, faint=True)
    most = WIDE_TICKS if panel.wide else NARROW_TICKS
    ticks = time_ticks(across.low, across.high, most) if panel.timed else _rows_of(across, most)
    for tick in ticks:
        x = across.at(tick.value)
        yield Rule(x, bottom, x, bottom + 4, strong=True)
        yield Text(x, bottom + 17, tick.label, size=11, anchor="middle", faint=True)
    yield Text(right, bottom + 30, "UTC" if panel.timed else "row", size=10, anchor="end", faint=True)
    yield Rule(box.x, bottom, right, bottom, strong=True)


def _rows_of(across: Scale, most: int) -> list[Tick]:
    return [tick for tick in number_ticks(across.low, across.high, most) if tick.value == round(tick.value)]


def _contents(panel: Panel, across: Scale, up: Scale) -> Iterator[Item]:
    columns = max(1, int(across.end - across.begin))
    for band in panel.bands:
        x, low, high = envelope(band.x, band.low, band.high, columns)
        for run in _runs(np.isfinite(low) & np.isfinite(high)):
            edge = across(x[run])
            corners = np.concatenate([
                np.column_stack([edge, up(_within(low[run], up))]),
                np.column_stack([edge, up(_within(high[run], up))])[::-1],
            ])  # fmt: skip
            yield Area(corners, band.role, 0.28 if band.role == "truth" else 0.2)
    for line in panel.lines:
        x, y = thinned(*_shown(line, up), columns)
        points = np.column_stack([across(x), up(y)])
        width = 1.2 if len(line.x) > 2 * columns else 1.6
        for run in _runs(np.isfinite(y)):
            yield Path(points[run], line.role, line.dash, width)


def _within(values: F64, up: Scale) -> F64:
    return np.clip(values, up.low, up.high)


def _shown(line: Line, up: Scale) -> tuple[F64, F64]:
    """Return the points of a line without those outside the axis."""
    outside = ~((line.y >= up.low) & (line.y <= up.high))
    return line.x, np.where(outside, np.nan, line.y) if outside.any() else line.y


def _runs(known: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[slice]:
    """Yield the slices of consecutive true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        yield slice(begin, end)


def _marks(marks: Sequence[Mark], box: Box, across: Scale) -> Iterator[Item]:
    for mark in marks:
        x = across.at(mark.x)
        if box.x <= x <= box.x + box.width:
            yield Symbol(x, box.y + box.height - SYMBOL_ROOM / 2, mark.kind)
