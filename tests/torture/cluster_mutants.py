"""A mutant for each safety check of a shard over a store: without the check, a named scenario must turn red."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from service.cluster.shards import cache
from service.cluster.shards.opening import Prepared, open_shard
from service.cluster.shards.shared_log import SharedLog
from service.cluster.shards.tail import ClaimAt
from service.cluster.store.directory import Directory
from service.cluster.store.seam import Conflict, Extent
from service.journal.records import Paused, Resumed
from service.journal.writer import JournalFailed
from tests.cluster import shard_world
from tests.cluster.faulty import Faulty
from tests.cluster.shard_world import shard
from tests.cluster.test_claims import OTHER, some_ticks
from tests.cluster.test_shards import NamedFirst, named_versions, stored
from tests.cluster.test_shared_log import NewBytes, entries, journal_of
from tests.torture.mutants import Mutant


def a_store(folder: Path) -> Faulty:
    """A store in a folder, whose faults a scenario chooses."""
    return Faulty(Directory(f"file://{folder / 'store'}", folder / "store"))


# ---- the scenarios


async def a_former_owner_acknowledges_nothing(folder: Path) -> None:
    store = a_store(folder)
    async with shard(store, folder / "one") as one:
        await some_ticks(one)
        other = await asyncio.to_thread(open_shard, store, 3, folder / "two", OTHER)
        other.log.close()
        journal = one.server.journal
        journal.append(1, Paused())
        with contextlib.suppress(JournalFailed):
            await journal.flush()
            raise AssertionError("a former owner acknowledged an entry")


async def what_is_acknowledged_is_in_the_store(folder: Path) -> None:
    store = a_store(folder)
    async with journal_of(store, folder / "one") as journal:
        for n in range(3):
            journal.append(1, Paused())
            await journal.flush()
            assert len(entries(store)) == n + 1, "acknowledged, and not in the store"


async def a_write_without_an_answer_is_repeated_as_it_was(folder: Path) -> None:
    store = a_store(folder)
    async with journal_of(store, folder / "one") as journal:
        store.errors_after["append"] = 3
        journal.append(1, Paused())
        await journal.flush(unless_full=True)
        journal.append(1, Resumed())
        try:
            await journal.flush()
        except JournalFailed as error:
            raise AssertionError("an owner took its own entry for another's") from error


async def a_version_that_the_journal_names_is_in_the_store(folder: Path) -> None:
    store = a_store(folder)
    async with shard(store, folder / "one") as one:
        model = await one.model()
        store.down = lambda operation: operation == "put"
        await one.publish(model, 1)
        await one.server.journal.flush()
        assert named_versions(store).keys() <= stored(store), "the next owner finds a name without its blob"


# ---- the mutants


def claimed_in_memory(self: Prepared, node: str, epoch: int) -> ClaimAt:
    return ClaimAt(epoch, node, Extent(self.log.end, 1))


def fenced_in_memory(self: SharedLog, frames: bytes) -> None:
    """Append as an owner that trusts what it remembers of its epoch."""
    with contextlib.suppress(Conflict):
        _APPEND(self, frames)
    self.lost = None


_APPEND = SharedLog._append
MUTANTS = (
    Mutant("no claim frame", Prepared, "_offer", claimed_in_memory, a_former_owner_acknowledges_nothing),
    Mutant("epoch checked only in memory", SharedLog, "_append", fenced_in_memory, a_former_owner_acknowledges_nothing),
    Mutant("ack before the store", SharedLog, "_append", lambda *_: None, what_is_acknowledged_is_in_the_store),
    Mutant("retry with new bytes", cache, "SharedLog", NewBytes, a_write_without_an_answer_is_repeated_as_it_was),
    Mutant("versions named before they are written", shard_world, "SharedVersions", NamedFirst,
           a_version_that_the_journal_names_is_in_the_store),
)  # fmt: skip
