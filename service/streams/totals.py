"""Counts of models and streams, in total and by tenant, updated as they come and go."""

from __future__ import annotations

from collections import Counter


class Totals:
    """Sums over all models, so that reading one costs nothing per model."""

    def __init__(self) -> None:
        self._models: dict[int, tuple[str, int, int]] = {}  # by number: tenant, streams known, streams in memory
        self._by_tenant: Counter[str] = Counter()  # models
        self._streams_of: Counter[str] = Counter()
        self.streams = 0  # known, in memory or not
        self.resident = 0  # in memory

    def count(self, model: int, tenant: str, streams: int, resident: int) -> None:
        """Set a model's number of known streams and of those in memory. The model may be new."""
        if model not in self._models:
            self._by_tenant[tenant] += 1
        _, had, were = self._models.get(model, (tenant, 0, 0))
        self._models[model] = tenant, streams, resident
        self._streams_of[tenant] += streams - had
        self.streams += streams - had
        self.resident += resident - were

    def forget(self, model: int) -> None:
        """Remove a model and its streams."""
        tenant = self._models[model][0]
        self.count(model, tenant, 0, 0)
        del self._models[model]
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant], self._streams_of[tenant]

    def models_of(self, tenant: str) -> int:
        """Return the number of a tenant's models."""
        return self._by_tenant[tenant]

    def streams_of(self, tenant: str) -> int:
        """Return the number of streams of a tenant's models."""
        return self._streams_of[tenant]
