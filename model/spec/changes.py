"""What may change in the spec of a running model: what shapes neither weights nor states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from model.spec.names import SpecError
from model.spec.spec import ModelSpec

CHANGEABLE = (
    "learning_rate", "rate_floor", "schedule", "warmup", "schedule_updates", "clip", "clip_value",
    "layer_rates", "drift_reaction", "drift_raise", "drift_labels", "label_range", "max_share", "shadow",
)  # fmt: skip
DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(ModelSpec) if field.name in CHANGEABLE}


def changed(spec: ModelSpec, values: Mapping[str, Any]) -> ModelSpec:
    """Return the spec with these values; a field's default (`DEFAULTS`) stands for what a new spec would hold.

    Raises SpecError for a key that is unknown or may not change, for a value that a new spec could not hold, for a
    `rate_floor` above the learning rate, which would replace it, and for another `shadow` than none.
    """
    for name, value in values.items():
        if name not in CHANGEABLE:
            known = name in {field.name for field in fields(ModelSpec)}
            why = "it is fixed when a model is created: create another model with it" if known else "unknown key"
            raise SpecError(name, value, f"{why}; a running model takes {', '.join(CHANGEABLE)}")
    made = replace(spec, **values)
    if made.shadow not in ("", spec.shadow):
        remedy = "a running model may end being a shadow, not begin it: leave it empty, or create another model"
        raise SpecError("shadow", made.shadow, remedy)
    if made.rate_floor > abs(made.learning_rate):
        remedy = (
            f"it is above learning_rate = {made.learning_rate:g} and would replace it: give a smaller one, such as 0"
        )
        raise SpecError("rate_floor", made.rate_floor, remedy)
    return made


def keeps_layout(spec: ModelSpec, other: ModelSpec) -> bool:
    """Whether two specs differ at most in what may change, so that weights and states of one fit the other."""
    return replace(spec, **{name: getattr(other, name) for name in CHANGEABLE}) == other
