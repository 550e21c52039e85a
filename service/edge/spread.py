"""Mux for a model in slices: one call of the client is one `MuxCall` for each slice that this process serves.

What the client sends is sorted by slice, and each slice answers for itself. Streams of slices on other nodes are
refused with the addresses of those nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from freshet.v1 import streams_pb2
from freshet.v1.streams_pb2 import MuxRequest, MuxResponse
from service.common.errors import Invalid, Moved, Reason, Refusal
from service.common.limits import MAX_HANDLES
from service.common.names import ModelKey
from service.common.slices import slice_of
from service.edge.mux import MuxCall
from service.edge.packed import UNBOUND, handle_refused, unbound
from service.edge.parts import Places
from service.edge.writing import Writing, both_sides

AHEAD = 2  # messages that wait for a slice
NONE = -1  # no slice


class Share(Writing):
    """One slice's share of a call: it reads what is put into `requests`, and writes beside the others."""

    def __init__(self, whole: Writing) -> None:
        """whole: of the client's call."""
        self._whole = whole
        self.requests: asyncio.Queue[Any] = asyncio.Queue(AHEAD)

    async def read(self) -> Any:
        """Return the slice's next message, or grpc.aio.EOF."""
        return await self.requests.get()

    async def send(self, message: Any) -> None:
        """Send one message, after those under way."""
        await self._whole.send(message)

    async def idle(self) -> None:
        """Wait until no message is under way."""
        await self._whole.idle()

    async def stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task of the call between two messages."""
        await self._whole.stop(task)


class SpreadMux:
    """One call of Mux for a model in slices."""

    def __init__(
        self, places: Places, context: Any, writing: Writing, key: ModelKey, count: int, first: MuxRequest
    ) -> None:
        """count: slices of the model; first: the call's first message."""
        self._places, self._context, self._writing = places, context, writing
        self._key, self._count, self._first = key, count, first
        self._slice = np.full(64, NONE, np.int32)  # by handle
        self._calls: dict[int, MuxCall] = {}

    async def run(self) -> None:
        """Serve until the half-close, and until every slice has ended. The first slice that fails ends the call."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._group.create_task(self._read())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _read(self) -> None:
        request: Any = self._first
        while request is not grpc.aio.EOF:
            if request.model and request.model != self._key.name:
                raise Invalid("model", request.model, f"this call is for {self._key.name}: open another for that")
            await self._bind(request.bind)
            if request.HasField("ticks"):
                await self._ticks(request.ticks)
            request = await self._writing.read()
        for call in self._calls.values():
            await self._put(call, grpc.aio.EOF)

    async def _bind(self, binds: Iterable[streams_pb2.Bind]) -> None:
        by_slice: dict[int, list[streams_pb2.Bind]] = {}
        for bind in binds:
            by_slice.setdefault(self._place(bind), []).append(bind)
        for index, its in by_slice.items():
            try:
                call = await self._call(index)
            except Moved as moved:
                await self._writing.send(MuxResponse(refused=[_moved(bind, moved) for bind in its]))
                continue
            for bind in its:
                if bind.handle < MAX_HANDLES:
                    self._note(bind.handle, index)
            await self._put(call, MuxRequest(bind=its))

    def _place(self, bind: streams_pb2.Bind) -> int:
        """Return the slice that is to bind a stream; if the handle is bound still, the one that refuses it."""
        if bind.handle < len(self._slice):
            former = int(self._slice[bind.handle])
            call = self._calls.get(former)
            if call is not None and call.handles.numbers(np.array([bind.handle], np.uint32))[0] != UNBOUND:
                return former
        return slice_of(bind.stream, self._count)

    def _note(self, handle: int, index: int) -> None:
        if handle >= len(self._slice):
            longer = np.full(max(2 * len(self._slice), handle + 1), NONE, np.int32)
            longer[: len(self._slice)] = self._slice
            self._slice = longer
        self._slice[handle] = index

    async def _call(self, index: int) -> MuxCall:
        """Return the call of a slice, begun if it is new. Raises Moved, Unavailable."""
        if index not in self._calls:
            parts = await self._places.of(self._key, part=index)
            parts.admission.check_open()
            share, first = Share(self._writing), MuxRequest(model=self._key.name)
            call = MuxCall(parts, self._context, share, parts.catalog.model(self._key), first)
            self._calls[index] = call
            self._group.create_task(both_sides(call))
        return self._calls[index]

    async def _put(self, call: MuxCall, request: Any) -> None:
        """Give a slice a message; wait while it has AHEAD of them."""
        assert isinstance(call.writing, Share)
        await call.writing.requests.put(request)  # `run` cancels this if the slice's call has ended

    async def _ticks(self, ticks: streams_pb2.Columns) -> None:
        if len(ticks.handle) % 4 or len(ticks.seq) != 2 * len(ticks.handle):
            raise Invalid(
                "ticks", f"{len(ticks.handle)} bytes of handles", "send 4 bytes of handle and 8 of seq per tick"
            )
        handles = np.frombuffer(ticks.handle, "<u4")
        slices = np.full(len(handles), NONE, np.int32)
        known = handles < len(self._slice)
        slices[known] = self._slice[handles[known]]
        unknown = np.flatnonzero(slices == NONE)
        if len(unknown):
            seq = np.frombuffer(ticks.seq, "<u8")
            each = ((int(handles[i]), int(seq[i])) for i in unknown)
            await self._writing.send(MuxResponse(refused=[handle_refused(h, unbound(h, s)) for h, s in each]))
        for index in np.unique(slices[slices != NONE]).tolist():
            rows = np.flatnonzero(slices == index)
            whole = len(rows) == len(handles)
            await self._put(self._calls[index], MuxRequest(ticks=ticks if whole else _rows(ticks, rows, len(handles))))


def part_and_after(token: str, slices: int) -> tuple[int, str]:
    """Return slice and stream id of a page token of a model in slices, as SLICE:ID. Raises Invalid."""
    part, _, after = (token or "0:").partition(":")
    if not part.isdecimal() or int(part) >= slices:
        raise Invalid("page_token", token, "give the next_page_token of the page before")
    return int(part), after


def _moved(bind: streams_pb2.Bind, moved: Moved) -> streams_pb2.HandleRefused:
    refused = handle_refused(bind.handle, Refusal(0, Reason.MOVED, "bind.stream", bind.stream, moved.remedy))
    refused.address = moved.address
    return refused


def _rows(ticks: streams_pb2.Columns, rows: NDArray[np.intp], n: int) -> streams_pb2.Columns:
    """Return some of n packed ticks. Raises Invalid where a column has another length."""
    return streams_pb2.Columns(**dict(_columns(ticks, rows, n)))


def _columns(ticks: streams_pb2.Columns, rows: NDArray[np.intp], n: int) -> Iterator[tuple[str, bytes]]:
    for name in ("handle", "seq", "x", "time", "u"):
        data = getattr(ticks, name)
        if len(data) % n:
            raise Invalid(f"ticks.{name}", f"{len(data)} bytes", f"send as many bytes for each of the {n} ticks")
        if data:
            yield name, np.frombuffer(data, np.uint8).reshape(n, -1)[rows].tobytes()
