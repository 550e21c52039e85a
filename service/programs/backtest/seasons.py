"""Seasons of a replay: their names, and a suggestion where none is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model.offline import periods
from model.spec import MAX_SEASON_TICKS, ModelSpec, baseline_seasons, season_name


def seasons(spec: ModelSpec) -> dict[str, float]:
    """Return the seasons of a spec's baselines, in ticks by name, shortest first; none without event times."""
    return {season_name(period): period / spec.interval for period in sorted(baseline_seasons(spec))}


def suggestion(spec: ModelSpec, values: npt.NDArray[np.floating[Any]]) -> str:
    """Return a line that suggests a season, or an empty text.

    values: (N, targets), NaN where missing. Only a spec that could have seasons and has none gets a suggestion.
    """
    if spec.task != "forecast" or spec.seasons or baseline_seasons(spec):
        return ""
    rows = periods.period(values, MAX_SEASON_TICKS)
    if not rows:
        return ""
    chosen = "" if spec.forecaster == "mixture" else "--set forecaster=mixture "
    remedy = (
        f"try {chosen}--set seasons=[{rows * spec.interval:.10g}]"
        if spec.interval
        else "seasons need event times: name their column with --time"
    )
    return f"a period of {rows:,} rows shows in the first {min(len(values), periods.ROWS):,} rows: {remedy}"
