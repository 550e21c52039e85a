"""The specification of a model: channels, horizon, cell, learning. Immutable plain data, checked once.

The wire's `ModelSpec` message has the same field names, and a model file (TOML) the same keys.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

MAX_CHANNELS = 4096
MAX_OUTPUTS = 8192
# Ticks that a window must hold before the origin of the farthest head's label; with fewer, that label trains little
# but the first steps after the start state.
WINDOW_MARGIN = 8
MOST_SHOWN = 8  # names in a repr


class SpecError(ValueError):
    """An invalid spec: the name of a field, its value, and the remedy."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field} = {value!r}: {remedy}")
        self.field, self.value, self.remedy = field, value, remedy


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
    layers: int = 1
    hidden: int = 64  # units per layer
    init: str = "normal"  # how the recurrent weights are initialized
    init_gain: float = 1.0  # factor on the initial recurrent weights
    window: int = 0  # T, ticks one update unrolls over; default 16, or horizon + learn_every + 7 if that is more
    learn_every: int = 1  # k1, ticks between updates of a stream, for task forecast
    learn: bool = True
    task: str = "forecast"
    classes: tuple[str, ...] = ()  # names, for task classify
    class_weights: tuple[float, ...] = ()  # one per class, default all 1
    label_range: tuple[float, ...] = ()  # low, high for all targets, or a pair each; labels outside are not learned
    label_horizon: int = 0  # ticks by which a label may be late; default 512; always 0 for task forecast
    loss: str = ""  # default mse, or cross_entropy for task classify
    huber_delta: float = 1.0  # of loss huber, in scaled units
    optimizer: str = "adam"
    momentum: float = 0.9  # of optimizers momentum and nesterov
    weight_decay: float = 0.0  # of optimizer adamw, multiplied by the rate in each update; default 0.01 there
    learning_rate: float = 0.0  # default 7e-4, or 1e-4 when horizon > 1
    schedule: str = "constant"
    warmup: int = 0  # updates over which the rate rises from 0 to learning_rate
    schedule_updates: int = 10_000  # updates over which a schedule falls to a tenth of the rate
    freeze: tuple[str, ...] = ()  # parts that never learn: cell0, cell1 …, head
    clip: float = 1.0  # largest global gradient norm
    scaler: str = "residual"  # units of inputs and forecasts: running differences and level, running z-score, or none
    head_init: float = 0.0  # standard deviation of the readout's initial weights; 0: a new model is persistence
    seed: int = 0
    max_share: float = 0.9  # largest share of one stream in the last 4,096 labels, if there are others; 1: no limit
    drift_reaction: str = "none"  # to a lasting rise of the loss: raise the rate for a while, or rollback to the anchor
    drift_raise: float = 3.0  # factor on the learning rate, of drift_reaction raise
    drift_labels: int = 1024  # labels for which the rate is raised
    missing: str = "refuse"  # NaN in an observation; hold: the last value replaces it, and nothing is learned from it

    def __post_init__(self) -> None:
        self._check_types()
        forecast = self.task == "forecast"
        rate = self.learning_rate or (7e-4 if self.horizon == 1 else 1e-4)
        fill = {
            "channels": tuple(self.channels),
            "targets": tuple(self.targets) or (tuple(self.channels) if forecast else ()),
            "classes": tuple(self.classes),
            "class_weights": tuple(map(float, self.class_weights)) or (1.0,) * len(self.classes),
            "label_range": tuple(map(float, self.label_range)),
            "freeze": tuple(self.freeze),
            "window": self.window or max(16, self.horizon + self.learn_every - 1 + WINDOW_MARGIN),
            "label_horizon": self.label_horizon or (0 if forecast else 512),
            "loss": self.loss or ("cross_entropy" if self.task == "classify" else "mse"),
            "weight_decay": self.weight_decay or (0.01 if self.optimizer == "adamw" else 0.0),
            "learning_rate": rate,
        }
        for name, value in fill.items():
            object.__setattr__(self, name, value)
        self._check_names()
        self._check_sizes()
        self._check_freeze()
        self._check_task()
        self._check_unused_settings()

    def _check_types(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind.startswith("tuple") and not isinstance(value, list | tuple):
                raise SpecError(field.name, value, "give a list")
            if kind == "tuple[float, ...]":
                for number in value:
                    _check_number(field.name, number)
            if kind == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise SpecError(field.name, value, "give a whole number")
            if kind == "float":
                _check_number(field.name, value)
            if kind == "bool" and not isinstance(value, bool):
                raise SpecError(field.name, value, "give true or false")
            if kind == "str" and value not in CHOICES[field.name] and not (field.name == "loss" and value == ""):
                raise SpecError(field.name, value, f"choose one of {', '.join(CHOICES[field.name])}")

    def _check_names(self) -> None:
        for field in ("channels", "targets", "classes", "freeze"):
            names = getattr(self, field)
            if len(names) > MAX_CHANNELS:
                raise SpecError(field, f"{len(names)} names", f"give at most {MAX_CHANNELS} names")
            for name in names:
                if not isinstance(name, str) or not name or len(name) > 256 or not name.isprintable():
                    raise SpecError(field, name, "a name is 1 to 256 printable characters")
            if len(set(names)) != len(names):
                raise SpecError(field, names, "every name must be different")
        if not self.channels:
            raise SpecError("channels", self.channels, f"give 1 to {MAX_CHANNELS} channel names")

    def _check_task(self) -> None:
        """Check the fields that a task needs, and refuse those it does not use."""
        classify, forecast = self.task == "classify", self.task == "forecast"
        if forecast:
            for name in self.targets:
                if name not in self.channels:
                    raise SpecError("targets", name, "every target must be one of the channels")
        elif self.horizon != 1:
            raise SpecError("horizon", self.horizon, f"task {self.task} has no horizon: leave it out")
        elif self.learn_every != 1:
            raise SpecError("learn_every", self.learn_every, f"task {self.task} learns each label: leave it out")
        if classify and len(self.classes) < 2:
            raise SpecError("classes", self.classes, "name at least 2 classes")
        if not classify and self.classes:
            raise SpecError("classes", self.classes, f"task {self.task} has none: leave them out")
        if classify and self.targets:
            raise SpecError("targets", self.targets, "task classify has classes instead: leave targets out")
        if self.task == "regress" and not self.targets:
            raise SpecError("targets", self.targets, "name the values that a label holds")
        if len(self.class_weights) != len(self.classes):
            raise SpecError("class_weights", self.class_weights, f"give {len(self.classes)}, one per class")
        if any(not 0 < weight <= 1e6 for weight in self.class_weights):
            raise SpecError("class_weights", self.class_weights, "give weights above 0 and at most 1e6")
        self._check_label_range()
        if classify != (self.loss == "cross_entropy"):
            losses = [name for name in CHOICES["loss"] if (name == "cross_entropy") == classify]
            raise SpecError("loss", self.loss, f"task {self.task} takes {' or '.join(losses)}")
        if forecast and self.label_horizon:
            raise SpecError("label_horizon", self.label_horizon, "task forecast takes its labels from the stream")

    def _check_label_range(self) -> None:
        if self.label_range and self.task == "classify":
            raise SpecError("label_range", self.label_range, "task classify has probabilities: leave it out")
        if len(self.label_range) not in (0, 2, 2 * len(self.targets)):
            pairs = f"low and high, or {len(self.targets)} such pairs, one per target"
            raise SpecError("label_range", self.label_range, f"give {pairs}")
        if any(not low < high for low, high in zip(self.label_range[::2], self.label_range[1::2], strict=True)):
            raise SpecError("label_range", self.label_range, "each low must be below its high")

    def _check_sizes(self) -> None:
        shortest = self.horizon + self.learn_every - 1 + WINDOW_MARGIN
        for name, low, high in (
            ("horizon", 1, 1024),
            ("layers", 1, 8),
            ("hidden", 1, 1024),
            ("init_gain", 0.0, 100.0),
            ("learn_every", 1, 1024),
            ("window", shortest, 4096),
            ("label_horizon", 0, 100_000),
            ("huber_delta", 1e-6, 1e6),
            ("momentum", 0.0, 0.9999),
            ("weight_decay", 0.0, 1.0),
            ("warmup", 0, 10**9),
            ("schedule_updates", 1, 10**9),
            ("seed", 0, 2**63 - 1),
            ("interval", 0.0, 3.2e9),
            ("max_gap", 0.0, 3.2e9),
            ("clip", 1e-6, 1e6),
            ("max_share", 0.001, 1.0),
            ("drift_raise", 0.01, 100.0),
            ("drift_labels", 1, 10**9),
            ("head_init", 0.0, 10.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SpecError(name, value, f"give {low} to {high}")
        # A negative rate raises the loss. It is allowed so that a test can prove that the gate detects it.
        if not -1.0 <= self.learning_rate <= 1.0:
            raise SpecError("learning_rate", self.learning_rate, "give a step size of magnitude at most 1")
        if self.outputs > MAX_OUTPUTS:
            field, what = ("classes", "classes") if self.classes else ("horizon", "horizon × targets")
            raise SpecError(field, getattr(self, field), f"{what} is {self.outputs}, at most {MAX_OUTPUTS}")

    def _check_freeze(self) -> None:
        parts = [*(f"cell{i}" for i in range(self.layers)), "head"]
        for name in self.freeze:
            if name not in parts:
                raise SpecError("freeze", name, f"the parts are {', '.join(parts)}")
        if self.learn and len(self.freeze) == len(parts):
            raise SpecError("freeze", self.freeze, "that leaves nothing to learn: set learn = false instead")

    def _check_unused_settings(self) -> None:
        """Refuse settings that the chosen cell or optimizer would ignore."""
        if self.activation != "tanh" and self.cell != "rnn":
            raise SpecError("activation", self.activation, f"cell {self.cell} has its own: leave it out")
        if self.init == "identity" and (self.cell, self.activation) != ("rnn", "relu"):
            given = self.cell if self.cell != "rnn" else f"rnn with {self.activation}"
            raise SpecError("init", self.init, f"identity needs cell rnn with activation relu, not {given}")
        if self.weight_decay and self.optimizer != "adamw":
            raise SpecError("weight_decay", self.weight_decay, f"{self.optimizer} has none: choose optimizer adamw")

    @property
    def outputs(self) -> int:
        """O: values per answer. Task forecast: horizon × targets, step 1 first; regress: targets; classify: classes."""
        return len(self.classes) or self.horizon * len(self.targets)

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

        Release 0.1.0 wrote no revision; its scalers `residual` and `standard`, with their state rows, are
        `residual_v1` and `standard_v1` here.
        """
        values = dict(mapping)
        revision = values.pop("revision", 1)
        if revision not in (1, REVISION):
            raise SpecError("revision", revision, f"this release reads 1 and {REVISION}: upgrade the server")
        return cls.from_mapping(values).as_of_first_release() if revision == 1 else cls.from_mapping(values)

    def as_of_first_release(self) -> ModelSpec:
        """Return this spec with the scaler that release 0.1.0 meant by its name."""
        return replace(self, scaler=FIRST_SCALERS.get(self.scaler, self.scaler))

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


def _check_number(field: str, value: object) -> None:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return
    except OverflowError:  # an integer larger than any float, which TOML and JSON can hold
        pass
    raise SpecError(field, value, "give a finite number")


# Revision of the names' meaning in stored specs. 2: the names of the scalers of 0.1.0 are those of the robust scalers.
REVISION = 2
FIRST_SCALERS = {"residual": "residual_v1", "standard": "standard_v1"}
CHOICES: dict[str, tuple[str, ...]] = {
    "cell": ("lstm", "gru", "rnn"),
    "activation": ("tanh", "relu"),
    "init": ("normal", "orthogonal", "identity"),
    "task": ("forecast", "regress", "classify"),
    "loss": ("mse", "huber", "cross_entropy"),
    "optimizer": ("adam", "adamw", "sgd", "momentum", "nesterov"),
    "schedule": ("constant", "cosine", "inverse_sqrt"),
    "scaler": ("residual", "standard", "none", "residual_v1", "standard_v1"),
    "missing": ("refuse", "hold"),
    "drift_reaction": ("none", "raise", "rollback"),
}
