"""What a model is: channels, horizon, cell, learning. Immutable, plain data, checked once.

The wire's `ModelSpec` message has the same fields under the same names, and a model file (TOML) the same keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_CHANNELS = 4096
MAX_OUTPUTS = 8192
# A label of the farthest head still needs ticks before it in the window, or it trains the start state's heirs only.
WINDOW_MARGIN = 8


class SpecError(ValueError):
    """A spec that cannot be: which field, what it held, what to write instead."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field} = {value!r}: {remedy}")
        self.field, self.value, self.remedy = field, value, remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """How a model sees its streams and how it learns. Zero, or an empty tuple: the default depends on another field.

    After construction every field holds its final value. Defaults follow the horizon, never the data.
    Raises SpecError naming the field, its value and the remedy.
    """

    channels: tuple[str, ...]
    targets: tuple[str, ...] = ()  # forecast channels, default all
    horizon: int = 1  # H, ticks ahead
    interval: float = 0.0  # seconds of event time per tick; 0: no calendar
    max_gap: float = 0.0  # seconds; a larger gap voids pending labels; 0: no limit
    cell: str = "lstm"
    layers: int = 1
    hidden: int = 64  # units per layer
    window: int = 0  # T, ticks one update unrolls over; default 16, or horizon + learn_every + 7 if that is more
    learn_every: int = 1  # k1, ticks between updates of a stream
    learn: bool = True
    task: str = "forecast"
    loss: str = "mse"
    optimizer: str = "adam"
    learning_rate: float = 0.0  # default 7e-4, or 1e-4 when horizon > 1
    clip: float = 1.0  # largest global gradient norm
    scaler: str = "residual"
    head_init: float = 0.0  # standard deviation of the readout's first weights; 0: a fresh model is persistence
    seed: int = 0
    missing: str = "refuse"

    def __post_init__(self) -> None:
        self._check_types()
        fill = {
            "channels": tuple(self.channels),
            "targets": tuple(self.targets) or tuple(self.channels),
            "window": self.window or max(16, self.horizon + self.learn_every - 1 + WINDOW_MARGIN),
            "learning_rate": self.learning_rate or (7e-4 if self.horizon == 1 else 1e-4),
        }
        for name, value in fill.items():
            object.__setattr__(self, name, value)
        self._check_names()
        self._check_sizes()

    def _check_types(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind.startswith("tuple") and not isinstance(value, list | tuple):
                raise SpecError(field.name, value, "give a list of names")
            if kind == "int" and (isinstance(value, bool) or not isinstance(value, int)):
                raise SpecError(field.name, value, "give a whole number")
            if kind == "float" and (
                isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
            ):
                raise SpecError(field.name, value, "give a finite number")
            if kind == "bool" and not isinstance(value, bool):
                raise SpecError(field.name, value, "give true or false")
            if kind == "str" and value not in CHOICES[field.name]:
                raise SpecError(field.name, value, f"choose one of {', '.join(CHOICES[field.name])}")

    def _check_names(self) -> None:
        for field in ("channels", "targets"):
            names = getattr(self, field)
            if not 1 <= len(names) <= MAX_CHANNELS:
                raise SpecError(field, f"{len(names)} names", f"give 1 to {MAX_CHANNELS} channel names")
            for name in names:
                if not isinstance(name, str) or not name or len(name) > 256 or not name.isprintable():
                    raise SpecError(field, name, "a channel's name is 1 to 256 printable characters")
            if len(set(names)) != len(names):
                raise SpecError(field, names, "every name must be different")
        known = set(self.channels)
        for name in self.targets:
            if name not in known:
                raise SpecError("targets", name, "every target must be one of the channels")

    def _check_sizes(self) -> None:
        shortest = self.horizon + self.learn_every - 1 + WINDOW_MARGIN
        for name, low, high in (
            ("horizon", 1, 1024),
            ("layers", 1, 8),
            ("hidden", 1, 1024),
            ("learn_every", 1, 1024),
            ("window", shortest, 4096),
            ("seed", 0, 2**63 - 1),
            ("interval", 0.0, 3.2e9),
            ("max_gap", 0.0, 3.2e9),
            ("clip", 1e-6, 1e6),
            ("head_init", 0.0, 10.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SpecError(name, value, f"give {low} to {high}")
        # A negative rate climbs the loss: the gate must catch it, and a test proves that it does.
        if not -1.0 <= self.learning_rate <= 1.0:
            raise SpecError("learning_rate", self.learning_rate, "give a step size of magnitude at most 1")
        if self.outputs > MAX_OUTPUTS:
            raise SpecError("horizon", self.horizon, f"horizon × targets is {self.outputs}, at most {MAX_OUTPUTS}")

    @property
    def outputs(self) -> int:
        """O: forecasts per tick, horizon × targets, step 1's targets first."""
        return self.horizon * len(self.targets)

    @property
    def target_index(self) -> list[int]:
        """Position of each target among the channels."""
        position = {name: i for i, name in enumerate(self.channels)}
        return [position[name] for name in self.targets]

    def to_mapping(self) -> dict[str, Any]:
        """Every field by name, tuples as lists: what `from_mapping` reads, and JSON and TOML can hold."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ModelSpec:
        """A spec from names and values, e.g. a parsed TOML file. Raises SpecError, also for an unknown name."""
        known = {field.name for field in fields(cls)}
        for name in mapping:
            if name not in known:
                raise SpecError(name, mapping[name], f"unknown key; known are {', '.join(sorted(known))}")
        if "channels" not in mapping:
            raise SpecError("channels", None, "name the channels of an observation")
        return cls(**mapping)


CHOICES: dict[str, tuple[str, ...]] = {
    "cell": ("lstm", "gru"),
    "task": ("forecast",),
    "loss": ("mse",),
    "optimizer": ("adam",),
    "scaler": ("residual",),
    "missing": ("refuse",),
}
