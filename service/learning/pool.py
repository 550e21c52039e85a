"""All trainer processes of a server: each learns the models that are placed with it, and none disturbs another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric

from service.common.config import ServeConfig
from service.learning.child import TrainerClient
from service.learning.feed import Feed
from service.serving.ticks import Serving
from service.trainer.messages import Message
from service.trainer.placing import checkpoint_file, cores, place, processes


class Trainers:
    """Owns the processes; they are numbered from 0. `handle` gets what each says, and which it was."""

    def __init__(
        self,
        config: ServeConfig,
        serving: Serving,
        handle: Callable[[Message, int], Awaitable[Message | None]],
        begin_anew: Callable[[str, int], Awaitable[dict[str, Any]]],
        skip: Callable[[int], Awaitable[None]],
    ) -> None:
        """begin_anew and skip: as `TrainerClient` has them."""
        self._serving = serving
        self.count = processes(config.trainers, cores())
        self._places: dict[int, int] = {}
        self.clients = [self._client(n, config, handle, begin_anew, skip) for n in range(self.count)]
        serving.metrics.trainer_ready.set_function(lambda: self.ready)
        serving.on_removed.append(self._removed)

    def _client(self, n: int, config: ServeConfig, handle: Any, begin_anew: Any, skip: Any) -> TrainerClient:
        serving = self._serving
        feed = Feed(serving.journal, lambda model: self._tenant_at(n, model), serving.tenants, serving.clock)
        return TrainerClient(
            config,
            serving.journal,
            serving.metrics,
            lambda message: handle(message, n),
            serving.census,
            lambda why: begin_anew(why, n),
            skip,
            feed,
            checkpoint_file(n),
        )

    @property
    def ready(self) -> bool:
        """Whether every process takes in what is to be learned."""
        return all(client.ready.is_set() for client in self.clients)

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [client.pid for client in self.clients if client.pid]

    def place(self, model: int) -> int:
        """The process that learns a model that there is."""
        if model not in self._places:
            self._places[model] = place(self._serving.models[model].key, self.count)
        return self._places[model]

    def of(self, model: int) -> TrainerClient:
        """That process."""
        return self.clients[self.place(model)]

    async def ask(self, kind: str, timeout_s: float, model: int, **head: Any) -> Message:
        """As `TrainerClient.ask`, of the model's process."""
        return await self.of(model).ask(kind, timeout_s, model, **head)

    async def quarantined_streams(self, timeout_s: float) -> dict[int, list[int]]:
        """As `TrainerClient.quarantined_streams`, of all processes."""
        found = await asyncio.gather(*(client.quarantined_streams(timeout_s) for client in self.clients))
        return {model: streams for part in found for model, streams in part.items()}

    async def erase(self, gone: dict[int, list[int]], timeout_s: float) -> int:
        """As `TrainerClient.erase`, of all processes; the smallest position."""
        parts: list[dict[int, list[int]]] = [{} for _ in self.clients]
        for model, streams in gone.items():
            if model in self._serving.models:
                parts[self.place(model)][model] = streams
        each = zip(self.clients, parts, strict=True)
        return min(await asyncio.gather(*(client.erase(part, timeout_s) for client, part in each)))

    async def run(self) -> None:
        """Keep all of them running until cancelled; raises what one of them does."""
        tasks = [asyncio.create_task(client.run()) for client in self.clients]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def tried(self) -> None:
        """Until each process is ready, or has failed once: serving need not wait any longer."""
        for client in self.clients:
            await client.tried.wait()

    def _tenant_at(self, n: int, model: int) -> str | None:
        found = self._serving.models.get(model)
        return found.tenant if found is not None and self.place(model) == n else None

    def _removed(self, model: int) -> None:
        self._places.pop(model, None)
        for client in self.clients:
            client.feed.removed(model)


class TrainerProcesses:
    """What the kernel says of all trainer processes together, as one process: sums, and the earliest start."""

    def __init__(self, trainers: Trainers) -> None:
        self._each = [
            ProcessCollector("freshet_trainer", lambda client=client: client.pid or 0, registry=None)  # type: ignore[misc]
            for client in trainers.clients
        ]

    def collect(self) -> Iterable[Metric]:
        """A metric for each that any of them has."""
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
