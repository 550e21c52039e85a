"""Bring a stopped server's data directory into an empty store: each model to the shard that nodes look for it on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from service.cluster.moving.copying import numbered
from service.cluster.moving.digests import Digests, compare, digests_of
from service.cluster.moving.filling import digests_in, fill, make_empty
from service.cluster.moving.source import MovingRefused, Source, reading
from service.cluster.nodes.agreed import filling
from service.cluster.nodes.placing import shard_of
from service.cluster.store.seam import Store
from service.common.names import ModelKey
from service.streams.specs import unpack_specs


class Moved(NamedTuple):
    """What was moved or copied."""

    digests: Digests
    models: int
    shards: int  # with models


def import_directory(data: Path, store: Store, shards: int, again: bool = False) -> Moved:
    """Bring all models of a data directory into an empty store as a cluster of `shards`; the directory stays as it is.

    What the store has afterwards is read back and compared before a node may use it. again: remove what an unfinished
    import has left in the store. Raises MovingRefused; as `reading`; StoreUnavailable, Unreachable.
    """
    data = data.resolve()
    with TemporaryDirectory(prefix=".freshet-", dir=data.parent) as folder:
        work = Path(folder)
        (work / "databases").mkdir()
        with reading(data, work / "databases") as source:
            places = {model: shard_of(key, shards) for model, key in source.models.items()}
            _check_shadows(source, places)
            make_empty(store, again)
            wanted = digests_of(source)
            with filling(store, shards):
                for shard in sorted(set(places.values())):
                    models = [model for model, place in places.items() if place == shard]
                    (work / f"{shard:03d}").mkdir()
                    fill(store, shard, numbered([(source, models)]), work / f"{shard:03d}")
                compare(wanted, digests_in(store, shards, data.parent), store.url)
        return Moved(wanted, len(places), len(set(places.values())))


def _check_shadows(source: Source, places: dict[int, int]) -> None:
    """Raise MovingRefused for a shadow that would not be on the shard of its source, whose ticks it learns from."""
    by_key = {key: model for model, key in source.models.items()}
    for model, text in source.specs.items():
        key, (spec, _) = source.models[model], unpack_specs(text)
        other = by_key.get(ModelKey(key.tenant, spec.shadow)) if spec.shadow else None
        if other is not None and places[model] != places[other]:
            raise MovingRefused(
                f"{source.folder}: model {key.name} is a shadow of {spec.shadow}, and their names belong to the shards "
                f"{places[model]} and {places[other]}: delete it, or end that with freshet models set {key.name} "
                "shadow="
            )
