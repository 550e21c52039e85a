"""The files of a model in a folder: written by `freshet train` and `freshet models export`, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.network import Network
from model.spec import ModelSpec
from service.common import documents
from service.common.documents import DocumentError, json_value, read_text, toml
from service.common.errors import Invalid
from service.common.limits import MAX_WEIGHTS_BYTES
from service.common.zones import resolved
from service.engine.export import read_weights

SPEC, WEIGHTS, ONNX = "model.toml", "weights.safetensors", "model.onnx"
FACTS = "model.json"  # facts, digests and spec of an exported version


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by name, each atomically. Raises OSError."""
    for name, data in contents.items():
        part = part_of(folder, name)
        part.write_bytes(data)
        part.replace(folder / name)


def part_of(folder: Path, name: str) -> Path:
    """Return the path of a file while it is being written."""
    return folder / f".{name}.part"


def spec_toml(spec: ModelSpec) -> str:
    """Return every key of a spec as TOML, one per line. --config reads the same spec back."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in spec.to_mapping().items())


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string of printable characters is a TOML basic string, and so are JSON's true, false and numbers.
    return json.dumps(value, ensure_ascii=False)


def read_spec(source: Path) -> ModelSpec:
    """Read the spec in a TOML or JSON file, or in the folder `source`. Raises Invalid, SpecError, OSError."""
    file = source
    if source.is_dir():
        file = next((source / name for name in (SPEC, FACTS) if (source / name).is_file()), source / SPEC)
    if not file.is_file():
        raise Invalid("from", str(source), f"no such file, nor a folder with {SPEC} or {FACTS}")
    if file.suffix not in (".toml", ".json"):
        raise Invalid("from", str(file), "give a file whose name ends in .toml or .json")
    try:
        text = read_text(file)
        keys = toml(text) if file.suffix == ".toml" else json_value(text, object_pairs_hook=_once)
    except DocumentError as error:
        raise Invalid("from", str(file), f"not a {file.suffix[1:].upper()} file: {error}") from None
    if isinstance(keys, dict) and isinstance(keys.get("spec"), dict):  # the facts of an exported version
        keys = keys["spec"]
    if not isinstance(keys, dict):
        raise Invalid("from", str(file), "give an object of keys; `freshet models keys` lists them")
    return ModelSpec.from_mapping(resolved(keys))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError if a key is repeated, because it is unclear which value counts."""
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"key {name!r} is repeated")
        made[name] = value
    return made


def recorded_digest(folder: Path) -> str:
    """Return the sha256 of the weights that an export recorded; empty without a record. Raises Invalid, OSError."""
    file = folder / FACTS
    if not file.is_file():
        return ""
    try:
        return str(json_value(read_text(file))["sha256"][WEIGHTS])
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid("from", str(file), f"not what an export wrote ({error!r}): repair or remove it") from None


def keys_beside(weights: Path | None) -> dict[str, Any]:
    """Return every key of the spec in a folder of weights; empty without one. Raises as `read_spec`."""
    found = weights is not None and any((weights / name).is_file() for name in (SPEC, FACTS))
    return read_spec(weights).to_mapping() if weights is not None and found else {}


def load_weights(path: Path, spec: ModelSpec) -> bytes:
    """Read the weights file at `path`, or in the folder `path`. Raises Invalid if it does not fit the spec, OSError."""
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise Invalid("weights", str(path), f"no such file, nor a folder with {WEIGHTS}")
    data = read_file("weights", file, MAX_WEIGHTS_BYTES)
    try:
        read_weights(Network(spec), data)
    except ValueError as error:
        raise Invalid("weights", str(path), f"{error}: give the spec that they were trained with") from None
    return data


def read_file(what: str, path: Path, most: int) -> bytes:
    """Read a plain file of at most `most` bytes. Raises Invalid, which names `what`, OSError."""
    try:
        return documents.read(path, most)
    except DocumentError as error:
        raise Invalid(what, str(path), f"{error}: give one that `freshet models export` wrote") from None
