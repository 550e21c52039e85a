"""Select the model whose chunk is learned next: fair by work between tenants, and between the models of a tenant.

Start-time fair queueing: each tenant, and each model within its tenant, has a virtual time, the seconds of learning
that it has used. The one with the least is next. One that had nothing to learn starts at the virtual time of those that
had, so it gains nothing from idling, and waits for no backlog but its own. Plain data, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

FIRST_S = 1e-3  # assumed cost of an entry before the first measurement: an update of a default model
FIRST_BYTES = 32  # assumed bytes of an entry until then
KEPT = 0.9  # decay of former measurements at each chunk


@dataclass(slots=True)
class Pace:
    """The measured cost of learning one model: sums over its chunks that decay exponentially."""

    seconds: float = 0.0
    size: float = 0.0
    entries: float = 0.0

    def took(self, seconds: float, size: int, entries: int) -> None:
        """Add the measurement of one chunk. size: bytes."""
        self.seconds = KEPT * self.seconds + seconds
        self.size = KEPT * self.size + size
        self.entries = KEPT * self.entries + entries

    def of_bytes(self, size: int) -> float:
        """Return the seconds that a chunk of this many bytes is expected to take."""
        return size * (self.seconds / self.size if self.size else FIRST_S / FIRST_BYTES)

    def of_entries(self, entries: int) -> float:
        """Return the seconds that this many entries are expected to take."""
        return entries * (self.seconds / self.entries if self.entries else FIRST_S)


@dataclass(slots=True)
class _Tenant:
    time: float = 0.0  # virtual, as all times here
    now: float = 0.0  # the start of its models that had nothing to learn
    models: dict[int, float] = field(default_factory=dict)  # the time of each model
    waiting: set[int] = field(default_factory=set)  # models that have something to learn


class Fair:
    """The virtual times of all models of one trainer process."""

    def __init__(self) -> None:
        self._now = 0.0  # the start of tenants that had nothing to learn
        self._tenants: dict[str, _Tenant] = {}

    def wait(self, tenant: str, model: int) -> None:
        """Note that the model has something to learn, until `rest`."""
        its = self._tenants.setdefault(tenant, _Tenant())
        if not its.waiting:
            its.time = max(its.time, self._now)
        if model not in its.waiting:
            its.waiting.add(model)
            its.models[model] = max(its.models.get(model, 0.0), its.now)

    def rest(self, tenant: str, model: int) -> None:
        """Note that the model has nothing to learn."""
        if tenant in self._tenants:
            self._tenants[tenant].waiting.discard(model)

    def forget(self, model: int) -> None:
        """Forget a deleted model."""
        for name, its in list(self._tenants.items()):
            its.waiting.discard(model)
            its.models.pop(model, None)
            if not its.models:
                del self._tenants[name]

    def clear(self) -> None:
        """Note that no model has anything to learn; virtual times are kept."""
        for its in self._tenants.values():
            its.waiting.clear()

    def waiting(self) -> Iterable[str]:
        """Return the tenants that have something to learn."""
        return [name for name, its in self._tenants.items() if its.waiting]

    def next(self, may: Callable[[str], bool]) -> tuple[str, int] | None:
        """Return the next tenant and model, of the waiting tenants for which `may` is True; None if there are none."""
        allowed = [(its.time, name) for name, its in self._tenants.items() if its.waiting and may(name)]
        if not allowed:
            return None
        self._now, name = min(allowed)
        its = self._tenants[name]
        its.now, model = min((its.models[number], number) for number in its.waiting)
        return name, model

    def charge(self, tenant: str, model: int, seconds: float) -> None:
        """Add seconds of learning to the model's and its tenant's time; negative: correct a former charge."""
        its = self._tenants.get(tenant)
        if its is not None and model in its.models:
            its.time += seconds
            its.models[model] += seconds
