"""The client: one gRPC channel to a server, and the models, streams and training behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from freshet import forks, shown
from freshet.arguments import identifier, integer, named, number
from freshet.calls import RETRIES
from freshet.connection import Encryption, Route
from freshet.defaults import ANSWER_S, CLOSE_S, GIVE_UP_S, IN_FLIGHT, TIMEOUT_S
from freshet.engine import Engine, Settings
from freshet.errors import InvalidArgument
from freshet.kept import KeptStreams
from freshet.known import static_values
from freshet.mux import Mux
from freshet.offsets import Given, checked
from freshet.security import FilePath, Tls, Token, check_token, tls_of
from freshet.stream import Stream
from freshet.target import address_of, check_target, has_no_proxy, is_local, proxy_of
from freshet.training import Training
from freshet.v1 import streams_pb2, streams_pb2_grpc

PROXIES = "grpc.enable_http_proxy"
MAX_MESSAGE_BYTES = 64 << 20  # fits the largest message of a server: both files of a large version


def connect(
    target: str,
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

    Loopback addresses are never reached through a proxy, whatever the environment says.

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
    check_target(target)
    number(timeout_s, "timeout_s")
    wanted = tls_of(tls)
    if wanted is not None:
        if credentials is not None:
            remedy = "give one of them"
            raise InvalidArgument(f"tls and credentials are both given; {remedy}", "credentials", "given", remedy)
        credentials, options = wanted.credentials(), [*wanted.options(), *options]
    if token is not None:
        check_token(token, target, credentials is not None, insecure_token)
    return Client(target, credentials, timeout_s, max_message_bytes, options, token, wanted)


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
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps({"methodConfig": RETRIES})),
    ]


def _route(target: str, encryption: Encryption, options: dict[str, Any]) -> Route:
    address = address_of(target)
    proxy = proxy_of(address.host) if address and options[PROXIES] else None
    return Route(target, address, encryption, proxy)


class Client(Training, KeptStreams):
    """Models, streams and training of one server. Made by `connect`. For use in one event loop.

    Every method raises a subclass of FreshetError: NotFound, AlreadyExists, InvalidArgument, Unavailable … Results are
    small frozen objects (`freshet.results`) with the field names of freshet/v1/*.proto.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        options: Sequence[tuple[str, Any]] = (),
        token: Token | None = None,
        tls: Tls | None = None,
    ) -> None:
        address = address_of(target)
        through_proxies = not is_local(target) and not (address and has_no_proxy(address.host))
        # Each name once: of two options with one name, gRPC uses the first.
        chosen = dict(channel_options(max_message_bytes)) | {PROXIES: int(through_proxies)} | dict(options)
        self._target, self._credentials, self._options = target, credentials, list(chosen.items())
        self._closed = False
        super().__init__(timeout_s, token, _route(target, tls or ("unknown" if credentials else None), chosen))

    def __repr__(self) -> str:
        if forks.forked():
            state = "unusable after a fork"
        else:
            state = "closed" if self._closed else "not open" if self._channel is None else "open"
        return shown.handle(f"Client of {self._target!r}", state, "TLS" if self._credentials else "plain text")

    async def open(self) -> Self:
        """Open the channel. `async with` calls it; call it yourself in a notebook, with `aclose` at the end."""
        forks.use()
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
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
            if self._channel is not None:
                await self._channel.close()
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
        open_call = self._opener(streams_pb2_grpc.StreamsStub(self._connected()).Open)
        settings = Settings(
            in_flight=integer(in_flight, "in_flight"),
            give_up_s=number(give_up_s, "give_up_s"),
            answer_s=number(answer_s, "answer_s"),
            close_s=number(close_s, "close_s"),
            accept_lost=accept_lost,
            offset=checked(offset),
        )
        hello = streams_pb2.Hello(
            model=named(model, "model"), stream=identifier(stream_id), static=static_values(static)
        )
        stream = Stream(Engine(open_call, hello, settings), in_flight)
        self._open.add(stream)
        return stream

    def mux(
        self,
        model: str,
        *,
        give_up_s: float = GIVE_UP_S,
        close_s: float = CLOSE_S,
        accept_lost: bool = False,
        offset: Given = None,
    ) -> Mux:
        """Return a Mux: many streams of `model` in one call. Open it with `async with`, then `await mux.step(ids, rows,
        time)`.

        give_up_s: fail after this many seconds without any success.
        close_s: longest wait for the server's disk at the end, seconds.
        accept_lost: if the server has lost a stream's state, continue from the state it has, instead of raising
            StateLost.
        offset: as for `stream`, for all streams; `step` takes one per stream.
        """
        model, give_up_s, close_s = named(model, "model"), number(give_up_s, "give_up_s"), number(close_s, "close_s")
        open_call = self._opener(streams_pb2_grpc.StreamsStub(self._connected()).Mux)
        mux = Mux(
            open_call, lambda: self._get_model(model, give_up_s), model, give_up_s, close_s, accept_lost,
            checked(offset),
        )  # fmt: skip
        self._open.add(mux)
        return mux
