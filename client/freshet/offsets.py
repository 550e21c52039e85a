"""Offsets: subtracted from each channel in float64, before values become float32, and added back to forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from freshet.arguments import invalid, listed, number
from freshet.results import ModelSpec

F64 = npt.NDArray[np.float64]
Given: TypeAlias = float | Sequence[float] | Mapping[str, float] | None

LARGEST = 1e15  # limit of |x|, as for every value


def checked(offset: Any) -> dict[str, float] | list[float] | float | None:
    """Check an offset as users give it: a number, one per channel, a mapping, or None. Raises InvalidArgument."""
    if offset is None:
        return None
    if isinstance(offset, Mapping):
        return {name: _finite(value, f"offset[{name!r}]") for name, value in offset.items()}
    if np.ndim(offset) == 0:
        return _finite(offset, "offset")
    return [_finite(value, f"offset[{at}]") for at, value in enumerate(listed(offset, "offset"))]


def of_channels(offset: Any, channels: Sequence[str]) -> F64 | None:
    """Return (C,) the offset of each channel of a model; None for no offset.

    offset: in the form of `checked`. A number is the offset of every channel; a channel missing from a mapping has 0.
    Raises InvalidArgument for unknown names, or a wrong number of values.
    """
    made = np.zeros(len(channels))
    if isinstance(offset, Mapping):
        for name, value in offset.items():
            if name not in channels:
                raise invalid("offset", name, f"no such channel; they are {', '.join(channels)}"[:200])
            made[list(channels).index(name)] = value
    elif isinstance(offset, list):
        if len(offset) != len(channels):
            raise invalid("offset", offset, f"give {len(channels)} numbers: {', '.join(channels)}"[:200])
        made[:] = offset
    elif offset is not None:
        made[:] = offset
    return made if made.any() else None


def of_outputs(offset: F64 | None, spec: ModelSpec) -> F64 | None:
    """Return (targets,), or [n, targets] for offsets [n, C]: the offset to add to a model's forecasts; None for no
    offset."""
    if offset is None or (spec.task or "forecast") != "forecast":
        return None
    if not spec.targets:
        return offset
    return offset[..., [list(spec.channels).index(name) for name in spec.targets]]


def added(y: npt.NDArray[np.floating[Any]], offset: F64 | None) -> npt.NDArray[Any]:
    """Return forecasts in the units of the channels: float64 if there is an offset, unchanged otherwise."""
    return y if offset is None else y.astype(np.float64) + offset


def _finite(value: Any, field: str) -> float:
    plain = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    found = number(plain, field)
    if not abs(found) <= LARGEST:
        raise invalid(field, value, "give a finite number up to 1e15")
    return float(found)
