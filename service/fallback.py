"""Versions whose files are damaged: made again from their weights, to the bit, or done without, which is recorded."""

from __future__ import annotations

from hashlib import sha256

import structlog

from service import events as ev
from service.engine import BadVersion, StepSession
from service.export import Canary, export, read_weights
from service.records import Rollback
from service.serving import Serving
from service.sessions import Sessions
from service.storage.versions import Blobs, VersionCorrupt, VersionMissing

log = structlog.get_logger("versions")

Unreadable = VersionCorrupt | VersionMissing | BadVersion


def load(serving: Serving, model: Sessions, number: int) -> StepSession:
    """A version's session, compared with its recorded answers; a damaged graph is made again from intact weights.

    Raises VersionCorrupt, VersionMissing, BadVersion.
    """
    intact = serving.versions.intact(model.number, number)
    if "onnx" not in intact or "canary" not in intact:
        if "weights" not in intact or not _mend(serving, model, number, intact["weights"]):
            serving.versions.blobs(model.number, number)  # says what is damaged
        serving.metrics.corrupt.labels("version").inc()
        log.error("a damaged version was made again from its weights", model=model.name, version=number)
        intact = serving.versions.intact(model.number, number)
    session, _ = serving.engine.prepare(intact["onnx"], Canary.unpack(intact["canary"]))
    return session


def _mend(serving: Serving, model: Sessions, number: int, weights: bytes) -> bool:
    """Equal weights give equal files: whether these gave the graph that was published."""
    flat = read_weights(model.network, weights)
    made = export(model.network, model.network.weights(flat))
    if sha256(made.onnx).hexdigest() != serving.versions.get(model.number, number).digest:
        return False
    serving.versions.mend(model.number, number, Blobs(made.onnx, weights, made.canary))
    return True


def roll_back_to_readable(serving: Serving, model: Sessions, why: Unreadable) -> None:
    """At start: the champion cannot be read, so the newest version before it that can serves, by record.

    Raises what the champion raised where there is none.
    """
    for version in serving.versions.list(model.number):
        if version.number >= model.champion:
            continue
        try:
            session = load(serving, model, version.number)
        except (VersionCorrupt, VersionMissing, BadVersion) as error:
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
