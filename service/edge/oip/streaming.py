"""ModelStreamInfer: requests of any sequences in one call, answered in their order.

Requests of different sequences are worked on at the same time. An error is an answer of its own and leaves the call
open, unless the client asks for gRPC's status with the header `triton_grpc_error`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import grpc

from service.access.tenants import Tenants
from service.common.errors import ServiceError
from service.common.limits import MAX_STREAM_REQUESTS
from service.edge.guard.security import caller
from service.edge.oip import inference_pb2 as pb
from service.edge.oip import messages
from service.edge.oip.inferring import Inferring
from service.edge.writing import Writing

STATUS_HEADER = "triton_grpc_error"
LEAVING = "the server is leaving: connect again, and go on with each sequence"

Answer = pb.ModelStreamInferResponse
Outcome = Answer | bytes | Exception  # of a request: what is sent, serialised or not; or what ends the call


class _Due:
    """A request that was read. outcome: None until it is there."""

    __slots__ = ("outcome",)

    def __init__(self) -> None:
        self.outcome: Outcome | None = None


class StreamCall:
    """One call of ModelStreamInfer: a `Duplex`."""

    def __init__(self, inferring: Inferring, tenants: Tenants, context: Any, writing: Writing) -> None:
        self.context, self.writing = context, writing
        self._inferring, self._tenant = inferring, tenants.of(caller().tenant)
        self._due: deque[_Due] = deque()  # requests that were read and are not answered, in their order
        self._sent, self._sending = asyncio.Event(), False  # set: an answer was sent since it was cleared
        sent = context.invocation_metadata() or ()
        self._ends_with_status = any(name == STATUS_HEADER and value == "true" for name, value in sent)
        self._leaving = asyncio.Event()
        inferring.on_leaving.add(self._leaving.set)

    async def serve(self) -> None:
        """Answer requests until the half-close. Raises what an answer raises that is not the client's error."""
        try:
            async with asyncio.TaskGroup() as group:
                while (request := await self.writing.read()) is not grpc.aio.EOF:
                    await self._until(MAX_STREAM_REQUESTS - 1)
                    due = _Due()
                    self._due.append(due)
                    group.create_task(self._serve(request, due))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _serve(self, request: pb.ModelInferRequest, due: _Due) -> None:
        """Answer a request, then send what is to be sent next, unless another task is at it.

        A task of its own that sends would be woken twice for each answer. Raises the error that ends the call in its
        turn, when no message is under way: gRPC does not end a call in the middle of a write.
        """
        due.outcome = await self._answer(request)
        if self._sending:
            return
        self._sending = True
        try:
            while self._due and (outcome := self._due[0].outcome) is not None:
                if isinstance(outcome, Exception):
                    raise outcome
                await self.writing.send(outcome)
                self._due.popleft()
                self._sent.set()
        finally:
            self._sending = False

    async def _until(self, most: int) -> None:
        """Wait until no more than `most` requests are unanswered."""
        while len(self._due) > most:
            self._sent.clear()
            await self._sent.wait()

    async def _answer(self, request: pb.ModelInferRequest) -> Outcome:
        """Return the answer to a request, or what ends the call."""
        size = request.ByteSize()
        try:
            self._tenant.hold(size)  # as `in_flight` does
            try:
                return messages.serialised(await self._inferring.infer(messages.request(request)), streamed=True)
            finally:
                self._tenant.release(size)
        except ServiceError as error:
            if self._ends_with_status:
                return error
            return Answer(error_message=str(error), infer_response=pb.ModelInferResponse(id=request.id))
        except Exception as error:  # raised by `_serve`
            return error

    async def report_progress(self) -> None:
        """Return once a shard leaves and the requests that were read are answered."""
        await self._leaving.wait()
        await self._until(0)

    async def leave(self) -> None:
        """End the call with UNAVAILABLE."""
        await self.context.abort(grpc.StatusCode.UNAVAILABLE, LEAVING)

    def end(self) -> None:
        """Forget the call."""
        self._inferring.on_leaving.discard(self._leaving.set)
