"""Open the store that a URL names. A backend and its package are imported only here, when a URL asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from service.cluster.store.seam import Store, StoreRefused

BUCKETS = ("s3", "gs", "az")
DATABASES = ("postgresql", "postgres")
SCHEMES = (*BUCKETS, "postgresql", "file")


def open_store(url: str) -> Store:
    """Return the store at `url`; the caller closes it. Raises StoreRefused, StoreUnavailable.

    s3://BUCKET/PREFIX, gs://BUCKET/PREFIX and az://CONTAINER/PREFIX are object storage; postgresql://… is a schema of a
    database; file:///FOLDER is a folder, on this machine's disk or a shared volume.
    """
    parts = urlsplit(url)
    if parts.scheme in BUCKETS:
        with _needing(parts.scheme, "object"):
            from service.cluster.store.objects import Objects

            return Objects(url, parts)
    if parts.scheme in DATABASES:
        with _needing(parts.scheme, "postgres"):
            from service.cluster.store.postgres import Postgres

            return Postgres(url)
    if parts.scheme == "file":
        return _directory(url, parts)
    raise StoreRefused(f"store = {parts.scheme}://…: use a URL that begins with one of {', '.join(SCHEMES)}")


def prepare(url: str) -> str:
    """Make what a store needs before nodes open it, and return a line that says what was done. May be repeated.

    Raises StoreRefused, StoreUnavailable.
    """
    parts = urlsplit(url)
    done = "ready"
    if parts.scheme in DATABASES:
        with _needing(parts.scheme, "postgres"):
            from service.cluster.store.postgres import initialise

            steps = initialise(url)
            done = f"ready; tables brought to format {steps[-1] + 1}" if steps else "ready; nothing to do"
    store = open_store(url)
    try:
        store.list("nodes/")  # a bucket, and the right to read it
        return f"{store.url}: {done}"
    finally:
        store.close()


def _directory(url: str, parts: SplitResult) -> Store:
    from service.cluster.store.directory import Directory

    folder = Path(unquote(parts.path))
    if parts.netloc or parts.query or not folder.is_absolute() or folder == Path("/"):
        raise StoreRefused(f"store = {url}: write file:///FOLDER, with three slashes and an absolute path")
    return Directory(url, folder)


@contextlib.contextmanager
def _needing(scheme: str, extra: str) -> Iterator[None]:
    """Raise StoreRefused with the remedy if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreRefused(
            f"store = {scheme}://…: the package {error.name} is not installed; pip install 'freshet-server[{extra}]'"
        ) from error
