"""What a server keeps of streams: look at it, take it along, put it elsewhere, forget it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from freshet.arguments import binary, identifier, invalid, named, whole
from freshet.calls import Calls
from freshet.results import KeptStream
from freshet.v1 import streams_pb2, streams_pb2_grpc

MAX_PAGE = 2**32 - 1


class KeptStreams(Calls):
    """The part of `Client` that speaks of streams without opening them."""

    @property
    def _kept(self) -> streams_pb2_grpc.StreamsAsyncStub:
        return streams_pb2_grpc.StreamsStub(self._connected())

    async def get_stream(self, model: str, stream_id: str, *, with_state: bool = False) -> KeptStream:
        """One stream as it is now; with_state: its hidden state too, for `put_stream`. Raises NotFound."""
        request = streams_pb2.GetStreamRequest(
            model=named(model, "model"), stream=identifier(stream_id), with_state=with_state
        )
        return KeptStream.of(await self._unary(self._kept.Get, request))

    async def put_stream(self, stream: KeptStream | streams_pb2.Stream) -> KeptStream:
        """Make the stream what `get_stream` with its state said, perhaps of another server, or model of the same spec.

        Its next tick is last_seq + 1. Whoever has the stream open is fenced. Raises NotFound, InvalidArgument.
        """
        return KeptStream.of(await self._unary(self._kept.Put, streams_pb2.PutStreamRequest(stream=_message(stream))))

    async def delete_stream(self, model: str, stream_id: str, *, erase: bool = False) -> list[str]:
        """Forget the stream; whoever has it open is fenced, and its id begins anew. Raises NotFound.

        erase: also remove what the server's files hold of it, and of streams deleted before; needs the role admin, and
        takes until the server has learned what waits. Unavailable, DeadlineExceeded: it goes on; the same call waits
        for it again. Returns files of the server that may still hold data, set aside as damaged; without `erase` none.
        """
        request = streams_pb2.DeleteStreamRequest(
            model=named(model, "model"), stream=identifier(stream_id), erase=erase
        )
        answer = await self._unary(self._kept.Delete, request)
        return list(answer.remains)

    async def list_streams(self, model: str, *, page_size: int = 1000) -> AsyncIterator[KeptStream]:
        """Every stream of the model, in the order of ids, asked for page by page. Raises NotFound."""
        token, model, page_size = "", named(model, "model"), whole(page_size, "page_size", 1, MAX_PAGE)
        while True:
            request = streams_pb2.ListStreamsRequest(model=model, page_size=page_size, page_token=token)
            page = await self._unary(self._kept.List, request)
            for stream in page.streams:
                yield KeptStream.of(stream)
            token = page.next_page_token
            if not token:
                return


def _message(kept: KeptStream | streams_pb2.Stream) -> streams_pb2.Stream:
    """What is put. Raises InvalidArgument for other objects, names and numbers."""
    if isinstance(kept, streams_pb2.Stream):
        return kept
    if not isinstance(kept, KeptStream):
        raise invalid("stream", kept, "give what get_stream(…, with_state=True) returns")
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
