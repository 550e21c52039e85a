"""docs/reference/configuration.md: every setting of the server."""

from typing import Any

from pydantic.fields import FieldInfo

from docs.generate._tables import code, table
from service.server.config import ENV_PREFIX, ServeConfig

PAGE = "docs/reference/configuration.md"

INTRODUCTION = f"""\
# Settings of `freshet serve`

There are three ways to give a setting. The first of these that is present wins:

1. a flag: `--max-streams 5000`
2. an environment variable: `{ENV_PREFIX}MAX_STREAMS=5000`
3. a line in a TOML file, `freshet serve --config freshet.toml`: `max_streams = 5000`

If a name is unknown or a value is invalid, the server does not start; the error names the setting, the value and the
remedy. At start, the server prints every setting with its value and its origin. Names end in their unit: `_s` for
seconds, `_bytes` for bytes. [hardening.md](../hardening.md) describes what happens at each bound.

"""


def render() -> str:
    """Return the page."""
    rows = [
        (code(name), _kind(field), code(_shown(field.default)), _bounds(field), field.description or "")
        for name, field in ServeConfig.model_fields.items()
    ]
    return INTRODUCTION + table(("setting", "type", "default", "bounds", "meaning"), rows)


def _kind(field: FieldInfo) -> str:
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
    kind: Any = field.annotation
    name = getattr(kind, "__name__", "")
    if name in names:
        return names[name]
    return next((names[n] for n in names if n in str(kind)), str(kind))  # such as Path | None


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:,.15g}".replace(",", "_")
    return "" if value is None else str(value)


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in signs.items()
        if hasattr(bound, name)
    )
