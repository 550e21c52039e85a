"""How many slices a model has: decided once, by the setting of the node that makes the model, and kept in the store."""

from __future__ import annotations

import asyncio

from service.cluster.slices import names
from service.cluster.store.seam import Conflict, Missing, Store, StoreUnavailable
from service.common import slices
from service.common.errors import Invalid, store_unreachable
from service.common.names import ModelKey

REMEMBERED = 10_000  # models whose number is kept in memory; beyond, the store is asked again


class Counts:
    """The numbers of slices, as this node knows them. They never change."""

    def __init__(self, store: Store, setting: str, shards: int) -> None:
        """setting: as `slices.parse` reads it; shards: of the cluster."""
        self._store, self._setting, self.shards = store, slices.parse(setting), shards
        self._known: dict[ModelKey, int] = {}

    async def of(self, key: ModelKey) -> int:
        """Return the slices of a model; 0: it has none, or does not exist. Raises Unavailable."""
        if key not in self._known:
            try:
                found = await asyncio.to_thread(self._read, key)
            except StoreUnavailable as error:
                raise store_unreachable() from error
            if found:
                self._remember(key, found)
            return found
        return self._known[key]

    async def decide(self, key: ModelKey) -> int:
        """Return the slices of a model that is to be made, and let all nodes know. Raises Invalid, Unavailable."""
        wanted = slices.wanted(self._setting, key)
        found = await self.of(key) or (wanted if wanted > 1 else 0)
        if found >= self.shards:
            remedy = f"the cluster has {self.shards} shards: give at most {self.shards - 1}, as one of them learns"
            raise Invalid("slices", f"{key.name}={found}", remedy)
        if found and key not in self._known:
            try:
                await asyncio.to_thread(self._store.put, names.count(key), str(found).encode())
            except Conflict:  # another node was faster
                return await self.of(key)
            except StoreUnavailable as error:
                raise store_unreachable() from error
            self._remember(key, found)
        return found

    def _read(self, key: ModelKey) -> int:
        try:
            return int(self._store.get(names.count(key)))
        except Missing:
            return 0

    def _remember(self, key: ModelKey, count: int) -> None:
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = count
