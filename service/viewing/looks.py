"""The facade: all that the HTTP API asks about models. See `Viewing` for the interface."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from service.common.errors import Invalid, Unavailable
from service.common.names import ModelKey
from service.streams.served import ServedModel
from service.viewing import answers, encoding
from service.viewing.channels import LEAVES, Channel, Tools
from service.viewing.facts import gradient_facts, model_facts, service_facts, shown_event
from service.viewing.ghost import Ghosts
from service.viewing.samples import Marks, Sampler, process_marks, process_sample
from service.viewing.seen import MAX_STREAMS, MAX_VIEWERS, SHOW, Seen, Subject, Viewer, too_many_viewers
from service.viewing.states import Loaded
from service.viewing.ticks import Lens

NICENESS = 10  # of the thread, above the loop's and the large steps'
KEPT_S = 60.0  # samples of a model are kept this long after its last viewer has left
MAX_KEPT = 64  # models whose samples are kept

Json = answers.Json  # values that `encode` takes: NumPy arrays and NaN included


class Viewing:
    """Answers and watches. One per process; for the event loop.

    `seen`: the components of the model's shard, `Parts.seen` of the edge; `model`: from its catalog, of the caller's
    tenant. Replies are dicts for `encode`, in the shapes that docs/api describes. Errors are the service's own:
    NotFound for a stream, a version or a model that was deleted meanwhile, Invalid for a target, a step or another
    argument.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wall: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """clock: monotonic seconds; wall: seconds since 1970; pause: waits between two looks."""
        self._clock, self._wall = clock, wall
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="viewing", initializer=_lower_priority)
        self.ghosts = Ghosts(self._in_thread)
        self._tools = Tools(self._in_thread, self.ghosts, Loaded(), pause, wall())
        self._channels: dict[tuple[ServedModel, Subject, int, bool], Channel] = {}
        self._tasks: dict[Channel, asyncio.Task[None]] = {}
        self._samplers: dict[ServedModel, Sampler] = {}
        self._unused: dict[ServedModel, float] = {}  # and since when no channel uses it, clock seconds
        self._marks: Marks | None = None  # of the process, at the last `service`
        self._opening = asyncio.Lock()
        self.viewers = 0
        self._closed = False

    encode = staticmethod(encoding.encode)

    async def _in_thread(self, run: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, run, *arguments)

    # ---- answers

    async def block(self, seen: Seen, model: ServedModel, stream: str, target: str, step: int, last: int) -> Json:
        """Return BLOCK: the last `last` ticks of a stream, with the forecasts made `step` ticks before each.

        target: "": the first. A stream is brought from disk if need be; one without kept answers has an empty block.
        """
        return await answers.block_of(seen, model, stream, target, step, last)

    async def point(self, seen: Seen, model: ServedModel, stream: str, seq: int) -> Json:
        """Return one tick: all its forecasts, their truths as far as they are known, and what its label went into."""
        return await answers.point_of(seen, model, stream, seq)

    def gradient(self, seen: Seen, model: ServedModel) -> Json:
        """Return GRADIENT of the trainer's last report; {"layers": {}} before the first."""
        seen.catalog.check_there(model)  # else its metrics would come back
        return gradient_facts(seen.metrics.of(model.key).learner, model.spec.clip, self._wall())

    async def versions(self, seen: Seen, model: ServedModel) -> list[Json]:
        """Return the kept versions, newest first."""
        return await answers.versions_of(seen, model)

    def events(self, seen: Seen, key: ModelKey, last: int) -> list[Json]:
        """Return the last `last` kept events of a model, oldest first; a key without a name: of all the tenant's."""
        return [shown_event(event) for event in seen.events.recent(key, last)]

    def service(self, seen: Sequence[Seen]) -> Json:
        """Return SERVICE: latency, refusals, trainers of all shards of the process. For who sees all tenants.

        Percentiles are of the time since the last call; the first one's since the start.
        """
        before, self._marks = self._marks, process_marks(seen, self._clock(), self._wall())
        sampled = process_sample(before, self._marks)
        seconds = self._marks.clock - before.clock if before else None
        return {"time": self._wall(), "seconds": seconds} | sampled | service_facts(seen, self.viewers)

    def model(self, seen: Seen, model: ServedModel) -> Json:
        """Return MODEL: what it is and how it stands."""
        seen.catalog.check_there(model)
        return model_facts(seen, model)

    async def errors(self, seen: Seen, model: ServedModel, worst: int) -> Json:
        """Return the trainer's errors by step, and those of the `worst` worst streams, worst first.

        Raises Unavailable where the trainer does not answer in time.
        """
        return await answers.errors_of(seen, model, worst)

    async def streams(self, seen: Seen, model: ServedModel, after: str, limit: int, match: str) -> Json:
        """Return a page of streams after the id `after`, those whose id contains `match`: {"streams", "next"}."""
        return await answers.streams_of(seen, model, after, limit, match)

    # ---- watching

    @asynccontextmanager
    async def watch(
        self, seen: Seen, model: ServedModel, subject: Subject, sees_all: bool
    ) -> AsyncGenerator[Viewer, None]:
        """Watch a subject until the block ends. sees_all: whether the viewer may see figures of the whole process.

        On entry raises Exhausted beyond MAX_VIEWERS, NotFound and Invalid for a wrong subject, Unavailable while the
        server leaves.
        """
        if self.viewers >= MAX_VIEWERS:
            raise too_many_viewers()
        self.viewers += 1
        viewer, channel = Viewer(), None
        try:
            resolved, version = await self._resolve(seen, model, subject)
            channel = await self._joined(seen, model, (model, resolved, version, sees_all), viewer)
            yield viewer
        finally:
            self.viewers -= 1
            if channel is not None:
                self._left(channel, viewer)

    async def _resolve(self, seen: Seen, model: ServedModel, subject: Subject) -> tuple[Subject, int]:
        """Return the subject with the streams that are shown, and the version of the ghost, 0: none."""
        if unknown := subject.show - SHOW:
            raise Invalid("show", sorted(unknown)[0], f"give some of {', '.join(sorted(SHOW))}")
        streams = tuple(dict.fromkeys(subject.streams))
        if len(streams) > MAX_STREAMS:
            raise Invalid("stream", f"{len(streams)} streams", f"give at most {MAX_STREAMS}")
        source = seen.catalog.source_of(model)
        lens = Lens.of(source.spec, subject.target, subject.step)
        for stream in streams:
            await answers.check_stream(seen, source, stream)
        streams = streams or await answers.some_stream(seen, source)
        version = answers.ghost_version(source, subject.ghost)
        return replace(subject, streams=streams, target=lens.target), version

    async def _joined(
        self, seen: Seen, model: ServedModel, key: tuple[ServedModel, Subject, int, bool], viewer: Viewer
    ) -> Channel:
        """Join the channel of a subject, opened if there is none."""
        _, subject, version, sees_all = key
        async with self._opening:
            if self._closed:
                raise Unavailable("server", "leaving", LEAVES, retry_s=1.0)
            seen.catalog.check_there(model)
            channel = self._channels.get(key)
            is_new = channel is None or channel.ended
            if channel is None or is_new:
                channel = self._channels[key] = Channel(self._tools, seen, model, subject, version)
            channel.coming += 1  # so that it stays open when its last viewer leaves meanwhile
            try:
                if is_new:
                    await channel.open(self._sampler(seen, model), sees_all)
                await channel.join(viewer)
            except BaseException:
                channel.coming -= 1
                self._left(channel, viewer)
                raise
            channel.coming -= 1
            if channel not in self._tasks:
                self._tasks[channel] = asyncio.create_task(channel.run(), name="viewing")
            return channel

    def _left(self, channel: Channel, viewer: Viewer) -> None:
        """Let a viewer leave; with the last one the channel ends."""
        channel.viewers.discard(viewer)
        if channel.viewers or channel.coming:
            return
        for key in [key for key, one in self._channels.items() if one is channel]:
            del self._channels[key]
        if (task := self._tasks.pop(channel, None)) is not None:
            task.cancel()
        channel.close()
        model = channel.model
        if not any(one.model is model for one in self._channels.values()):
            self._unused[model] = self._clock()
            asyncio.get_running_loop().call_later(KEPT_S + 1, self.forget_samples)

    def _sampler(self, seen: Seen, model: ServedModel) -> Sampler:
        self.forget_samples()
        self._unused.pop(model, None)
        if model not in self._samplers:
            self._samplers[model] = Sampler(seen, model)
        return self._samplers[model]

    def forget_samples(self) -> None:
        """Forget the samples of models that were not watched for KEPT_S, or that are deleted."""
        now = self._clock()
        excess = len(self._unused) - MAX_KEPT
        for n, (model, since) in enumerate(list(self._unused.items())):
            if n < excess or model.deleted or now - since >= KEPT_S:
                del self._unused[model]
                self._samplers.pop(model, None)

    @property
    def channels(self) -> list[Channel]:
        """The open channels; new."""
        return list(self._channels.values())

    @property
    def looks(self) -> int:
        """How many looks the open channels have taken."""
        return sum(channel.looks for channel in self._channels.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the ticks and ghosts that open channels keep."""
        return sum(channel.scene.nbytes for channel in self._channels.values())

    def close(self) -> None:
        """End every view with `bye`, and refuse new ones: the server leaves."""
        self._closed = True
        for channel in self._channels.values():
            channel.end(LEAVES)


def _lower_priority() -> None:
    """Lower this thread's priority. (Only on Linux does a thread have its own.)"""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
