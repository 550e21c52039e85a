"""What serving and trainer tell each other over the child's pipes: a small JSON head, then raw blobs; never code."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_FRAME = struct.Struct("<III")  # head bytes, blobs, body bytes
_SIZE = struct.Struct("<I")
MAX_BODY = 1 << 30
# Exit codes of a trainer that could not go on for another reason than what it was to learn.
NOT_THE_RECORDS = 75
WEIGHTS_GONE = 76  # the records name a version whose weights are pruned or damaged


class MessageError(RuntimeError):
    """The bytes on the pipe are not messages: one side is broken, and the connection with it."""


@dataclass(frozen=True, slots=True)
class Message:
    """`kind` and `head` say what it is; `blobs` are bytes that go with it.

    To the trainer: settings{…}, chunk{position, resume, more}+payload, reached{position},
    weights{model, version}+weights, no_weights{why, deleted},
    stop{}, list_quarantine{ask, model, after, limit, ids}, list_quarantined{ask, resume},
    erase{ask, resume, gone: streams by model}.
    From it: ready{position, models: all}, saved{position, models: those that changed}, progress{position, model, …},
    passed{position}, verdict{…}+(onnx, weights, canary), need_weights{model, version},
    anchored{model, version, offset}, drifted{model, offset, reaction, numbers}, problem{why},
    quarantine{ask, items}+(y of each), quarantined{ask, streams: by model}, erased{ask, position}.
    """

    kind: str
    head: Mapping[str, Any] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """The bytes of the message, framed."""
        head = json.dumps({"kind": self.kind, **self.head}, separators=(",", ":")).encode()
        sizes = b"".join(_SIZE.pack(len(b)) for b in self.blobs)
        body = sizes + b"".join(self.blobs)
        return _FRAME.pack(len(head), len(self.blobs), len(body)) + head + body


class Decoder:
    """Bytes in, messages out; keeps what is not a whole message yet."""

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
    """frame: of a buffer that will be used again. Blobs may be of many MB: each is copied once."""
    try:
        head = json.loads(bytes(frame[:head_size]))
        if not isinstance(head, dict) or not isinstance(head.get("kind"), str):
            raise ValueError("its head names no kind")
        blobs, at = [], head_size + _SIZE.size * count
        for i in range(count):
            (size,) = _SIZE.unpack_from(frame, head_size + _SIZE.size * i)
            blobs.append(bytes(frame[at : at + size]))
            at += size
        if at != len(frame):
            raise ValueError(f"its blobs end at byte {at}, its body at {len(frame)}")
    except (ValueError, struct.error) as error:
        raise MessageError(f"not a message: {error}") from error
    return Message(head.pop("kind"), head, tuple(blobs))
