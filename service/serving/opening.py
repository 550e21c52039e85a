"""Opening, closing, putting, resetting and deleting streams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import structlog
from numpy.typing import NDArray

from service.common.dates import as_date
from service.common.errors import Exhausted, Invalid, NotFound
from service.common.names import Origin
from service.journal.records import Reset, StateDelete, StatePut, StreamOpened
from service.observe.server_metrics import StorageMetrics
from service.observe.serving_metrics import ServingMetrics
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.streams.residency import Residency
from service.streams.sequence import too_far_ahead
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import ABSENT

log = structlog.get_logger("serving")

Array = NDArray[np.float32]


class Opening:
    """Journals what happens to whole streams. Every method runs to its end on the event loop.

    A stream that is stored must be in memory first: see `Residency.bring`.
    """

    def __init__(
        self,
        max_streams: int,
        catalog: Catalog,
        admission: Admission,
        residency: Residency,
        metrics: ServingMetrics,
        storage: StorageMetrics,
        clock: Callable[[], float],
    ) -> None:
        """max_streams: known streams of all models together; clock: monotonic seconds."""
        self._max_streams, self._catalog, self._admission = max_streams, catalog, admission
        self._residency, self._metrics, self._storage, self._clock = residency, metrics, storage, clock

    def check_id(self, id: str) -> None:
        """Raise Invalid for a string that cannot name a stream."""
        if not 1 <= len(id) <= 256 or not id.isprintable():
            raise Invalid("stream", id, "give 1 to 256 printable characters")

    def open(self, model: ServedModel, id: str, owner: int = 0, pinned: bool = True) -> tuple[Session, Origin]:
        """Open a stream, creating it if it is new, and fence its former owner. Returns it and its state's origin.

        owner: from `Owners.add`, 0: none. pinned: the stream stays in memory while it is open. Raises Invalid,
        Unavailable, Exhausted, NotFound.
        """
        self._admission.check_open()
        check_answers(model)
        self.check_id(id)
        t, row = model.table, model.table.by_id.get(id, ABSENT)
        if row == ABSENT:
            self._check_room(model, id)
            number, epoch = model.next_number(), 1
        else:
            number, epoch = int(t.number[row]), int(t.epoch[row]) + 1
        self._catalog.record(model, StreamOpened(number, id, epoch))
        row = t.row_of(number)
        former = int(t.owner[row])
        t.owner[row], t.pinned[row], t.touched[row] = owner, pinned, self._clock()
        if former:
            model.owners.lose(former)
        self._catalog.report_streams(model)
        origin = Origin(int(t.origin[row]))
        self._metrics.opened.labels(origin.name.lower()).inc()
        if origin is Origin.LOST:
            self._storage.corrupt.labels("stream").inc()
            log.error("the state of a stream is lost; its client is notified", model=model.name, stream=id)
        return Session(model, row), origin

    def _check_room(self, model: ServedModel, id: str) -> None:
        """Raise Exhausted if the server, or the model's tenant, may have no other stream."""
        totals = self._catalog.totals
        if totals.streams >= self._max_streams:
            raise Exhausted("stream", id, f"the server holds {self._max_streams} streams, its limit", retry_s=60)
        self._admission.tenants.of(model.tenant).check_streams(totals.streams_of(model.tenant), id)

    def close(self, model: ServedModel, owner: int) -> None:
        """Release all streams of an owner whose call has ended."""
        model.owners.remove(owner)
        self._residency.look_at(model)
        self._catalog.report_streams(model)

    def delete(self, model: ServedModel, id: str) -> None:
        """Delete a stream and fence its owner. Its number is not used again. Raises NotFound."""
        row = model.table.by_id.get(id, ABSENT)
        if row == ABSENT:
            raise NotFound("stream", id, "no such stream in this model")
        owner = int(model.table.owner[row])
        self._catalog.record(model, StateDelete(int(model.table.number[row])))
        if owner:
            model.owners.lose(owner)
        self._catalog.report_streams(model)

    def put(self, model: ServedModel, id: str, epoch: int, last_seq: int, last_time: float, state: Array) -> Session:
        """Make a stream with this state, replacing one of the same id. state: [S], copied.

        Raises Invalid if the last time is so far ahead of the clock that no later tick would be accepted; Exhausted.
        """
        check_answers(model)
        if last_time > (latest := self._admission.latest_time(last_time)):
            raise Invalid("stream.last_time", as_date(last_time), too_far_ahead(last_time, latest))
        if id in model.table.by_id:
            epoch = max(epoch, int(model.table.epoch[model.table.by_id[id]]))
            self.delete(model, id)
        else:
            self._check_room(model, id)
        number = model.next_number()
        self._catalog.record(model, StreamOpened(number, id, epoch + 1))
        self._catalog.record(model, StatePut(number, last_seq, last_time, state))
        row = model.table.row_of(number)
        model.table.touched[row] = self._clock()
        self._catalog.report_streams(model)
        return Session(model, row)

    def reset(self, model: ServedModel, session: Session) -> None:
        """Reset a stream's state to zeros. A fresh state needs no record, so repeating this writes nothing."""
        if session.origin is not Origin.FRESH:
            self._catalog.record(model, Reset(session.number))


def check_answers(model: ServedModel) -> None:
    """Raise Invalid for a shadow, which answers no calls, and for a model whose slices do."""
    if model.slices.count:
        remedy = f"its streams are served by {model.slices.count} slices: name a stream, so that its slice is found"
        raise Invalid("model", model.name, remedy)
    if source := model.spec.shadow:
        remedy = (
            f"it is a shadow of model {source}: send ticks to {source}, or end that with Models.Update, shadow = ''"
        )
        raise Invalid("model", model.name, remedy)
