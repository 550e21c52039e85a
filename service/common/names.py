"""Which names a model may have."""

from __future__ import annotations

import enum
import re
import unicodedata
from typing import NamedTuple

from service.common.errors import Invalid

MODEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
RULE = "give 1 to 64 of a-z, 0-9, '-', '_', beginning with a letter"
# Words that would be read as something else beside a model's name, in a command, a label of a metric, or a path.
RESERVED = {
    "all": "every model",
    "default": "the tenant",
    "freshet": "the server itself",
}


class ModelKey(NamedTuple):
    """What people know a model by. The tenant comes from the credential of whoever asks, never from a field."""

    tenant: str
    name: str


def check_model_name(name: str) -> None:
    """Raises Invalid for a name that a new model may not have."""
    if not MODEL_NAME.fullmatch(name):
        raise Invalid("name", name or "(empty)", f"{_foreign(name)}{RULE}")
    if name in RESERVED:
        raise Invalid("name", name, f"reserved: it would be taken for {RESERVED[name]}; choose another name")


def _foreign(name: str) -> str:
    """Names the first letter that only looks like one of ours: shown, it would be no help."""
    for at, character in enumerate(name[:64], 1):
        if ord(character) > 127:
            return f"character {at} is {unicodedata.name(character, f'U+{ord(character):04X}')}; "
    return ""


class Origin(enum.IntEnum):
    """Where a stream's state comes from; the numbers are those of the wire's Welcome.StateOrigin."""

    FRESH = 1
    RESUMED = 2
    IMPORTED = 3
    LOST = 4
