"""The client: a channel, the models behind it, and streams."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import grpc

from freshet.engine import Engine, Settings
from freshet.errors import RETRYABLE, InvalidArgument, Unavailable, from_rpc
from freshet.retry import Backoff
from freshet.stream import Stream
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, streams_pb2_grpc, types_pb2

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_MESSAGE_BYTES = 64 << 20  # the largest that a server sends: both files of a large version

# Unary calls of Models may all be repeated: creating the same model again answers the existing one.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "freshet.v1.Models"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def connect(
    target: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    timeout_s: float = 30.0,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    options: Sequence[tuple[str, Any]] = (),
) -> Client:
    """A client of the server at `target`, "host:port". Nothing is sent yet; use it with `async with`.

    credentials: for TLS, from `grpc.ssl_channel_credentials`; None: plain text.
    timeout_s: deadline of each call that is not a stream, retries included.
    options: gRPC channel options, which win over this function's.
    """
    return Client(target, credentials, timeout_s, max_message_bytes, options)


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """gRPC's options for a connection that is noticed dead within 30 s and made anew within 2 s of a restart."""
    return [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),  # despite its name: how long one attempt to connect may take
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ]


class Client:
    """Models and streams of one server. Made by `connect`. For use in one event loop.

    Every method raises FreshetError's children: NotFound, AlreadyExists, InvalidArgument, Unavailable …
    What is returned are the messages of freshet/v1/models.proto, whose comments are their documentation.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = 30.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._target, self._credentials, self._timeout_s = target, credentials, timeout_s
        self._options = [*channel_options(max_message_bytes), *options]
        self._streams: WeakSet[Stream] = WeakSet()
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=self._options)
        self._models = models_pb2_grpc.ModelsStub(self._channel)
        self._open = streams_pb2_grpc.StreamsStub(self._channel).Open
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close what streams are still open, then the connection. Safe any number of times."""
        try:
            await asyncio.gather(*(stream.aclose() for stream in self._streams))
        finally:
            if self._channel is not None:
                await self._channel.close()

    # --- streams

    def stream(
        self,
        model: str,
        stream_id: str,
        in_flight: int = 64,
        *,
        give_up_s: float = 60.0,
        answer_s: float = 30.0,
        close_s: float = 5.0,
        accept_lost: bool = False,
    ) -> Stream:
        """A stream of `model`; open it with `async with`. A stream that was never seen is created.

        in_flight: ticks that may be unanswered at once, 1 to 128. give_up_s: fail after so long without any success.
        answer_s: cut and repeat a call that owes an answer for so long. close_s: longest wait for the disk at the end.
        accept_lost: start from a fresh state if the server has lost the stream's, instead of raising StateLost.
        """
        self._connected()
        settings = Settings(
            in_flight=in_flight, give_up_s=give_up_s, answer_s=answer_s, close_s=close_s, accept_lost=accept_lost
        )
        stream = Stream(Engine(self._open, streams_pb2.Hello(model=model, stream=stream_id), settings), in_flight)
        self._streams.add(stream)
        return stream

    # --- models

    async def create_model(self, name: str, channels: Sequence[str], **spec: Any) -> models_pb2.Model:
        """Create a model, or answer the existing one if its spec is the same.

        spec: fields of freshet.v1.ModelSpec, e.g. horizon=24, interval=1800.0, cell="gru", hidden=64; the server fills
        in the rest. Raises InvalidArgument naming the field, AlreadyExists for another spec.
        """
        try:
            message = types_pb2.ModelSpec(channels=channels, **spec)
        except (TypeError, ValueError) as error:
            known = ", ".join(field.name for field in types_pb2.ModelSpec.DESCRIPTOR.fields)
            bad = next((key for key in spec if key not in types_pb2.ModelSpec.DESCRIPTOR.fields_by_name), "spec")
            remedy = f"fields are {known}"
            raise InvalidArgument(f"{error}; {remedy}", bad, str(spec.get(bad, spec)), remedy) from error
        return await self._unary(self._connected().Create, models_pb2.CreateModelRequest(name=name, spec=message))

    async def get_model(self, name: str) -> models_pb2.Model:
        """One model, as it is now."""
        return await self._unary(self._connected().Get, models_pb2.GetModelRequest(name=name))

    async def list_models(self) -> list[models_pb2.Model]:
        """Every model that this client may see."""
        answer = await self._unary(self._connected().List, models_pb2.ListModelsRequest())
        return list(answer.models)

    async def versions(self, name: str) -> list[models_pb2.Version]:
        """The versions that are kept, newest first."""
        answer = await self._unary(self._connected().Versions, models_pb2.VersionsRequest(name=name))
        return list(answer.versions)

    async def export(self, name: str, version: int = 0) -> models_pb2.ExportResponse:
        """A version's files: `.onnx`, the whole forecaster, and `.weights` (safetensors). 0: what serves."""
        return await self._unary(self._connected().Export, models_pb2.ExportRequest(name=name, version=version))

    async def watch(self, name: str = "", *, give_up_s: float = 60.0) -> AsyncIterator[models_pb2.ModelEvent]:
        """Events of one model (empty: of all) as they happen, until the loop is left.

        Reconnects by itself; what happens in between is missed. Raises Unavailable after `give_up_s` without success.
        """
        watch, loop = self._connected().Watch, asyncio.get_running_loop()
        backoff = Backoff(give_up_s, random.Random())
        while True:
            call = watch(models_pb2.WatchRequest(name=name))
            why = "ended by the server"
            try:
                await call.wait_for_connection()
                backoff.succeeded()
                async for event in call:
                    yield event
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRYABLE:
                    raise from_rpc(error) from error
                why = f"{error.code().name}: {error.details()}"
            finally:
                call.cancel()
            wait = backoff.failed(loop.time())
            if wait is None:
                raise Unavailable(f"no success for {give_up_s:g} s; the last call: {why}")
            await asyncio.sleep(wait)

    # --- inside

    def _connected(self) -> models_pb2_grpc.ModelsAsyncStub:
        if self._channel is None:
            raise RuntimeError("the client is not open: use `async with freshet.connect(…) as client`")
        return self._models

    async def _unary(self, method: Callable[..., Awaitable[Response]], request: object) -> Response:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
