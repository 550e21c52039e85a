"""What each key of a model's spec means: what `freshet models keys` prints beside type, default and choices."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import NamedTuple

from model.spec import CHOICES, ModelSpec

# In the order in which people meet them. A test compares the names with ModelSpec's fields.
KEYS = {
    "channels": "names of the values of an observation, in order; required",
    "task": "forecast: the stream's own next values; regress: values that labels bring; classify: one of classes",
    "targets": "forecast: the channels that are forecast, all by default; regress: names of a label's values, required",
    "horizon": "forecasts reach 1..horizon ticks ahead",
    "classes": "of task classify: names of the classes, at least 2",
    "class_weights": "of task classify, one per class: how much a label of it counts; all 1 by default",
    "interval": "seconds of event time from tick to tick; above 0 the calendar becomes an input",
    "max_gap": "seconds; a larger gap in event time voids labels that are pending; 0: no limit",
    "missing": "NaN in an observation: refuse it, or hold the last value, masked and never learned from",
    "scaler": "residual: differences and levels; standard: running z-score; none: raw values; *_v1: as in 0.1.0",
    "cell": "recurrent cell",
    "activation": "of cell rnn",
    "layers": "recurrent layers",
    "hidden": "hidden units of each layer",
    "window": "ticks that one update unrolls over; 0: 16, or horizon + learn_every + 7 if that is more",
    "learn": "false: the model serves and never learns",
    "learn_every": "one update every so many ticks of a stream",
    "label_horizon": "ticks that a label may come late; 0: 512, and none for task forecast",
    "label_range": "low, high of all targets, or a pair for each: values beyond it are quarantined, not learned",
    "loss": "empty: mse, or cross_entropy for task classify",
    "huber_delta": "of loss huber: errors beyond so many scaled units count linearly",
    "optimizer": "how a gradient becomes a step",
    "learning_rate": "step size; 0: 7e-4, or 1e-4 where horizon is above 1",
    "momentum": "of optimizers momentum and nesterov",
    "weight_decay": "decoupled, of optimizer adamw; 0: 0.01 there",
    "schedule": "of the learning rate, over updates",
    "warmup": "updates over which the rate rises from 0, before the schedule",
    "schedule_updates": "length of schedule cosine, which falls to a tenth of the rate",
    "clip": "largest norm of a gradient; more is scaled down to it",
    "max_share": "of the last 4,096 labels, at most this share is learned of one stream while others are active",
    "drift_reaction": "to a loss that rises for good, beside the event: raise the rate, or rollback to the anchor",
    "drift_raise": "factor on the learning rate, of drift_reaction raise",
    "drift_labels": "of drift_reaction raise: labels for which the rate is raised",
    "freeze": "parts that keep their first weights: cell0, cell1 …, head",
    "init": "first recurrent weights",
    "init_gain": "factor on the first recurrent weights",
    "head_init": "standard deviation of the readout's first weights; 0: a fresh forecaster is persistence",
    "seed": "of the first weights",
}


class Key(NamedTuple):
    """One key, as people see it."""

    name: str
    type: str
    default: str
    choices: str
    meaning: str


def describe() -> list[Key]:
    """Every key of a spec."""
    by_name = {field.name: field for field in fields(ModelSpec)}
    described = []
    for name, meaning in KEYS.items():
        field = by_name[name]
        kind = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
            str(field.type), "list of numbers" if "float" in str(field.type) else "list of texts"
        )
        default = "" if field.default is MISSING else _shown(field.default)
        described.append(Key(name, kind, default, ", ".join(CHOICES.get(name, ())), meaning))
    return described


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
