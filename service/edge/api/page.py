"""The page: static files of the package, read and compressed once, with validators and a strict policy.

index.html names its files under /page/; they are served under /page/@DIGEST/ too, a digest of them all, and index.html
is changed to say so. What is under a digest never changes, so browsers keep it, and a page has modules of one version.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable

from service.edge.api.sending import TEXT, Reply

FOLDER = "page"
INDEX = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOREVER = "public, max-age=31536000, immutable"
CHECKED = "no-cache"  # kept, and asked for again with its validator
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
COMPRESSED = {".png", ".ico", ".woff2"}  # already
LINK = re.compile(rb"""(["'](?:\./|/)?)page/""")
DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent. packed: compressed with gzip; b"": not smaller. tag: the start of its sha256."""

    kind: str
    plain: bytes
    packed: bytes
    tag: str


class Page:
    """The files of the page, in memory. All methods are pure."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """files: by path within the folder."""
        digest = sha256()
        for path, data in sorted(files.items()):
            digest.update(b"%s\0%d\0%s" % (path.encode(), len(data), data))
        self.digest = f"@{digest.hexdigest()[:DIGEST_LENGTH]}"
        self._files = {path: made(path, self._linked(path, data)) for path, data in files.items()}

    @classmethod
    def of_package(cls) -> Page:
        """Read the files that are installed with the server."""
        folder = resources.files("service") / FOLDER
        return cls(dict(_files(folder)) if folder.is_dir() else {})

    def index(self, headers: Mapping[str, str]) -> Reply | None:
        """Return the page itself; None without one, or for a client that does not read HTML."""
        if INDEX not in self._files or "text/html" not in headers.get("accept", ""):
            return None
        return self._reply(self._files[INDEX], headers, CHECKED)

    def file(self, path: tuple[str, ...], headers: Mapping[str, str]) -> Reply:
        """Return a file, or that it has not changed. path: segments after /page/."""
        known = bool(path) and path[0] == self.digest
        found = self._files.get("/".join(path[1:] if known else path))
        if found is None:
            return Reply(404, b"no such file of the page\n", TEXT, {"Content-Security-Policy": POLICY})
        return self._reply(found, headers, FOREVER if known else CHECKED)

    def _linked(self, path: str, data: bytes) -> bytes:
        return LINK.sub(rb"\1page/" + self.digest.encode() + b"/", data) if path == INDEX else data

    def _reply(self, file: File, headers: Mapping[str, str], kept: str) -> Reply:
        packed = bool(file.packed) and takes_gzip(headers.get("accept-encoding", ""))
        tag = f'"{file.tag}{"-gz" if packed else ""}"'
        said = {"Content-Security-Policy": POLICY, "ETag": tag, "Cache-Control": kept, "Vary": "Accept-Encoding"}
        if tag in [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]:
            return Reply(304, b"", "", said)
        if packed:
            said["Content-Encoding"] = "gzip"
        return Reply(200, file.packed if packed else file.plain, file.kind, said)


def made(path: str, data: bytes) -> File:
    """Return a file as it is sent."""
    ending = path[path.rfind(".") :] if "." in path else ""
    packed = b"" if ending in COMPRESSED else gzip.compress(data, 9, mtime=0)
    smaller = packed if len(packed) < len(data) else b""
    return File(KINDS.get(ending, TEXT), data, smaller, sha256(data).hexdigest()[:DIGEST_LENGTH])


def takes_gzip(accepted: str) -> bool:
    """Whether a header Accept-Encoding names gzip, and does not give it weight 0."""
    for each in accepted.lower().split(","):
        name, _, weight = each.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.name.startswith((".", "__")):
            continue
        if each.is_dir():
            yield from _files(each, f"{prefix}{each.name}/")
        else:
            yield f"{prefix}{each.name}", each.read_bytes()
