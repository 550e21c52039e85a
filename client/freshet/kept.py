"""Streams as the server keeps them: read, move, list and delete them without opening them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from freshet.arguments import binary, identifier, invalid, named, whole
from freshet.calls import Calls
from freshet.measured import StepErrors, StreamErrors
from freshet.results import KeptStream
from freshet.v1 import streams_pb2, streams_pb2_grpc

MAX_PAGE = 2**32 - 1
WORST = 1000  # streams of one answer


class KeptStreams(Calls):
    """The methods of `Client` for streams that are not opened."""

    async def get_stream(self, model: str, stream_id: str, *, with_state: bool = False) -> KeptStream:
        """Return one stream as it is now. with_state: include its hidden state, for `put_stream`. Raises NotFound."""
        request = streams_pb2.GetStreamRequest(
            model=named(model, "model"), stream=identifier(stream_id), with_state=with_state
        )
        return KeptStream.of(await self._unary(lambda to: _stub(to).Get, request))

    async def put_stream(self, stream: KeptStream | streams_pb2.Stream) -> KeptStream:
        """Set a stream to what `get_stream` returned with its state, possibly from another server or a model of the
        same spec.

        Its next tick is last_seq + 1. A client that has the stream open is fenced. Raises NotFound, InvalidArgument.
        """
        return KeptStream.of(
            await self._unary(
                lambda to: _stub(to).Put, streams_pb2.PutStreamRequest(stream=_message(stream)), once=True
            )
        )

    async def delete_stream(self, model: str, stream_id: str, *, erase: bool = False) -> list[str]:
        """Delete the stream. A client that has it open is fenced; the id then starts a new stream. Raises NotFound.

        erase: also remove the data of this stream, and of streams deleted earlier, from the server's files. It needs
            the role admin and waits until the server has learned its backlog. After Unavailable or DeadlineExceeded the
            erasure continues; repeat the call to wait for it.

        Returns files of the server, set aside as damaged, that may still hold data; without `erase` an empty list.
        """
        request = streams_pb2.DeleteStreamRequest(
            model=named(model, "model"), stream=identifier(stream_id), erase=erase
        )
        answer = await self._unary(lambda to: _stub(to).Delete, request, once=True)
        return list(answer.remains)

    async def list_streams(self, model: str, *, page_size: int = 1000) -> AsyncIterator[KeptStream]:
        """Iterate over every stream of the model in the order of ids, page by page. Raises NotFound."""
        token, model, page_size = "", named(model, "model"), whole(page_size, "page_size", 1, MAX_PAGE)
        while True:
            request = streams_pb2.ListStreamsRequest(model=model, page_size=page_size, page_token=token)
            page = await self._unary(lambda to: _stub(to).List, request)
            for stream in page.streams:
                yield KeptStream.of(stream)
            token = page.next_page_token
            if not token:
                return

    async def stream_errors(self, model: str, worst: int = 0) -> list[StreamErrors]:
        """Return errors of the model's streams, each forecast before its label was learned, beside persistence's.

        worst: at most this many streams, up to 1000, those with the largest `ratio` first; streams with fewer than 16
            labels come last, those without a ratio are left out. 0: all streams, in the order of their creation.

        Raises NotFound; Unavailable while the server's trainer starts.
        """
        model, worst = named(model, "model"), whole(worst, "worst", 0, WORST)
        found, token = list[StreamErrors](), ""
        while True:
            request = streams_pb2.ErrorsRequest(model=model, worst=worst, page_size=WORST, page_token=token)
            page = await self._unary(lambda to: _stub(to).Errors, request)
            found += map(StreamErrors.of, page.streams)
            token = page.next_page_token
            if not token:
                return found

    async def horizon_errors(self, model: str) -> list[StepErrors]:
        """Return errors of the model's forecasts by step ahead, 1 to the horizon, over all streams, windows included.

        Steps without a label are left out. Raises as `stream_errors`.
        """
        request = streams_pb2.ErrorsRequest(model=named(model, "model"), worst=1)
        return [StepErrors.of(step) for step in (await self._unary(lambda to: _stub(to).Errors, request)).steps]


def _stub(to: grpc.aio.Channel) -> streams_pb2_grpc.StreamsAsyncStub:
    return streams_pb2_grpc.StreamsStub(to)


def _message(kept: KeptStream | streams_pb2.Stream) -> streams_pb2.Stream:
    """Return the message to put. Raises InvalidArgument for wrong types, names and numbers."""
    if isinstance(kept, streams_pb2.Stream):
        return kept
    if not isinstance(kept, KeptStream):
        raise invalid("stream", kept, "give the result of get_stream(…, with_state=True)")
    last_time = kept.last_time
    if last_time is not None and (isinstance(last_time, bool) or not isinstance(last_time, int | float)):
        raise invalid("last_time", last_time, "give seconds since 1970-01-01 UTC, or None")
    return streams_pb2.Stream(
        model=named(kept.model, "model"),
        stream=identifier(kept.stream),
        last_seq=whole(kept.last_seq, "last_seq"),
        last_time=last_time,
        state=binary(kept.state, "state"),
        epoch=whole(kept.epoch, "epoch"),
    )
