"""What a model consists of, as sha256 digests that do not depend on where it is: its number is left out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import Any

from service.cluster.moving.source import MovingRefused, Source
from service.common.names import ModelKey
from service.journal.records import renumbered
from service.storage.versions import Blobs

PAGE = 1000  # streams
ANY = 1  # number of every model in a digest

Digests = dict[tuple[ModelKey, str], str]  # by model and part, hex


def digests_of(source: Source, models: Iterable[int] | None = None) -> Digests:
    """Return the digests of models, by default all. A damaged file of a version counts as empty."""
    wanted = set(source.models if models is None else models)
    records = {model: hashlib.sha256() for model in wanted}
    for _, model, data in source.chunks(wanted):
        records[model].update(len(data).to_bytes(8))
        records[model].update(renumbered(data, ANY))
    found: Digests = {}
    for model in sorted(wanted):
        key = source.models[model]
        found[key, "records"] = records[model].hexdigest()
        found[key, "state"] = _digest([row for row in source.snapshot.models if row.model == model])
        found[key, "streams"] = _digest(_streams(source, model))
        found[key, "answers"] = _digest([block for block in source.snapshot.answers if block.model == model])
        found[key, "learned"] = _learned(source, model)
        found |= {(key, what): digest for what, digest in _versions(source, model)}
    return found


def lines(found: Digests) -> list[str]:
    """Return a line for each digest, sorted by model."""
    return [f"{digest}  {key.tenant}/{key.name}  {what}" for (key, what), digest in sorted(found.items())]


def compare(wanted: Digests, found: Digests, where: str) -> None:
    """Raise MovingRefused, naming the first difference, unless both are equal. where: what `found` was read from."""
    for key, what in sorted(wanted.keys() | found.keys()):
        if wanted.get((key, what)) != found.get((key, what)):
            raise MovingRefused(
                f"{where}: model {key.tenant}/{key.name}: {what}: sha256 {found.get((key, what), 'missing')}, expected "
                f"{wanted.get((key, what), 'none')}; do not use it"
            )


def _digest(rows: Iterable[Any]) -> str:
    """Return the digest of rows whose first column is the model's number."""
    digest = hashlib.sha256()
    for row in rows:
        values = astuple(row) if not isinstance(row, tuple) else row
        for value in values[1:]:
            data = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(len(data).to_bytes(8))
            digest.update(data)
        digest.update(b"\n")
    return digest.hexdigest()


def _streams(source: Source, model: int) -> Iterator[Any]:
    after = ""
    while page := source.states.page(model, after, PAGE):
        yield from page
        after = page[-1].id


def _learned(source: Source, model: int) -> str:
    """Return the digest of a trainer's rows: weights, optimizer, contexts, quarantine."""
    checkpoints = source.learned(model)
    tables = checkpoints.rows(model) if checkpoints else {}
    return hashlib.sha256("".join(_digest(tables[name]) for name in sorted(tables)).encode()).hexdigest()


def _versions(source: Source, model: int) -> Iterator[tuple[str, str]]:
    """Yield a digest for each version, of its facts and files, and one for the numbers used and pinned."""
    versions = source.versions
    for version in sorted(versions.list(model), key=lambda version: version.number):
        intact = versions.intact(model, version.number)
        files = [hashlib.sha256(intact.get(name, b"")).hexdigest() for name in Blobs._fields]
        yield f"version {version.number:06d}", _digest([(astuple(version)[1:], *files)])
    facts = [versions.last_number(model), sorted(versions.pinned(model))]
    yield "numbers", hashlib.sha256(json.dumps(facts).encode()).hexdigest()
