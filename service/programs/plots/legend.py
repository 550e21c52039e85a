"""The legend of a panel: a sample of each line, band and mark, with its name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from service.programs.plots.drawing import Area, Item, Path, Symbol, Text
from service.programs.plots.figure import Kind, Line, Panel
from service.programs.plots.texts import fitted, width_of

SIZE, SAMPLE, SPACE, LINE = 11.0, 20.0, 18.0, 16  # pixels
MOST_NAME = 220.0
NAMES = {
    Kind.DRIFT: "drift detected", Kind.PUBLISH: "version published", Kind.ROLLBACK: "rolled back",
    Kind.WORST: "largest error",
}  # fmt: skip


def legend(panel: Panel, left: float, y: float, width: float) -> Iterator[Item]:
    """Yield the samples and names in lines from (left, y) on, as many as they need."""
    for sample, name, x, line in _placed(panel, width):
        yield from _moved(sample, left + x, y + line * LINE)
        yield Text(left + x + SAMPLE + 6, y + line * LINE, name, size=SIZE)


def legend_lines(panel: Panel, width: float) -> int:
    """Return how many lines a legend of this width needs."""
    return 1 + max((line for *_, line in _placed(panel, width)), default=0)


def _placed(panel: Panel, width: float) -> Iterator[tuple[Item, str, float, int]]:
    x, line = 0.0, 0
    for sample, full in _entries(panel):
        name = fitted(full, MOST_NAME, SIZE)
        needed = SAMPLE + 6 + width_of(name, SIZE)
        if x and x + needed > width:
            x, line = 0.0, line + 1
        yield sample, name, x, line
        x += needed + SPACE


def _entries(panel: Panel) -> Iterator[tuple[Item, str]]:
    for line in panel.lines:
        points = np.array([[0.0, 0.0], [SAMPLE, 0.0]])
        yield Path(points, line.role, line.dash, 2.0), " ".join(filter(None, (line.name, line.note, _cut(line, panel))))
    for band in panel.bands:
        corners = np.array([[0.0, -4.0], [SAMPLE, -4.0], [SAMPLE, 4.0], [0.0, 4.0]])
        yield Area(corners, band.role, 0.28), band.name
    for kind in dict.fromkeys(mark.kind for mark in panel.marks):
        yield Symbol(SAMPLE / 2, 0, kind), NAMES[kind]


def _cut(line: Line, panel: Panel) -> str:
    """Return a note on a line that leaves the axis."""
    if panel.y_most is None or not (np.nan_to_num(line.y) > panel.y_most).any():
        return ""
    return "(leaves the axis)"


def _moved(item: Item, x: float, y: float) -> Iterator[Item]:
    place = np.array([x, y - 4])
    match item:
        case Path():
            yield Path(place + item.points, item.role, item.dash, item.width)
        case Area():
            yield Area(place + item.points, item.role, item.opacity)
        case Symbol():
            yield Symbol(item.x + x, y - 4, item.kind)
