"""Colours, light and dark: those of the live page, which colour-blind people tell apart too (Okabe and Ito 2008)."""

from __future__ import annotations

from collections.abc import Mapping

from service.programs.plots.figure import Dash, Kind, Role

LIGHT: Mapping[str, str] = {
    "paper": "#ffffff", "ink": "#1a1a1a", "faint": "#5f5f5f", "grid": "#e4e4e4", "axis": "#767676", "shade": "#f1f3f5",
    Role.TRUTH: "#1a1a1a", Role.SERVED: "#0072b2", Role.PERSISTENCE: "#767676", Role.LEAST_SQUARES: "#009e73",
    Role.NOMINAL: "#767676", Role.OTHER: "#d55e00",
    Kind.DRIFT: "#cc79a7", Kind.PUBLISH: "#009e73", Kind.ROLLBACK: "#cc3311", Kind.WORST: "#cc3311",
}  # fmt: skip
DARK: Mapping[str, str] = {
    "paper": "#14171a", "ink": "#ececec", "faint": "#a8a8a8", "grid": "#2b3035", "axis": "#8a8a8a", "shade": "#1f2429",
    Role.TRUTH: "#ececec", Role.SERVED: "#56b4e9", Role.PERSISTENCE: "#9a9a9a", Role.LEAST_SQUARES: "#2bbf94",
    Role.NOMINAL: "#9a9a9a", Role.OTHER: "#e69f00",
    Kind.DRIFT: "#cc79a7", Kind.PUBLISH: "#2bbf94", Kind.ROLLBACK: "#ff7760", Kind.WORST: "#ff7760",
}  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DASHES: Mapping[Dash, tuple[float, ...]] = {Dash.SOLID: (), Dash.DASHED: (6, 4), Dash.DOTTED: (1.5, 3)}
# Corners of each symbol around its place, in pixels; y goes down.
SHAPES: Mapping[Kind, tuple[tuple[float, float], ...]] = {
    Kind.DRIFT: ((0, -5), (5, 0), (0, 5), (-5, 0)),
    Kind.PUBLISH: ((0, -5), (5, 4), (-5, 4)),
    Kind.ROLLBACK: ((-5, 0), (4, -5), (4, 5)),
    Kind.WORST: (
        (-4.5, -3), (-3, -4.5), (0, -1.5), (3, -4.5), (4.5, -3), (1.5, 0), (4.5, 3), (3, 4.5), (0, 1.5), (-3, 4.5),
        (-4.5, 3), (-1.5, 0),
    ),
}  # fmt: skip


def variables(colours: Mapping[str, str]) -> str:
    """Return colours as CSS variables."""
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())
