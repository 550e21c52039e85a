"""Files of weights: bounded before they are parsed, and of a kind that holds no code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from model.foreign.graph import Imported, read_graph
from model.foreign.layers import Stack
from model.foreign.options import Options
from model.foreign.refused import ForeignError
from model.foreign.state_dict import Stored, from_state_dict
from service.common import documents
from service.common.documents import DocumentError, read_text, toml
from service.common.errors import Invalid
from service.common.limits import MAX_WEIGHTS_BYTES

SAFETENSORS, GRAPH = ".safetensors", ".onnx"
OTHERS = {
    ".pt": "it holds Python objects, which can run code: save the state_dict with safetensors.torch.save_file",
    ".pth": "it holds Python objects, which can run code: save the state_dict with safetensors.torch.save_file",
    ".bin": "it may hold Python objects, which can run code: save the state_dict with safetensors.torch.save_file",
    ".pkl": "it holds Python objects, which can run code: save the weights with safetensors",
    ".h5": "save the weights with safetensors.numpy.save_file: docs/onnx.md shows how",
    ".keras": "save the weights with safetensors.numpy.save_file: docs/onnx.md shows how",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file of weights. graph: None for a state_dict; data: the file's bytes."""

    stack: Stack
    graph: Imported | None
    data: bytes


def read_options(config: Path | None, model: dict[str, Any]) -> Options:
    """Return the options in a TOML file. model: keys of the spec that take precedence. Raises Invalid, OSError."""
    keys: dict[str, Any] = {}
    if config is not None:
        try:
            keys = toml(read_text(config))
        except DocumentError as error:
            raise Invalid("config", str(config), f"not a TOML file: {error}") from None
    given = keys.get("model", {})
    try:
        return Options.from_mapping(keys | {"model": given | model if isinstance(given, dict) else given})
    except ForeignError as error:
        raise Invalid(error.field, error.value, error.remedy) from None


def read_source(file: Path, options: Options) -> Source:
    """Read a file of weights. Raises Invalid, which names the file, or the tensor or node that cannot be imported."""
    if file.suffix not in (SAFETENSORS, GRAPH):
        remedy = OTHERS.get(file.suffix, f"give a file whose name ends in {SAFETENSORS} or {GRAPH}")
        raise Invalid("file", str(file), remedy)
    if not file.is_file():
        raise Invalid("file", str(file), "no such file")
    try:
        data = documents.read(file, MAX_WEIGHTS_BYTES)
    except DocumentError as error:
        raise Invalid("file", str(file), f"{error}: give a file of weights") from None
    try:
        if file.suffix == GRAPH:
            graph = read_graph(data)
            return Source(graph.stack, graph, data)
        return Source(from_state_dict(_stored(file, data), options), None, data)
    except ForeignError as error:
        raise Invalid(error.field, error.value, error.remedy) from None


def _stored(file: Path, data: bytes) -> dict[str, Stored]:
    """Return the tensors of a safetensors file; the library checks each shape against the file's bytes."""
    try:
        found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except Exception as error:  # safetensors raises its own type
        raise Invalid("file", str(file), f"not a safetensors file ({error}): save it again") from None
    return {name: Stored(str(t["dtype"]), tuple(t["shape"]), t["data"]) for name, t in found}
