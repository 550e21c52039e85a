"""deploy/grafana/freshet.json: the dashboard as Grafana imports it. `_panels` holds its panels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from docs.generate._panels import ROWS, Panel

PAGE = "deploy/grafana/freshet.json"

SCHEMA = 39  # Grafana 10.4 and later
COLUMNS, HEIGHT = 24, 8  # in cells of Grafana's grid: the width of a row, the height of a panel
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LAST = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
COLORS = {"calculate": False, "color": {"mode": "scheme", "scheme": "Spectral"}, "cellGap": 0}
LEGEND = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
INSTANT = {"instant": True, "range": False}


@dataclass(frozen=True)
class Kind:
    """How Grafana draws a kind of panel: its type, its options, and the options of each query."""

    type: str
    options: dict[str, Any]
    query: dict[str, Any]


KINDS = {
    "timeseries": Kind("timeseries", {"legend": LEGEND, "tooltip": {"mode": "multi"}}, {}),
    "stat": Kind("stat", {**LAST, "colorMode": "value", "graphMode": "area"}, INSTANT),
    "bargauge": Kind("bargauge", {**LAST, "displayMode": "basic", "orientation": "vertical"}, INSTANT),
    "heatmap": Kind("heatmap", COLORS, {}),
    "histogram": Kind("heatmap", COLORS, {"format": "heatmap"}),
}


def render() -> str:
    """Return the dashboard as JSON that Grafana imports or provisions."""
    boxes = (
        chosen("tenant", "label_values(freshet_version, tenant)"),
        chosen("model", 'label_values(freshet_version{tenant=~"$tenant"}, model)'),
    )
    return document("freshet", "freshet", *boxes, rows=ROWS)


def document(uid: str, title: str, *boxes: dict[str, Any], rows: Mapping[str, Sequence[Panel]]) -> str:
    """Return a dashboard of these rows. boxes: for what a reader chooses beside the data source."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "source"}
    return json.dumps(
        {
            "uid": uid,
            "title": title,
            "tags": ["freshet"],
            "schemaVersion": SCHEMA,
            "editable": True,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": [source, *boxes]},
            "panels": placed(rows),
        },
        indent=1,
    )


def chosen(name: str, query: str) -> dict[str, Any]:
    """Return a selection box at the top: several values, or all."""
    return {
        "name": name, "type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1, "multi": True,
        "query": {"query": query, "refId": name},
        "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def placed(rows: Mapping[str, Sequence[Panel]]) -> list[dict[str, Any]]:
    """Return rows and panels with their places on the grid, filled from left to right."""
    out: list[dict[str, Any]] = []
    y = 0
    for title, row in rows.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        out.append({"id": len(out) + 1, "gridPos": place, "type": "row", "title": title, "panels": []})
        y, x = y + 1, 0
        height = HEIGHT // 2 if all(panel.kind == "stat" for panel in row) else HEIGHT
        for panel in row:
            if x + panel.width > COLUMNS:
                y, x = y + height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            out.append({"id": len(out) + 1, "gridPos": place, **shown(panel)})
            x += panel.width
        y += height
    return out


def shown(panel: Panel) -> dict[str, Any]:
    """Return a panel as Grafana stores it, without its place."""
    field: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "timeseries":
        field["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        if panel.log:
            field["custom"]["scaleDistribution"] = {"type": "log", "log": 10}
        if panel.stacked:
            field["custom"] |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
    kind = KINDS[panel.kind]
    return {
        "type": kind.type,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": kind.options,
        "targets": [
            {"refId": letter, "datasource": SOURCE, "expr": expr, "legendFormat": legend or "__auto", **kind.query}
            for letter, (expr, legend) in zip(ascii_uppercase, panel.queries, strict=False)
        ],
    }
