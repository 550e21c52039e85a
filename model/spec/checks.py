"""Checks of a spec: types, names, sizes, and fields that do not fit together. Each raises SpecError."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from model.calendar import holidays
from model.calendar.zone import ZoneError, parse
from model.spec.names import (
    CELL_FIELDS,
    CHOICES,
    MAX_AHEAD,
    MAX_ANSWER,
    MAX_ATTENTION_WINDOW,
    MAX_CHANNELS,
    MAX_LAYERS,
    MAX_LEVELS,
    MAX_OUTPUTS,
    MAX_SEASON_TICKS,
    MAX_SEASONS,
    SPREAD_LOSSES,
    TRACED_CELLS,
    SpecError,
    category,
    check_number,
    layer_rate,
    shortest_window,
)

if TYPE_CHECKING:
    from model.spec.spec import ModelSpec

DEFAULT_CELL = "lstm"
UNSET_CHOICES = ("loss", "schedule", "forecaster")  # the default of an empty text depends on other fields
TEXTS = ("zone", "holidays", "shadow")  # the first two are checked by check_calendar


def check(spec: ModelSpec) -> None:
    """Check a spec with every default filled in."""
    check_names(spec)
    check_sizes(spec)
    check_calendar(spec)
    check_freeze(spec)
    check_layer_rates(spec)
    check_task(spec)
    check_cells(spec)
    check_rule(spec)
    check_unused_settings(spec)
    check_forecaster(spec)
    check_intervals(spec)
    check_covariates(spec)


def check_types(spec: ModelSpec) -> None:
    """Check the type of each field as given."""
    for field in fields(spec):
        value, kind = getattr(spec, field.name), str(field.type)
        if kind.startswith("tuple") and not isinstance(value, list | tuple):
            raise SpecError(field.name, value, "give a list")
        if kind == "tuple[float, ...]":
            for number in value:
                check_number(field.name, number)
        if field.name == "cells":
            check_stack(spec)
        if kind == "int" and (isinstance(value, bool) or not isinstance(value, int)):
            raise SpecError(field.name, value, "give a whole number")
        if kind == "float":
            check_number(field.name, value)
        if kind == "bool" and not isinstance(value, bool):
            raise SpecError(field.name, value, "give true or false")
        if kind == "str" and field.name in TEXTS:
            if not isinstance(value, str):
                raise SpecError(field.name, value, "give a text")
        elif kind == "str" and value not in CHOICES[field.name] and not (field.name in UNSET_CHOICES and value == ""):
            raise SpecError(field.name, value, f"choose one of {', '.join(CHOICES[field.name])}")


def check_names(spec: ModelSpec) -> None:
    """Check lists of names."""
    for field in ("channels", "targets", "classes", "freeze", "known", "static"):
        names = getattr(spec, field)
        if len(names) > MAX_CHANNELS:
            raise SpecError(field, f"{len(names)} names", f"give at most {MAX_CHANNELS} names")
        for name in names:
            if not isinstance(name, str) or not name or len(name) > 256 or not name.isprintable():
                raise SpecError(field, name, "a name is 1 to 256 printable characters")
        if len(set(names)) != len(names):
            raise SpecError(field, names, "every name must be different")
    if not spec.channels:
        raise SpecError("channels", spec.channels, f"give 1 to {MAX_CHANNELS} channel names")


def check_task(spec: ModelSpec) -> None:
    """Check the fields that a task needs, and refuse those it does not use."""
    classify, forecast = spec.task == "classify", spec.task == "forecast"
    if forecast:
        for name in spec.targets:
            if name not in spec.channels:
                raise SpecError("targets", name, "every target must be one of the channels")
    elif spec.horizon != 1:
        raise SpecError("horizon", spec.horizon, f"task {spec.task} has no horizon: leave it out")
    elif spec.learn_every != 1:
        raise SpecError("learn_every", spec.learn_every, f"task {spec.task} learns each label: leave it out")
    if classify and len(spec.classes) < 2:
        raise SpecError("classes", spec.classes, "name at least 2 classes")
    if not classify and spec.classes:
        raise SpecError("classes", spec.classes, f"task {spec.task} has none: leave them out")
    if classify and spec.targets:
        raise SpecError("targets", spec.targets, "task classify has classes instead: leave targets out")
    if spec.task == "regress" and not spec.targets:
        raise SpecError("targets", spec.targets, "name the values that a label holds")
    if len(spec.class_weights) != len(spec.classes):
        raise SpecError("class_weights", spec.class_weights, f"give {len(spec.classes)}, one per class")
    if any(not 0 < weight <= 1e6 for weight in spec.class_weights):
        raise SpecError("class_weights", spec.class_weights, "give weights above 0 and at most 1e6")
    check_label_range(spec)
    if classify != (spec.loss == "cross_entropy"):
        losses = [name for name in CHOICES["loss"] if (name == "cross_entropy") == classify]
        raise SpecError("loss", spec.loss, f"task {spec.task} takes {' or '.join(losses)}")
    if forecast and spec.label_horizon:
        raise SpecError("label_horizon", spec.label_horizon, "task forecast takes its labels from the stream")


def check_label_range(spec: ModelSpec) -> None:
    """Check the pairs of label_range."""
    if spec.label_range and spec.task == "classify":
        raise SpecError("label_range", spec.label_range, "task classify has probabilities: leave it out")
    if len(spec.label_range) not in (0, 2, 2 * len(spec.targets)):
        pairs = f"low and high, or {len(spec.targets)} such pairs, one per target"
        raise SpecError("label_range", spec.label_range, f"give {pairs}")
    if any(not low < high for low, high in zip(spec.label_range[::2], spec.label_range[1::2], strict=True)):
        raise SpecError("label_range", spec.label_range, "each low must be below its high")


def check_sizes(spec: ModelSpec) -> None:
    """Check the range of each number."""
    for name, low, high in (
        ("horizon", 1, 1024),
        ("layers", 1, MAX_LAYERS),
        ("hidden", 1, 1024),
        ("init_gain", 0.0, 100.0),
        ("attention_window", 1, MAX_ATTENTION_WINDOW),
        ("heads", 0, 1024),
        ("learn_every", 1, 1024),
        ("window", shortest_window(spec), 4096),
        ("label_horizon", 0, 100_000),
        ("huber_delta", 1e-6, 1e6),
        ("degrees", 2.01, 1000.0),
        ("momentum", 0.0, 0.9999),
        ("weight_decay", 0.0, 1.0),
        ("warmup", 0, 10**9),
        ("schedule_updates", 1, 10**9),
        ("seed", 0, 2**63 - 1),
        ("interval", 0.0, 3.2e9),
        ("max_gap", 0.0, 3.2e9),
        ("clip", 1e-6, 1e6),
        ("clip_value", 0.0, 1e6),
        ("accumulate", 1, 4096),
        ("max_share", 0.001, 1.0),
        ("drift_raise", 0.01, 100.0),
        ("drift_labels", 1, 10**9),
        ("head_init", 0.0, 10.0),
        ("rate_floor", 0.0, 1.0),
    ):
        value = getattr(spec, name)
        if not low <= value <= high:
            raise SpecError(name, value, f"give {low} to {high}")
    # A negative rate raises the loss. It is allowed so that a test can prove that the gate detects it.
    if not -1.0 <= spec.learning_rate <= 1.0:
        raise SpecError("learning_rate", spec.learning_rate, "give a step size of magnitude at most 1")
    if spec.outputs > MAX_OUTPUTS:
        field, what = ("classes", "classes") if spec.classes else ("horizon", "horizon × targets")
        raise SpecError(field, getattr(spec, field), f"{what} is {spec.outputs}, at most {MAX_OUTPUTS}")


def check_calendar(spec: ModelSpec) -> None:
    """Check the time zone and the calendar of holidays."""
    if spec.zone:
        try:
            parse(spec.zone)
        except ZoneError as error:
            raise SpecError("zone", spec.zone, error.remedy) from None
    if spec.holidays and (remedy := holidays.check(spec.holidays)):
        raise SpecError("holidays", spec.holidays, remedy)
    for field in ("zone", "holidays"):
        if getattr(spec, field) and not spec.interval:
            raise SpecError(
                field, getattr(spec, field), "the calendar needs the interval of the ticks: set interval too"
            )


def check_freeze(spec: ModelSpec) -> None:
    """Check that freeze names parts and leaves one."""
    parts = learned_parts(spec)
    for name in spec.freeze:
        if name not in parts:
            raise SpecError("freeze", name, f"the parts are {', '.join(parts)}")
    if spec.learn and len(spec.freeze) == len(parts):
        raise SpecError("freeze", spec.freeze, "that leaves nothing to learn: set learn = false instead")


def learned_parts(spec: ModelSpec) -> list[str]:
    """Return the names of the parts that learn by gradients."""
    return [*(f"cell{i}" for i in range(spec.layers)), *(["embed"] if spec.categories else []), "head"]


def check_layer_rates(spec: ModelSpec) -> None:
    """Check that layer_rates names each part at most once, and none that is frozen."""
    parts, seen = learned_parts(spec), set()
    if len(spec.layer_rates) > len(parts):
        raise SpecError("layer_rates", f"{len(spec.layer_rates)} entries", "give at most one for each part")
    for text in spec.layer_rates:
        name, _ = layer_rate(text)
        if name not in parts:
            raise SpecError("layer_rates", text, f"the parts are {', '.join(parts)}")
        if name in spec.freeze:
            raise SpecError("layer_rates", text, f"{name} is frozen and has no rate: leave it out of one of the two")
        if name in seen:
            raise SpecError("layer_rates", text, "every part must be different")
        seen.add(name)


def check_stack(spec: ModelSpec) -> None:
    """Check `cells` as given, beside the `cell` and `layers` that it replaces."""
    for name in spec.cells:
        if name not in CHOICES["cell"]:
            raise SpecError("cells", name, f"choose each from {', '.join(CHOICES['cell'])}")
    if not spec.cells:
        return
    if len(spec.cells) > MAX_LAYERS:
        raise SpecError("cells", f"{len(spec.cells)} cells", f"give at most {MAX_LAYERS}")
    if spec.layers not in (1, len(spec.cells)):
        raise SpecError("layers", spec.layers, f"cells names {len(spec.cells)} layers: leave layers out")
    if spec.cell not in (DEFAULT_CELL, spec.cells[0]):
        raise SpecError("cell", spec.cell, "cells names the cell of each layer: leave cell out")


def check_cells(spec: ModelSpec) -> None:
    """Refuse fields that no layer has, and settings between layers where there is one layer."""
    for field in fields(spec):
        owners = CELL_FIELDS.get(field.name)
        value = getattr(spec, field.name)
        if owners and value != field.default and not set(owners) & set(spec.stack):
            remedy = f"cell {spec.cell} has its own, or none: it is for {', '.join(owners)}; leave it out"
            raise SpecError(field.name, value, remedy)
    if spec.heads and spec.hidden % spec.heads:
        raise SpecError("heads", spec.heads, f"they share the hidden units: give a number that divides {spec.hidden}")
    for name in ("layer_norm", "residual"):
        if getattr(spec, name) and spec.layers == 1:
            raise SpecError(name, True, "it works between layers: give 2 or more layers, or leave it out")
    if spec.init == "identity" and (set(spec.stack), spec.activation) != ({"rnn"}, "relu"):
        given = f"rnn with {spec.activation}" if set(spec.stack) == {"rnn"} else " and ".join(dict.fromkeys(spec.stack))
        raise SpecError("init", spec.init, f"identity needs cell rnn with activation relu, not {given}")


def check_rule(spec: ModelSpec) -> None:
    """Refuse rule rtrl where its gradient would not be exact."""
    if spec.rule != "rtrl":
        return
    others = [name for name in spec.stack if name not in TRACED_CELLS]
    reason = ""
    if others:
        reason = (
            f"it keeps a trace for each unit's own weights, as cells {' and '.join(TRACED_CELLS)} have, not {others[0]}"
        )
    elif spec.layers > 1:
        reason = "it is exact for one layer: a second one's state depends on the first one's past, which has no trace"
    elif spec.categories:
        reason = "the tables of categories feed the recurrence and have no trace"
    if reason:
        raise SpecError("rule", spec.rule, f"{reason}: choose tbptt")


def check_unused_settings(spec: ModelSpec) -> None:
    """Refuse settings that the chosen optimizer would ignore."""
    if spec.weight_decay and spec.optimizer != "adamw":
        raise SpecError("weight_decay", spec.weight_decay, f"{spec.optimizer} has none: choose optimizer adamw")


def check_forecaster(spec: ModelSpec) -> None:
    """Check what the mixture needs, and refuse what only it uses."""
    if spec.forecaster == "mixture":
        if spec.task != "forecast":
            raise SpecError("forecaster", spec.forecaster, f"task {spec.task} has no mixture: leave it out")
        if spec.loss in SPREAD_LOSSES:
            remedy = "the mixture's experts are least squares and forecast no spread: choose forecaster network"
            raise SpecError("loss", spec.loss, remedy)
        if spec.scaler != "residual":
            raise SpecError("forecaster", spec.forecaster, "the mixture needs scaler residual: choose network")
    else:
        if spec.seasons and spec.seasons != (0.0,):
            raise SpecError("seasons", spec.seasons, "they belong to forecaster mixture: leave them out")
        if spec.own_readout:
            raise SpecError("own_readout", True, "it belongs to forecaster mixture: leave it out")
    if spec.own_readout and spec.horizon > 1:
        remedy = "it learns from the next tick only, so the horizon must be 1: leave it out"
        raise SpecError("own_readout", True, remedy)
    for season in spec.seasons if spec.seasons != (0.0,) else ():
        if not spec.interval:
            raise SpecError("seasons", season, "a season needs the interval of the ticks: set interval too")
        ticks = season / spec.interval
        if not 2 <= ticks <= MAX_SEASON_TICKS:
            raise SpecError("seasons", season, f"it has {ticks:g} ticks: give periods of 2 to {MAX_SEASON_TICKS} ticks")
    if len(spec.seasons) > MAX_SEASONS or len(set(spec.seasons)) < len(spec.seasons):
        raise SpecError("seasons", spec.seasons, f"give at most {MAX_SEASONS} different periods")


def check_intervals(spec: ModelSpec) -> None:
    """Check the levels of prediction intervals."""
    levels = spec.intervals
    if not levels:
        return
    if spec.task == "classify":
        raise SpecError("intervals", levels, "task classify has probabilities: leave them out")
    if len(levels) > MAX_LEVELS or len(set(levels)) < len(levels):
        raise SpecError("intervals", levels, f"give at most {MAX_LEVELS} different levels")
    for level in levels:
        if not 0.01 <= level <= 0.999:
            raise SpecError("intervals", level, "give levels of 0.01 to 0.999, such as 0.9 for 90 %")
    if (1 + 2 * len(levels)) * spec.outputs > MAX_ANSWER:
        values = f"{1 + 2 * len(levels)} values for each of {spec.outputs} outputs, at most {MAX_ANSWER} in an answer"
        raise SpecError("intervals", levels, f"{values}: fewer levels, or a shorter horizon")


def check_covariates(spec: ModelSpec) -> None:
    """Check the names of known and static inputs, their number, and the categories among them."""
    named = set(spec.channels)
    for field in ("known", "static"):
        for name in getattr(spec, field):
            if name in named:
                raise SpecError(field, name, "an input has one name and one kind: it is also a channel or known")
            named.add(name)
    if spec.horizon * len(spec.known) > MAX_AHEAD:
        remedy = f"horizon × known inputs is {spec.horizon * len(spec.known)}, at most {MAX_AHEAD}"
        raise SpecError("known", f"{len(spec.known)} names", remedy)
    inputs, seen = (*spec.known, *spec.static), set()
    if len(spec.categories) > len(inputs):
        raise SpecError(
            "categories", f"{len(spec.categories)} entries", "give at most one for each known or static input"
        )
    for text in spec.categories:
        name, _ = category(text)
        if name not in inputs:
            raise SpecError("categories", text, "a category is one of the known or static inputs: name it there too")
        if name in seen:
            raise SpecError("categories", text, "every name must be different")
        seen.add(name)
