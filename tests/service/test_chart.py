"""The chart, read back from its SVG: where things are, not how they look."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from service.programs.offline.chart import DARK, LABEL_GAP, LIGHT, Line, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element, kind: str = "") -> list[ElementTree.Element]:
    return [t for t in root.iter(f"{SVG}text") if kind in t.get("class", "").split() or not kind]


def paths(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The points of every drawn line, in pixels."""
    drawn = [p.get("d", "") for p in root.iter(f"{SVG}path") if "line" in p.get("class", "").split()]
    return [[(float(a), float(b)) for a, b in re.findall(r"([-\d.]+) ([-\d.]+)", d)] for d in drawn]


def tick_values(root: ElementTree.Element, anchor: str) -> list[str]:
    return [t.text or "" for t in texts(root) if t.get("text-anchor") == anchor and t.get("dy")]


def test_equal_steps_are_equally_long_on_a_linear_axis_and_larger_is_higher() -> None:
    ((a, b, c),) = paths(parsed(line_chart("t", "x", "y", [Line("l", [0, 1, 2], [5, 10, 15])])))
    assert a[0] < b[0] < c[0]
    assert a[1] > b[1] > c[1]  # pixels count downwards
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.11)
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.11)


def test_equal_ratios_are_equally_long_on_a_log_axis() -> None:
    svg = line_chart("t", "x", "y", [Line("l", [1, 10, 100], [1e-9, 1e-3, 1e3])], log_x=True, log_y=True)
    ((a, b, c),) = paths(parsed(svg))
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.11)
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.11)


@pytest.mark.parametrize(
    ("low", "high", "log", "first", "last"),
    [
        (0.43, 0.95, False, "0.4", "1"), (0.0, 64.0, False, "0", "80"), (-3.0, 7.0, False, "-4", "8"),
        (1.2e7, 4.8e7, False, "10⁷", "5·10⁷"), (2.0, 2.0, False, "2", "2.5"), (0.0, 0.0, False, "0", "0.2"),
        (0.43, 0.95, True, "0.2", "1"), (1e-19, 1e12, True, "10⁻²⁰", "10¹²"), (3.0, 3.0, True, "2", "5"),
        (2.5e-5, 6e-5, True, "2·10⁻⁵", "10⁻⁴"),
    ],
)  # fmt: skip
def test_axes_begin_and_end_at_round_values_around_all_that_they_show(
    low: float, high: float, log: bool, first: str, last: str
) -> None:
    labels = tick_values(parsed(line_chart("t", "x", "y", [Line("l", [1, 2], [low, high])], log_y=log)), "end")
    assert (labels[0], labels[-1]) == (first, last)
    assert 2 <= len(labels) <= 10
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("log", [False, True])
def test_lines_fill_the_width_and_round_values_lie_within(log: bool) -> None:
    root = parsed(line_chart("t", "x", "y", [Line("l", [3, 9, 64], [1, 2, 3])], log_x=log))
    ((first, _, last),) = paths(root)
    rows = [re.match(r"M([\d.]+) [\d.]+H([\d.]+)$", path.get("d", "")) for path in root.iter(f"{SVG}path")]
    ((left, right), *_) = [row.groups() for row in rows if row]
    assert (first[0], last[0]) == (float(left), float(right))
    ticks = [t.text for t in texts(root) if t.get("text-anchor") == "middle"][:-2]
    assert ticks == (["5", "10", "20", "50"] if log else ["20", "40", "60"])


def test_every_line_is_named_beside_its_end_and_no_name_covers_another() -> None:
    lines = [Line(f"line {i}", [0, 1], [1, 0.1 * (i == 9)]) for i in range(10)]
    labels = texts(parsed(line_chart("t", "x", "y", lines)), "label")
    assert sorted(t.text or "" for t in labels) == [line.label for line in lines]
    heights = sorted(float(t.get("y", "nan")) for t in labels)
    assert all(b - a >= LABEL_GAP - 0.11 for a, b in pairwise(heights))
    assert heights[0] > 0


@pytest.mark.parametrize("gap", [math.nan, math.inf, 0.0, -1.0])
def test_a_value_that_cannot_be_drawn_is_a_gap_in_its_line(gap: float) -> None:
    svg = line_chart("t", "x", "y", [Line("l", range(6), [1, 2, gap, 3, 4, 5])], log_y=True)
    assert [len(piece) for piece in paths(parsed(svg))] == [2, 3]
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_point_without_neighbours_is_a_dot() -> None:
    root = parsed(line_chart("t", "x", "y", [Line("l", [1], [1])]))
    assert len(list(root.iter(f"{SVG}circle"))) == 1


def test_a_chart_without_any_point_is_refused_by_its_title() -> None:
    with pytest.raises(ValueError, match="chart 'Loss': no line has a point"):
        line_chart("Loss", "x", "y", [Line("l", [1, 2], [math.nan, -1])], log_y=True)
    with pytest.raises(ValueError, match="no line has a point"):
        line_chart("Loss", "x", "y", [])


def test_words_are_escaped() -> None:
    root = parsed(line_chart("<a> & b", 'x "', "y", [Line("</svg>", [1, 2], [1, 2])]))
    assert {"<a> & b", 'x "', "</svg>"} <= {t.text for t in texts(root)}


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("palette", "ground"), [(LIGHT, "#ffffff"), (DARK, "#16181c")])
def test_every_colour_is_readable_on_its_ground(palette: tuple[str, ...], ground: str) -> None:
    svg = line_chart("t", "x", "y", [Line("l", [1, 2], [1, 2])])
    assert all(colour in svg and contrast(colour, ground) >= 4.5 for colour in palette)  # WCAG AA, for text
