"""The dashboard as Grafana will have it: all metrics are there, and no panel lies on another."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from docs.generate import _panels, dashboard, metrics

DASHBOARD = json.loads(dashboard.render())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
NAMES = {metrics.full_name(family) for family in metrics.registry().collect()}


def strangers(panels: list[_panels.Panel]) -> set[str]:
    """Metrics in queries that no server has."""
    return {
        name for panel in panels for expression, _ in panel.queries for name in metrics.metrics_in(expression)
    } - NAMES


def test_every_metric_that_a_panel_or_an_alert_looks_at_is_there():
    assert not strangers(_panels.panels())
    assert not metrics.metrics_in(metrics.ALERTS.read_text()) - NAMES


def test_a_panel_of_a_metric_that_was_renamed_is_found():
    panel = replace(_panels.SERVICE[0], queries=[("min(freshet_redy)", "")])

    assert strangers([panel]) == {"freshet_redy"}


def test_no_panel_lies_on_another_nor_beyond_the_edge():
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        across, down = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        return set(itertools.product(across, down))

    taken = [cells(panel) for panel in DASHBOARD["panels"]]

    assert sum(map(len, taken)) == len(set().union(*taken))
    assert max(x for x, _ in set().union(*taken)) == dashboard.COLUMNS - 1
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_asks_the_chosen_source(panel):
    assert panel["description"]
    assert panel["targets"]
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_a_reader_chooses_source_tenant_and_model():
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "tenant", "model"]
    labels = metrics.label_names()
    by_model = {metrics.full_name(f) for f in metrics.registry().collect() if "model" in labels.get(f.name, ())}
    for panel in PANELS:
        for target in panel["targets"]:
            if metrics.metrics_in(target["expr"]) & by_model:
                assert 'tenant=~"$tenant", model=~"$model"' in target["expr"], "else it would show other models' too"
