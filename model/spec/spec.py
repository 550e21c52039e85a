"""The specification of a model: channels, horizon, cell, learning. Immutable plain data, checked once.

The wire's `ModelSpec` message has the same field names, and a model file (TOML) the same keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from model.spec.checks import check, check_types
from model.spec.defaults import filled, starts_fast
from model.spec.names import SpecError, category, layer_rate

MOST_SHOWN = 8  # names in a repr


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """How a model reads its streams and how it learns.

    Zero or an empty tuple means that the default depends on other fields; after construction every field holds its
    final value. Defaults follow the horizon, never the data.
    Raises SpecError, which names the field, its value and the remedy.
    """

    channels: tuple[str, ...]
    targets: tuple[str, ...] = ()  # channels to forecast, default all; for task regress, names of a label's values
    horizon: int = 1  # H, ticks ahead
    interval: float = 0.0  # seconds of event time per tick; 0: no calendar inputs
    max_gap: float = 0.0  # seconds of event time; a larger gap voids pending labels; 0: no limit
    cell: str = "lstm"
    activation: str = "tanh"  # of cell rnn
    reset: str = "after"  # of cell gru: the reset gate multiplies the recurrent product, or the state before it
    layers: int = 1
    cells: tuple[str, ...] = ()  # the cell of each layer, where they differ; `cell` and `layers` then follow it
    hidden: int = 64  # units per layer
    layer_norm: bool = False  # normalize the input of each layer above the first
    residual: bool = False  # add the input of each layer above the first to its output
    init: str = "normal"  # how the recurrent weights are initialized
    init_gain: float = 1.0  # factor on the initial recurrent weights; of cell lru, on its radii, limited to below 1
    attention_window: int = 64  # W, of cell attention: ticks that one tick reads, its own included
    heads: int = 0  # of cell attention; default 4, 2 or 1, the first that divides the units into at least 2 for each
    positions: str = "rotary"  # of cell attention: keys turn with their age, or each head learns a bias per age
    window: int = 0  # T, ticks one update unrolls over; default 16, or horizon + learn_every + 7; of rule rtrl less
    rule: str = "tbptt"  # how a gradient reaches the past: truncated to the window, or exact, by traces (rtrl)
    learn_every: int = 1  # k1, ticks between updates of a stream, for task forecast
    learn: bool = True
    task: str = "forecast"
    forecaster: str = ""  # network, or a mixture of it with least squares and seasonal values, the default if it can be
    seasons: tuple[float, ...] = ()  # of a mixture: periods, s; default: day and week of up to 720 ticks; (0,): none
    own_readout: bool = False  # of a mixture: each stream also learns a readout of its own, kept in its state
    zone: str = ""  # of the calendar and the seasons: a POSIX rule such as CET-1CEST,M3.5.0,M10.5.0/3; default UTC
    intervals: tuple[float, ...] = ()  # levels of prediction intervals, 0.01 to 0.999; kept in ascending order
    known: tuple[str, ...] = ()  # names of inputs whose future values come with each tick
    static: tuple[str, ...] = ()  # names of inputs that a stream has once, from its first Hello
    categories: tuple[str, ...] = ()  # known or static inputs that are categories, as "name:count"
    holidays: str = ""  # calendar of holidays, such as US or DE-BY, whose days are inputs
    classes: tuple[str, ...] = ()  # names, for task classify
    class_weights: tuple[float, ...] = ()  # one per class, default all 1
    label_range: tuple[float, ...] = ()  # low, high for all targets, or a pair each; labels outside are not learned
    label_horizon: int = 0  # ticks by which a label may be late; default 512; always 0 for task forecast
    loss: str = ""  # default mse, or cross_entropy for task classify
    huber_delta: float = 1.0  # of loss huber, in scaled units
    degrees: float = 5.0  # of loss student_t: degrees of freedom; fewer: heavier tails
    optimizer: str = "adam"
    momentum: float = 0.9  # of optimizers momentum and nesterov
    weight_decay: float = 0.0  # of optimizer adamw, multiplied by the rate in each update; default 0.01 there
    # Default 7e-4, or 1e-4 when horizon > 1; of a mixture 3e-3 falling to rate_floor 7e-4, or 1e-3 and 2e-4; with
    # attention always constant, 3e-4 or 1e-4.
    learning_rate: float = 0.0
    rate_floor: float = 0.0  # smallest rate of a schedule
    schedule: str = ""  # default inverse_sqrt for a mixture if learning_rate is not given, otherwise constant
    warmup: int = 0  # updates over which the rate rises from 0 to learning_rate
    schedule_updates: int = 0  # updates over which a schedule falls to a tenth of the rate; default 10,000
    freeze: tuple[str, ...] = ()  # parts that never learn: cell0, cell1 …, head
    clip: float = 1.0  # largest global gradient norm
    clip_value: float = 0.0  # largest magnitude of an element of the gradient, before `clip`; 0: no limit
    accumulate: int = 1  # groups of labels whose gradients are averaged for one step of the optimizer
    layer_rates: tuple[str, ...] = ()  # factors of the rate of parts, as "name:factor"; names as in freeze
    scaler: str = "residual"  # units of inputs and forecasts: running differences and level, running z-score, or none
    head_init: float = 0.0  # standard deviation of the readout's initial weights; 0: a new model is persistence
    seed: int = 0
    max_share: float = 0.9  # largest share of one stream in the last 4,096 labels, if there are others; 1: no limit
    drift_reaction: str = "none"  # to a lasting rise of the loss: raise the rate for a while, or rollback to the anchor
    drift_raise: float = 3.0  # factor on the learning rate, of drift_reaction raise
    drift_labels: int = 1024  # labels for which the rate is raised
    shadow: str = ""  # another model, whose ticks this one learns from; it answers no calls
    missing: str = "refuse"  # NaN in an observation; hold: the last value replaces it, and nothing is learned from it

    def __post_init__(self) -> None:
        check_types(self)
        for name, value in filled(self).items():
            object.__setattr__(self, name, value)
        check(self)

    @property
    def outputs(self) -> int:
        """O: values per answer. Task forecast: horizon × targets, step 1 first; regress: targets; classify: classes."""
        return len(self.classes) or self.horizon * len(self.targets)

    @property
    def stack(self) -> tuple[str, ...]:
        """The cell of each layer, the first layer first."""
        return self.cells or (self.cell,) * self.layers

    @property
    def category_counts(self) -> dict[str, int]:
        """Number of categories by the name of the input."""
        return dict(map(category, self.categories))

    @property
    def rate_factors(self) -> dict[str, float]:
        """Factor of the learning rate by name of the part; parts without one are absent."""
        return dict(map(layer_rate, self.layer_rates))

    @property
    def sent(self) -> int:
        """Values of a tick beside its channels: horizon × known, then static."""
        return self.horizon * len(self.known) + len(self.static)

    @property
    def periods(self) -> tuple[float, ...]:
        """The seasons, seconds, without the 0 that stands for none."""
        return tuple(period for period in self.seasons if period)

    @property
    def slots(self) -> int:
        """Slots of the longest season, one for each tick of it; 0 without seasons."""
        return max(1, round(max(self.periods) / self.interval)) if self.periods else 0

    @property
    def target_index(self) -> list[int]:
        """Positions of the forecast channels among all channels; empty for tasks other than forecast."""
        if self.task != "forecast":
            return []
        position = {name: i for i, name in enumerate(self.channels)}
        return [position[name] for name in self.targets]

    def to_mapping(self) -> dict[str, Any]:
        """Return every field by name, tuples as lists, as JSON and TOML can hold it. `from_mapping` is the inverse."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ModelSpec:
        """Return a spec from names and values, e.g. a parsed TOML file. Raises SpecError, also for an unknown name."""
        known = {field.name for field in fields(cls)}
        for name in mapping:
            if name not in known:
                [near] = difflib.get_close_matches(str(name), sorted(known), n=1) or [""]
                meant = f"did you mean {near}? " if near else ""
                raise SpecError(str(name), mapping[name], f"unknown key; {meant}known are {', '.join(sorted(known))}")
        if "channels" not in mapping:
            raise SpecError("channels", None, "name the channels of an observation")
        return cls(**mapping)

    def to_stored(self) -> dict[str, Any]:
        """Return `to_mapping` with the revision of the names' meaning. `from_stored` is the inverse."""
        return self.to_mapping() | {"revision": REVISION}

    @classmethod
    def from_stored(cls, mapping: Mapping[str, Any]) -> ModelSpec:
        """Return a spec that this release or an earlier one stored. Raises SpecError, also for one of a later release.

        Release 0.1.0 wrote no revision.
        """
        values = dict(mapping)
        revision = values.pop("revision", 1)
        if revision not in range(1, REVISION + 1):
            raise SpecError("revision", revision, f"this release reads 1 to {REVISION}: upgrade the server")
        if revision < MIXTURE_REVISION:
            values["forecaster"] = "network"
        return cls.from_mapping(values).as_of(revision) if revision == 1 else cls.from_mapping(values)

    def as_of(self, revision: int) -> ModelSpec:
        """Return this spec as a release that stored `revision` meant it, with that release's defaults."""
        changed: dict[str, Any] = {}
        if revision < MIXTURE_REVISION and self.forecaster == "mixture":
            changed = {"forecaster": "network", "seasons": (), "own_readout": False}
        if revision < MIXTURE_REVISION and starts_fast(self):
            changed |= {"learning_rate": 0.0, "schedule": "constant", "rate_floor": 0.0, "schedule_updates": 0}
        if revision == 1:
            changed["scaler"] = FIRST_SCALERS.get(self.scaler, self.scaler)
        return replace(self, **changed)

    def __repr__(self) -> str:
        """Fields that differ from the defaults of these channels; of a long list of names, the first and the count."""
        plain = ModelSpec(channels=self.channels)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [k for k, v in values.items() if k == "channels" or v != getattr(plain, k)]
        return f"ModelSpec({', '.join(f'{k}={_shortened(values[k])}' for k in shown)})"


def _shortened(value: object) -> str:
    if isinstance(value, tuple) and len(value) > MOST_SHOWN:
        return f"({value[0]!r}, … {len(value)})"
    return repr(value)


# Revision of stored specs. 2: the names of the scalers of 0.1.0 are those of the robust scalers. 3: the default is a
# mixture of forecasters, and rates that start fast.
REVISION = MIXTURE_REVISION = 3
FIRST_SCALERS = {"residual": "residual_v1", "standard": "standard_v1"}
