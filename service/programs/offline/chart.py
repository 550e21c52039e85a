"""Line charts as SVG text, for benches and training runs, readable on light and dark backgrounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 760, 440  # pixels, unless scaled
LEFT, TOP, BOTTOM = 76, 52, 56  # margins around the plot; the right one follows the longest label
GLYPH, LABEL_GAP = 6.8, 17  # width of a letter in labels, and distance of labels
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# After Okabe & Ito's palette, distinguishable with any colour vision; one set per background.
LIGHT = ("#0072b2", "#c44e00", "#00805e", "#a8467f", "#7a6a00", "#555555")
DARK = ("#56b4e9", "#ff9d4d", "#2fd0a0", "#e59ac6", "#f0e442", "#bbbbbb")
DASHES = ("none", "8 4", "2 3", "10 3 2 3")
STYLE = """svg { background: #fff; font: 12px system-ui, sans-serif; } text { fill: #222; } .title { font-size: 15px; }
.grid { stroke: #ddd; } .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.point, .label { fill: currentColor; }"""
MIDDLE = 'dy=".35em"'  # centres a line of text on its y; not every renderer knows dominant-baseline
DARK_STYLE = "svg { background: #16181c; } text { fill: #e6e6e6; } .grid { stroke: #3a3d44; }"

Points = list[tuple[float, float]]


class Line(NamedTuple):
    """One line. x and y have equal lengths; a y that cannot be drawn (NaN, or not above 0 on a log axis) is a gap."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Axis(NamedTuple):
    """Map from values low..high to pixels start..stop. log: equal ratios have equal lengths."""

    low: float
    high: float
    start: float
    stop: float
    log: bool
    ticks: list[float]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def label(self, tick: float) -> str:
        """Return a tick as text, with powers of ten on an axis of very small or large values."""
        if 1e-4 < max(map(abs, self.ticks)) < 1e6 and not (self.log and self.ticks[0] < 1e-3):
            return f"{tick:.6g}"
        mantissa, _, exponent = f"{tick:.5e}".partition("e")
        power = f"10{str(int(exponent)).translate(SUPERSCRIPT)}"
        return "0" if tick == 0 else power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def line_chart(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], *, log_x: bool = False, log_y: bool = False
) -> str:
    """Return a chart as one SVG document, each line labelled at its end. Raises ValueError if no point can be drawn."""
    pieces = [_pieces(line, log_x, log_y) for line in lines]
    points = [point for parts in pieces for part in parts for point in part]
    if not points:
        raise ValueError(f"chart {title!r}: no line has a point that can be drawn")
    right, bottom = WIDTH - 24 - GLYPH * max(len(line.label) for line in lines), HEIGHT - BOTTOM
    x = _axis([p[0] for p in points], LEFT, right, log_x, tight=True)
    y = _axis([p[1] for p in points], bottom, TOP, log_y, tight=False)
    drawn = [_line(f"c{i % len(LIGHT)}", i, part, x, y) for i, parts in enumerate(pieces) for part in parts]
    ends = {i: y(parts[-1][-1][1]) for i, parts in enumerate(pieces) if parts}
    labels = [
        _text(right + 10, at, lines[i].label, f'class="label c{i % len(LIGHT)}" {MIDDLE}')
        for i, at in _spread(ends).items()
    ]
    words = [
        _text(LEFT, 28, title, 'class="title"'),
        _text((LEFT + right) / 2, HEIGHT - 14, x_label, 'text-anchor="middle"'),
        _text(-(TOP + bottom) / 2, 20, y_label, 'text-anchor="middle" transform="rotate(-90)"'),
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    dark = f"@media (prefers-color-scheme: dark) {{ {DARK_STYLE} {_colours(DARK)} }}"
    intro = [head, f"<title>{escape(title)}</title>", f"<style>{STYLE}\n{_colours(LIGHT)}\n{dark}</style>"]
    return "\n".join([*intro, *_grid(x, y), *drawn, *labels, *words, "</svg>\n"])


def _pieces(line: Line, log_x: bool, log_y: bool) -> list[Points]:
    """Return the line's points that can be drawn, in pieces separated by those that cannot."""
    pieces: list[Points] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y):
            pieces[-1].append((float(x), float(y)))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _axis(values: Sequence[float], start: float, stop: float, log: bool, tight: bool) -> Axis:
    """Return an axis from the smallest to the largest value; between round values if not tight or if all are equal."""
    ticks, low, high = _ticks(values, log), min(values), max(values)
    if tight and low < high:
        return Axis(low, high, start, stop, log, [tick for tick in ticks if low <= tick <= high])
    return Axis(ticks[0], ticks[-1], start, stop, log, ticks)


def _ticks(values: Sequence[float], log: bool) -> list[float]:
    """Return about 4 to 9 round values, the first at or below all values and the last at or above."""
    low, high = min(values), max(values)
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every, parts = max(1, -(-(last - first) // 8)), (1, 2, 5) if last - first <= 2 else (1,)
        multiples = range(first // every, last // every + 2)
        round_values = [m * 10.0 ** (k * every) for k in multiples for m in parts]
    else:
        spread = high - low or abs(high) or 1.0
        size = 10.0 ** math.floor(math.log10(spread / 5))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= spread / 5)
        round_values = [step * k for k in range(math.floor(low / step), math.ceil(high / step) + 2)]
    first = max(i for i, v in enumerate(round_values) if v <= low or i == 0)
    last = next((i for i, v in enumerate(round_values) if v >= high and i > first), len(round_values) - 1)
    return round_values[first : last + 1]


def _grid(x: Axis, y: Axis) -> list[str]:
    rows = [f'<path class="grid" d="M{x.start:.1f} {y(tick):.1f}H{x.stop:.1f}"/>' for tick in y.ticks]
    columns = [f'<path class="grid" d="M{x(tick):.1f} {y.start:.1f}V{y.stop:.1f}"/>' for tick in x.ticks]
    rows += [_text(x.start - 8, y(tick), y.label(tick), f'text-anchor="end" {MIDDLE}') for tick in y.ticks]
    return rows + columns + [_text(x(tick), y.start + 20, x.label(tick), 'text-anchor="middle"') for tick in x.ticks]


def _line(colour: str, i: int, points: Points, x: Axis, y: Axis) -> str:
    if len(points) == 1:
        return f'<circle class="point {colour}" cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3"/>'
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    return f'<path class="line {colour}" stroke-dasharray="{DASHES[i % len(DASHES)]}" d="M{path}"/>'


def _spread(ends: Mapping[int, float]) -> dict[int, float]:
    """Return heights for labels of lines that end at `ends`, in the same order, so that labels do not overlap."""
    placed: dict[int, float] = {}
    lowest = HEIGHT - BOTTOM + LABEL_GAP / 2
    for i, at in sorted(ends.items(), key=lambda end: -end[1]):  # from the bottom up
        lowest = placed[i] = min(at, lowest - LABEL_GAP / 2 if not placed else lowest - LABEL_GAP)
    return placed


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _colours(palette: Sequence[str]) -> str:
    return " ".join(f".c{i} {{ color: {colour}; }}" for i, colour in enumerate(palette))
