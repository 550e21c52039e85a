"""A model's spec as a snapshot stores it: as it is now, and as the model was created with it."""

from __future__ import annotations

import json

from model.spec import ModelSpec

CREATED = "created"  # key of the former values of what has changed; absent if nothing has


def pack_specs(now: ModelSpec, created_as: ModelSpec) -> str:
    """Return both as JSON. `unpack_specs` is the inverse."""
    values, then = now.to_stored(), created_as.to_stored()
    former = {name: value for name, value in then.items() if value != values[name]}
    return json.dumps(values | ({CREATED: former} if former else {}))


def unpack_specs(text: str) -> tuple[ModelSpec, ModelSpec]:
    """Return the spec now and at the creation. Raises SpecError for one of a later release."""
    values = json.loads(text)
    former = values.pop(CREATED, {})
    return ModelSpec.from_stored(values), ModelSpec.from_stored(values | former)
