"""Messages as bytes, and the trainer's ends of its two pipes.

A frame is three u32, little-endian (bytes of the head, number of blobs, bytes of the body), then the head, the sizes of
the blobs (u32 each), and the blobs. The head is JSON: the kind and the fields of the message, with null for each bytes
value. The blobs are these values in the order of the fields. Nothing in a message is executed.
"""

from __future__ import annotations

import json
import os
import select
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from service.trainer.fields import Fields
from service.trainer.messages import TO_TRAINER, Message
from service.trainer.reports import FROM_TRAINER, Progress

READ_BYTES = 1 << 20
MAX_BODY = 1 << 30
MOST_JOINED = 32  # reports
_FRAME = struct.Struct("<III")
_SIZE = struct.Struct("<I")
_to_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # `json.dumps` makes one at each call


class MessageError(RuntimeError):
    """The bytes on the pipe are not a message: one side is broken, and the connection with it."""


_RECORDS = {message: Fields(message) for message in (*TO_TRAINER, *FROM_TRAINER)}
_BY_KIND = {message.kind: record for message, record in _RECORDS.items()}


def encode(message: Message) -> bytes:
    """The bytes of a message, framed."""
    blobs: list[bytes] = []
    fields = _RECORDS[type(message)].encode(message, blobs)
    head = _to_json({"kind": message.kind, **fields}).encode()
    body = b"".join([*(_SIZE.pack(len(blob)) for blob in blobs), *blobs])
    return _FRAME.pack(len(head), len(blobs), len(body)) + head + body


class Decoder:
    """Bytes in, messages out; keeps the bytes of an incomplete message."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes. Raises MessageError."""
        self._buffer += data
        while len(self._buffer) >= _FRAME.size:
            head_size, count, body_size = _FRAME.unpack_from(self._buffer)
            end = _FRAME.size + head_size + body_size
            if head_size + body_size > MAX_BODY:
                raise MessageError(f"a message of {head_size + body_size} bytes")
            if len(self._buffer) < end:
                return
            with memoryview(self._buffer) as whole, whole[_FRAME.size : end] as frame:
                message = _decode(frame, head_size, count)
            del self._buffer[:end]
            yield message


def _decode(frame: memoryview, head_size: int, count: int) -> Message:
    """frame: a view of a buffer that is used again. Blobs may have many MB: each is copied once."""
    try:
        head = json.loads(str(frame[:head_size], "utf-8"))
        if type(head) is not dict or type(kind := head.pop("kind", None)) is not str:
            raise ValueError("its head names no kind")
        if kind not in _BY_KIND:
            raise ValueError(f"its kind {kind!r:.80} is unknown: run serving and trainer from one installation")
        blobs, at = [], head_size + _SIZE.size * count
        for i in range(count):
            (size,) = _SIZE.unpack_from(frame, head_size + _SIZE.size * i)
            blobs.append(bytes(frame[at : at + size]))
            at += size
        if at != len(frame):
            raise ValueError(f"its blobs end at byte {at}, its body at {len(frame)}")
        rest = iter(blobs)
        message: Message = _BY_KIND[kind].decode(head, rest)
        if next(rest, None) is not None:
            raise ValueError(f"{kind} has fewer blobs than the {count} sent")
    except StopIteration:
        raise MessageError(f"not a message: {kind} has more blobs than the {count} sent") from None
    except (ValueError, struct.error, RecursionError) as error:
        raise MessageError(f"not a message: {error}") from error
    return message


class Channel:
    """The trainer's ends of the pipes to and from serving."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._decoder = Decoder()
        self._waiting: deque[Message] = deque()
        self._held: Progress | None = None  # a report that the next one may include
        self._joined = 0  # reports in it
        self.ended = False

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message; None if none comes in time, or if the pipe has ended (then `ended`)."""
        while not self._waiting and not self.ended:
            if self._held is not None and not select.select([self._source], [], [], 0)[0]:
                self._release()
            if not select.select([self._source], [], [], timeout_s)[0]:
                return None
            data = os.read(self._source, READ_BYTES)
            self.ended = not data
            self._waiting.extend(self._decoder.feed(data))
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, messages: list[Message]) -> None:
        """Receive these messages before all others."""
        self._waiting.extendleft(reversed(messages))

    def send(self, message: Message) -> None:
        """Write a message; waits while the pipe is full. Raises SystemExit if serving is gone.

        Reports of chunks that brought no update are joined to the last one of a model, as long as further messages
        wait to be received. Everything arrives in the order in which it was sent.
        """
        if not isinstance(message, Progress) or not is_plain(message):
            self._release()
            self._write(message)
            return
        if self._held is not None and (self._held.model != message.model or self._joined >= MOST_JOINED):
            self._release()
        if self._held is not None:
            message = replace(message, seconds=self._held.seconds + message.seconds)
        self._held, self._joined = message, self._joined + 1

    def _release(self) -> None:
        """Write the report that is held back, if there is one."""
        held, self._held, self._joined = self._held, None, 0
        if held is not None:
            self._write(held)

    def _write(self, message: Message) -> None:
        data = memoryview(encode(message))
        try:
            while data:
                data = data[os.write(self._sink, data) :]
        except BrokenPipeError:  # serving was killed: what is not saved is learned again from the journal
            raise SystemExit(0) from None


def is_plain(report: Progress) -> bool:
    """Whether a report holds nothing but totals, which the next report of its model repeats."""
    return not (report.losses or report.scores or report.norms or report.refused or report.by_layer or report.errors)
