"""The file of a backup: a plain tar, read more strictly than by tar.

    head.json (format and time), the files, manifest.json (size and sha256 of each file)

Of a cluster, the files of each shard are in a directory of its own. The manifest comes last, so that the file is
written in one pass, and a truncated one has none. Only files as `Writer` writes them are accepted: plain, with expected
names, each once. A link, a sparse file, an extended header, or a path to another directory is refused before anything
of it is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from service.storage.disk import needing_space

FORMAT_VERSION = 1
HEAD, MANIFEST = "head.json", "manifest.json"
NAMES = re.compile(r"(states|trainer(-[1-9]\d{0,3})?|versions)\.db|journal/\d{20}\.journal")
OF_SHARDS = re.compile(rf"shard-\d{{3}}/({NAMES.pattern})")
MOST_SHARDS = 256
BLOCK = tarfile.BLOCKSIZE
COPY_BYTES = 1 << 20
LAST = 2**40  # seconds since 1970: later times are refused
MOST_JSON_BYTES = 64 << 20  # of the manifest: half a million segments

OnBytes = Callable[[int], None]  # called with the bytes written since its last call


class ArchiveRefused(RuntimeError):
    """The file is not a complete backup of this format. The text names it, the fault and the remedy."""


class Entry(NamedTuple):
    """A file of a backup."""

    bytes: int
    sha256: str  # hex


class Head(NamedTuple):
    """When a backup was made, and of what."""

    created: int  # seconds since 1970-01-01 UTC
    position: int  # of the journal, where it ends; of a cluster 0
    shards: int = 0  # of a cluster; 0: a single server's data directory


class Writer:
    """Writes a backup to a file that is open for writing. It is complete when `close` has returned. Raises NoSpace."""

    def __init__(self, file: BinaryIO, head: Head) -> None:
        self._file, self._created, self._entries = file, head.created, dict[str, Entry]()
        facts = {name: value for name, value in head._asdict().items() if value or name != "shards"}
        self._add_json(HEAD, {"format": FORMAT_VERSION, **facts})

    def add(self, name: str, size: int, source: BinaryIO, on_bytes: OnBytes) -> None:
        """Add a file with `size` bytes of `source`. Raises OSError if there are fewer."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, self._created, 0o600
        with needing_space(name):
            self._file.write(info.tobuf(tarfile.GNU_FORMAT))
            self._entries[name] = _copy(source, self._file, size, on_bytes)
            self._file.write(bytes(-size % BLOCK))

    def close(self) -> None:
        """Write the manifest and the end of the tar; the file itself stays open."""
        self._add_json(MANIFEST, {name: entry._asdict() for name, entry in self._entries.items() if name != HEAD})
        with needing_space(MANIFEST):
            self._file.write(bytes(2 * BLOCK))
            self._file.flush()

    def _add_json(self, name: str, value: object) -> None:
        data = json.dumps(value, indent=1).encode()
        self.add(name, len(data), io.BytesIO(data), lambda written: None)


def _copy(source: BinaryIO, target: BinaryIO, size: int, on_bytes: OnBytes) -> Entry:
    """Copy `size` bytes and return their digest. Raises OSError if there are fewer."""
    digest, left = hashlib.sha256(), size
    while left:
        data = source.read(min(left, COPY_BYTES))
        if not data:
            raise OSError(f"{left} bytes of {size} are missing")
        digest.update(data)
        target.write(data)
        on_bytes(len(data))
        left -= len(data)
    return Entry(size, digest.hexdigest())


def unpack(path: Path, directory: Path, on_bytes: OnBytes, *, cluster: bool = False) -> Head:
    """Write the files of a backup into an empty directory, and compare them with its manifest.

    cluster: expect one of a cluster, not of a single server. Raises ArchiveRefused, NoSpace, OSError; files written
    until then stay.
    """
    with path.open("rb") as file:
        return _Reader(path, file).unpack(directory, on_bytes, cluster)


