"""A view as lines of a terminal: a table of the columns that fit, and below it each model's other facts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.text import Text

from service.console.shown import shares
from service.console.tables import shown
from service.programs.top.view import Key, ModelView, View, behind

NONE = "–"
MOST_LATE = 5  # lines for models that are behind
BLOCKS = "▁▂▃▄▅▆▇█"
GAP = "   "
STYLES = {
    "published": "green",
    "vetoed": "yellow",
    "cooling down": "yellow",
    "rolled back": "red",
    "paused": "yellow",
    "never": "dim",
}
SIZES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

Points = Mapping[tuple[Key, str], Sequence[float]]


class Column(NamedTuple):
    """A column of the table. rank: on a narrow terminal, columns with the highest rank are left out first."""

    name: str
    rank: int
    cell: Callable[[ModelView], Text]


def title(m: ModelView) -> str:
    """Return a model's name, with the tenant in front unless it is the default one."""
    return shown(m.model if m.tenant in ("", "default") else f"{m.tenant}/{m.model}")


def beside_persistence(m: ModelView) -> Text:
    """Return the loss divided by persistence's; below 1, the model is better."""
    if not m.persistence or m.loss is None:
        return Text(NONE)
    ratio = m.loss / m.persistence
    return Text(f"{ratio:.2f}", style="green" if ratio < 1 else "red")


COLUMNS = (
    Column("model", 0, lambda m: Text(title(m), style="bold")),
    Column("streams", 7, lambda m: Text(f"{count(m.streams_open)}/{count(m.streams)}")),
    Column("ticks/s", 1, lambda m: Text(count(m.ticks_per_s))),
    Column("learned/s", 6, lambda m: Text(count(m.learned_per_s))),
    Column("loss", 2, lambda m: Text(number(m.loss))),
    Column("÷ persistence", 3, beside_persistence),
    Column("staleness", 8, lambda m: Text(f"{count(m.staleness_p50)}/{count(m.staleness_p95)}")),
    Column("version", 4, lambda m: Text(NONE if m.version is None else str(m.version))),
    Column("published", 9, lambda m: Text(ago(m.published_s))),
    Column("ok/veto/back", 10, lambda m: Text("/".join(map(count, (m.published, m.vetoed, m.rolled_back))))),
    Column("backlog", 11, lambda m: Text(count(m.backlog))),
    Column("learning", 5, lambda m: Text(m.learning or NONE, style=STYLES.get(m.learning, ""))),
)
PLACE = (  # after them, in a cluster
    Column("shard", 12, lambda m: Text(NONE if m.shard is None else f"{m.shard:03d}")),
    Column("node", 13, lambda m: Text(shown(m.node) or NONE)),
    Column("epoch", 14, lambda m: Text(count(m.epoch))),
)


