"""Errors of a spec, its limits, and the choices of its named fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.spec.spec import ModelSpec

MAX_CHANNELS = 4096
MAX_OUTPUTS = 8192
MAX_LAYERS = 8
MAX_ATTENTION_WINDOW = 1024
# Ticks that a window must hold before the origin of the farthest head's label; with fewer, that label trains little
# but the first steps after the start state.
WINDOW_MARGIN = 8
MAX_SEASONS = 4
MAX_SEASON_TICKS = 4096
AUTO_SEASON_TICKS = 720  # a day or a week of more ticks is not a season by default: each stream keeps as many values
MAX_LEVELS = 8
MAX_ANSWER = 32_768  # values of one answer: forecasts and bounds
MAX_AHEAD = 8192  # horizon × known inputs
MAX_CATEGORIES = 100_000  # of one input
MAX_LAYER_RATE = 1000.0
SPREAD_LOSSES = ("pinball", "gaussian", "student_t")  # they forecast quantiles or a scale beside the value


class SpecError(ValueError):
    """An invalid spec: the name of a field, its value, and the remedy."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field} = {value!r}: {remedy}")
        self.field, self.value, self.remedy = field, value, remedy


def shortest_window(spec: ModelSpec) -> int:
    """Return the fewest ticks of a window: all origins of labels that are learned together, and the margin.

    Rule rtrl needs no margin, because its gradient does not end at the start state. Other tasks than forecast have it:
    their contexts keep a trace for each window of ticks.
    """
    exact = spec.rule == "rtrl" and spec.task == "forecast"
    return spec.horizon + spec.learn_every - 1 + (0 if exact else WINDOW_MARGIN)


def check_number(field: str, value: object) -> None:
    """Raise SpecError unless `value` is a finite number."""
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return
    except OverflowError:  # an integer larger than any float, which TOML and JSON can hold
        pass
    raise SpecError(field, value, "give a finite number")


def category(text: object) -> tuple[str, int]:
    """Return name and count of a category written as "name:count". Raises SpecError for another form."""
    name, colon, count = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not name or not colon or not count.isascii() or not count.isdigit() or not 2 <= int(count) <= MAX_CATEGORIES:
        raise SpecError("categories", text, f"write name:count, the count from 2 to {MAX_CATEGORIES}")
    return name, int(count)


# Fields that only some cells have, and these cells.
CELL_FIELDS: dict[str, tuple[str, ...]] = {
    "activation": ("rnn",),
    "reset": ("gru",),
    "init": ("lstm", "gru", "rnn"),
    "init_gain": ("lstm", "gru", "rnn", "lru"),
    "attention_window": ("attention",),
    "heads": ("attention",),
    "positions": ("attention",),
}

# Cells whose traces rule rtrl can keep; see `model.cells.contract.Traced`.
TRACED_CELLS = ("lru", "mingru")


def layer_rate(text: object) -> tuple[str, float]:
    """Return name and factor of a part's rate written as "name:factor". Raises SpecError for another form."""
    name, colon, factor = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    if not name or not colon or not math.isfinite(value):
        raise SpecError("layer_rates", text, 'write name:factor, such as "head:2"')
    if value == 0:
        raise SpecError("layer_rates", text, f"a part that never learns is frozen: use freeze = [{name!r}]")
    if not 0 < value <= MAX_LAYER_RATE:
        raise SpecError("layer_rates", text, f"give a factor above 0 and at most {MAX_LAYER_RATE:g}")
    return name, value


CHOICES: dict[str, tuple[str, ...]] = {
    "cell": ("lstm", "gru", "rnn", "lru", "mingru", "attention"),
    "activation": ("tanh", "relu"),
    "reset": ("after", "before"),
    "positions": ("rotary", "learned"),
    "init": ("normal", "orthogonal", "identity"),
    "forecaster": ("mixture", "network"),
    "task": ("forecast", "regress", "classify"),
    "loss": ("mse", "huber", "cross_entropy", *SPREAD_LOSSES),
    "optimizer": ("adam", "adamw", "adagrad", "rmsprop", "sgd", "momentum", "nesterov"),
    "rule": ("tbptt", "rtrl"),
    "schedule": ("constant", "cosine", "inverse_sqrt"),
    "scaler": ("residual", "standard", "none", "residual_v1", "standard_v1"),
    "missing": ("refuse", "hold"),
    "drift_reaction": ("none", "raise", "rollback"),
}
