"""The panels that pictures of replays share: forecast against truth, sums of errors, coverage of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.programs.plots.figure import F64, Band, Dash, Kind, Line, Mark, Panel, Role, Span

LAST = 240  # rows of the two close views
ROOM = 1.25  # the axis of errors ends at this times the larger total of ours and persistence's
WINDOWS = 20  # a share inside is that of the last 1/WINDOWS of the rows
MADE = "Each forecast was made one row earlier."
LEAST_WINDOW = 50  # rows
STYLES = {
    "freshet": (Role.SERVED, Dash.SOLID), "persistence": (Role.PERSISTENCE, Dash.SOLID),
    "rls": (Role.LEAST_SQUARES, Dash.SOLID), "rls_seasonal": (Role.LEAST_SQUARES, Dash.DASHED),
    "naive_day": (Role.PERSISTENCE, Dash.DASHED),
}  # fmt: skip
NAIVE = (Role.PERSISTENCE, Dash.DOTTED)


@dataclass(frozen=True, slots=True)
class Followed:
    """One value of one stream over its rows. forecast: of step 1, made a row before; NaN where there is none.

    x: (n,) seconds since 1970 if `timed`, else row numbers. bounds: (level, low, high) of intervals, the widest first.
    scored: rows whose errors count.
    """

    name: str
    x: F64
    timed: bool
    truth: F64
    forecast: F64
    scored: slice
    bounds: Sequence[tuple[float, F64, F64]] = ()

    @property
    def worst(self) -> int | None:
        """Row of the largest error among the scored rows; None if nothing was scored."""
        errors = np.abs(self.forecast - self.truth)[self.scored]
        return None if not np.isfinite(errors).any() else (self.scored.start or 0) + int(np.nanargmax(errors))


def forecast_panels(followed: Followed) -> list[Panel]:
    """Return the whole series as an envelope, and close views of its last rows and of its largest error."""
    n, worst = len(followed.x), followed.worst
    close = {"last": slice(max(0, n - LAST), n)}
    if worst is not None:
        begin = min(max(0, worst - LAST // 2), max(0, n - LAST))
        close["largest error"] = slice(begin, begin + LAST)
    spans = [Span(float(followed.x[rows][0]), float(followed.x[rows][-1]), name) for name, rows in close.items()]
    marks = [] if worst is None else [Mark(float(followed.x[worst]), Kind.WORST)]
    every = _panel(followed, slice(0, n), "The whole series", "Truth as an area where it has more values than pixels.")
    whole = [_enveloped(every, followed, spans if n > LAST else [], marks)]
    shown = [_panel(followed, close["last"], f"The last {min(n, LAST)} rows", MADE, wide=worst is None)]
    if worst is not None:
        title = "Around the largest error"
        shown.append(_panel(followed, close["largest error"], title, MADE, wide=False, marks=marks))
    return whole + (shown if n > LAST or worst is not None else [])


def _panel(
    followed: Followed, rows: slice, title: str, about: str, *, wide: bool = True, marks: Sequence[Mark] = ()
) -> Panel:
    x = followed.x[rows]
    lines = [
        Line("truth", Role.TRUTH, x, followed.truth[rows]), Line("forecast", Role.SERVED, x, followed.forecast[rows]),
    ]  # fmt: skip
    bands = [
        Band(f"{level:.4g} interval", Role.SERVED, x, low[rows], high[rows]) for level, low, high in followed.bounds
    ]
    return Panel(title, about, followed.name, followed.timed, lines, bands, marks, wide=wide)


def _enveloped(panel: Panel, followed: Followed, spans: Sequence[Span], marks: Sequence[Mark]) -> Panel:
    truth, forecast = panel.lines
    area = Band("truth", Role.TRUTH, followed.x, truth.y, truth.y)
    several = len(followed.x) > LAST * 4  # more than a value per pixel: an area says more than a line
    lines, bands = ([forecast], [area]) if several else ([truth, forecast], [])
    return Panel(panel.title, panel.about if several else MADE, panel.unit, panel.timed, lines, bands, marks, spans)


def error_panel(
    x: F64,
    timed: bool,
    sums: Mapping[str, F64],
    means: Mapping[str, float],
    unit: str,
    marks: Sequence[Mark] = (),
    title: str = "Sum of squared errors",
) -> Panel:
    """Return running sums of squared errors. sums: (n,) by forecaster, ours first; means: shown beside the names."""
    ends = {name: float(values[-1]) if len(values) else np.nan for name, values in sums.items()}
    known = [ends[name] for name in list(sums)[:2] if np.isfinite(ends[name])]
    lines = [
        Line(name, *STYLES.get(name, NAIVE)[:1], x, values, STYLES.get(name, NAIVE)[1], f"{means[name]:.4g}")
        for name, values in sums.items()
    ]
    about = "Lower is better; a steeper line errs more at that time. Beside each name is its mean."
    return Panel(
        title, about, unit, timed, lines, marks=marks, y_least=0.0,
        y_most=max(known) * ROOM if known and max(known) > 0 else None,
    )  # fmt: skip


def coverage_panel(
    x: F64, timed: bool, levels: Sequence[float], inside: F64, known: F64, marks: Sequence[Mark] = ()
) -> Panel:
    """Return the share of values inside their intervals over the last rows. inside: (levels, n) counts; known: (n,)."""
    window = max(LEAST_WINDOW, len(x) // WINDOWS)
    total = _last(known, window)
    lines = []
    for n, level in enumerate(levels):
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(total >= window / 2, _last(inside[n], window) / total, np.nan)
        mean = inside[n].sum() / known.sum() if known.sum() else np.nan
        lines += [
            Line(f"{level:.4g} interval", Role.SERVED, x, share, Dash.SOLID, f"{mean:.1%} inside"),
            Line(f"asked: {level:.0%}", Role.NOMINAL, x[[0, -1]], np.full(2, level), Dash.DASHED),
        ]
    about = f"Share of values inside, over the last {window} rows: it should stay near the dashed line."
    least = max(0.0, min((float(np.nanmin(line.y)) for line in lines if np.isfinite(line.y).any()), default=0.0) - 0.1)
    return Panel("Coverage of intervals", about, "share", timed, lines, marks=marks, y_least=least, y_most=1.0)


def _last(counts: F64, window: int) -> F64:
    """Return the sums (n,) of the last `window` counts at each row."""
    sums = np.concatenate([np.zeros(window), np.cumsum(counts)])
    last: F64 = sums[window:] - sums[:-window]
    return last
