"""All trainer processes of a server: each learns the models that are placed with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric

from service.access.tenants import Tenants
from service.common.tasks import together
from service.journal.writer import Commit, Journal
from service.learning.child import Owner, TrainerClient
from service.learning.feed import Feed
from service.observe.learning_metrics import TrainerMetrics
from service.observe.server_metrics import StorageMetrics
from service.streams.served import ServedModel
from service.trainer.placing import place
from service.trainer.quarantine import Item
from service.trainer.reports import ErrorTables


class Trainers:
    """Owns the trainer processes, which are numbered from 0."""

    def __init__(
        self,
        count: int,
        hang_s: float,
        owner: Owner,
        models: Mapping[int, ServedModel],
        journal: Journal,
        tenants: Tenants,
        metrics: TrainerMetrics,
        storage: StorageMetrics,
        clock: Callable[[], float],
    ) -> None:
        """models: by number, changed as models come and go; call `removed` then. clock: monotonic seconds."""
        self._models, self._journal, self._tenants = models, journal, tenants
        self._metrics, self._storage, self._clock = metrics, storage, clock
        self.count = count
        self._places: dict[int, int] = {}
        self.clients = [self._client(n, hang_s, owner) for n in range(count)]
        metrics.trainer_ready.set_function(lambda: self.ready)
        journal.on_commit.append(self._committed)

    def _client(self, n: int, hang_s: float, owner: Owner) -> TrainerClient:
        feed = Feed(self._journal, lambda model: self._tenant_at(n, model), self._tenants, self._clock)
        return TrainerClient(n, owner, self._journal, self._metrics, self._storage, feed, hang_s)

    @property
    def ready(self) -> bool:
        """Whether every process is ready to learn."""
        return all(client.ready.is_set() for client in self.clients)

    @property
    def pids(self) -> list[int]:
        """Ids of the running processes."""
        return [client.pid for client in self.clients if client.pid]

    def place(self, model: int) -> int:
        """The number of the process that learns an existing model."""
        if model not in self._places:
            self._places[model] = place(self._models[model].key, self.count)
        return self._places[model]

    def of(self, model: int) -> TrainerClient:
        """The client of the process that learns an existing model."""
        return self.clients[self.place(model)]

    async def quarantined(
        self, model: int, after: int, limit: int, ids: tuple[int, ...], timeout_s: float
    ) -> tuple[Item, ...]:
        """As `TrainerClient.quarantined`, of the model's process."""
        return await self.of(model).quarantined(model, after, limit, ids, timeout_s)

    async def quarantined_streams(self, timeout_s: float) -> dict[int, tuple[int, ...]]:
        """As `TrainerClient.quarantined_streams`, of all processes."""
        found = await asyncio.gather(*(client.quarantined_streams(timeout_s) for client in self.clients))
        return {model: streams for part in found for model, streams in part.items()}

    async def errors(self, model: int, worst: int, after: int, limit: int, timeout_s: float) -> ErrorTables:
        """As `TrainerClient.errors`, of the model's process."""
        return await self.of(model).errors(model, worst, after, limit, timeout_s)

    async def erase(self, gone: Mapping[int, tuple[int, ...]], timeout_s: float) -> int:
        """As `TrainerClient.erase`, of all processes; the smallest position."""
        parts: list[dict[int, tuple[int, ...]]] = [{} for _ in self.clients]
        for model, streams in gone.items():
            if model in self._models:
                parts[self.place(model)][model] = streams
        each = zip(self.clients, parts, strict=True)
        return min(await asyncio.gather(*(client.erase(part, timeout_s) for client, part in each)))

    async def run(self) -> None:
        """Keep all of them running until cancelled; raises the first error of one of them."""
        await together(client.run() for client in self.clients)

    async def tried(self) -> None:
        """Wait until each process is ready, or has failed once: serving need not wait longer."""
        for client in self.clients:
            await client.tried.wait()

    def _tenant_at(self, n: int, model: int) -> str | None:
        found = self._models.get(model)
        mine = (
            found is not None and not found.slices.part and self.place(model) == n
        )  # the slices are learned elsewhere
        return found.tenant if found is not None and mine else None

    def _committed(self, commit: Commit) -> None:
        for client in self.clients:
            client.feed.committed(commit.frames)

    def removed(self, model: int) -> None:
        """Forget a model that was removed."""
        self._places.pop(model, None)
        for client in self.clients:
            client.feed.removed(model)


class TrainerProcesses:
    """Process metrics of all trainers together, as of one process: sums, and the earliest start."""

    def __init__(self, trainers: Trainers) -> None:
        self._each = [
            ProcessCollector("freshet_trainer", lambda client=client: client.pid or 0, registry=None)  # type: ignore[misc]
            for client in trainers.clients
        ]

    def collect(self) -> Iterable[Metric]:
        """One metric for each name that any of the processes has."""
        found: dict[str, Metric] = {}
        for collector in self._each:
            for metric in collector.collect():
                here = found.setdefault(metric.name, metric)
                if here is not metric:
                    least = metric.name.endswith(("start_time_seconds", "max_fds"))
                    mine, its = here.samples[0], metric.samples[0]
                    value = min(mine.value, its.value) if least else mine.value + its.value
                    here.samples[0] = mine._replace(value=value)
        return found.values()
