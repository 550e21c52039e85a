"""Parse files and texts that people write: bounded before parsing; every parser error becomes DocumentError."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.common.errors import shown

MAX_DOCUMENT_BYTES = 4 << 20  # settings, a spec, or about 20,000 tokens
MAX_NESTING = 32  # of lists and tables, and parts of a dotted key: parsers recurse, or take quadratic time

_TOML = re.compile(
    r"""
    \"\"\"(?:[^"\\]+|\\.|"(?!""))*(?:\"\"\")?   # strings and comments, whose brackets and dots are text: each matches
  | '''(?:[^']+|'(?!''))*(?:''')?               # up to its end, or the end of the text, so that a scan is linear
  | "(?:[^"\\\n]+|\\.)*"?
  | '[^'\n]*'?
  | \#[^\n]*
  | [\[{] | [\]}] | \. | [=,\n]
    """,
    re.VERBOSE | re.DOTALL,
)
_JSON = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


class DocumentError(ValueError):
    """An invalid file or text. The message describes the fault without the file's name."""


def read(path: Path, most: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `most` bytes. Raises DocumentError, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not block
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DocumentError("not a plain file")
        data = file.read(most + 1)
    if len(data) > most:
        raise DocumentError(f"larger than {most} bytes")
    return data


def read_text(path: Path) -> str:
    """Return the text of a regular UTF-8 file. Raises DocumentError, OSError."""
    return decoded(read(path))


def decoded(data: bytes) -> str:
    """Decode UTF-8. Raises DocumentError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DocumentError(f"not text: {error}") from None


def toml(text: str) -> dict[str, Any]:
    """Parse a TOML text. Raises DocumentError."""
    tables: dict[str, Any] = _parsed(tomllib.loads, text, _TOML)
    return tables


def toml_value(text: str) -> Any:
    """Return the TOML value in a text, such as 3e-4 or ["a"], or the text itself."""
    try:
        return toml(f"value = {text}")["value"]
    except DocumentError:
        return text


def json_value(text: str, **options: Any) -> Any:
    """Parse a JSON text. options: for json.loads. Raises DocumentError."""
    return _parsed(lambda text: json.loads(text, **options), text, _JSON)


def _parsed(parse: Callable[[str], Any], text: str, tokens: re.Pattern[str]) -> Any:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    _check_nesting(text, tokens)
    try:
        return parse(text)
    except Exception as error:  # its own error, ValueError, RecursionError, OverflowError or a future one
        raise DocumentError(shown(str(error)) or type(error).__name__) from None


def _check_nesting(text: str, tokens: re.Pattern[str]) -> None:
    """Raise DocumentError if brackets, or the parts of a key, nest deeper than MAX_NESTING."""
    depth = dots = 0
    for found in tokens.finditer(text):
        token = found[0]
        if token == ".":
            dots += 1
        elif token in "[{":
            depth, dots = depth + 1, 0
        elif token in "]}":
            depth, dots = max(0, depth - 1), 0
        elif token in "=,\n":
            dots = 0
        if max(depth, dots) > MAX_NESTING:
            line = text.count("\n", 0, found.start()) + 1
            raise DocumentError(f"line {line} nests deeper than {MAX_NESTING}")
