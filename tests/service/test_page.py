"""Static files of the page: what is sent with them, and that nothing else is."""

from __future__ import annotations

import gzip

import pytest

from service.edge.api.page import CHECKED, FOREVER, POLICY, Page, takes_gzip

INDEX = b'<!doctype html><link rel="stylesheet" href="page/style.css"><script type="module" src="/page/js/main.js">'
SCRIPT = b"import './api.js';\n" * 100
FILES = {
    "index.html": INDEX,
    "style.css": b"a{}",
    "js/main.js": SCRIPT,
    "vendor/LICENSE.uPlot": b"MIT",
    "dot.png": b"P",
}
HTML = {"accept": "text/html,*/*"}


@pytest.fixture
def page() -> Page:
    return Page(FILES)


def test_the_index_names_its_files_under_the_digest_of_all(page):
    reply = page.index(HTML)

    assert reply is not None
    assert reply.kind == "text/html; charset=utf-8"
    assert f'"page/{page.digest}/style.css"'.encode() in reply.body
    assert f'"/page/{page.digest}/js/main.js"'.encode() in reply.body
    assert (reply.headers["Cache-Control"], reply.headers["Content-Security-Policy"]) == (CHECKED, POLICY)


def test_a_client_that_reads_no_html_gets_no_page(page):
    assert page.index({"accept": "*/*"}) is None
    assert Page({}).index(HTML) is None


def test_another_byte_makes_another_digest(page):
    assert Page(FILES | {"js/main.js": SCRIPT + b" "}).digest != page.digest


def test_what_is_under_the_digest_is_kept_for_good_and_the_rest_is_checked(page):
    assert page.file((page.digest, "js", "main.js"), {}).headers["Cache-Control"] == FOREVER
    assert page.file(("js", "main.js"), {}).headers["Cache-Control"] == CHECKED
    assert page.file(("@0123456789abcdef", "js", "main.js"), {}).status == 404


def test_a_file_is_compressed_for_those_who_take_that_and_if_it_helps(page):
    packed = page.file(("js", "main.js"), {"accept-encoding": "br, gzip"})
    plain = page.file(("js", "main.js"), {"accept-encoding": "br"})

    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body == SCRIPT
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["ETag"] != plain.headers["ETag"], "they are different bytes"
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    for path in (("dot.png",), ("style.css",)):
        assert "Content-Encoding" not in page.file(path, {"accept-encoding": "gzip"}).headers


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("", False),
        ("gzip;q=0", False),
        ("gzip; q=0.0", False),
        ("x-gzip", False),
    ],
)
def test_gzip_is_taken_by_those_who_say_so(header, taken):
    assert takes_gzip(header) is taken


def test_a_browser_that_has_the_file_is_told_so(page):
    tag = page.file(("style.css",), {}).headers["ETag"]

    for known in (tag, f'"other", W/{tag}'):
        reply = page.file(("style.css",), {"if-none-match": known})
        assert (reply.status, reply.body) == (304, b"")
        assert reply.headers["Content-Security-Policy"] == POLICY
    assert page.file(("style.css",), {"if-none-match": '"other"'}).status == 200


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("",),
        ("..", "__init__.py"),
        ("js", "..", "style.css"),
        ("js/main.js/",),
        ("/etc/passwd",),
        ("js",),
        ("x\0",),
    ],
)
def test_a_path_that_is_no_file_is_none(page, path):
    reply = page.file(path, {})

    assert reply.status == 404
    assert reply.headers["Content-Security-Policy"] == POLICY


@pytest.mark.parametrize(("name", "kind"), [
    ("style.css", "text/css"), ("js/main.js", "text/javascript"), ("vendor/LICENSE.uPlot", "text/plain"),
    ("dot.png", "image/png"),
])  # fmt: skip
def test_a_file_has_the_kind_of_its_name(page, name, kind):
    assert page.file(tuple(name.split("/")), {}).kind.partition(";")[0] == kind


def test_the_policy_allows_no_other_host_and_nothing_inline():
    directives = dict(each.strip().split(" ", 1) for each in POLICY.split(";"))

    assert directives.pop("default-src") == "'none'"
    allowed = {source for sources in directives.values() for source in sources.split()}
    assert allowed == {"'self'", "'none'", "blob:", "data:"}
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["form-action"] == "'none'"


def test_the_files_of_the_package_are_read():
    assert Page.of_package().digest.startswith("@")
