"""A model's spec as a snapshot stores it: as it is now, and as the model was created with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from model.spec import ModelSpec

CREATED = "created"  # key of the former values of what has changed; absent if nothing has
SLICES = "slices"  # key of what the model has to do with slices; absent if nothing


def pack_specs(now: ModelSpec, created_as: ModelSpec, slices: Mapping[str, Any] | None = None) -> str:
    """Return both as JSON, and what `unpack_slices` returns. `unpack_specs` is the inverse."""
    values, then = now.to_stored(), created_as.to_stored()
    former = {name: value for name, value in then.items() if value != values[name]}
    return json.dumps(values | ({CREATED: former} if former else {}) | ({SLICES: slices} if slices else {}))


def unpack_specs(text: str) -> tuple[ModelSpec, ModelSpec]:
    """Return the spec now and at the creation. Raises SpecError for one of a later release."""
    values = json.loads(text)
    former = values.pop(CREATED, {})
    values.pop(SLICES, None)
    return ModelSpec.from_stored(values), ModelSpec.from_stored(values | former)


def unpack_slices(text: str) -> dict[str, Any]:
    """Return what the model has to do with slices, as `Slices.pack` has returned it."""
    found: dict[str, Any] = json.loads(text).get(SLICES, {})
    return found
