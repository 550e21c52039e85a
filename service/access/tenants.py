"""Usage of each tenant against its quota. For the event loop alone."""

from __future__ import annotations

from collections.abc import Callable

from service.access.grants import UNLIMITED, Access, Quota
from service.access.rates import Rate
from service.common.errors import Exhausted
from service.observe.server_metrics import AccessMetrics

RETRY_S = 1.0  # for limits that clear by themselves: bytes in flight, calls
RETRY_LATER_S = 60.0  # for limits that someone must act on: models, streams


class Tenant:
    """One tenant and its buckets; times are seconds of the caller's monotonic clock.

    rate, full_at: ticks per second, and when that bucket is full; None: unlimited.
    work_rate, work_full_at: the same for multiply-adds.
    limited: one of the two is not None.
    learning, learned_at: the same for seconds of learning; always limited.
    """

    __slots__ = (
        "_most", "_put_off", "_reached", "calls", "full_at", "in_flight", "learned_at", "learning", "limited", "name",
        "quota", "rate", "work_full_at", "work_rate",
    )  # fmt: skip

    def __init__(self, name: str, quota: Quota, reached: Callable[[str, str], None], learn_s_per_s: float) -> None:
        """reached: called with tenant and quota at each refusal. learn_s_per_s: upper limit of that quota."""
        self.name, self._reached, self._most = name, reached, learn_s_per_s
        self.full_at, self.work_full_at, self.in_flight, self.calls = 0.0, 0.0, 0, 0
        self.learned_at, self._put_off = 0.0, False
        self.assign(quota)

    def __repr__(self) -> str:
        return f"Tenant({self.name!r}, calls={self.calls}, in_flight={self.in_flight})"

    def assign(self, quota: Quota) -> None:
        """Change the quota. Models, streams and calls beyond it stay."""
        self.quota = quota
        self.rate = Rate(quota.ticks_per_s) if quota.ticks_per_s < UNLIMITED.ticks_per_s else None
        self.work_rate = Rate(quota.work_per_s) if quota.work_per_s < UNLIMITED.work_per_s else None
        self.limited = self.rate is not None or self.work_rate is not None
        self.learning = Rate(min(quota.learn_s_per_s, self._most))

    def check_models(self, models: int, name: str) -> None:
        """Raise Exhausted if a tenant with `models` may not have another, called `name`."""
        if models >= self.quota.models:
            raise self._exhausted("models", "name", name, f"{models} models, its quota: delete one", RETRY_LATER_S)

    def check_streams(self, streams: int, id: str) -> None:
        """Raise Exhausted if a tenant with `streams` may not have another, called `id`."""
        if streams >= self.quota.streams:
            raise self._exhausted("streams", "stream", id, f"{streams} streams, its quota: delete some", RETRY_LATER_S)

    def begin_call(self) -> None:
        """Count a call that opens. Raises Exhausted beyond the quota."""
        if self.calls >= self.quota.calls:
            raise self._exhausted("calls", "call", "one more", f"{self.calls} calls open, its quota: end one", RETRY_S)
        self.calls += 1

    def end_call(self) -> None:
        """Count a call that ended."""
        self.calls -= 1

    def hold(self, size: int) -> None:
        """Count `size` bytes as in flight: received and not yet answered. A message alone may have any size.

        Raises Exhausted beyond the quota.
        """
        if self.in_flight and self.in_flight + size > self.quota.in_flight_bytes:
            remedy = f"{self.in_flight} bytes in flight, of {self.quota.in_flight_bytes}: wait for answers"
            raise self._exhausted("in_flight_bytes", "message", f"{size} bytes", remedy, RETRY_S)
        self.in_flight += size

    def release(self, size: int) -> None:
        """Count `size` bytes as answered, or as dropped."""
        self.in_flight -= size

    def wait(self, now: float) -> float:
        """Return the seconds until another tick is allowed; 0: now."""
        wait = self.rate.wait(self.full_at, now) if self.rate else 0.0
        if wait:
            self._reached(self.name, "ticks_per_s")
        return wait

    def wait_for_work(self, now: float) -> float:
        """Return the seconds until the work of earlier ticks allows another; 0: now."""
        wait = self.work_rate.wait(self.work_full_at, now) if self.work_rate else 0.0
        if wait:
            self._reached(self.name, "work_per_s")
        return wait

    def tokens(self, now: float, wanted: int, work: int) -> int:
        """Return how many of `wanted` ticks, each of `work` multiply-adds, are allowed now."""
        if self.rate:
            wanted = min(wanted, self.rate.tokens(self.full_at, now))
        return min(wanted, self.work_rate.portions(self.work_full_at, now, work)) if self.work_rate else wanted

    def ticked(self, now: float, work: int, ticks: int = 1) -> None:
        """Charge `ticks` ticks, each of `work` multiply-adds."""
        if self.rate:
            self.full_at = self.rate.spend(self.full_at, now, ticks)
        if self.work_rate:
            self.work_full_at = self.work_rate.spend(self.work_full_at, now, ticks * work)

    def learning_wait(self, now: float) -> float:
        """Return the seconds until the next part of its journal may be learned; 0: now. Nothing is lost by waiting."""
        wait = self.learning.wait(self.learned_at, now)
        if wait and not self._put_off:
            self._reached(self.name, "learn_s_per_s")
        self._put_off = wait > 0
        return wait

    def learned(self, now: float, seconds: float) -> None:
        """Charge the seconds that a trainer has worked for the tenant."""
        self.learned_at = self.learning.spend(self.learned_at, now, seconds)

    def _exhausted(self, quota: str, field: str, value: str, has: str, retry_s: float) -> Exhausted:
        self._reached(self.name, quota)
        return Exhausted(field, value, f"the tenant has {has}, or ask for a larger one", retry_s=retry_s)


class Tenants:
    """Every tenant seen so far, with the quotas of the access file in force."""

    def __init__(self, metrics: AccessMetrics, learn_s_per_s: float) -> None:
        """learn_s_per_s: upper limit of every tenant's seconds of learning per second."""
        self._access, self._learn_s_per_s = Access(), learn_s_per_s
        self._tenants: dict[str, Tenant] = {}
        self._metrics = metrics

    def of(self, name: str) -> Tenant:
        """Return the tenant."""
        if name not in self._tenants:
            for quota in Quota.__dataclass_fields__:
                self._metrics.quota_reached.labels(
                    name, quota
                )  # exists before its first count: Prometheus sees no increase otherwise
            self._tenants[name] = Tenant(name, self._access.quota(name), self._count, self._learn_s_per_s)
        return self._tenants[name]

    def apply(self, access: Access) -> None:
        """Put the quotas of an access file in force."""
        self._access = access
        for tenant in self._tenants.values():
            tenant.assign(access.quota(tenant.name))

    def _count(self, tenant: str, quota: str) -> None:
        self._metrics.quota_reached.labels(tenant, quota).inc()
