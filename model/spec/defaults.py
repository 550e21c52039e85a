"""Defaults of a spec that depend on other fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model.spec.names import AUTO_SEASON_TICKS, SPREAD_LOSSES, shortest_window

if TYPE_CHECKING:
    from model.spec.spec import ModelSpec

DAY_S, WEEK_S = 86_400.0, 604_800.0
# Start rate, floor, and updates until a tenth of the start rate, of a mixture: start·√(1/(1 + 99·updates/length)).
FAST_START = {True: (3e-3, 7e-4, 49_500), False: (1e-3, 2e-4, 9_900)}  # by: horizon is 1
CONSTANT_UPDATES = 10_000
ATTENTION_RATE = 3e-4  # with horizon 1: at twice the rate its loss is higher, at ten times it hardly learns
MOST_MIXED = 32  # targets of a mixture by default: each has covariances of its own


def filled(spec: ModelSpec) -> dict[str, Any]:
    """Return the final values of the fields whose defaults depend on others, by name."""
    forecast = spec.task == "forecast"
    targets = tuple(spec.targets) or (tuple(spec.channels) if forecast else ())
    forecaster = spec.forecaster or _forecaster(spec, len(targets))
    return {
        **_layers(spec),
        "heads": spec.heads or _heads(spec),
        "channels": tuple(spec.channels),
        "targets": targets,
        "classes": tuple(spec.classes),
        "class_weights": tuple(map(float, spec.class_weights)) or (1.0,) * len(spec.classes),
        "label_range": tuple(map(float, spec.label_range)),
        "freeze": tuple(spec.freeze),
        "layer_rates": tuple(spec.layer_rates),
        "window": spec.window or max(1 if spec.rule == "rtrl" and forecast else 16, shortest_window(spec)),
        "label_horizon": spec.label_horizon or (0 if forecast else 512),
        "loss": spec.loss or ("cross_entropy" if spec.task == "classify" else "mse"),
        "weight_decay": spec.weight_decay or (0.01 if spec.optimizer == "adamw" else 0.0),
        **_rates(spec, forecaster == "mixture"),
        "forecaster": forecaster,
        "seasons": _seasons(spec, forecaster),
        "intervals": tuple(sorted(map(float, spec.intervals))),
        "known": tuple(spec.known),
        "static": tuple(spec.static),
        "categories": tuple(spec.categories),
    }


def _layers(spec: ModelSpec) -> dict[str, Any]:
    """Return cell, layers and cells; a list of equal cells is written as one cell and its layers."""
    if not spec.cells:
        return {"cells": ()}
    cells = tuple(spec.cells)
    return {"cell": cells[0], "layers": len(cells), "cells": cells if len(set(cells)) > 1 else ()}


def _attends(spec: ModelSpec) -> bool:
    """Whether a layer is attention; `cells`, if given, names the layers."""
    return "attention" in (spec.cells or (spec.cell,))


def _heads(spec: ModelSpec) -> int:
    """Return the heads of attention that fit the units: 4, 2 or 1; 0 without attention."""
    if not _attends(spec):
        return 0
    return next((heads for heads in (4, 2) if spec.hidden % heads == 0 and spec.hidden >= 2 * heads), 1)


def _forecaster(spec: ModelSpec, targets: int) -> str:
    mixed = spec.task == "forecast" and spec.scaler == "residual" and targets <= MOST_MIXED
    mixed &= spec.loss not in SPREAD_LOSSES
    return "mixture" if mixed else "network"


def _rates(spec: ModelSpec, mixed: bool) -> dict[str, Any]:
    one = spec.horizon == 1
    if _attends(spec):
        rate, floor, updates = (ATTENTION_RATE if one else 1e-4), 0.0, CONSTANT_UPDATES
        schedule = spec.schedule or "constant"
    elif mixed and not spec.learning_rate and not spec.schedule:
        rate, floor, updates = FAST_START[one]
        schedule = "inverse_sqrt"
    else:
        rate, floor, updates = (7e-4 if one else 1e-4), 0.0, CONSTANT_UPDATES
        schedule = spec.schedule or "constant"
    return {
        "learning_rate": spec.learning_rate or rate,
        "rate_floor": spec.rate_floor or floor,
        "schedule_updates": spec.schedule_updates or updates,
        "schedule": schedule,
    }


def _seasons(spec: ModelSpec, forecaster: str) -> tuple[float, ...]:
    if spec.seasons or forecaster != "mixture" or not spec.interval:
        return tuple(map(float, spec.seasons))
    return automatic_seasons(spec.interval)


def automatic_seasons(interval: float) -> tuple[float, ...]:
    """Return the periods, in seconds, that are seasons by default: day and week of 2 to AUTO_SEASON_TICKS ticks.

    interval: seconds per tick; 0 for ticks without event times, which have no seasons.
    """
    if interval <= 0:
        return ()
    return tuple(period for period in (DAY_S, WEEK_S) if 2 <= period / interval <= AUTO_SEASON_TICKS)


def baseline_seasons(spec: ModelSpec) -> tuple[float, ...]:
    """Return the periods, in seconds, of the baselines that a model of this complete spec is compared with.

    They are the spec's seasons; for a model without any, those of its interval, so that the baselines do not depend on
    the forecaster.
    """
    return spec.periods or automatic_seasons(spec.interval)


def season_name(period: float) -> str:
    """Return the name of a season by its period in seconds: day, week, or the number."""
    return {DAY_S: "day", WEEK_S: "week"}.get(period, f"{period:.10g}")


def starts_fast(spec: ModelSpec) -> bool:
    """Whether the rates of a complete spec are those of FAST_START."""
    given = (spec.learning_rate, spec.rate_floor, spec.schedule_updates)
    return spec.schedule == "inverse_sqrt" and given == FAST_START[spec.horizon == 1]
