"""How many models and streams there are, in all and by tenant, kept while they come and go. Plain data."""

from __future__ import annotations

from collections import Counter


class Totals:
    """Sums over models, so that nobody has to visit all of them to know one."""

    def __init__(self) -> None:
        self._models: dict[int, tuple[str, int, int]] = {}  # by number: tenant, streams known, streams in memory
        self._by_tenant: Counter[str] = Counter()  # models
        self._streams_of: Counter[str] = Counter()
        self.streams = 0  # known, in memory or not
        self.resident = 0  # in memory

    def count(self, model: int, tenant: str, streams: int, resident: int) -> None:
        """A model has this many streams now, and this many of them in memory; it may be new."""
        if model not in self._models:
            self._by_tenant[tenant] += 1
        _, had, were = self._models.get(model, (tenant, 0, 0))
        self._models[model] = tenant, streams, resident
        self._streams_of[tenant] += streams - had
        self.streams += streams - had
        self.resident += resident - were

    def forget(self, model: int) -> None:
        """A model is gone, with its streams."""
        tenant = self._models[model][0]
        self.count(model, tenant, 0, 0)
        del self._models[model]
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant], self._streams_of[tenant]

    def models_of(self, tenant: str) -> int:
        """Models of a tenant."""
        return self._by_tenant[tenant]

    def streams_of(self, tenant: str) -> int:
        """Streams of a tenant's models."""
        return self._streams_of[tenant]
