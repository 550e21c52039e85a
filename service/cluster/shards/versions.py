"""Versions of a shard: each is a blob in the store, named in the journal, before anything can refer to it."""

from __future__ import annotations

import asyncio
import os
import threading

from service.cluster.shards import bundles, names
from service.cluster.shards.opening import OpenedShard, again
from service.cluster.shards.tail import PIN, RETURNING, VERSION, fact, named
from service.cluster.store.seam import StoreUnavailable
from service.journal.records import SHARD, Stored
from service.journal.writer import Journal
from service.storage.disk import Unreachable
from service.storage.versions import Blobs, Version, Versions


class SharedVersions(Versions):
    """The version file of a shard. Numbers and pins are as lasting as the journal."""

    def __init__(self, path: str | os.PathLike[str], opened: OpenedShard) -> None:
        """Open or create the file. Raises DatabaseRefused. `attach` it before the first `add`."""
        super().__init__(path)
        self._store, self._shard, self._epoch = opened.store, opened.shard, opened.epoch
        self._journal: Journal | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._unnamed: set[tuple[int, int]] = set()  # by model and number: in the file, and not in the journal
        # Versions since the last image: blobs, and the position after the record that names each; None: none yet.
        self._blobs: dict[str, int | None] = {}
        for position, record in opened.facts.stored:
            if record.what == VERSION:
                self._blobs[record.blob] = position

    def attach(self, journal: Journal, loop: asyncio.AbstractEventLoop) -> None:
        """Name versions in this journal, which runs in this loop."""
        self._journal, self._loop = journal, loop

    def add(
        self,
        version: Version,
        onnx: bytes,
        weights: bytes,
        canary: bytes,
        *,
        pinned: bool = False,
        returning: bool = False,
    ) -> int:
        """Store a version; see `Versions.add`. It is in the store, and named by a durable record, on return.

        In a thread. Raises also Unreachable: the same version may be added again, and keeps its number; JournalFailed.
        """
        held = {known.number for known in self.list(version.model)}
        number = super().add(version, onnx, weights, canary, pinned=pinned, returning=returning)
        key = version.model, number
        with self._lock:
            if number not in held:
                self._unnamed.add(key)
            is_named = key not in self._unnamed
        if is_named:
            if pinned:
                self._record(_pin(*key))
            return number
        data = bundles.pack(self.get(*key), Blobs(onnx, weights, canary), pinned)
        word = names.blob_word(self._epoch, data)
        with self._lock:
            self._blobs[word] = None  # before it is stored: it is never taken for garbage
        try:
            again(lambda: self._store.put(names.blobs(self._shard) + word, data))
        except StoreUnavailable as error:
            raise Unreachable(str(error)) from error
        facts = {"model": version.model, "number": number} | ({RETURNING: True} if returning else {})
        position = self._record(named(VERSION, word, facts), durable=True)
        with self._lock:
            self._blobs[word] = position
            self._unnamed.discard(key)
        return number

    def pin(self, model: int, number: int) -> None:
        """Keep a version for good; see `Versions.pin`. The record precedes any that the caller appends later."""
        super().pin(model, number)
        if self._journal is not None:  # else it is recovery that pins: the next recovery does so again
            self._record(_pin(model, number))

    def needed_after(self, position: int) -> set[str]:
        """Return the blobs of versions that are named after `position`, or not yet; forget the others."""
        with self._lock:
            self._blobs = {word: at for word, at in self._blobs.items() if at is None or at > position}
            return set(self._blobs)

    def _record(self, record: Stored, durable: bool = False) -> int:
        """Append a record, and wait until it is durable if asked; return a position after it, 0 if it did not wait."""
        journal, loop = self._journal, self._loop
        if journal is None or loop is None:
            raise RuntimeError(f"shard {self._shard}: attach a journal before versions are added")

        async def append() -> int:
            journal.append(SHARD, record)
            if not durable:
                return 0
            await journal.flush(unless_full=True)
            if journal.no_space:
                raise journal.no_space
            return journal.durable_position

        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(append(), loop).result()
        if running is not loop or durable:
            raise RuntimeError(f"shard {self._shard}: a version is added in a thread, not in the event loop")
        journal.append(SHARD, record)
        return 0


def _pin(model: int, number: int) -> Stored:
    return fact(PIN, {"model": model, "number": number})
