"""The list of models: those of this process as they are seen here, those of other nodes as they report them."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from freshet.v1 import models_pb2
from service.common.limits import MAX_REPLY_BYTES
from service.edge.guard.security import caller
from service.edge.parts import Parts, Places
from service.streams.served import ServedModel
from service.viewing.looks import Viewing

Json = dict[str, Any]
ROOM = MAX_REPLY_BYTES // 2  # bytes of names in a page; the rest is for figures
FIGURES = 1024  # bytes of a model's figures, about
NAMES = ("channels", "targets")
SOME = 64  # names of a model that has too many


class Hop:
    """What other nodes are asked with: the token of the caller."""

    def __init__(self, authorization: str | None) -> None:
        self._metadata = (("authorization", authorization),) if authorization else ()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a gRPC call of the caller would have."""
        return self._metadata


async def models_of(
    places: Places, viewing: Viewing, authorization: str | None, after: str, limit: int, match: str
) -> Json:
    """Return a page of the caller's models, by name: {"models", "next"}. match: part of a name.

    after: the last name of the page before; "": the first page. Thousands of channels make a page shorter; of a model
    that would not fit a reply, the first ones are listed.
    """
    elsewhere = {message.name: message for message in await places.elsewhere(Hop(authorization))}
    here = {
        model.name: (parts, model)
        for parts in places.here()
        for model in parts.catalog.models.values()
        if model.tenant == caller().tenant and not model.slices.part and model.name not in elsewhere
    }
    names = sorted(name for name in here.keys() | elsewhere.keys() if name > after and match in name)
    found: list[Json] = []
    room = ROOM
    for name in names[:limit]:
        made = reported(elsewhere[name]) if name in elsewhere else _seen(viewing, *here[name])
        if (size := _size(made)) > ROOM:
            made |= {field: list(made[field])[:SOME] for field in NAMES}
            size = _size(made)
        room -= size
        if found and room < 0:
            break
        found.append(made)
        await asyncio.sleep(0)  # a thousand models take a while
    return {"models": found, "next": names[len(found) - 1] if len(found) < len(names) else ""}


def _size(made: Json) -> int:
    """Return about how many bytes a model takes in JSON."""
    return FIGURES + sum(len(json.dumps(each)) + 1 for field in NAMES for each in made[field])


def _seen(viewing: Viewing, parts: Parts, model: ServedModel) -> Json:
    return viewing.model(parts.seen, model)


def reported(message: models_pb2.Model) -> Json:
    """Return MODEL of what another node reports: without the shares of experts, which it leaves out."""
    spec, report = message.spec, message.report
    return {
        "name": message.name,
        "task": spec.task,
        "cell": spec.cell,
        "layers": spec.layers,
        "hidden": spec.hidden,
        "horizon": spec.horizon,
        "channels": list(spec.channels),
        "targets": list(spec.targets) or list(spec.channels),
        "intervals": list(spec.intervals),
        "champion": message.champion,
        "anchor": message.anchor,
        "paused": message.paused,
        "streams": message.streams,
        "streams_open": report.streams_open,
        "offset": message.offset,
        "judged_offset": message.judged_offset,
        "loss": report.loss if report.HasField("loss") else math.nan,
        "persistence_loss": report.persistence_loss if report.HasField("persistence_loss") else math.nan,
        "ticks": report.ticks,
        "learned": report.learned_labels,
        "backlog": report.backlog,
        "learn_every": report.learn_every,
        "published": report.published,
        "vetoed": report.vetoed,
        "rolled_back": report.rolled_back,
        "published_time": report.published_time,
        "unjudged_seconds": report.unjudged_seconds,
        "shadow": spec.shadow,
        "experts": {},
        "node": message.node,
    }
