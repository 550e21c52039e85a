"""What every part of the client uses: the channel, unary calls, and repeated calls of a streaming method."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakSet

import grpc

from freshet import forks
from freshet.connection import Route
from freshet.errors import Failed, FreshetError, NotOpen, StreamClosed, Unavailable, from_rpc, may_succeed_later
from freshet.security import Token, bearer

# Idempotent calls: gRPC repeats them by itself, within the deadline, while no server is reachable. The server gives a
# repeated call its first answer. Not repeated: Models.Delete, because the name may belong to a new model by then;
# Streams.Put and Delete, because the stream may have advanced; Training.Replay. (A more specific entry wins.)
RETRIES: list[dict[str, Any]] = [
    {
        "name": [
            {"service": "freshet.v1.Models"},
            {"service": "freshet.v1.Streams", "method": "Get"},
            {"service": "freshet.v1.Streams", "method": "List"},
            {"service": "freshet.v1.Streams", "method": "Errors"},
            {"service": "freshet.v1.Training", "method": "Quarantine"},
        ],
        "retryPolicy": {
            "maxAttempts": 5,
            "initialBackoff": "0.1s",
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    },
    {"name": [{"service": "freshet.v1.Models", "method": "Delete"}]},
]

Response = TypeVar("Response")
Call = TypeVar("Call")
Metadata: TypeAlias = "tuple[tuple[str, str], ...]"


class _OfTheServer:
    """The core of a `grpc.aio` call, without the status that a failed write would set."""

    __slots__ = ("_core",)

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, text: str) -> None:
        """Do nothing: a write fails only after the call has ended, and the server's status is there or on its way."""


def keep_status(call: Any) -> None:
    """Make a call end with the server's status even if a write fails before that status is read.

    grpc.aio would replace the status by INTERNAL, which looks like a lost connection, and a sender that was taken over
    would call again.
    """
    core = getattr(call, "_cython_call", None)  # private; grpc.aio has no other way
    if core is not None:
        call._cython_call = _OfTheServer(core)  # noqa: SLF001


class Opener(Generic[Call]):
    """Opens calls of a streaming method, one after the other, each with the current token."""

    def __init__(
        self, method: Callable[..., Call], metadata: Callable[[], Metadata], route: Route | None = None
    ) -> None:
        self._method, self._metadata, self._route = method, metadata, route
        self._sent: Metadata = ()

    def __call__(self, *request: object) -> Call:
        """Open a call. Raises Forked."""
        forks.check()
        self._sent = self._metadata()
        call = self._method(*request, metadata=self._sent)
        keep_status(call)
        return call

    def may_succeed_later(self, error: Failed, was_open: bool) -> bool:
        """Whether another call may succeed a little later. A refused token is not sent again; a client that has had a
        call open may have a new token by then."""
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return was_open and self._metadata() != self._sent
        return may_succeed_later(error, was_open)

    async def failed(self, error: grpc.aio.AioRpcError, was_open: bool) -> str:
        """Return why a call failed. Raises the error if another call cannot succeed a little later.

        A client that never had a call open examines the connection; a problem that one side must fix first is raised at
        once.
        """
        if not self.may_succeed_later(error, was_open):
            raise from_rpc(error) from error
        if not was_open and self._route is not None:
            explained = await self._route.explained(from_rpc(error))
            if isinstance(explained, Unavailable) and explained.problem:
                if explained.lasting:
                    raise explained from error
                return str(explained)
        return f"{error.code().name}: {error.details()}"


class Calls:
    """Base of `Client`: a channel that is opened later, a deadline for unary calls in seconds, and a token.

    route: where the channel leads, to explain failed connections.
    """

    def __init__(self, timeout_s: float, token: Token | None = None, route: Route | None = None) -> None:
        self._timeout_s, self._token, self._route = timeout_s, token, route
        self._channel: grpc.aio.Channel | None = None
        self._open: WeakSet[Any] = WeakSet()  # streams, Muxes and senders; closed before the channel

    def _metadata(self) -> Metadata:
        """Return the metadata of a call: the current token."""
        return () if self._token is None else (("authorization", bearer(self._token)),)

    def _opener(self, method: Callable[..., Call]) -> Opener[Call]:
        return Opener(method, self._metadata, self._route)

    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise NotOpen("client", "freshet.connect(…) as client")
        forks.check()
        return self._channel

    async def _unary(
        self, method: Callable[..., Awaitable[Response]], request: object, within_s: float = 0.0
    ) -> Response:
        """Make a call and return its answer. within_s: a deadline shorter than the client's, seconds; 0: none."""
        timeout_s = min(self._timeout_s, within_s or self._timeout_s)
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise await self._explained(error) from error
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            raise StreamClosed("the client was closed during the call") from None

    async def _explained(self, error: grpc.aio.AioRpcError) -> FreshetError:
        """Return the exception for a failed call."""
        plain = from_rpc(error)
        return plain if self._route is None else await self._route.explained(plain)


def cancelled_from_outside() -> bool:
    """Whether this task is being cancelled. gRPC raises the same exception if only the call was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
