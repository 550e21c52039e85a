"""Meaning of each key of a model's spec, which `freshet models keys` prints with type, default and choices."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import NamedTuple

from model.spec import CHOICES, ModelSpec

# In the order in which people need them. A test compares the names with ModelSpec's fields.
KEYS = {
    "channels": "names of the values of an observation, in order; required",
    "task": "forecast: the stream's next values; regress: values given by labels; classify: one of classes",
    "targets": "forecast: channels to forecast, default all; regress: names of a label's values, required",
    "horizon": "forecasts reach 1..horizon ticks ahead",
    "classes": "of task classify: names of the classes, at least 2",
    "class_weights": "of task classify, one per class: weight of its labels in the loss; default 1",
    "interval": "seconds of event time per tick; above 0, the calendar is an input",
    "max_gap": "seconds of event time; a larger gap voids pending labels; 0: no limit",
    "forecaster": "mixture: network, least squares, seasonal values and persistence, up to 32 targets; network: alone",
    "seasons": "of the mixture: periods in seconds; empty: day and week of at most 720 ticks; [0]: none",
    "own_readout": "of the mixture, horizon 1: each stream also learns a small readout of its own, in its state",
    "zone": "time zone of the calendar, such as Europe/Berlin; stored as its POSIX rule; empty: UTC",
    "holidays": "holidays as inputs, by country or region: US, FR, DE-BY …; days begin by zone",
    "known": "names of inputs whose values for the forecast steps come with each tick",
    "static": "names of inputs that a stream has once",
    "categories": "known or static inputs that are categories, as name:count",
    "intervals": "levels of prediction intervals, such as 0.5 and 0.9: each forecast then has lower and upper bounds",
    "missing": "NaN in an observation: refuse it, or hold the last value, with a mask; nothing is learned from it",
    "scaler": "residual: differences and levels; standard: running z-score; none: raw values; *_v1: as in 0.1.0",
    "cell": "recurrent cell",
    "activation": "of cell rnn",
    "reset": "of cell gru: its reset gate multiplies the recurrent product (after), or the state before it (before)",
    "layers": "recurrent layers",
    "cells": "cell of each layer, where layers differ; cell and layers follow from it",
    "layer_norm": "normalize the input of each layer above the first",
    "residual": "add the input of each layer above the first to its output",
    "attention_window": "of cell attention: ticks that one tick reads, its own included",
    "heads": "of cell attention; 0: 4, 2 or 1, the first that divides hidden into at least 2 units for each",
    "positions": "of cell attention: keys turn with their age (rotary), or each head learns a bias per age (learned)",
    "hidden": "hidden units of each layer",
    "window": "ticks that one update unrolls over; 0: 16, or horizon + learn_every + 7, or with rule rtrl, - 1",
    "rule": "how a gradient reaches the past: tbptt ends at the window; rtrl is exact, for one layer of lru or mingru",
    "learn": "false: the model serves and never learns",
    "learn_every": "ticks of a stream per update",
    "label_horizon": "ticks by which a label may be late; 0: 512, or none for task forecast",
    "label_range": "low, high for all targets, or a pair each: values outside are quarantined, not learned",
    "loss": "empty: mse, or cross_entropy for task classify; pinball, gaussian, student_t also forecast a spread",
    "huber_delta": "of loss huber: larger errors, in scaled units, count linearly",
    "degrees": "of loss student_t: degrees of freedom; fewer are for heavier tails",
    "optimizer": "rule that turns a gradient into a step",
    "learning_rate": "step size; 0: 7e-4 (attention 3e-4), above horizon 1 1e-4; of a mixture 3e-3 or 1e-3, falling",
    "rate_floor": "smallest rate of a schedule; with the default rate of a mixture 7e-4, or 2e-4 for a horizon above 1",
    "momentum": "of optimizers momentum and nesterov",
    "weight_decay": "of optimizer adamw, decoupled; 0: 0.01 for adamw",
    "schedule": "of the learning rate, over updates; empty: inverse_sqrt with the default rate, else constant",
    "warmup": "updates over which the rate rises from 0, before the schedule",
    "schedule_updates": "updates in which the schedule falls to a tenth of the rate; 0: by the default",
    "clip": "largest global norm of a gradient; a larger one is scaled down to it",
    "clip_value": "largest magnitude of an element of the gradient, before clip; 0: no limit",
    "accumulate": "groups of labels whose gradients are averaged for one step of the optimizer",
    "layer_rates": "factors of the rate of parts, as name:factor; the names are those of freeze",
    "max_share": "largest share of the last 4,096 labels that is learned of one stream, while others are active",
    "drift_reaction": "to a lasting rise of the loss, besides the event: raise the rate, or rollback to the anchor",
    "drift_raise": "of drift_reaction raise: factor on the learning rate",
    "drift_labels": "of drift_reaction raise: labels for which the rate is raised",
    "freeze": "parts that keep their initial weights: cell0, cell1 …, head",
    "init": "initial recurrent weights",
    "init_gain": "factor on the initial recurrent weights; of cell lru, on its radii, which stay below 1",
    "head_init": "standard deviation of the readout's initial weights; 0: a new forecaster is persistence",
    "seed": "of the initial weights",
    "shadow": "another model, whose ticks this one learns from; it answers no calls itself",
}


class Key(NamedTuple):
    """One key, as it is printed."""

    name: str
    type: str
    default: str
    choices: str
    meaning: str


def describe() -> list[Key]:
    """Return every key of a spec."""
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
