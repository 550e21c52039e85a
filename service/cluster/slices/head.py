"""The head of a model with slices: a note of its home in the store, which its slices follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from service.cluster.slices import names
from service.cluster.store.seam import Missing, Store
from service.common.names import ModelKey

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Head:
    """Which version serves, and how far each slice is read and judged. All of it is durable in the home's journal."""

    tenant: str
    name: str
    home: int  # number of the model in its home shard
    count: int  # slices
    spec: Mapping[str, Any]  # as it is now
    champion: int
    blob: str  # name of the champion's blob
    epoch: int = 0  # of the home shard
    beat: int = 0  # how many heads its owner has written
    deleted: bool = False
    positions: Mapping[int, int] = field(default_factory=dict)  # by slice: its shard's journal is read up to there
    judged: Mapping[int, int] = field(default_factory=dict)  # by slice: how many of its entries are judged

    @property
    def key(self) -> ModelKey:
        """Tenant and name."""
        return ModelKey(self.tenant, self.name)

    def encode(self) -> bytes:
        """Return the head as JSON."""
        return json.dumps({"format": FORMAT} | asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """Return the head in these bytes. Raises ValueError for others."""
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise ValueError("of a later release")
            for name in ("positions", "judged"):
                values[name] = {int(index): int(number) for index, number in values[name].items()}
            return cls(**values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"not the head of a model with slices: {error}") from error


class Start(NamedTuple):
    """Where the journal of a slice's shard was when the slice was made."""

    position: int
    chain: int


def read_head(store: Store, key: ModelKey) -> Head | None:
    """Return the head of a model; None if there is none. Raises StoreUnavailable, ValueError."""
    try:
        return Head.decode(store.get(names.head(key)))
    except Missing:
        return None


def read_start(store: Store, key: ModelKey, home: int, index: int) -> Start | None:
    """Return where a slice begins; None if it was never asked for. Raises StoreUnavailable."""
    try:
        return Start(*json.loads(store.get(names.start(key, home, index))))
    except Missing:
        return None


def write_start(store: Store, key: ModelKey, home: int, index: int, start: Start) -> None:
    """Note where a slice begins. Raises StoreUnavailable."""
    store.note(names.start(key, home, index), json.dumps(start).encode())