def read_head(path: Path) -> Head:
    """Return the head of a backup. Raises ArchiveRefused, OSError."""
    with path.open("rb") as file:
        return _Reader(path, file).head()


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._size = os.fstat(file.fileno()).st_size

    def head(self) -> Head:
        return self._head(self._members())

    def unpack(self, directory: Path, on_bytes: OnBytes, cluster: bool) -> Head:
        members = self._members()
        head = self._head(members)
        if bool(head.shards) != cluster:
            what = "a cluster: restore it with --store" if head.shards else "a single server: restore it with --data"
            raise ArchiveRefused(f"{self._path}: is a backup of {what}")
        names = OF_SHARDS if cluster else NAMES
        found: dict[str, Entry] = {}
        for name, size in members:
            if name == MANIFEST:
                self._compare(self._json(MANIFEST, size), found)
                return head
            if not names.fullmatch(name) or name in found:
                raise self._refused(
                    f"holds {name!r}, which is not part of a backup" if name not in found else f"{name} twice"
                )
            found[name] = self._extract(size, directory / name, on_bytes)
        raise self._refused("ends before its manifest: it is cut off")

    def _head(self, members: Iterator[tuple[str, int]]) -> Head:
        name, size = next(members, ("", 0))
        if name != HEAD:
            raise self._refused("is not a backup of freshet")
        head = self._json(HEAD, size)
        match head:
            case {"format": int(version)} if version != FORMAT_VERSION:
                raise ArchiveRefused(
                    f"{self._path}: written in backup format {version}, this version of freshet reads format "
                    f"{FORMAT_VERSION}; restore it with the version that wrote it"
                )
            case {"format": int(), "created": int(created), "position": int(position), **more} if 0 <= created < LAST:
                match more.get("shards", 0):
                    case int(shards) if 0 <= shards <= MOST_SHARDS:
                        return Head(created, position, shards)
        raise self._refused(f"{HEAD} is damaged")

    def _members(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of each member, with the file at its bytes; the caller reads them before the next one."""
        while True:
            at = self._file.tell()
            block = self._file.read(BLOCK)
            if not block.strip(b"\0"):
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
                raise self._refused(f"byte {at}: {error}") from error
            if info.type != tarfile.REGTYPE:
                raise self._refused(f"{info.name!r} is not a plain file")
            if not 0 <= info.size <= self._size - self._file.tell():
                raise self._refused(f"{info.name} has {info.size} bytes, more than are left in the file")
            yield info.name, info.size
            self._file.seek(-self._file.tell() % BLOCK, os.SEEK_CUR)

    def _json(self, name: str, size: int) -> object:
        if size > MOST_JSON_BYTES:
            raise self._refused(f"{name} has {size} bytes, more than {MOST_JSON_BYTES}")
        try:
            return json.loads(self._file.read(size))
        except (ValueError, RecursionError) as error:
            raise self._refused(f"{name} is damaged: {error}") from error

    def _extract(self, size: int, target: Path, on_bytes: OnBytes) -> Entry:
        """Copy the member at the file's position; durable on return."""
        target.parent.mkdir(0o700, parents=True, exist_ok=True)
        with target.open("xb") as copy:
            with needing_space(str(target)):
                entry = _copy(self._file, copy, size, on_bytes)
                copy.flush()
            os.fsync(copy.fileno())
        return entry

    def _compare(self, manifest: object, found: dict[str, Entry]) -> None:
        listed = manifest if isinstance(manifest, dict) else {}
        for name in sorted(listed.keys() | found.keys()):
            if name not in found:
                raise self._refused(f"{name} is missing")
            if listed.get(name) != found[name]._asdict():
                raise self._refused(f"{name} is not as it was written: its sha256 is {found[name].sha256}")

    def _refused(self, what: str) -> ArchiveRefused:
        return ArchiveRefused(f"{self._path}: {what}. Nothing was restored; use another backup")
