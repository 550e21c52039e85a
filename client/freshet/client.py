"""The client: channels to a server's nodes, and the models, streams and training behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import grpc

from freshet import forks, shown
from freshet.arguments import identifier, integer, invalid, named, number
from freshet.connection import Encryption, Route
from freshet.defaults import ANSWER_S, CLOSE_S, GIVE_UP_S, IN_FLIGHT, TIMEOUT_S
from freshet.engine import Engine, Settings
from freshet.errors import InvalidArgument
from freshet.kept import KeptStreams
from freshet.known import static_values
from freshet.mux import Mux
from freshet.nodes import Nodes
from freshet.offsets import Given, checked
from freshet.security import FilePath, Tls, Token, check_token, tls_of
from freshet.stream import Stream
from freshet.target import address_of, check_target, has_no_proxy, is_local, name_of, proxy_of, targets_of
from freshet.training import Training
from freshet.v1 import streams_pb2, streams_pb2_grpc

PROXIES = "grpc.enable_http_proxy"
SERVER_NAME = "grpc.ssl_target_name_override"
MAX_MESSAGE_BYTES = 64 << 20  # fits the largest message of a server: both files of a large version


def connect(
    target: str | Sequence[str],
    *,
    token: Token | None = None,
    tls: bool | FilePath | Tls | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    insecure_token: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    options: Sequence[tuple[str, Any]] = (),
) -> Client:
    """Return a client of the server at `target`, "host:port". It connects when it is opened: use it with `async with`.

    A server of several nodes: give some or all of them, "a:8300,b:8300" or a sequence, or a DNS name of which each
    address is a node, "dns:///name:8300". Each call goes to the node that has its model, as the nodes say, and to
    another when that one is gone. Token and TLS are the same for all; with a DNS name each is expected to have a
    certificate for that name. Loopback addresses are never reached through a proxy, whatever the environment says.

    token: the credential sent with each call, if the server asks for one; or a function that returns it, called in the
        event loop before each call, so it must not block. When a token ends, open streams continue if the function
        returns another one.
    insecure_token: send the token to another machine in plain text.
    tls: None for plain text; True for TLS with this machine's trusted certificates; a path for TLS with the PEM file of
        the CA that signed the server's certificate; `freshet.Tls` for a client certificate (mTLS) or another server
        name.
    credentials: gRPC channel credentials, instead of `tls`.
    timeout_s: deadline of each call that is not a stream, seconds, retries included.
    max_message_bytes: largest message sent or received, bytes.
    options: gRPC channel options; they override this function's.

    Raises InvalidArgument for a target that is not an address, a token that would travel in plain text, and files that
    are not PEM.
    """
    forks.check()
    targets = targets_of(target)
    number(timeout_s, "timeout_s")
    wanted = tls_of(tls)
    if wanted is not None:
        if credentials is not None:
            remedy = "give one of them"
            raise InvalidArgument(f"tls and credentials are both given; {remedy}", "credentials", "given", remedy)
        credentials, options = wanted.credentials(), [*wanted.options(), *options]
    if token is not None:
        for one in targets:
            check_token(token, one, credentials is not None, insecure_token)
    return Client(targets, credentials, timeout_s, max_message_bytes, options, token, wanted, insecure_token)


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Return gRPC options that detect a dead connection within 30 s and reconnect within 2 s of a server's restart."""
    return [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),  # overrides the timeout above; 60 s by default
        ("grpc.http2.max_pings_without_data", 0),  # no limit; by default gRPC pings twice, then rarely
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),  # despite its name, the timeout of one attempt to connect
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_retries", 1),  # of calls that were not sent; the others are repeated in calls.py
    ]


class _Ways:
    """How each node of one client is connected to."""

    def __init__(
        self,
        targets: Sequence[str],
        credentials: grpc.ChannelCredentials | None,
        tls: Tls | None,
        options: Mapping[str, Any],
        may_learn: Callable[[str], None],
    ) -> None:
        self._credentials, self._options, self._may_learn = credentials, options, may_learn
        self._encryption: Encryption = tls or ("unknown" if credentials else None)
        names = {name.host for name in map(name_of, targets) if name is not None}
        self._name = names.pop() if len(names) == 1 and credentials is not None else ""  # in certificates

    def channel(self, address: str) -> grpc.aio.Channel:
        """Return a new channel to a node."""
        options = list(self._chosen(address).items())
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, self._credentials, options=options)

    def _chosen(self, address: str) -> dict[str, Any]:
        host = address_of(address)
        through_proxies = not is_local(address) and not (host and has_no_proxy(host.host))
        own = {PROXIES: int(through_proxies)}
        # Each name once: of two options with one name, gRPC uses the first.
        named = {SERVER_NAME: self._name} if self._name else {}
        return own | named | dict(self._options)

    def route(self, address: str) -> Route:
        """Return the way to a node, to explain failed connections."""
        host = address_of(address)
        encryption = self._encryption
        if self._name and isinstance(encryption, Tls) and encryption.server_name is None:
            encryption = replace(encryption, server_name=self._name)
        proxy = proxy_of(host.host) if host and self._chosen(address)[PROXIES] else None
        return Route(address, host, encryption, proxy)

    def check(self, address: str) -> None:
        """Check an address that a node named. Raises InvalidArgument."""
        check_target(address)
        self._may_learn(address)


