"""The blocking form of the client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import grpc

from freshet import client as twin
from freshet import forks, shown
from freshet.defaults import ANSWER_S, CLOSE_S, GIVE_UP_S, IN_FLIGHT, LEARN_IN_FLIGHT, TIMEOUT_S
from freshet.measured import StepErrors, StreamErrors
from freshet.offsets import Given
from freshet.results import Cluster, Comparison, Export, KeptStream, Model, ModelEvent, Quarantined, Replayed, Version
from freshet.security import FilePath, Tls, Token
from freshet.sync.portal import Portal
from freshet.sync.senders import Learning, Mux
from freshet.sync.stream import Stream
from freshet.sync.twins import documented_by
from freshet.v1 import streams_pb2


def connect(
    target: str | Sequence[str],
    *,
    token: Token | None = None,
    tls: bool | FilePath | Tls | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    insecure_token: bool = False,
    timeout_s: float = TIMEOUT_S,
    max_message_bytes: int = twin.MAX_MESSAGE_BYTES,
    options: Sequence[tuple[str, Any]] = (),
) -> Client:
    """Return an open client of the server at `target`, "host:port". Use it with `with`, or `close` it.

    A server of several nodes: "a:8300,b:8300", a sequence, or "dns:///name:8300".

    The arguments are those of `freshet.connect`.
    """
    return Client(
        twin.connect(
            target, token=token, tls=tls, credentials=credentials, insecure_token=insecure_token, timeout_s=timeout_s,
            max_message_bytes=max_message_bytes, options=options,
        )
    )  # fmt: skip


@documented_by(twin.Client)
class Client:
    """Models, streams and training of one server. Made by `connect`. Any thread may use it until it is closed.

    Every method raises a subclass of FreshetError: NotFound, AlreadyExists, InvalidArgument, Unavailable … Results are
    small frozen objects (`freshet.results`) with the field names of freshet/v1/*.proto.
    """

    def __init__(self, client: twin.Client) -> None:
        self._portal, self._client = Portal(), client
        self._portal.call(client.open())

    def __repr__(self) -> str:
        return shown.blocking(repr(self._client))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if not self._portal.closed and not forks.forked():
            try:
                self._portal.call(self._client.aclose())
            finally:
                self._portal.close()

    @property
    def nodes(self) -> tuple[str, ...]:
        return self._client.nodes

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
        made = self._portal.run(
            lambda: self._client.stream(
                model, stream_id, in_flight,
                give_up_s=give_up_s, answer_s=answer_s, close_s=close_s, accept_lost=accept_lost, offset=offset,
                static=static,
            )
        )  # fmt: skip
        return Stream(self._portal, made)

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
        made = self._portal.run(
            lambda: self._client.mux(
                model,
                give_up_s=give_up_s,
                answer_s=answer_s,
                close_s=close_s,
                accept_lost=accept_lost,
                offset=offset,
            )
        )
        return Mux(self._portal, made)

    def get_stream(self, model: str, stream_id: str, *, with_state: bool = False) -> KeptStream:
        return self._portal.call(self._client.get_stream(model, stream_id, with_state=with_state))

    def put_stream(self, stream: KeptStream | streams_pb2.Stream) -> KeptStream:
        return self._portal.call(self._client.put_stream(stream))

    def delete_stream(self, model: str, stream_id: str, *, erase: bool = False) -> list[str]:
        return self._portal.call(self._client.delete_stream(model, stream_id, erase=erase))

    def list_streams(self, model: str, *, page_size: int = 1000) -> Iterator[KeptStream]:
        return self._portal.iterate(self._client.list_streams(model, page_size=page_size))

    def stream_errors(self, model: str, worst: int = 0) -> list[StreamErrors]:
        return self._portal.call(self._client.stream_errors(model, worst))

    def horizon_errors(self, model: str) -> list[StepErrors]:
        return self._portal.call(self._client.horizon_errors(model))

    # --- training

    def learn(
        self,
        model: str,
        source: str,
        acknowledge: Literal["durable", "learned"] = "durable",
        *,
        on_refused: Literal["raise", "keep"] = "raise",
        in_flight: int = LEARN_IN_FLIGHT,
        give_up_s: float = GIVE_UP_S,
        answer_s: float = ANSWER_S,
        offset: Given = None,
    ) -> Learning:
        made = self._portal.run(
            lambda: self._client.learn(
                model, source, acknowledge,
                on_refused=on_refused, in_flight=in_flight, give_up_s=give_up_s, answer_s=answer_s, offset=offset,
            )
        )  # fmt: skip
        return Learning(self._portal, made)

    def quarantine(self, model: str) -> Iterator[Quarantined]:
        return self._portal.iterate(self._client.quarantine(model))

    def replay(self, model: str, ids: Iterable[int]) -> Replayed:
        return self._portal.call(self._client.replay(model, ids))

    # --- models

    def create_model(self, name: str, channels: Iterable[str] = (), *, weights: bytes = b"", **spec: Any) -> Model:
        return self._portal.call(self._client.create_model(name, channels, weights=weights, **spec))

    def get_model(self, name: str) -> Model:
        return self._portal.call(self._client.get_model(name))

    def compare_models(self, name: str, other: str) -> Comparison:
        return self._portal.call(self._client.compare_models(name, other))

    def list_models(self) -> list[Model]:
        return self._portal.call(self._client.list_models())

    def cluster(self) -> Cluster:
        return self._portal.call(self._client.cluster())

    def versions(self, name: str) -> list[Version]:
        return self._portal.call(self._client.versions(name))

    def export(self, name: str, version: int = 0, *, metadata: bool = False, licence: str = "") -> Export:
        return self._portal.call(self._client.export(name, version, metadata=metadata, licence=licence))

    def import_version(self, name: str, weights: bytes, *, onnx: bytes = b"", digest: str = "") -> Version:
        return self._portal.call(self._client.import_version(name, weights, onnx=onnx, digest=digest))

    def promote(self, name: str, version: int) -> Model:
        return self._portal.call(self._client.promote(name, version))

    def rollback(self, name: str, version: int = 0) -> Model:
        return self._portal.call(self._client.rollback(name, version))

    def update_model(self, name: str, *, defaults: Iterable[str] = (), **changes: Any) -> Model:
        return self._portal.call(self._client.update_model(name, defaults=defaults, **changes))

    def pause(self, name: str) -> Model:
        return self._portal.call(self._client.pause(name))

    def resume(self, name: str) -> Model:
        return self._portal.call(self._client.resume(name))

    def delete_model(self, name: str, *, erase: bool = False) -> list[str]:
        return self._portal.call(self._client.delete_model(name, erase=erase))

    def history(self, name: str = "", events: int = 50) -> list[ModelEvent]:
        return self._portal.call(self._client.history(name, events))

    def watch(self, name: str = "", *, give_up_s: float = GIVE_UP_S) -> Iterator[ModelEvent]:
        return self._portal.iterate(self._client.watch(name, give_up_s=give_up_s))
