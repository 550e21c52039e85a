"""The hidden state of one stream, layer by layer, with the units marked whose gates are saturated."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.network import Network, Tape
from model.parameters import Weights
from service.engine.export import read_weights
from service.storage.versions import VersionCorrupt, VersionMissing, Versions
from service.streams.answers import Kept
from service.streams.served import ServedModel

Array = NDArray[np.float32]

MAX_UNITS = 512  # of a layer that are shown
MOST_STEPPED = 32  # ticks between two looks, up to which the gates of the newest are computed
WEIGHTS_KEPT = 4  # versions of all models, the last used
WEIGHTS_BYTES = 64 << 20  # of them together; the newest stays, however large


class Loaded:
    """Weights of the versions that serve where a state is watched. For the viewing thread alone."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int, int], Weights | None] = OrderedDict()

    def get(self, versions: Versions, model: ServedModel, version: int) -> Weights | None:
        """Return a version's weights, read once; None where they cannot be read. Only read them."""
        key = id(model), model.number, version
        if key not in self._kept:
            try:
                flat = read_weights(model.network, versions.blobs(model.number, version).weights)
                self._kept[key] = model.network.weights(flat)
            except (VersionMissing, VersionCorrupt, ValueError):  # serving reports it; the state is shown without marks
                self._kept[key] = None
        self._kept.move_to_end(key)
        while len(self._kept) > WEIGHTS_KEPT or (len(self._kept) > 1 and self._size() > WEIGHTS_BYTES):
            self._kept.popitem(last=False)
        return self._kept[key]

    def _size(self) -> int:
        return sum(weights.flat.nbytes for weights in self._kept.values() if weights is not None)


class StateView:
    """One stream's states from look to look: the last one, from which the gates of the next are computed."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seq: int | None = None
        self._state: Array = np.zeros((1, network.state_size), np.float32)
        self._tape: Tape | None = None  # made when the first gates are computed

    def layers(self, weights: Weights | None, new: Kept, seq: int, state: Array) -> list[dict[str, Any]]:
        """Return the layers of a state [S] at `seq`, the first layer first.

        weights: of the version that answered the newest tick; new: whole rows of the ticks up to it. `marked` is null
        where the gates are not known: at the first look, after more than MOST_STEPPED ticks, after a swap between them.
        """
        tape = self._stepped(weights, new, seq)
        self._seq, self._state = seq, state[None].copy()
        out, start = [], self._network.statistics_size
        for i, cell in enumerate(self._network.cells):
            values = cell.units(state[None, start : start + cell.state_size])[0]
            marked = None if tape is None else cell.saturated_units(tape.cells[i])[0]
            out.append(
                {
                    "name": f"cell{i}", "values": values[:MAX_UNITS],
                    "marked": None if marked is None else np.flatnonzero(marked[:MAX_UNITS]), "rows": "hidden",
                }
            )  # fmt: skip
            start += cell.state_size
        return out

    def _stepped(self, weights: Weights | None, new: Kept, seq: int) -> Tape | None:
        """Step the last state through the new ticks; return the tape of the newest, or None."""
        if weights is None or self._seq is None or not 0 < seq - self._seq <= MOST_STEPPED:
            return None
        at = np.flatnonzero(new.seq > self._seq)
        if len(at) != seq - self._seq or len(set(new.version[at].tolist())) > 1:
            return None
        self._tape = self._tape or self._network.tape(1, 1)
        state = self._state
        for i in at.tolist():
            x, u = self._network.inputs(new.time[i : i + 1], new.x[i : i + 1])
            _, state = self._network.step(weights, x, u, state, self._tape)
        return self._tape
