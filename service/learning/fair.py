"""Whose chunk is learned next: fair by work, between tenants and between the models of each. Plain data, no clock.

Start-time fair queueing. Each tenant, and each model within its tenant, has a virtual time: the seconds of learning
that it has had. The one with the least goes first. One that had nothing to learn begins at the virtual time of those
that had, so that it has no claim to what it did not use, and waits for no backlog but its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

FIRST_S = 1e-3  # what an entry is taken to cost before any was measured: an update of a default model
FIRST_BYTES = 32  # of a chunk, per entry, as long
KEPT = 0.9  # of what was measured before, at each chunk


@dataclass(slots=True)
class Pace:
    """What learning one model costs, as measured lately: sums over its chunks, each weighing less than the next."""

    seconds: float = 0.0
    size: float = 0.0
    entries: float = 0.0

    def took(self, seconds: float, size: int, entries: int) -> None:
        """A chunk of so many bytes and entries was learned."""
        self.seconds = KEPT * self.seconds + seconds
        self.size = KEPT * self.size + size
        self.entries = KEPT * self.entries + entries

    def of_bytes(self, size: int) -> float:
        """Seconds that a chunk of this size is expected to take."""
        return size * (self.seconds / self.size if self.size else FIRST_S / FIRST_BYTES)

    def of_entries(self, entries: int) -> float:
        """Seconds that so many entries are expected to take."""
        return entries * (self.seconds / self.entries if self.entries else FIRST_S)


@dataclass(slots=True)
class _Tenant:
    time: float = 0.0  # virtual, as all times here
    now: float = 0.0  # at which its models begin that had nothing to learn
    models: dict[int, float] = field(default_factory=dict)  # the time of each
    waiting: set[int] = field(default_factory=set)  # those that have something to learn


class Fair:
    """The virtual times of all models of one process."""

    def __init__(self) -> None:
        self._now = 0.0  # at which a tenant begins that had nothing to learn
        self._tenants: dict[str, _Tenant] = {}

    def wait(self, tenant: str, model: int) -> None:
        """The model has something to learn, until `rest`."""
        its = self._tenants.setdefault(tenant, _Tenant())
        if not its.waiting:
            its.time = max(its.time, self._now)
        if model not in its.waiting:
            its.waiting.add(model)
            its.models[model] = max(its.models.get(model, 0.0), its.now)

    def rest(self, tenant: str, model: int) -> None:
        """The model has nothing to learn."""
        if tenant in self._tenants:
            self._tenants[tenant].waiting.discard(model)

    def forget(self, model: int) -> None:
        """The model is gone."""
        for name, its in list(self._tenants.items()):
            its.waiting.discard(model)
            its.models.pop(model, None)
            if not its.models:
                del self._tenants[name]

    def clear(self) -> None:
        """No model has anything to learn; what each has had stays known."""
        for its in self._tenants.values():
            its.waiting.clear()

    def waiting(self) -> Iterable[str]:
        """The tenants that have something to learn."""
        return [name for name, its in self._tenants.items() if its.waiting]

    def next(self, may: Callable[[str], bool]) -> tuple[str, int] | None:
        """Tenant and model whose turn it is, of the tenants that may learn; None: none that waits may."""
        allowed = [(its.time, name) for name, its in self._tenants.items() if its.waiting and may(name)]
        if not allowed:
            return None
        self._now, name = min(allowed)
        its = self._tenants[name]
        its.now, model = min((its.models[number], number) for number in its.waiting)
        return name, model

    def charge(self, tenant: str, model: int, seconds: float) -> None:
        """The model has learned for so long; below 0: less than it was charged before."""
        its = self._tenants.get(tenant)
        if its is not None and model in its.models:
            its.time += seconds
            its.models[model] += seconds
