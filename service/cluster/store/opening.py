"""Open the store that a URL names. A backend and its package are imported only here, when a URL asks for them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from service.cluster.store.directory import Directory
from service.cluster.store.seam import Store, StoreRefused

SCHEMES = ("file",)


def open_store(url: str) -> Store:
    """Return the store at `url`; the caller closes it. Raises StoreRefused, StoreUnavailable.

    file:///FOLDER is a folder, on this machine's disk or a shared volume.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _directory(url, parts)
    raise StoreRefused(f"store = {parts.scheme}://…: use a URL that begins with one of {', '.join(SCHEMES)}")


def _directory(url: str, parts: SplitResult) -> Directory:
    folder = Path(unquote(parts.path))
    if parts.netloc or parts.query or not folder.is_absolute() or folder == Path("/"):
        raise StoreRefused(f"store = {url}: write file:///FOLDER, with three slashes and an absolute path")
    return Directory(url, folder)
