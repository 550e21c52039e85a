"""The facade: all that the HTTP API asks about models. See `Viewing` for the interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from service.common.names import ModelKey
from service.streams.served import ServedModel
from service.viewing import encoding
from service.viewing.seen import Seen, Subject

Json = dict[str, Any]  # values that `encode` takes: NumPy arrays and NaN included


class Viewer(Protocol):
    """One who watches: a bounded queue of encoded events. `watch` makes it and ends it."""

    async def next(self) -> bytes:
        """Return the next event, whole: its name, its data, and the blank line; waits for one.

        A viewer that has lost its oldest events gets an event `dropped` first. Raises Ended once the model is deleted
        or the server leaves, after the events that are queued, the last of which is `bye`.
        """
        ...


class Viewing:
    """Answers and watches. One per process; for the event loop.

    `seen`: the components of the model's shard, `Parts.seen` of the edge; `model`: from its catalog, of the caller's
    tenant. Replies are dicts for `encode`, in the shapes that docs/api describes. Errors are the service's own:
    NotFound for a stream, a version or a model that was deleted meanwhile, Invalid for a target, a step or another
    argument.
    """

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """clock: monotonic seconds; wall: seconds since 1970."""
        self._clock, self._wall = clock, wall

    encode = staticmethod(encoding.encode)

    # ---- answers

    async def block(self, seen: Seen, model: ServedModel, stream: str, target: str, step: int, last: int) -> Json:
        """Return BLOCK: the last `last` ticks of a stream, with the forecasts made `step` ticks before each.

        target: ""; the first. A stream is brought from disk if need be; one without kept answers has an empty block.
        """
        raise NotImplementedError

    async def point(self, seen: Seen, model: ServedModel, stream: str, seq: int) -> Json:
        """Return one tick: all its forecasts, their truths as far as they are known, and what its label went into."""
        raise NotImplementedError

    def gradient(self, seen: Seen, model: ServedModel) -> Json:
        """Return GRADIENT of the trainer's last report; {"layers": {}} before the first."""
        raise NotImplementedError

    async def versions(self, seen: Seen, model: ServedModel) -> list[Json]:
        """Return the kept versions, newest first."""
        raise NotImplementedError

    def events(self, seen: Seen, key: ModelKey, last: int) -> list[Json]:
        """Return the last `last` kept events of a model, oldest first; a key without a name: of all the tenant's."""
        raise NotImplementedError

    def service(self, seen: Sequence[Seen]) -> Json:
        """Return SERVICE: latency, refusals, trainers of all shards of the process. For who sees all tenants."""
        raise NotImplementedError

    def model(self, seen: Seen, model: ServedModel) -> Json:
        """Return MODEL: what it is and how it stands."""
        raise NotImplementedError

    async def errors(self, seen: Seen, model: ServedModel, worst: int) -> Json:
        """Return the trainer's errors by step, and those of the `worst` worst streams, worst first.

        Raises Unavailable where the trainer does not answer in time.
        """
        raise NotImplementedError

    async def streams(self, seen: Seen, model: ServedModel, after: str, limit: int, match: str) -> Json:
        """Return a page of streams after the id `after`, those whose id contains `match`: {"streams", "next"}."""
        raise NotImplementedError

    # ---- watching

    def watch(
        self, seen: Seen, model: ServedModel, subject: Subject, sees_all: bool
    ) -> AbstractAsyncContextManager[Viewer]:
        """Watch a subject until the block ends. sees_all: whether the viewer may see figures of the whole process.

        On entry raises Exhausted beyond MAX_VIEWERS, NotFound and Invalid for a wrong subject.
        """
        raise NotImplementedError

    @property
    def viewers(self) -> int:
        """How many watch now."""
        return 0

    def close(self) -> None:
        """End every view with `bye`, and refuse new ones: the server leaves."""
