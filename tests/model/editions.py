"""Specs whose step graphs are recorded by edition, and the record of a graph: tests/data/graphs-EDITION.json.

`python -m tests.model.editions EDITION` writes the file, once for each edition. It is never written again: a damaged
graph of that edition is made again only if its bytes are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.graph.importing import outline, parsed
from model.graph.step import export_step
from model.network import Network
from model.parameters import Weights
from model.scalers import SCALERS
from model.spec import CHOICES, ModelSpec
from tests.contracts import registry

FOLDER = Path(__file__).resolve().parents[1] / "data"
MIXTURES: dict[str, dict[str, Any]] = {
    "mixture": {},
    "mixture-season": {"interval": 3600.0},
    "mixture-horizon": {"interval": 3600.0, "horizon": 4},
    "mixture-own": {"own_readout": True},
    "mixture-own-hold": {"own_readout": True, "missing": "hold", "interval": 3600.0},
    "mixture-own-subset": {"own_readout": True, "targets": ("b",)},
}


def specs() -> Iterator[tuple[str, ModelSpec]]:
    """Yield the specs by name: each scaler with each kind of horizon, missing values and channels; each cell; each task
    and loss; the mixtures."""

    def spec(**fields: Any) -> ModelSpec:
        return ModelSpec(**{"channels": ("a", "b"), "hidden": 4, "forecaster": "network", **fields})

    for scaler, missing, horizon, n in itertools.product(sorted(SCALERS), CHOICES["missing"], (1, 3), (1, 2)):
        name = f"{scaler}-{missing}-horizon{horizon}-channels{n}"
        yield name, spec(scaler=scaler, missing=missing, horizon=horizon, channels=("a", "b")[:n])
    for name, kind in registry.cells().items():
        yield f"cell-{name}", spec(**kind, interval=60.0, layers=2)
    for name, fields in registry.objectives().items():
        yield f"task-{name}", spec(**fields)
    for name, fields in MIXTURES.items():
        yield name, spec(**fields, forecaster="mixture")


def weights(network: Network) -> Weights:
    """Return weights that any machine computes alike."""
    flat = (np.arange(network.layout.size) % 89 + 1).astype(np.float32) / np.float32(89)
    return network.weights(flat)


def record(spec: ModelSpec, **edition: int) -> str:
    """Return the sha256 of what determines a graph: nodes, attributes, and constants of one value, which their names
    contain. Larger constants are weights, of which some are computed, with other roundings on other machines."""
    network = Network(spec)
    model = parsed(export_step(network, weights(network), **edition))
    parts = [*outline(model), *(tensor.name for tensor in model.graph.initializer)]
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


def main(edition: str) -> None:
    """Write the records of today's code."""
    path = FOLDER / f"graphs-{edition}.json"
    with path.open("x", encoding="utf-8") as out:
        json.dump({name: record(spec) for name, spec in specs()}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
