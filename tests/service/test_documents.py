"""Files crafted to break their parser: refused in one sentence, within bounded time and memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.common import documents
from service.common.documents import MAX_DOCUMENT_BYTES, MAX_NESTING, DocumentError
from tests.conftest import examples

DEEP = MAX_NESTING + 1
HOSTILE_TOML = {
    "nested lists": "a = " + "[" * 4096,
    "nested and closed": "a = " + "[" * DEEP + "]" * DEEP,
    "nested tables": "a = " + "{a=" * 4096,
    "a dotted key": ".".join("a" * 2000) + " = 1",
    "the longest dotted key": ("a." * MAX_DOCUMENT_BYTES)[: MAX_DOCUMENT_BYTES - 5] + "a = 1",
    "a dotted key of strings": ".".join(["'a'", '"b"'] * 1000) + " = 1",
    "a dotted header": "[" + ".".join("a" * 2000) + "]",
    "spaces in a dotted key": " . ".join("a" * 2000) + " = 1",
    "a long number": "a = " + "9" * 100_000,
    "a day that is none": "a = 2026-99-99",
    "too large": "#" * (MAX_DOCUMENT_BYTES + 1),
}
MANY_QUOTES = {
    "an unclosed string": lambda n: 'a = "' + r"\"" * n,
    "an unclosed long string": lambda n: 'a = """' + '\\"""' * n,
    "nothing closed": lambda n: "\"'" * 2 * n,
}
HOSTILE_TOML |= {name: text(100_000) for name, text in MANY_QUOTES.items()}
QUICK_TOML = {name: text for name, text in HOSTILE_TOML.items() if len(text) < 10_000}
HOSTILE_JSON = {
    "nested lists": "[" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "nested and closed": "[" * DEEP + "]" * DEEP,
    "an unclosed string": '"' + r"\"" * 1_000_000,
    "a long number": "9" * 100_000,
    "too large": " " * (MAX_DOCUMENT_BYTES + 1),
}


@pytest.mark.parametrize("text", HOSTILE_TOML.values(), ids=HOSTILE_TOML)
def test_hostile_toml_is_refused_before_it_costs_anything(text):
    with pytest.raises(DocumentError) as refused:
        documents.toml(text)

    assert len(str(refused.value)) < 300


@pytest.mark.long
@pytest.mark.parametrize("text", MANY_QUOTES.values(), ids=MANY_QUOTES)
def test_toml_of_a_million_quotes_is_refused_too(text):
    test_hostile_toml_is_refused_before_it_costs_anything(text(1_000_000))


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
def test_hostile_json_is_refused_before_it_costs_anything(text):
    with pytest.raises(DocumentError) as refused:
        documents.json_value(text)

    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('a = "' + "[" * 100 + '" # ' + "[" * 100, "[" * 100),
        ("a = '" + "{." * 100 + "'", "{." * 100),
        ('a = """\n' + "[" * 100 + '" "" \\""""', "[" * 100 + '" "" "'),
        ("a = '''" + "[" * 100 + "'''", "[" * 100),
        ("a = " + "[" * MAX_NESTING + "]" * MAX_NESTING, None),
        ("a = [" + "1.5, " * 1000 + "]", [1.5] * 1000),
        ("a = 1.5\n" + "\n".join(f"k{n} = {n}.25" for n in range(100)), 1.5),
    ],
)
def test_text_that_only_looks_nested_is_read(text, value):
    assert value is None or documents.toml(text)["a"] == value


@examples(300)
@given(st.text(alphabet="ab[]{}.=,\"'\\#\n 1_", max_size=60), st.sampled_from([documents.toml, documents.json_value]))
def test_any_text_is_read_or_refused_in_one_way(text: str, read: Callable[[str], object]):
    with contextlib.suppress(DocumentError):
        read(text)


def test_a_file_that_is_not_regular_is_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path in (pipe, tmp_path):
        with pytest.raises((DocumentError, OSError)):
            documents.read(path)
    with pytest.raises(DocumentError, match="not a plain file"):
        documents.read(pipe)


def test_a_file_is_read_up_to_its_bound_only(tmp_path):
    (tmp_path / "file").write_bytes(bytes(101))

    assert len(documents.read(tmp_path / "file", 101)) == 101
    with pytest.raises(DocumentError, match="larger than 100 bytes"):
        documents.read(tmp_path / "file", 100)
