"""What every part of the client uses: the nodes, unary calls, and repeated calls of a streaming method."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakSet

import grpc

from freshet import forks
from freshet.connection import unconnected
from freshet.errors import (
    RETRYABLE,
    Failed,
    FreshetError,
    NotOpen,
    StreamClosed,
    Unavailable,
    from_rpc,
    may_succeed_later,
    moved_to,
)
from freshet.nodes import Nodes
from freshet.retry import Backoff
from freshet.search import Search
from freshet.security import Token, bearer

ATTEMPTS = 5  # of an idempotent call, at each node
NOT_SENT = "failed to connect to all addresses"  # in gRPC's text for a call that never left this process
ATTEMPT_S = 0.1  # pause after the first of them; each further one is twice as long

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
    """Opens calls of a streaming method about one model, one after the other, where the model is, each with the current
    token.

    method: returns the method of a channel.
    """

    def __init__(
        self,
        nodes: Nodes,
        model: str,
        method: Callable[[grpc.aio.Channel], Callable[..., Call]],
        metadata: Callable[[], Metadata],
    ) -> None:
        self._nodes, self._model, self._method, self._metadata = nodes, model, method, metadata
        self._search = Search()
        self._sent: Metadata = ()
        self._elsewhere = False  # the next call needs no pause
        self.address = ""  # of the last call

    async def __call__(self, *request: object) -> Call:
        """Open a call. Raises Forked."""
        await self.reach()
        return self.open(*request)

    async def reach(self) -> str:
        """Choose the node of the next call, connected if any is, and return its address."""
        forks.check()
        self.address = await self._nodes.reach(self._search, self._model)
        return self.address

    def open(self, *request: object) -> Call:
        """Open a call at the node chosen last."""
        self._sent = self._metadata()
        call = self._method(self._nodes.channel(self.address))(*request, metadata=self._sent)
        keep_status(call)
        return call

    @property
    def heading(self) -> str:
        """The node of this call, or of the next one if a node has named it."""
        return self._search.named or self.address

    @property
    def astray(self) -> bool:
        """Whether the last call went to another node than the one named, which could not be connected to."""
        return self._search.named not in ("", self.address)

    def served(self) -> None:
        """Record that the node of this call has the model."""
        self._nodes.remember(self._model, self.address)

    def succeeded(self, backoff: Backoff) -> None:
        """Record progress on this call."""
        backoff.succeeded()
        self._search.succeeded()

    def moved(self, to: str) -> None:
        """Record that a node names another, HOST:PORT, for the next call; empty for none in particular.

        Raises InvalidArgument if that is no address, or the token must not be sent there.
        """
        if to:
            self._nodes.learn(to)
            self._nodes.forget(self._model, self.address)
            self._search.moved(self.address, to)

    def aim(self, address: str) -> None:
        """Make this node the next one to call. Raises as `moved`."""
        self._nodes.learn(address)
        self._search.named = address

    def ended(self, why: str) -> str:
        """Record that the call has ended, and return why, with the ends of the calls at other nodes before it."""
        self._search.failed(self.address, why)
        self._nodes.forget(self._model, self.address)
        self._elsewhere = self._search.again(self._nodes.order(self._model))
        if not self._elsewhere:
            self._nodes.look_again()
        return self._search.why

    async def pause(self, backoff: Backoff, why: str) -> None:
        """Wait before the next call; not if another node is left to try. why: how the last call ended.

        Raises Unavailable to give up.
        """
        wait = backoff.failed(asyncio.get_running_loop().time(), self._elsewhere)
        if wait is None:
            raise Unavailable(f"no success for {backoff.give_up_s:g} s; the last call: {why}")
        await asyncio.sleep(wait)

    def may_succeed_later(self, error: Failed, was_open: bool) -> bool:
        """Whether another call may succeed a little later. A refused token is not sent again; a client that has had a
        call open may have a new token by then."""
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return was_open and self._metadata() != self._sent
        return may_succeed_later(error, was_open)

    async def failed(self, error: grpc.aio.AioRpcError, was_open: bool) -> str:
        """Return why a call failed. Raises the error if another call cannot succeed a little later.

        A client that never had a call open examines the connection once no node is left to try; a problem that one side
        must fix first is raised at once.
        """
        if not self.may_succeed_later(error, was_open):
            raise from_rpc(error) from error
        if (to := moved_to(error)) is not None:
            self.moved(to)
        if error.code() not in RETRYABLE:  # a limit, or the token: no other node knows better
            self._elsewhere = False
            return f"{error.code().name}: {error.details()}"
        answered = to is not None or not unconnected(Unavailable(error.details() or "", error.code()))
        self._search.heard |= answered
        heard = self._search.heard
        why = self.ended(f"{error.code().name}: {error.details()}")
        if was_open or heard or self._elsewhere or self._nodes.route is None:
            return why
        explained = await self._nodes.route(self.address).explained(from_rpc(error))
        if isinstance(explained, Unavailable) and explained.problem:
            if explained.lasting:
                raise explained from error
            return str(explained)
        return why


class Calls:
    """Base of `Client`: nodes that are connected to later, a deadline for unary calls in seconds, and a token."""

    def __init__(self, timeout_s: float, nodes: Nodes, token: Token | None = None) -> None:
        self._timeout_s, self._nodes, self._token = timeout_s, nodes, token
        self._open: WeakSet[Any] = WeakSet()  # streams, Muxes and senders; closed before the channels

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses of the nodes known so far: those given, or resolved from a name, then those that nodes named."""
        return self._nodes.addresses

    def _metadata(self) -> Metadata:
        """Return the metadata of a call: the current token."""
        return () if self._token is None else (("authorization", bearer(self._token)),)

    def _opener(self, model: str, method: Callable[[grpc.aio.Channel], Callable[..., Call]]) -> Opener[Call]:
        self._check_open()
        return Opener(self._nodes, model, method, self._metadata)

    def _check_open(self) -> None:
        if not self._nodes.is_open:
            raise NotOpen("client", "freshet.connect(…) as client")
        forks.check()

    async def _unary(
        self,
        method: Callable[[grpc.aio.Channel], Callable[..., Awaitable[Response]]],
        request: object,
        within_s: float = 0.0,
        *,
        once: bool = False,
    ) -> Response:
        """Make a call and return its answer. within_s: a deadline shorter than the client's, seconds; 0: none.

        An idempotent call is repeated within the deadline while no server is reachable; the server gives a repeated
        call its first answer. once: it is not, and goes to another node only if the first cannot have executed it.
        """
        self._check_open()
        timeout_s = min(self._timeout_s, within_s or self._timeout_s)
        try:
            return await self._tried(method, request, asyncio.get_running_loop().time() + timeout_s, once)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            raise StreamClosed("the client was closed during the call") from None

    async def _tried(
        self,
        method: Callable[[grpc.aio.Channel], Callable[..., Awaitable[Response]]],
        request: object,
        ends: float,
        once: bool,
    ) -> Response:
        """Make a call at one node after the other. ends: loop time of the deadline, seconds."""
        loop, search, model, rounds = asyncio.get_running_loop(), Search(), model_of(request), 0
        while True:
            address = await self._reached(search, model, ends)
            left = max(0.0, ends - loop.time())
            try:
                answer = await method(self._nodes.channel(address))(request, timeout=left, metadata=self._metadata())
            except grpc.aio.AioRpcError as error:
                if not self._goes_on(search, model, address, error, once):
                    raise await self._explained(address, search, error) from error
                if not search.again(self._nodes.order(model)):
                    rounds += 1
                    pause = ATTEMPT_S * 2.0 ** (rounds - 1) * random.uniform(0.8, 1.2)
                    if once or rounds == ATTEMPTS or loop.time() + pause >= ends:
                        raise await self._explained(address, search, error) from error
                    self._nodes.look_again()
                    await asyncio.sleep(pause)
            else:
                self._nodes.remember(model, address)
                return answer

    async def _reached(self, search: Search, model: str, ends: float) -> str:
        try:
            async with asyncio.timeout_at(ends):
                return await self._nodes.reach(search, model)
        except TimeoutError:
            known = ", ".join(self._nodes.order(model))
            text = f"no connection to any of {known} in the time allowed"
            raise Unavailable(text, grpc.StatusCode.DEADLINE_EXCEEDED) from None

    def _goes_on(self, search: Search, model: str, address: str, error: grpc.aio.AioRpcError, once: bool) -> bool:
        """Record how a call ended. Returns whether it may be made again, here or at another node."""
        to = moved_to(error)
        if to is not None:
            self._nodes.learn(to)
            search.moved(address, to)
        else:
            search.failed(address, f"{error.code().name}: {error.details()}")
        unsent = NOT_SENT in (error.details() or "")
        again = error.code() is grpc.StatusCode.UNAVAILABLE and (not once or to is not None or unsent)
        if again:
            self._nodes.forget(model, address)
        return again

    async def _explained(self, address: str, search: Search, error: grpc.aio.AioRpcError) -> FreshetError:
        """Return the exception for a failed call."""
        plain = from_rpc(error)
        if self._nodes.route is not None:
            plain = await self._nodes.route(address).explained(plain)
        if isinstance(plain, Unavailable) and ("; " in search.why or moved_to(error)):
            plain.args = (f"{plain}; tried: {search.why}",)
        return plain


def model_of(request: Any) -> str:
    """Return the name of the model that a request is about; empty for none."""
    names = request.DESCRIPTOR.fields_by_name
    if "stream" in names and names["stream"].message_type is not None:
        return str(request.stream.model)
    return str(getattr(request, "model" if "model" in names else "name", ""))


def cancelled_from_outside() -> bool:
    """Whether this task is being cancelled. gRPC raises the same exception if only the call was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
