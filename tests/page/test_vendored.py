"""The page as files: what is vendored is what was taken, nothing leads elsewhere, nothing is inline, it is light."""

import gzip
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "service" / "page"
VENDOR = PAGE / "vendor"
SCRIPTS = PAGE / "js"
MOST = 150_000  # bytes of the whole page as it is sent, gzip
SVG = "http://www.w3.org/2000/svg"  # the name of a language, not a place
CODE = re.compile(r"[a-z]+://(?:[\w-]+\.)+[a-z]{2,}|[\"'(]//[\w-]+\.", re.IGNORECASE)  # an address with a host


def ours():
    return [file for file in sorted(PAGE.rglob("*")) if file.is_file() and VENDOR not in file.parents]


def sums():
    lines = (VENDOR / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def test_every_vendored_file_is_the_one_that_was_taken():
    files = {file.name for file in VENDOR.iterdir()} - {"SHA256SUMS"}
    assert files == sums().keys() == {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE.uPlot"}
    found = {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in files}
    assert found == sums()


def test_the_vendored_library_comes_with_its_licence_and_says_which_it_is():
    licence = (VENDOR / "LICENSE.uPlot").read_text(encoding="utf-8")
    assert "The MIT License" in licence
    assert "Leon Sorokin" in licence
    assert "v1.6.32" in (VENDOR / "uPlot.iife.min.js").read_text(encoding="utf-8")[:400]


@pytest.mark.parametrize("file", ours(), ids=lambda file: str(file.relative_to(PAGE)))
def test_no_file_of_the_page_names_another_host(file):
    text = file.read_text(encoding="utf-8").replace(SVG, "")
    assert not CODE.findall(text)


def test_an_address_of_another_host_would_be_found():
    for text in ('fetch("https://cdn.example.org/x.js")', "url(//fonts.example.org/a)", "wss://example.org"):
        assert CODE.findall(text), text
    assert not CODE.findall("a // comment, ./views/x.js and 4 // 2")


class Inline(HTMLParser):
    """Collects what a strict policy would refuse: text in script or style, and attributes that are code or style."""

    def __init__(self):
        super().__init__()
        self.refused, self.linked, self._inside = [], [], ""

    def handle_starttag(self, tag, attrs):
        self._inside = tag if tag in ("script", "style") else ""
        for name, value in attrs:
            if name.startswith("on") or name == "style" or (value or "").lower().startswith("javascript:"):
                self.refused.append((tag, name))
            if name in ("src", "href"):
                self.linked.append(value)

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside and data.strip():
            self.refused.append((self._inside, data))


def inline(html):
    parser = Inline()
    parser.feed(html)
    return parser


def test_nothing_in_the_document_is_inline():
    assert not inline((PAGE / "index.html").read_text(encoding="utf-8")).refused


def test_inline_scripts_styles_and_attributes_would_be_found():
    for html in ("<script>x</script>", "<style>a{}</style>", "<p style=x>", "<p onclick=x>", "<a href='javascript:x'>"):
        assert inline(html).refused, html


def test_everything_that_the_document_loads_is_there():
    linked = [
        link
        for link in inline((PAGE / "index.html").read_text(encoding="utf-8")).linked
        if not link.startswith(("data:", "#"))
    ]
    assert linked
    missing = [link for link in linked if not (PAGE.parent / link).is_file()]
    assert not missing


def imports(script):
    """The modules that one names, also by a template: `./views/${…}.js` is every file of that folder."""
    text = script.read_text(encoding="utf-8")
    for name in re.findall(r"(?:from\s+|import\()\s*[\"'`](\.[^\"'`]+)[\"'`]", text):
        pattern = re.sub(r"\$\{[^}]*\}", "*", name)
        yield from (
            (found.resolve() for found in script.parent.glob(pattern))
            if "*" in pattern
            else [(script.parent / name).resolve()]
        )


def test_every_script_is_imported_and_every_import_is_there():
    scripts = {file.resolve() for file in SCRIPTS.rglob("*.js")}
    named = {found for script in scripts for found in imports(script)}
    assert not scripts - named - {(SCRIPTS / "main.js").resolve()}, "nobody imports these"
    assert not named - scripts, "these are not there"


def test_text_from_users_has_no_way_into_the_document_but_as_text():
    names = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment")
    ways = re.compile("|".join(map(re.escape, (*names, "eval(", "new Function", "DOMParser", "srcdoc"))))
    assert not [file.name for file in SCRIPTS.rglob("*.js") if ways.search(file.read_text(encoding="utf-8"))]


def test_the_page_stores_nothing_in_the_browser():
    stores = re.compile(r"localStorage|sessionStorage|indexedDB|document\.cookie|caches\.")
    assert not [file.name for file in SCRIPTS.rglob("*.js") if stores.search(file.read_text(encoding="utf-8"))]


def test_the_whole_page_is_light():
    files = [file for file in PAGE.rglob("*") if file.suffix in (".html", ".css", ".js")]
    assert sum(len(gzip.compress(file.read_bytes(), 6)) for file in files) <= MOST
