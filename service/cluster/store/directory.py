"""A store in a folder: of one machine's disk, or of a volume that several machines have mounted.

An entry, blob or note is a file of its name. A file appears under its name complete and synced, by a hard link, which
fails if the name is taken: that is the conditional create. The fence needs nothing more, because a claim takes the
offset at which a former owner would append next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from service.cluster.store.names import JOURNAL, checked, entries_of, entry_name, extents_in, folder_of
from service.cluster.store.seam import Conflict, Extent, Listed, Missing, StoreLost, StoreRefused, StoreUnavailable

UNFINISHED = "~unfinished"  # a folder that no name can have
UNFINISHED_S = 86_400.0  # age from which a file in it is of a process that has ended
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EOPNOTSUPP)


class Directory:
    """A store in the folder `root`, which is created in an existing one. Raises StoreRefused if it cannot be used.

    url: for messages.
    """

    def __init__(self, url: str, root: Path) -> None:
        self.url, self._root = url, root
        self._synced: set[Path] = set()  # folders whose names are durable
        self._unsynced: dict[Path, str] = {}  # folders in which a sync has failed, with the reason
        with self._faults():
            if not root.parent.is_dir():
                raise StoreRefused(f"{url}: there is no folder {root.parent}; create it, or mount the shared volume")
            self._folder(root / UNFINISHED)
            self._sweep()

    def append(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add an entry; see `Store.append`. The epoch is not looked at: a claim has taken the offset."""
        self._create(self._entry(shard, offset), data, f"shard {shard}, offset {offset}")

    def claim(self, shard: int, offset: int, epoch: int, data: bytes) -> None:
        """Add the first entry of an epoch; see `Store.claim`."""
        self.append(shard, offset, epoch, data)

    def extents(self, shard: int, start: int) -> list[Extent]:
        """Return the entries from `start` on; see `Store.extents`."""
        with self._faults():
            return extents_in(self._files(self._root / entries_of(shard)), start)

    def read(self, shard: int, extents: Sequence[Extent]) -> Iterator[bytes]:
        """Yield the bytes of entries; see `Store.read`."""
        for offset, size in extents:
            with self._faults():
                data = self._read(self._entry(shard, offset))
            if data is None or len(data) != size:
                seen = "is gone" if data is None else f"has {len(data)} bytes instead of {size}"
                raise StoreLost(f"{self.url}: the entry of shard {shard} at offset {offset} {seen}")
            yield data

    def trim(self, shard: int, before: int, keep: Set[int]) -> int:
        """Delete entries; see `Store.trim`."""
        offsets = [e.offset for e in self.extents(shard, 0) if e.offset < before and e.offset not in keep]
        with self._faults():
            for offset in offsets:
                self._entry(shard, offset).unlink(missing_ok=True)
            if offsets:
                self._leave(self._root / entries_of(shard))
        return len(offsets)

    def put(self, name: str, data: bytes) -> None:
        """Store a blob; see `Store.put`."""
        self._create(self._path(name), data, name)

    def note(self, name: str, data: bytes) -> None:
        """Write a note; see `Store.note`."""
        path = self._path(name)
        with self._faults():
            self._folder(path.parent)
            with self._unfinished(data) as written:
                written.replace(path)

    def get(self, name: str) -> bytes:
        """Return a blob or note; see `Store.get`."""
        with self._faults():
            data = self._read(self._path(name))
        if data is None:
            raise Missing(f"{self.url}: there is no {name}")
        return data

    def list(self, prefix: str) -> list[Listed]:
        """Return blobs and notes; see `Store.list`."""
        found = []
        with self._faults():
            for folder, folders, _ in os.walk(self._root / folder_of(prefix), onerror=_unless_missing):
                here = Path(folder).relative_to(self._root)
                if here == Path():
                    folders[:] = [name for name in folders if name not in (JOURNAL, UNFINISHED)]
                found += [Listed((here / word).as_posix(), size) for word, size in self._files(Path(folder))]
        return sorted(listed for listed in found if listed.name.startswith(prefix))

    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs or notes; see `Store.delete`."""
        with self._faults():
            for name in names:
                self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _path(self, name: str) -> Path:
        return self._root / checked(name)

    def _entry(self, shard: int, offset: int) -> Path:
        return self._root / entries_of(shard) / entry_name(offset)

    def _create(self, path: Path, data: bytes, what: str) -> None:
        """Create a file, durable with its name on return. Raises Conflict, naming `what`."""
        with self._faults():
            try:
                with self._unfinished(data) as written:
                    self._folder(path.parent)
                    os.link(written, path)
            except FileExistsError:
                if self._read(path) != data:
                    raise Conflict(f"{self.url}: {what} is taken by other bytes") from None
            self._sync_names(path.parent)  # also of a file found there: an earlier try may have ended before this

    @contextlib.contextmanager
    def _unfinished(self, data: bytes) -> Iterator[Path]:
        """Write a file, its content synced, and delete it afterwards."""
        path = self._root / UNFINISHED / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _folder(self, folder: Path) -> None:
        """Create a folder of the store and those above it, durable on return."""
        if folder in self._synced:
            return
        if folder != self._root:
            self._folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        self._sync_names(folder.parent)  # also if another made it: it may not have synced yet
        self._synced.add(folder)

    def _sweep(self) -> None:
        """Delete what processes that were killed have left unfinished."""
        oldest = time.time() - UNFINISHED_S
        for path in (self._root / UNFINISHED).iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _leave(self, folder: Path) -> None:
        """Delete a folder if nothing is left in it."""
        self._synced.discard(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()

    def _sync_names(self, folder: Path) -> None:
        """Make the names in a folder durable. Raises StoreRefused from the first failure on: a later sync would report
        success, and say nothing about the names that the first had lost."""
        if folder not in self._unsynced:
            fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            except OSError as error:
                self._unsynced[folder] = str(error.strerror)
            finally:
                os.close(fd)
        if (why := self._unsynced.get(folder)) is not None:
            raise StoreRefused(f"{self.url}: names in {folder} cannot be made durable: {why}; check the disk, restart")

    def _read(self, path: Path) -> bytes | None:
        """Return a file's bytes; None if there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def _files(self, folder: Path) -> Iterable[tuple[str, int]]:
        """Yield the names and sizes of the files in a folder; nothing if there is none."""
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    if entry.is_file():
                        yield entry.name, entry.stat().st_size

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn an OSError of the block into an error of the store."""
        try:
            yield
        except OSError as error:
            text = f"{self.url}: {error.strerror or error}"
            if error.errno == errno.ENOENT:
                self._synced.clear()  # a folder was deleted; the next try makes it again
            if error.errno in NOT_ALLOWED:
                remedy = "give the user of the server the right to write there, on a file system with hard links"
                raise StoreRefused(f"{text}; {remedy}") from error
            raise StoreUnavailable(text) from error


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
