"""The hidden state of one stream, layer by layer, with the units marked whose gates are saturated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
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
MOST_STEPPED = 4  # ticks between two looks, up to which the newest state is shown
WEIGHTS_KEPT = 4  # versions of all models, the last used
WEIGHTS_BYTES = 64 << 20  # of them together; the newest stays, however large
NONE = np.zeros(0, np.intp)


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
    """One stream's states from look to look: the last one, from which the next is computed with its gates."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seq: int | None = None
        self._state: Array = np.zeros((1, network.state_size), np.float32)
        self._tape: Tape | None = None  # made when the first gates are computed

    def look(self, new: Kept, seq: int, state: Array, weights_of: Callable[[int], Weights | None]) -> dict[str, Any]:
        """Return seq and layers of one state, the first layer first; an empty dict where nothing has ticked.

        new: whole rows of the ticks up to `seq`, whose live state is [S]. weights_of: returns those of a version.
        Where more than MOST_STEPPED ticks, or a swap, have come since the last look, the state shown is that after the
        first of them, and exact. `marked` is null where the gates are not known, as at the first look.
        """
        last, before = self._seq, self._state
        self._seq, self._state = seq, state[None].copy()
        at = np.flatnonzero(new.seq > last) if last is not None else NONE
        if last is not None and len(at) and int(new.seq[at[0]]) == last + 1:
            one = len(at) > MOST_STEPPED or len(set(new.version[at].tolist())) > 1
            at = at[: 1 if one else None]
            weights = weights_of(int(new.version[at[-1]]))
            if weights is not None:
                hidden = self._stepped(weights, new, at, before.copy())
                return {"seq": int(new.seq[at[-1]]), "layers": self._layers(hidden, self._tape)}
        size = self._network.statistics_size
        return {"seq": seq, "layers": self._layers(state[None, size:], None)} if seq != last else {}

    def _stepped(self, weights: Weights, new: Kept, at: NDArray[np.intp], state: Array) -> Array:
        """Step a state [1, S], modified, through ticks; return the hidden part. The tape holds the last one's gates.

        Only the part that the cells read: neither head nor mixture.
        """
        network = self._network
        self._tape = self._tape or network.tape(1, 1)
        statistics, hidden = state[:, : network.statistics_size], state[:, network.statistics_size :]
        for i in at.tolist():
            x, u = network.inputs(new.time[i : i + 1], new.x[i : i + 1])
            phi, _, _ = network.observe(statistics, x, u)
            network.forward(weights, hidden, phi[None], self._tape)
            hidden[...] = network.state_after(self._tape, 1)
        return hidden

    def _layers(self, hidden: Array, tape: Tape | None) -> list[dict[str, Any]]:
        """Return the layers of a hidden state [1, hidden_size]; tape: of the step that led to it, None: not known."""
        out, start = [], 0
        for i, cell in enumerate(self._network.cells):
            values = cell.units(hidden[:, start : start + cell.state_size])[0]
            marked = None if tape is None else np.flatnonzero(cell.saturated_units(tape.cells[i])[0][:MAX_UNITS])
            out.append({"name": f"cell{i}", "values": values[:MAX_UNITS].copy(), "marked": marked, "rows": "hidden"})
            start += cell.state_size
        return out
