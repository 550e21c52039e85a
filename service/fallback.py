"""Versions whose files are damaged: made again from their weights, to the bit, or done without, which is recorded."""

from __future__ import annotations

import structlog

from service import events as ev
from service.engine import BadVersion, StepSession
from service.export import Canary, export, read_weights
from service.records import Rollback
from service.serving import Serving
from service.sessions import Sessions
from service.storage.versions import Blobs, Version, VersionCorrupt, VersionMissing

log = structlog.get_logger("versions")

UNREADABLE = VersionCorrupt, VersionMissing, BadVersion


def load(serving: Serving, model: Sessions, number: int) -> StepSession:
    """A version's session, compared with its recorded answers; a damaged graph is made again from intact weights.

    Raises UNREADABLE.
    """
    intact = serving.versions.intact(model.number, number)
    if "onnx" not in intact or "canary" not in intact:
        made = _made_again(model, serving.versions.get(model.number, number), intact.get("weights"))
        if made is None:
            made = serving.versions.blobs(model.number, number)  # raises: it says what is damaged
        serving.versions.mend(model.number, number, made)
        serving.metrics.corrupt.labels("version").inc()
        log.error("a damaged version was made again from its weights", model=model.name, version=number)
        intact = made._asdict()
    session, _ = serving.engine.prepare(intact["onnx"], Canary.unpack(intact["canary"]))
    return session


def _made_again(model: Sessions, version: Version, weights: bytes | None) -> Blobs | None:
    """A version's files from its intact weights, if there are: equal weights give equal files. None: not these."""
    if weights is None:
        return None
    made = export(model.network, model.network.weights(read_weights(model.network, weights)))
    return Blobs(made.onnx, weights, made.canary) if made.digest.hex() == version.digest else None


def roll_back_to_readable(serving: Serving, model: Sessions, why: Exception) -> None:
    """At start: the champion cannot be read, so the newest version before it that can serves, by record.

    Raises what the champion raised where there is none.
    """
    for version in serving.versions.list(model.number):
        if version.number >= model.champion:
            continue
        try:
            session = load(serving, model, version.number)
        except UNREADABLE as error:
            log.error("nor can this version be read", model=model.name, version=version.number, why=str(error))
            continue
        reason = f"version {model.champion} cannot be read: {why}"
        log.error("an older version serves", model=model.name, version=version.number, why=reason)
        offset = serving.journal.offset(model.number)
        serving.versions.pin(model.number, version.number)
        serving.record(model, Rollback(version.number, offset, bytes.fromhex(version.digest), reason))
        serving.engine.install(model.number, version.number, session)
        serving.metrics.corrupt.labels("version").inc()
        serving.emit(model, ev.ROLLED_BACK, offset, version.number, reason)
        return
    raise why
