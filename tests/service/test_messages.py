"""The pipe between serving and trainer: any split of the bytes gives the same messages, anything else is refused."""

import contextlib
import itertools
import json
import os
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.trainer.channel import MAX_BODY, MOST_JOINED, Channel, Decoder, MessageError, encode
from service.trainer.hosting import Totals
from service.trainer.messages import LearnChunk, Message
from service.trainer.reports import Passed, Progress
from tests.contracts.test_pipe import any_message

CHUNK = LearnChunk(7, 5, False, b"payload")


def framed(head: bytes, body: bytes = b"", blobs: int = 0) -> bytes:
    return struct.pack("<III", len(head), blobs, len(body)) + head + body


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(any_message(), max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_however_the_pipe_cuts_the_bytes_the_same_messages_come_out(sent, cuts):
    decoder = Decoder()

    received = [m for piece in pieces(b"".join(map(encode, sent)), cuts) for m in decoder.feed(piece)]

    assert received == sent


def test_an_incomplete_message_waits_for_its_last_byte():
    data = encode(CHUNK)
    decoder = Decoder()

    assert [list(decoder.feed(data[i : i + 1])) for i in range(len(data) - 1)] == [[]] * (len(data) - 1)
    assert list(decoder.feed(data[-1:])) == [CHUNK]


@pytest.mark.parametrize(
    "frame",
    [
        (b"not json", b""),
        (b"\xff\xfe", b""),
        (b"[1]", b""),
        (b'"text"', b""),
        (b"{}", b""),
        (b'{"kind": 3}', b""),
        (b'{"kind": "stop"}', b"\x05"),
    ],
    ids=["no json", "no text", "a list", "a string", "no kind", "a kind of number", "bytes of no blob"],
)
def test_a_frame_that_holds_no_message_is_refused(frame):
    with pytest.raises(MessageError, match="not a message"):
        list(Decoder().feed(framed(*frame)))


@pytest.mark.parametrize("sizes", [(9,), (4,), (2**32 - 1,), (5, 5)], ids=["longer", "shorter", "huge", "one too many"])
def test_blobs_that_do_not_fill_their_body_are_refused(sizes):
    head = json.dumps({"kind": "chunk", "position": 7, "resume": 5, "more": False, "payload": None}).encode()
    body = b"".join(struct.pack("<I", size) for size in sizes) + b"12345"

    with pytest.raises(MessageError, match="not a message"):
        list(Decoder().feed(framed(head, body, len(sizes))))


def test_more_blobs_than_the_body_has_room_for_are_refused_without_allocating_them():
    with pytest.raises(MessageError, match="not a message"):
        list(Decoder().feed(framed(b'{"kind": "stop"}', bytes(4), 2**32 - 1)))


def test_a_length_beyond_the_limit_is_refused_at_once_instead_of_waited_for():
    with pytest.raises(MessageError, match=f"a message of {MAX_BODY + 1} bytes"):
        list(Decoder().feed(struct.pack("<III", MAX_BODY, 0, 1)))


@given(st.binary(min_size=12, max_size=200))
def test_random_bytes_are_waited_for_or_refused_never_another_error(data):
    decoder = Decoder()

    try:
        for message in decoder.feed(data):
            assert isinstance(message.kind, str)
    except MessageError:
        pass


class Ends:
    """A trainer's channel, and serving's ends of its pipes."""

    def __init__(self) -> None:
        source, self._to = os.pipe()
        self._of, sink = os.pipe()
        os.set_blocking(self._of, False)
        self.channel, self._decoder, self._fds = Channel(source, sink), Decoder(), (source, self._to, self._of, sink)

    def put(self, *messages: Message) -> None:
        os.write(self._to, b"".join(map(encode, messages)))

    def got(self) -> list[Message]:
        with contextlib.suppress(BlockingIOError):
            return list(self._decoder.feed(os.read(self._of, 1 << 20)))
        return []

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def ends():
    made = Ends()
    yield made
    made.close()


def report(position: int, model: int = 1, **fields: object) -> Progress:
    return Progress(position, model, 0.25, Totals(position, {}, {}, 0), **fields)  # type: ignore[arg-type]  # of several types


def test_reports_without_updates_are_joined_while_messages_wait(ends):
    ends.put(CHUNK, CHUNK, CHUNK)
    for position in (1, 2, 3):
        assert ends.channel.receive(0) == CHUNK
        ends.channel.send(report(position))
        assert ends.got() == []

    assert ends.channel.receive(0) is None
    assert ends.got() == [replace(report(3), seconds=0.75)]
    assert ends.channel.receive(0) is None
    assert ends.got() == []


def test_a_report_arrives_before_what_is_sent_after_it(ends):
    learned = report(4, losses=(0.5,), persistence=(0.5,), labels=(1,))
    sent = [report(1), report(2, model=2), Passed(3), report(3, model=2), learned, report(5)]
    for message in sent:
        ends.channel.send(message)
    ends.channel.receive(0)

    assert ends.got() == sent


def test_a_report_waits_for_a_bounded_number_of_others(ends):
    for position in range(MOST_JOINED + 1):
        ends.channel.send(report(position))

    assert [message.position for message in ends.got()] == [MOST_JOINED - 1]
