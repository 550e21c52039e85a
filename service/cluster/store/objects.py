"""A store in a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage; through obstore.

An entry, blob or note is an object of its name. A put that succeeds only if there is no object of the name is the
conditional create. The fence needs nothing more, because a claim takes the offset at which a former owner would append
next. obstore repeats no request: its caller does, with the same bytes, and a put that finds its own bytes succeeds.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl

import obstore
from obstore import exceptions, store

from service.cluster.store.names import checked, entries_of, entry_name, extents_in, folder_of
from service.cluster.store.seam import Conflict, Extent, Listed, Missing, StoreLost, StoreRefused, StoreUnavailable

REQUEST_S, CONNECT_S = 10.0, 3.0  # longest time of one request, and of connecting
READERS = 16  # requests at once while entries are read
PAGE = 1000  # objects per request of a listing or a deletion

# By scheme: the client, the argument that names the bucket, and what a URL may set besides `ca`. Keys of accounts are
# not among them: they would be seen in lists of processes and in logs.
SERVICES: dict[str, tuple[Callable[..., Any], str, frozenset[str]]] = {
    "s3": (
        store.S3Store,
        "bucket",
        frozenset({"endpoint", "region", "virtual_hosted_style_request", "server_side_encryption", "sse_kms_key_id"}),
    ),
    "gs": (store.GCSStore, "bucket", frozenset({"base_url"})),
    "az": (store.AzureStore, "container_name", frozenset({"account_name", "endpoint"})),
}
NOT_ALLOWED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
NOT_KNOWN = (exceptions.NotSupportedError, exceptions.InvalidPathError, exceptions.UnknownConfigurationKeyError)
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
TAKEN = (exceptions.AlreadyExistsError, exceptions.PreconditionError)


class Objects:
    """A store in a bucket. Sends nothing before the first call. Raises StoreRefused for settings that cannot work.

    url: for messages. parts: s3://BUCKET/PREFIX, gs://… or az://CONTAINER/PREFIX, with settings of SERVICES and
    `ca`, a PEM file, in the query. Credentials are those of the service's usual variables, or of the machine.
    """

    def __init__(self, url: str, parts: SplitResult) -> None:
        self.url = url
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        with self._faults():
            self._bucket = _client(url, parts)

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add an entry; see `Store.append`. The epoch is not looked at: a claim has taken the offset."""
        self._create(_entry(shard, offset), data, f"shard {shard}, offset {offset}")

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add the first entry of an epoch; see `Store.claim`."""
        self.append(shard, offset, epoch, data)

    def extents(self, shard: int, start: int) -> list[Extent]:
        """Return the entries from `start` on; see `Store.extents`."""
        after = _entry(shard, start - 1) if start else None
        found = self._listed(entries_of(shard), after)
        return extents_in(((name.rpartition("/")[2], size) for name, size in found), start)

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """Yield the bytes of entries; see `Store.read`. Reads ahead, READERS at once."""
        ahead: deque[Future[bytes]] = deque()
        waiting = iter(extents)

        def start(count: int) -> None:
            ahead.extend(self._readers.submit(self._entry_bytes, shard, extent) for extent in islice(waiting, count))

        start(READERS)
        try:
            while ahead:
                data = ahead.popleft().result()
                start(1)
                yield data
        finally:
            for future in ahead:
                future.cancel()

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """Delete entries; see `Store.trim`."""
        offsets = [e.offset for e in self.extents(shard, 0) if e.offset < before and e.offset not in keep]
        self._delete([_entry(shard, offset) for offset in offsets])
        return len(offsets)

    def put(self, name: str, data: bytes) -> None:
        """Store a blob; see `Store.put`."""
        self._create(checked(name), data, name)

    def note(self, name: str, data: bytes) -> None:
        """Write a note; see `Store.note`."""
        with self._faults():
            obstore.put(self._bucket, checked(name), data, mode="overwrite", use_multipart=False)

    def get(self, name: str) -> bytes:
        """Return a blob or note; see `Store.get`."""
        data = self._bytes(checked(name))
        if data is None:
            raise Missing(f"{self.url}: there is no {name}")
        return data

    def list(self, prefix: str) -> list[Listed]:
        """Return blobs and notes; see `Store.list`."""
        journal = entries_of(0).partition("/")[0] + "/"
        return sorted(
            Listed(name, size)
            for name, size in self._listed(folder_of(prefix), None)
            if name.startswith(prefix) and not name.startswith(journal)
        )

    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs or notes; see `Store.delete`."""
        self._delete([checked(name) for name in names])

    def close(self) -> None:
        """End the threads that read ahead."""
        self._readers.shutdown(cancel_futures=True)

    def _create(self, name: str, data: bytes, what: str) -> None:
        """Put an object if there is none of the name, or the same. Raises Conflict, naming `what`."""
        try:
            with self._faults():
                obstore.put(self._bucket, name, data, mode="create", use_multipart=False)
        except _Taken:
            found = self._bytes(name)
            if found is None:  # deleted since, or not yet seen: the next try decides
                raise StoreUnavailable(f"{self.url}: {what} is taken, and nothing is found there") from None
            if found != data:
                raise Conflict(f"{self.url}: {what} is taken by other bytes") from None

    def _bytes(self, name: str) -> bytes | None:
        """Return an object's bytes; None if there is none."""
        try:
            with self._faults():
                return bytes(obstore.get(self._bucket, name).bytes())
        except _Absent:
            return None

    def _entry_bytes(self, shard: int, extent: Extent) -> bytes:
        data = self._bytes(_entry(shard, extent.offset))
        if data is None or len(data) != extent.size:
            seen = "is gone" if data is None else f"has {len(data)} bytes instead of {extent.size}"
            raise StoreLost(f"{self.url}: the entry of shard {shard} at offset {extent.offset} {seen}")
        return data

    def _listed(self, folder: str, after: str | None) -> Sequence[tuple[str, int]]:
        """Return the names in a folder and below it, with their sizes; those after `after`."""
        with self._faults():
            pages = obstore.list(self._bucket, prefix=folder or None, offset=after, chunk_size=PAGE)
            return [(found["path"], found["size"]) for page in pages for found in page]

    def _delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), PAGE):
            page = names[start : start + PAGE]
            try:
                with self._faults():
                    obstore.delete(self._bucket, page)
            except _Absent:  # some services fail for one that is missing, and may not have reached the others
                for name in page:
                    with contextlib.suppress(_Absent), self._faults():
                        obstore.delete(self._bucket, name)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn an error of obstore into one of the store, or into _Taken or _Absent."""
        try:
            yield
        except TAKEN as error:
            raise _Taken from error
        except (exceptions.BaseError, OSError) as error:
            text, remedy = f"{self.url}: {_short(error)}", _remedy(error)
            if remedy is not None:
                raise StoreRefused(f"{text}; {remedy}") from error
            if isinstance(error, FileNotFoundError):
                raise _Absent from error
            raise StoreUnavailable(text) from error


class _Taken(Exception):
    """There is an object of the name."""


class _Absent(Exception):
    """There is no object of the name."""


def _client(url: str, parts: SplitResult) -> Any:
    """Return obstore's client of a bucket. Raises StoreRefused, and what obstore raises."""
    client, bucket, known = SERVICES[parts.scheme]
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    options: dict[str, Any] = {"timeout": timedelta(seconds=REQUEST_S), "connect_timeout": timedelta(seconds=CONNECT_S)}
    if (ca := settings.pop("ca", None)) is not None:
        options["root_certificate"] = Path(ca).read_bytes()
    if unknown := settings.keys() - known:
        names = ", ".join(sorted(known | {"ca"}))
        raise StoreRefused(f"{url}: {sorted(unknown)[0]} is no setting of the URL; use {names}, or a variable")
    if not parts.netloc:
        raise StoreRefused(f"{url}: write {parts.scheme}://BUCKET/PREFIX")
    options["allow_http"] = settings.get("endpoint", settings.get("base_url", "")).startswith("http://")
    prefix = parts.path.strip("/") or None
    retries = {"max_retries": 0, "retry_timeout": timedelta(seconds=REQUEST_S)}
    return client(
        **{bucket: parts.netloc}, prefix=prefix, config=settings, client_options=options, retry_config=retries
    )


def _entry(shard: int, offset: int) -> str:
    return f"{entries_of(shard)}/{entry_name(offset)}"


def _remedy(error: Exception) -> str | None:
    """Return what must be changed before a request can succeed; None if the same request may succeed later."""
    text = str(error)
    if any(code in text for code in NO_BUCKET):
        return "there is no such bucket: create it, or correct the URL"
    if isinstance(error, NOT_ALLOWED) or any(status in text for status in ("401 Unauthorized", "403 Forbidden")):
        return "give the server credentials that may read, write, list and delete there"
    if isinstance(error, NOT_KNOWN):
        return "use a service that has conditional writes, and correct the URL"
    return None


def _short(error: Exception) -> str:
    """Return the first line of an error without its document, but with the code in it."""
    line = str(error).partition("\n")[0].partition(": <?xml")[0][:300]
    code = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    return f"{line} ({code[1]})" if code else line