def screen(view: View, points: Points, url: str, width: int, height: int) -> list[Text]:
    """Return the screen: at most `height` lines of at most `width` characters."""
    lines = flow(heading(view, url), width)[: max(1, height // 4)]
    lines += [Text(shown(f"! {trouble}"), style="yellow") for trouble in view.troubles]
    late = [f"{title(m)} is behind: labels have waited {m.waiting_s:.0f} s to be learned" for m in behind(view)]
    lines += [Text(f"! {line}", style="yellow") for line in late[:MOST_LATE]]
    lines.append(Text())
    if view.models:
        known = (*COLUMNS, *PLACE) if view.in_cluster else COLUMNS
        columns = fitting(known, view.models, width)
        room = max(1, height - len(lines) - 2)  # without the column names and the line with the number of models left
        shown_models = view.models if len(view.models) <= room + 1 else view.models[:room]
        lines += table(columns, shown_models)
        if len(shown_models) < len(view.models):
            lines.append(Text(f"… and {len(view.models) - len(shown_models)} more: give names to choose", style="dim"))
        for m in shown_models:
            detail = details(m, [c for c in known if c not in columns], points, width)
            if len(lines) + 1 + len(detail) > height:
                break
            lines += [Text(), *detail]
        lines += worst_streams(view)
    elif view.away is None and not view.troubles:
        lines.append(Text("no models yet; make one: freshet models create NAME --from MODEL.toml"))
    if view.away is not None:
        for line in lines[1:]:
            line.stylize("dim")
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def heading(view: View, url: str) -> list[Text]:
    """Return the server's line, in parts."""
    s = view.server
    if view.away is None:
        state = Text(shown(s.ready), style="green" if s.ready == "ready" else "yellow")
    else:
        state = Text(f"away since {clock(view.away)}", style="bold red")
    return [
        Text(f"freshet {url}", style="bold"),
        state,
        *[Text("no trainer", style="bold red")] * (s.trainer is False),
        *([] if s.shards is None else [Text(f"{s.shards} shards")]),
        Text(f"{count(s.calls)} calls"),
        Text(f"{count(s.ticks_per_s)} ticks/s"),
        Text(f"latency p50 {duration(s.latency_p50)} p99 {duration(s.latency_p99)}"),
        Text(f"journal {count(s.journal_bytes)}B"),
        Text(clock(view.time), style="dim"),
        Text("q quits", style="dim"),
    ]


def fitting(known: Sequence[Column], models: Sequence[ModelView], width: int) -> list[Column]:
    """Return the columns that fit, from left to right; the first column is always included."""
    chosen: list[Column] = []
    for column in sorted(known, key=lambda c: c.rank):
        together = [*chosen, column]
        if not chosen or sum(widths(together, models)) + len(GAP) * (len(together) - 1) <= width:
            chosen = together
    return [column for column in known if column in chosen]


def widths(columns: Sequence[Column], models: Sequence[ModelView]) -> list[int]:
    """Return the width of each column in characters."""
    return [max(len(c.name), *(c.cell(m).cell_len for m in models)) for c in columns]


def table(columns: Sequence[Column], models: Sequence[ModelView]) -> list[Text]:
    """Return a line of names and one for each model, the first column left-aligned, the others right-aligned."""
    sizes = widths(columns, models)
    rows = [[Text(c.name, style="dim") for c in columns], *([c.cell(m) for c in columns] for m in models)]
    for row in rows:
        for at, (cell, size) in enumerate(zip(row, sizes, strict=True)):
            cell.align("right" if at else "left", size)
    return [Text(GAP).join(row) for row in rows]


def details(m: ModelView, left_out: Sequence[Column], points: Points, width: int) -> list[Text]:
    """Return a model's lines: columns left out of the table, the course of loss and gradients, the last verdict."""
    parts = [Text(title(m), style="bold")]
    parts += [Text(f"{c.name} ").append_text(c.cell(m)) for c in left_out if c.name != "model"]
    for words, name, value in [("loss", "loss", m.loss), *((f"gradient {n}", n, v) for n, v in m.gradient.items())]:
        if value is not None:
            drawn = spark(points.get(((m.tenant, m.model), name), ()))
            parts.append(Text(f"{words} ").append(drawn, style="cyan").append(f" {number(value)}"))
    if m.coverage:
        inside = (f"{float(level):.1%} asked {share:.1%}" for level, share in m.coverage.items())
        parts.append(Text(f"inside intervals: {', '.join(inside)}"))
    if m.experts:
        parts.append(Text(f"mixture: {shares(m.experts)}"))
    if m.verdict:
        verdict = Text("last verdict ").append(m.verdict, style=STYLES[m.verdict])
        parts.append(verdict.append(shown(f": {m.reason}")))
    return flow(parts, width)


def worst_streams(view: View) -> list[Text]:
    """Return a heading and a line for each of the worst streams; nothing without any."""
    if not view.worst:
        return []
    size = max(len(shown(w.stream)) for w in view.worst)
    heading = Text(f"worst streams of {shown(view.worst[0].model)}, error ÷ persistence", style="dim")
    rows = [
        Text(f"  {shown(w.stream).ljust(size)}{GAP}")
        .append(f"{w.ratio:.2f}", style="green" if w.ratio < 1 else "red")
        .append(f"{GAP}{count(w.labels)} labels")
        for w in view.worst
    ]
    return [Text(), heading, *rows]


def flow(parts: Sequence[Text], width: int) -> list[Text]:
    """Return parts joined to lines of at most `width` characters; lines after the first are indented."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + len(GAP) + part.cell_len <= width:
            lines[-1].append(GAP).append_text(part)
        else:
            lines.append(part.copy() if not lines else Text("  ").append_text(part))
    return lines


def spark(values: Sequence[float]) -> str:
    """Return values as blocks on a logarithmic scale over at least a factor of ten, so that noise looks small."""
    logs = [math.log10(value) for value in values if value > 0]
    if not logs:
        return ""
    middle, reach = (max(logs) + min(logs)) / 2, max(max(logs) - min(logs), 1.0)
    steps = (int((value - middle + reach / 2) / reach * len(BLOCKS)) for value in logs)
    return "".join(BLOCKS[min(max(step, 0), len(BLOCKS) - 1)] for step in steps)


def count(value: float | None) -> str:
    """Return a count or rate in at most five characters: 7, 0.3, 812, 12.3k."""
    if value is None:
        return NONE
    for size, letter in SIZES:
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def number(value: float | None) -> str:
    """Return a value with three digits."""
    return NONE if value is None else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Return a latency as text: 250 µs, 1.2 ms, 3 s."""
    if seconds is None:
        return NONE
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))
    return f"{seconds / scale:.3g} {unit}"


def ago(seconds: float | None) -> str:
    """Return an age as text: 0.4 s ago, 12 s ago, 3 min ago, 5 h ago, 2 d ago."""
    if seconds is None:
        return NONE
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 10 else f"{seconds:.1f} s ago"


def clock(seconds: float) -> str:
    """Return the time of day, UTC."""
    return time.strftime("%H:%M:%SZ", time.gmtime(seconds))
