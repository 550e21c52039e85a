"""Decide which trainer process learns a model; move checkpoints when the number of processes has changed.

The process of a model is a function of its name and the number of processes (rendezvous hashing: one more process moves
only the models that it gets). Each process has its own checkpoint file. A model's rows move between files unchanged, so
nothing is lost or learned twice: a model's progress is an offset in its records, and all files continue at the first
position that one of them needs. Models are moved before any trainer starts.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from service.common.names import ModelKey
from service.storage.database import DatabaseCorrupt
from service.storage.disk import sync_directory
from service.trainer.checkpoint import CheckpointInUse, Checkpoints

FILE = re.compile(r"trainer(?:-([1-9]\d*))?\.db")
ORPHAN_S = 10.0  # a trainer may outlive its server for a moment


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(asked: int | Literal["auto"], cores: int) -> int:
    """Return the number of trainers: as asked, or for `auto` one for each core but one, and at least one."""
    return max(1, cores - 1) if asked == "auto" else asked


def place(key: ModelKey, processes: int) -> int:
    """Return the process that learns the model, 0 .. processes - 1."""
    name = f"{key.tenant}/{key.name}".encode()
    weights = [blake2b(name, digest_size=8, salt=n.to_bytes(8, "little")).digest() for n in range(processes)]
    return max(range(processes), key=weights.__getitem__)


def checkpoint_file(process: int) -> str:
    """Return the name of a process's file."""
    return f"trainer-{process}.db" if process else "trainer.db"


def checkpoint_files(data: Path) -> dict[int, Path]:
    """Return the files in a data directory, by process."""
    found = ((FILE.fullmatch(path.name), path) for path in data.glob("trainer*.db"))
    return dict(sorted((int(match[1] or 0), path) for match, path in found if match))


def move(data: Path, processes: int, models: Mapping[int, ModelKey], whole: bool) -> int:
    """Move each model's rows into the file of its process; return the number of models moved.

    models: the existing models by number. whole: the journal is kept from its start. If killed, the move is completed
    by the next call. A damaged file is left to its process, which moves it aside. Raises CheckpointInUse,
    DatabaseRefused, NoSpace.
    """
    found = checkpoint_files(data)
    if not found or (processes == 1 and list(found) == [0]):
        return 0
    with ExitStack() as stack:
        stores = {n: store for n, path in found.items() if (store := _open(path, stack)) is not None}
        held = {n: store.held() for n, store in stores.items()}
        away = [(n, m) for n in held for m in held[n].models if m in models and place(models[m], processes) != n]
        starts = {n: its.position for n, its in held.items() if its.position is not None}
        missing = set(range(processes)) - set(starts) - (set(found) - set(held))
        if not starts or not (away or missing or set(found) - set(range(processes))):
            return 0
        start = min(starts.values())
        for n in starts:
            stores[n].set_position(start)
        known = {m for its in held.values() for m in its.models}
        for n in missing:
            if n not in stores:
                stores[n] = stack.enter_context(closing(Checkpoints(data / checkpoint_file(n))))
            # The models of a lost file are learned again from the journal's start, if that is kept.
            lost = [m for m, key in models.items() if m not in known and place(key, processes) == n]
            stores[n].set_position(0 if lost and whole else start)
        for n, m in away:
            target = place(models[m], processes)
            if target in stores:  # else it is damaged: the model moves at the next start, once there is a sound file
                stores[target].take_over(m, stores[n])
                stores[n].drop(m)
        empty = [found[n] for n in held if n >= processes and not set(stores[n].held().models) & set(models)]
    for path in empty:
        _remove(path)
    return len(away)


def _open(path: Path, stack: ExitStack) -> Checkpoints | None:
    """Open the file until the stack is closed; None if it is damaged. Raises CheckpointInUse, DatabaseRefused."""
    until = time.monotonic() + ORPHAN_S
    while True:
        try:
            return stack.enter_context(closing(Checkpoints(path)))
        except DatabaseCorrupt:
            return None
        except CheckpointInUse:
            if time.monotonic() > until:
                raise
            time.sleep(ORPHAN_S / 100)


def _remove(path: Path) -> None:
    """Delete a file whose models have moved. It was closed, so SQLite's log is empty."""
    for name in (path, path.with_suffix(".lock"), *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        name.unlink(missing_ok=True)
    sync_directory(path.parent)
