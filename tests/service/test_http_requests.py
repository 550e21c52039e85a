"""What a request over HTTP asks: decoded or refused by name; hosts and sites of browsers."""

from __future__ import annotations

import pytest

from service.common.errors import Invalid
from service.edge.api.access import host_of, is_address, is_own
from service.edge.api.asked import MAX_FIELDS, Query, segments, whole
from service.edge.api.events import subject_of
from service.edge.api.routes import match
from service.viewing.seen import MAX_STREAMS, SHOW


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        (b"/api/v1", ("api", "v1")),
        (b"/", ("",)),
        (b"/a%2Fb/c", ("a/b", "c")),
        (b"/%3Cimg%20onerror=%3E", ("<img onerror=>",)),
        (b"/%C3%BC", ("ü",)),
        (b"/a//b/", ("a", "", "b", "")),
        (b"/%zz%", ("%zz%",)),
        (b"/a+b", ("a+b",)),
    ],
)
def test_a_path_is_decoded_segment_by_segment(raw, decoded):
    assert segments(raw) == decoded


@pytest.mark.parametrize("raw", [b"/%ff", b"/a/%c3", b"/%ed%a0%80"])
def test_a_path_that_is_no_utf_8_is_refused(raw):
    with pytest.raises(Invalid, match="percent-encode it as UTF-8"):
        segments(raw)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"last=0", "last = 0: give a whole number from 1 to 512"),
        (b"last=513", "from 1 to 512"),
        (b"last=-1", "from 1 to 512"),
        (b"last=1e3", "from 1 to 512"),
        (b"last=" + b"9" * 10_000, "from 1 to 512"),
        (b"last=1&last=2", "last = 2 times: give it once"),
        (b"last=%D9%A1", "from 1 to 512"),
        (b"last=", "from 1 to 512"),
        (b"other=1", "other = 1: no such field; known are last"),
        (b"last=%ff", "query = no UTF-8"),
        (b"&".join([b"last=1"] * (MAX_FIELDS + 1)), f"give at most {MAX_FIELDS} fields"),
    ],
)
def test_a_query_that_is_wrong_is_refused_by_field(raw, complaint):
    with pytest.raises(Invalid) as refused:
        Query(raw, frozenset({"last"})).whole("last", 256, 512)
    assert complaint in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_field_that_is_left_out_has_its_default():
    assert Query(b"", frozenset({"last"})).whole("last", 256, 512) == 256
    assert Query(b"after=", frozenset({"after"})).text("after", "x") == ""


def test_a_whole_number_is_one_in_ascii():
    assert whole("seq", "0012") == 12
    for text in ("", "1.0", "0x1", "1_0", " 1", "+1"):
        with pytest.raises(Invalid):
            whole("seq", text)


def test_a_pattern_matches_a_path_of_its_length_only():
    assert match(("models", "{m}"), ("models", "a")) == {"m": "a"}
    assert match(("models", "{m}"), ("models",)) is None
    assert match(("models", "{m}"), ("model", "a")) is None


def subject(raw: bytes):
    return subject_of(Query(raw, frozenset({"model", "stream", "target", "step", "ghost", "show"})))


def test_a_subject_has_what_is_left_out_as_it_is_documented():
    name, all_of_it = subject(b"model=flow")
    assert (name, all_of_it.streams, all_of_it.step, all_of_it.ghost, all_of_it.show) == ("flow", (), 1, "open", SHOW)
    _, some = subject(b"model=flow&stream=a&stream=b&stream=a&step=3&ghost=none&show=ticks,scores")
    assert (some.streams, some.step, some.ghost, some.show) == (("a", "b"), 3, "none", {"ticks", "scores"})


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "model"),
        (b"model=a&show=ticks,nothing", "show"),
        (b"model=a&step=0", "step"),
        (b"model=a&" + b"&".join(b"stream=%d" % n for n in range(MAX_STREAMS + 1)), "stream"),
    ],
)
def test_a_subject_that_is_wrong_is_refused_by_field(raw, field):
    with pytest.raises(Invalid) as refused:
        subject(raw)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("LocalHost:8301", "localhost"), ("127.0.0.1", "127.0.0.1"), ("[::1]:8301", "::1"),
        ("a.example.:1", "a.example"),
        ("", ""), ("[::1", ""), ("attacker.example", "attacker.example"),
    ],
)  # fmt: skip
def test_a_host_is_read_from_its_header(header, host):
    assert host_of(header) == host


def test_an_address_is_one_that_no_name_can_be():
    assert is_address("127.0.0.1")
    assert is_address("::1")
    for name in ("localhost", "", "127.0.0.1.attacker.example", "2130706433", "0x7f.1"):
        assert not is_address(name), name


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://127.0.0.1:8301", True), ("https://127.0.0.1:8301", True), ("http://127.0.0.1:8302", False),
        ("http://127.0.0.1", False), ("null", False), ("http://attacker.example", False), ("", False),
        ("http://[::1", False), ("http://127.0.0.1:8301.attacker.example", False),
    ],
)  # fmt: skip
def test_an_origin_is_own_if_it_is_the_host_that_was_asked(origin, own):
    assert is_own(origin, "127.0.0.1:8301") is own
    assert not is_own(origin, "")
