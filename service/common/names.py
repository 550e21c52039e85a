"""Names of models, and origins of streams' states."""

from __future__ import annotations

import enum
import re
import unicodedata
from typing import NamedTuple

from service.common.errors import Invalid

MODEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
RULE = "give 1 to 64 of a-z, 0-9, '-', '_', beginning with a letter"
# Words with another meaning where a model's name may stand: in a command, a metric's label, or a path.
RESERVED = {
    "all": "every model",
    "default": "the tenant",
    "freshet": "the server itself",
}


class ModelKey(NamedTuple):
    """What identifies a model to people. The tenant comes from the caller's token, never from a field."""

    tenant: str
    name: str


def check_model_name(name: str) -> None:
    """Raise Invalid for a name that a new model may not have."""
    if not MODEL_NAME.fullmatch(name):
        raise Invalid("name", name or "(empty)", f"{_foreign(name)}{RULE}")
    if name in RESERVED:
        raise Invalid("name", name, f"reserved: it stands for {RESERVED[name]}; choose another name")


def _foreign(name: str) -> str:
    """Name the first non-ASCII character, which may look like an ASCII one when printed."""
    for at, character in enumerate(name[:64], 1):
        if ord(character) > 127:
            return f"character {at} is {unicodedata.name(character, f'U+{ord(character):04X}')}; "
    return ""


class Origin(enum.IntEnum):
    """Where a stream's state comes from. Numbered as Welcome.StateOrigin on the wire."""

    FRESH = 1
    RESUMED = 2
    IMPORTED = 3
    LOST = 4
