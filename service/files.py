"""The files of a model in a folder: what `freshet train` writes, and what reads a spec or weights back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.network import Network
from model.spec import ModelSpec
from service.errors import Invalid
from service.export import read_weights

SPEC, WEIGHTS, ONNX = "model.toml", "weights.safetensors", "model.onnx"


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name, each complete or not at all. Raises OSError."""
    for name, data in contents.items():
        part = folder / f".{name}.part"
        part.write_bytes(data)
        part.replace(folder / name)


def spec_toml(spec: ModelSpec) -> str:
    """Every key of a spec as TOML, one a line: what --config reads back as the same spec."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in spec.to_mapping().items())


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string of printable characters is a TOML basic string, and so are JSON's true, false and numbers.
    return json.dumps(value, ensure_ascii=False)


def spec_beside(weights: Path | None) -> Path | None:
    """The spec's file in a folder of weights, if it is a folder and has one."""
    file = None if weights is None else weights / SPEC
    return file if file is not None and file.is_file() else None


def load_weights(path: Path, spec: ModelSpec) -> bytes:
    """The weights file at `path`, or in the folder `path`. Raises Invalid if it does not fit this spec, OSError."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise Invalid("weights", str(path), f"no such file, nor a folder with {WEIGHTS}")
    data = file.read_bytes()
    try:
        read_weights(Network(spec), data)
    except ValueError as error:
        raise Invalid("weights", str(path), f"{error}: give the spec that they were trained with") from None
    return data
