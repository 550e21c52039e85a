"""What every part of the client needs of its connection: the channel, and a call that is answered once."""

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

# What gRPC repeats by itself, within the deadline, while there is no server: what may be done twice. The server answers
# what is done already as it answered the first time. Not so Models.Delete, after which the name may be somebody else's,
# Streams.Put and Delete, after which the stream may have gone on, and Training.Replay. (A more specific entry wins.)
RETRIES: list[dict[str, Any]] = [
    {
        "name": [
            {"service": "freshet.v1.Models"},
            {"service": "freshet.v1.Streams", "method": "Get"},
            {"service": "freshet.v1.Streams", "method": "List"},
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
    """The part of a `grpc.aio` call that talks to gRPC's core, without the status that a failed write would set."""

    __slots__ = ("_core",)

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def set_internal_error(self, text: str) -> None:
        """Do nothing: a write fails once the call is over, and its status has arrived or is on its way."""


def keep_status(call: Any) -> None:
    """Let a call end with the server's status even where a write fails before that status is read: grpc.aio would put
    INTERNAL in its place, which looks like a lost connection, and a sender that was taken over would call again."""
    core = getattr(call, "_cython_call", None)  # private; grpc.aio has no other way
    if core is not None:
        call._cython_call = _OfTheServer(core)  # noqa: SLF001


class Opener(Generic[Call]):
    """Opens one call after the other of a method that streams, each with the token of its moment."""

    def __init__(
        self, method: Callable[..., Call], metadata: Callable[[], Metadata], route: Route | None = None
    ) -> None:
        self._method, self._metadata, self._route = method, metadata, route
        self._sent: Metadata = ()

    def __call__(self, *request: object) -> Call:
        """One more call. Raises Forked."""
        forks.check()
        self._sent = self._metadata()
        call = self._method(*request, metadata=self._sent)
        keep_status(call)
        return call

    def may_succeed_later(self, error: Failed, was_open: bool) -> bool:
        """Whether another call may succeed a little later. A token that is refused is not sent again; but whoever once
        had a call open may have another token by now."""
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return was_open and self._metadata() != self._sent
        return may_succeed_later(error, was_open)

    async def failed(self, error: grpc.aio.AioRpcError, was_open: bool) -> str:
        """Why a call came to nothing, in words; raises the error where another call cannot succeed a little later.

        A client that never had a call open looks at the connection: what both sides must change first ends it at once.
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
    """A channel that is opened later, the deadline of each call that is not a stream, seconds, and who calls.

    route: where the channel goes, for errors that say why it does not get there.
    """

    def __init__(self, timeout_s: float, token: Token | None = None, route: Route | None = None) -> None:
        self._timeout_s, self._token, self._route = timeout_s, token, route
        self._channel: grpc.aio.Channel | None = None
        self._open: WeakSet[Any] = WeakSet()  # streams, Muxes and senders, which are closed before the channel

    def _metadata(self) -> Metadata:
        """What goes out with every call, streams included: the token, read anew."""
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
        """The answer. within_s: a deadline that may be shorter than the client's, seconds; 0: it is the client's."""
        timeout_s = min(self._timeout_s, within_s or self._timeout_s)
        try:
            return await method(request, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise await self._explained(error) from error
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            raise StreamClosed("the client was closed meanwhile") from None

    async def _explained(self, error: grpc.aio.AioRpcError) -> FreshetError:
        """The exception for a call that failed for good."""
        mended = from_rpc(error)
        return mended if self._route is None else await self._route.explained(mended)


def cancelled_from_outside() -> bool:
    """Whether this task is being cancelled; gRPC raises the same exception where only the call was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
