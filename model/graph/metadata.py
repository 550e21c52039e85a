"""Facts about a model inside its .onnx file, for someone who has nothing but the file.

They are `metadata_props` after the graph: the bytes before them are the graph as it is served, and `check_step` reads
no metadata. Texts only, as ONNX has it; lists are JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from onnx import ModelProto

from model.network import Network
from model.spec import ModelSpec

STATE = "float32 [B, {size}]: zeros for a new stream, then next_state of its tick before"


def spec_digest(spec: ModelSpec) -> str:
    """Return the sha256 of a spec, hex: of its stored form as JSON with sorted keys and no spaces, UTF-8."""
    text = json.dumps(spec.to_stored(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def facts(network: Network, release: str, version: int = 0, licence: str = "") -> dict[str, str]:
    """Return the metadata of a model by key.

    release: of freshet; version: number of these weights on their server, 0 without one; licence: of the weights.
    """
    spec, ahead = network.spec, network.ahead

    def names(values: tuple[str, ...]) -> str:
        return json.dumps(list(values), ensure_ascii=False)

    return {
        "freshet.release": release,
        "freshet.version": str(version),
        "freshet.licence": licence,
        "freshet.spec_sha256": spec_digest(spec),
        "freshet.task": spec.task,
        "freshet.cells": names(spec.stack),
        "freshet.channels": names(spec.channels),
        "freshet.targets": names(spec.targets),
        "freshet.classes": names(spec.classes),
        "freshet.horizon": str(spec.horizon),
        "freshet.interval": f"{spec.interval:.17g}",  # seconds; 0: ticks have no time
        "freshet.missing": spec.missing,
        "freshet.state": STATE.format(size=network.state_size),
        "freshet.state_size": str(network.state_size),
        "freshet.u_size": str(ahead.size),
        "freshet.u_parts": json.dumps(
            {"calendar": ahead.features, "slot": int(bool(ahead.slots)), "known_and_static": ahead.sent}
        ),
    }


def described(onnx: bytes, entries: Mapping[str, str]) -> bytes:
    """Return a serialized model with metadata after it. Equal arguments give equal bytes."""
    tail = ModelProto()
    for key, value in entries.items():
        entry = tail.metadata_props.add()
        entry.key, entry.value = key, value
    return onnx + bytes(tail.SerializeToString(deterministic=True))  # protobuf joins repeated fields