class Client(Training, KeptStreams):
    """Models, streams and training of one server. Made by `connect`. For use in one event loop.

    Every method raises a subclass of FreshetError: NotFound, AlreadyExists, InvalidArgument, Unavailable … Results are
    small frozen objects (`freshet.results`) with the field names of freshet/v1/*.proto.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        options: Sequence[tuple[str, Any]] = (),
        token: Token | None = None,
        tls: Tls | None = None,
        insecure_token: bool = False,
    ) -> None:
        def may_learn(address: str) -> None:
            if token is not None:
                check_token(token, address, credentials is not None, insecure_token)

        targets = targets_of(target)
        chosen = dict(channel_options(max_message_bytes)) | dict(options)
        ways = _Ways(targets, credentials, tls, chosen, may_learn)
        self._target, self._credentials = ",".join(targets), credentials
        self._closed = False
        super().__init__(timeout_s, Nodes(targets, ways.channel, ways.route, ways.check), token)

    def __repr__(self) -> str:
        if forks.forked():
            state = "unusable after a fork"
        else:
            state = "closed" if self._closed else "open" if self._nodes.is_open else "not open"
        return shown.handle(f"Client of {self._target!r}", state, "TLS" if self._credentials else "plain text")

    async def open(self) -> Self:
        """Open the channels. `async with` calls it; call it yourself in a notebook, with `aclose` at the end."""
        forks.use()
        await self._nodes.open()
        self._closed = False
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close open streams, Muxes and senders, then the connection. Safe to repeat.

        Raises the first error of closing them, after all are closed. Does nothing in a forked process.
        """
        if forks.forked():
            return
        self._closed = True
        try:
            closed = await asyncio.gather(*(one.aclose() for one in self._open), return_exceptions=True)
        finally:
            await self._nodes.aclose()
        for error in closed:
            if isinstance(error, BaseException):
                raise error

    # --- streams

    def stream(
        self,
        model: str,
        stream_id: str,
        in_flight: int = IN_FLIGHT,
        *,
        give_up_s: float = GIVE_UP_S,
        answer_s: float = ANSWER_S,
        close_s: float = CLOSE_S,
        accept_lost: bool = False,
        offset: Given = None,
        static: Mapping[str, float] | None = None,
    ) -> Stream:
        """Return a stream of `model`; open it with `async with`. The server creates a stream with a new id.

        in_flight: ticks that may be unanswered at once, 1 to 128.
        give_up_s: fail after this many seconds without any success.
        answer_s: cut and repeat a call that owes an answer for this many seconds.
        close_s: longest wait for the server's disk at the end, seconds.
        accept_lost: start from a fresh state if the server has lost the stream's state, instead of raising StateLost.
        offset: subtracted from the values in float64, before they become float32, and added to the forecasts of the
            same channels. One number per channel, a mapping by channel name, or one number for all. Use it for levels
            at which float32 loses the changes, such as counters from 1e8. Keep it the same for the life of the stream.
        static: the model's static inputs, by name; a new stream needs them. A stream keeps those of its first tick:
            other values later raise InvalidArgument.
        """
        model = named(model, "model")
        open_call = self._opener(model, lambda to: _stub(to).Open)
        settings = Settings(
            in_flight=integer(in_flight, "in_flight"),
            give_up_s=number(give_up_s, "give_up_s"),
            answer_s=number(answer_s, "answer_s"),
            close_s=number(close_s, "close_s"),
            accept_lost=accept_lost,
            offset=checked(offset),
        )
        hello = streams_pb2.Hello(
            model=model, stream=identifier(stream_id), static=static_values(static), durable_in_forecasts=True
        )
        stream = Stream(Engine(open_call, hello, settings), in_flight)
        self._open.add(stream)
        return stream

    def mux(
        self,
        model: str,
        *,
        give_up_s: float = GIVE_UP_S,
        answer_s: float = ANSWER_S,
        close_s: float = CLOSE_S,
        accept_lost: bool = False,
        offset: Given = None,
    ) -> Mux:
        """Return a Mux: many streams of `model` in one call. Open it with `async with`, then `await mux.step(ids, rows,
        time)`.

        give_up_s: fail after this many seconds without any success.
        answer_s: cut and repeat a call that owes an answer for this many seconds.
        close_s: longest wait for the server's disk at the end, seconds.
        accept_lost: if the server has lost a stream's state, continue from the state it has, instead of raising
            StateLost.
        offset: as for `stream`, for all streams; `step` takes one per stream.
        """
        model, give_up_s, close_s = named(model, "model"), number(give_up_s, "give_up_s"), number(close_s, "close_s")
        if (answer_s := number(answer_s, "answer_s")) <= 0:
            raise invalid("answer_s", answer_s, "give a number above 0")
        self._check_open()
        mux = Mux(
            lambda: self._opener(model, lambda to: _stub(to).Mux),
            lambda: self._get_model(model, give_up_s),
            model, give_up_s, close_s, answer_s, accept_lost, checked(offset),
        )  # fmt: skip
        self._open.add(mux)
        return mux


def _stub(to: grpc.aio.Channel) -> streams_pb2_grpc.StreamsAsyncStub:
    return streams_pb2_grpc.StreamsStub(to)
