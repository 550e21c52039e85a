"""The contract of every message between serving and trainer: a round trip, and errors that name a wrong field."""

import json
import struct
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.trainer.channel import Decoder, MessageError, encode
from service.trainer.fields import field_of
from service.trainer.messages import TO_TRAINER, Message, Question, Stop
from service.trainer.reports import FROM_TRAINER, Answer

KINDS: dict[str, Any] = {message.kind: message for message in (*TO_TRAINER, *FROM_TRAINER)}
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))
SCALARS = {
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=8),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
}


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a field type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return SCALARS[hint]
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is Mapping:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if arguments[1:] == (NoneType,):
        return st.none() | values(arguments[0])
    hints = get_type_hints(hint).items()
    return st.builds(hint, **{name: values(part) for name, part in hints if get_origin(part) is not ClassVar})


@cache
def any_message() -> st.SearchStrategy[Message]:
    return st.one_of(*(values(message) for message in KINDS.values()))


def decoded(data: bytes) -> list[Message]:
    return list(Decoder().feed(data))


def example(kind: str) -> tuple[dict[str, Any], list[bytes]]:
    """The head and the blobs of a message of this kind, with a value in each field."""
    hints = get_type_hints(KINDS[kind]).items()
    message = KINDS[kind](*(plain(hint) for name, hint in hints if get_origin(hint) is not ClassVar))
    data = encode(message)
    head_size, count, _ = struct.unpack_from("<III", data)
    head, body = json.loads(data[12 : 12 + head_size]), data[12 + head_size :]
    blobs, at = [], 4 * count
    for (size,) in struct.iter_unpack("<I", body[:at]):
        blobs.append(body[at : at + size])
        at += size
    return head, blobs


def plain(hint: Any) -> Any:
    """One value of a field's type; a collection has one item."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in SCALARS:
        return {int: 3, float: 0.5, str: "text", bool: True, bytes: b"blob"}[hint]
    if origin is tuple:
        return tuple(plain(part) for part in arguments if part is not ...)
    if origin is Mapping:
        return {plain(arguments[0]): plain(arguments[1])}
    if arguments[1:] == (NoneType,):
        return plain(arguments[0])
    return hint(*(plain(part) for part in get_type_hints(hint).values() if get_origin(part) is not ClassVar))


def framed(head: dict[str, Any], blobs: list[bytes]) -> bytes:
    text = json.dumps(head).encode()
    body = b"".join([*(struct.pack("<I", len(blob)) for blob in blobs), *blobs])
    return struct.pack("<III", len(text), len(blobs), len(body)) + text + body


def subclasses(of: type[Any]) -> set[str]:
    """Return names: a class with slots replaces the declared class, which may still exist."""
    return {child.__name__ for child in of.__subclasses__()}.union(*map(subclasses, of.__subclasses__()))


def test_every_message_is_registered_with_a_unique_kind():
    assert len(KINDS) == len(TO_TRAINER) + len(FROM_TRAINER)
    assert subclasses(Message) - {Question.__name__, Answer.__name__} == {kind.__name__ for kind in KINDS.values()}


@every_kind
@given(data=st.data())
def test_a_message_is_equal_after_a_round_trip(kind, data):
    message = data.draw(values(KINDS[kind]))

    assert decoded(encode(message)) == [message]


@every_kind
def test_a_message_is_a_frozen_dataclass(kind):
    assert is_dataclass(KINDS[kind])
    message: Any = decoded(framed(*example(kind)))[0]
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        message.kind = "another"


@every_kind
def test_a_missing_and_an_unknown_field_are_refused_by_name(kind):
    head, blobs = example(kind)
    for name in head.keys() - {"kind"}:
        missing = {field: value for field, value in head.items() if field != name}
        with pytest.raises(MessageError, match=f"not a message: {KINDS[kind].__name__} has the fields"):
            decoded(framed(missing, blobs))
    with pytest.raises(MessageError, match="'unheard_of'"):
        decoded(framed({**head, "unheard_of": 1}, blobs))


@every_kind
def test_a_value_of_another_type_is_refused_with_the_name_of_its_field(kind):
    head, blobs = example(kind)
    for name in head.keys() - {"kind"}:
        others: list[Any] = [{"unheard_of": {}}, [[[]]], "text" if head[name] != "text" else 1]
        for wrong in others:
            with pytest.raises(MessageError, match=f"not a message: .*{name}"):
                decoded(framed({**head, name: wrong}, blobs))


@every_kind
def test_one_blob_more_or_less_is_refused(kind):
    head, blobs = example(kind)
    with pytest.raises(MessageError, match="fewer blobs than"):
        decoded(framed(head, [*blobs, b"extra"]))
    if blobs:
        with pytest.raises(MessageError, match="more blobs than"):
            decoded(framed(head, blobs[:-1]))


def test_an_unknown_kind_is_refused_by_name_with_the_remedy():
    with pytest.raises(MessageError, match=r"'unheard_of' is unknown: run serving and trainer from one installation"):
        decoded(framed({"kind": "unheard_of"}, []))


def test_a_type_that_no_message_may_have_is_refused_when_it_is_declared():
    with pytest.raises(TypeError, match="cannot have a field of type"):
        field_of(dict[str, Any])


def test_stop_is_the_smallest_message():
    assert len(encode(Stop())) == 12 + len(b'{"kind":"stop"}')
