"""A drawing as SVG text: one file, no script, nothing loaded; light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from service.programs.plots.drawing import Area, Drawing, Item, Path, Rule, Shade, Symbol, Text
from service.programs.plots.figure import F64, Dash, Kind, Role
from service.programs.plots.styles import DARK, DASHES, FONT, LIGHT, SHAPES, variables
from service.programs.plots.texts import clean

CLASS = "freshet-plot"


def svg(drawing: Drawing) -> str:
    """Return the document, which also stands inside a page. Texts are escaped; it begins with title and description."""
    width, height = drawing.width, drawing.height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{CLASS}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-labelledby="plot-title plot-desc">',
        f'<title id="plot-title">{_text(drawing.title)}</title>',
        f'<desc id="plot-desc">{_text(drawing.summary)}</desc>',
        f"<style>{style()}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        *(element for item in drawing.items for element in _elements(item)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def style() -> str:
    """Return the style sheet of the picture; every rule begins with its class, so that it touches nothing else."""
    here = f".{CLASS}"
    rules = [
        f"{here}{{{variables(LIGHT)}font-family:{FONT};max-width:100%;height:auto}}",
        f"@media (prefers-color-scheme:dark){{{here}{{{variables(DARK)}}}}}",
        f"{here} text{{fill:var(--ink)}}{here} .faint{{fill:var(--faint)}}{here} .bold{{font-weight:600}}",
        f"{here} .paper{{fill:var(--paper)}}{here} .shade{{fill:var(--shade)}}",
        f"{here} .rule{{stroke:var(--grid)}}{here} .strong{{stroke:var(--axis)}}",
        f"{here} .line{{fill:none;stroke-linejoin:round}}",
    ]
    rules += [f"{here} .line.{role}{{stroke:var(--{role})}}{here} .area.{role}{{fill:var(--{role})}}" for role in Role]
    rules += [f"{here} .mark.{kind}{{fill:var(--{kind})}}" for kind in Kind]
    return "".join(rules)


def _elements(item: Item) -> Iterator[str]:
    match item:
        case Text():
            classes = " ".join(name for name in ("faint", "bold") if getattr(item, name))
            named = f' class="{classes}"' if classes else ""
            anchor = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
            place = f'x="{item.x:.1f}" y="{item.y:.1f}" font-size="{item.size:g}"'
            yield f"<text {place}{anchor}{named}>{_text(item.text)}</text>"
        case Path():
            dash = _dash(item.dash)
            kind = f'class="line {item.role}" stroke-width="{item.width:g}"{dash}'
            yield f'<path {kind} d="{_way(item.points)}"/>'
        case Area():
            yield f'<path class="area {item.role}" opacity="{item.opacity:g}" d="{_way(item.points)}Z"/>'
        case Rule():
            ends = f'x1="{item.x1:.1f}" y1="{item.y1:.1f}" x2="{item.x2:.1f}" y2="{item.y2:.1f}"'
            yield f'<line class="rule{" strong" * item.strong}" {ends}/>'
        case Shade():
            place = f'x="{item.x:.1f}" y="{item.y:.1f}" width="{item.width:.1f}" height="{item.height:.1f}"'
            yield f'<rect class="shade" {place}/>'
        case Symbol():
            corners = " ".join(f"{item.x + dx:.1f},{item.y + dy:.1f}" for dx, dy in SHAPES[item.kind])
            yield f'<polygon class="mark {item.kind}" points="{corners}"/>'


def _dash(dash: Dash) -> str:
    return f' stroke-dasharray="{" ".join(f"{length:g}" for length in DASHES[dash])}"' if DASHES[dash] else ""


def _way(points: F64) -> str:
    """Return the points of a path in steps of a tenth of a pixel; one point alone is a short line, so that it is seen.

    Each step is relative to the rounded point before it, which is shorter than places and adds up no error.
    """
    tenths = np.round(points * 10).astype(np.int64)
    steps = np.diff(tenths, axis=0)
    steps = steps[steps.any(axis=1)]
    begin = f"M{tenths[0, 0] / 10:g} {tenths[0, 1] / 10:g}"
    if not len(steps):
        return f"{begin}h1.5"
    return begin + "l" + " ".join(f"{dx / 10:g} {dy / 10:g}" for dx, dy in steps.tolist())


def _text(text: str) -> str:
    return escape(clean(text), quote=False)
