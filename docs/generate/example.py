"""deploy/freshet.toml: an example of the server's settings file, with every setting commented out."""

import json
import textwrap
from pathlib import Path
from typing import Any

from service.server.config import ENV_PREFIX, ServeConfig

PAGE = "deploy/freshet.toml"

INTRODUCTION = f"""\
# Settings for `freshet serve --config freshet.toml`, each with its default. Made by `python -m docs.generate`.
#
# A flag (--max-streams 5000) overrides a variable ({ENV_PREFIX}MAX_STREAMS=5000), a variable overrides this file.
# Names end in their unit: _s for seconds, _bytes for bytes. docs/hardening.md describes what happens at each bound.
"""
UNSET = "(not set)"
FILES = {
    "tls_cert": "server.crt",
    "tls_key": "server.key",
    "tls_client_ca": "clients.crt",
    "tls_peer_ca": "nodes.crt",
    "access": "access.toml",
    "audit": "audit.jsonl",
}


def render() -> str:
    """Return the file."""
    return INTRODUCTION + "".join(_setting(name, field) for name, field in ServeConfig.model_fields.items())


def _setting(name: str, field: Any) -> str:
    meaning = textwrap.wrap(f"{field.description or name}{f' {UNSET}' if field.default is None else ''}", 116)
    return "".join(f"\n# {line}" if at == 0 else f"\n#   {line}" for at, line in enumerate(meaning)) + (
        f"\n#{name} = {_value(name, field.default)}\n"
    )


def _value(name: str, default: Any) -> str:
    match default:
        case None:
            return json.dumps(f"/etc/freshet/{FILES[name]}")
        case bool():
            return str(default).lower()
        case str() | Path():
            return json.dumps(str(default))
        case int() | float():
            return f"{default:_}" if isinstance(default, int) else repr(default)
    raise TypeError(f"{name} = {default!r}: add here how to write a {type(default).__name__} in TOML")
