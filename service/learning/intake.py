"""Validate and journal labels and windows, and tell each call how far they are durable or learned.

Nothing awaits between a check and its record (R3): what is checked is a label's place after its tick, and a window's
place after the one before it.
"""

from __future__ import annotations

from collections.abc import Callable

from service.common.errors import NotFound, Reason, Refusal, shown
from service.journal.records import Label, Window
from service.journal.writer import Commit, Journal
from service.learning.labels import Array, RawWindow, Shape, check_label, check_window
from service.observe.serving_metrics import IntakeMetrics
from service.serving.admission import Admission
from service.serving.catalog import Catalog
from service.streams.served import ServedModel
from service.streams.session import Session
from service.streams.table import ABSENT


class Intake:
    """Accepts labels and windows of all calls. All methods are synchronous, on the event loop."""

    def __init__(self, catalog: Catalog, admission: Admission, journal: Journal, metrics: IntakeMetrics) -> None:
        self._catalog, self._admission, self._journal, self._metrics = catalog, admission, journal, metrics
        self._learned: dict[int, int] = {}  # by model: journal entries that the trainer has learned, as last reported
        self._waiting: dict[int, set[Callable[[], None]]] = {}  # by model: calls to wake
        self._owners: dict[tuple[int, str], object] = {}  # by model and source: the call that sends its windows
        self._shapes: dict[int, Shape] = {}
        journal.on_commit.append(self._committed)
        catalog.on_removed.append(self._removed)

    def shape(self, model: ServedModel) -> Shape:
        """Return what the model's labels and windows must conform to."""
        if model.number not in self._shapes:
            self._shapes[model.number] = Shape.of(model.network)
        return self._shapes[model.number]

    def label(self, model: ServedModel, stream: str, seq: int, y: Array) -> int | Refusal:
        """Journal a label for a tick of a stream of the model; return the model's offset just after it, or a refusal.

        y: [O], copied. A stream that exists must be in memory. Raises Unavailable, NotFound, JournalFailed.
        """
        self.check_open(model)
        row = model.table.by_id.get(stream, ABSENT)
        session = None if row == ABSENT else Session(model, row)
        if model.slices.count:
            remedy = f"model {model.name} has slices: send the label in its stream's own call, Streams.Open"
            return self._refused(Refusal(seq, Reason.UNSUPPORTED, "label.stream", shown(stream), remedy))
        if session is None and model.spec.task != "forecast":
            remedy = f"model {model.name} has no such stream: send its ticks first"
            refusal: Refusal | None = Refusal(seq, Reason.UNKNOWN_TICK, "label.stream", shown(stream), remedy)
        else:
            refusal = check_label(self.shape(model), seq, y, session.last_seq if session else 0)
        if refusal or session is None:
            assert refusal is not None
            return self._refused(refusal)
        offset = self._catalog.record(model, Label(session.number, seq, y))
        self._metrics.of(model.key).accepted_labels.inc()
        return offset

    def window(self, model: ServedModel, source: str, raw: RawWindow) -> int | Refusal:
        """Journal a window unless it is repeated; return the model's offset at which it is durable, or a refusal.

        Raises Unavailable, NotFound, JournalFailed; Exhausted for the first window of a source above the limit.
        """
        self.check_open(model)
        repeated = model.sources.repeated(source, raw.seq)
        if isinstance(repeated, Refusal):
            return self._refused(repeated)
        if repeated:
            self._metrics.of(model.key).repeated_windows.inc()
            return self._journal.offset(model.number)  # at the latest
        checked = check_window(self.shape(model), raw)
        if isinstance(checked, Refusal):
            return self._refused(checked)
        offset = self._catalog.record(model, Window(source, raw.seq, *checked))
        self._metrics.of(model.key).windows.inc()
        return offset

    def replayed(self, model: ServedModel, window: Window) -> None:
        """Journal a window that replays an item of the quarantine. Raises Unavailable, NotFound, JournalFailed."""
        self.check_open(model)
        self._catalog.record(model, window)
        self._metrics.of(model.key).replayed.inc()

    def reached(self, model: ServedModel, learned: bool) -> int:
        """Return the model's offset up to which entries are durable, or learned."""
        return self._learned.get(model.number, 0) if learned else self._journal.durable_offset(model.number)

    def has_learned(self, model: int, offset: int) -> None:
        """Note that the trainer has learned the model's entries up to `offset`.

        After a restart `offset` may fall back: the same entries are then learned again, to the same weights, and stay
        acknowledged.
        """
        if offset > self._learned.get(model, 0):
            self._learned[model] = offset
            self.wake(model)

    # ---- calls

    def watch(self, model: ServedModel, wake: Callable[[], None]) -> None:
        """Call `wake` whenever `reached` may have advanced, or the call must end."""
        self._waiting.setdefault(model.number, set()).add(wake)

    def unwatch(self, model: ServedModel, wake: Callable[[], None]) -> None:
        """Stop calling `wake`; do nothing if it is not registered."""
        self._waiting.get(model.number, set()).discard(wake)

    def own(self, model: ServedModel, source: str, call: object) -> None:
        """Make `call` the sender of the source's windows; a former sender is fenced, and woken."""
        self._owners[model.number, source] = call
        self.wake(model.number)

    def owns(self, model: ServedModel, source: str, call: object) -> bool:
        """Whether `call` is the sender of the source's windows."""
        return self._owners.get((model.number, source)) is call

    def disown(self, model: ServedModel, source: str, call: object) -> None:
        """Release the source if `call` is its sender: the call has ended."""
        if self.owns(model, source, call):
            del self._owners[model.number, source]

    def wake(self, model: int | None = None) -> None:
        """Wake the calls of a model, or all calls."""
        for number in self._waiting if model is None else (model,):
            for wake in self._waiting.get(number, ()):
                wake()

    def is_open(self, model: ServedModel) -> bool:
        """Whether labels and windows of the model are accepted: it exists, and the service is not draining."""
        return not self._admission.draining and self._catalog.models.get(model.number) is model

    def check_open(self, model: ServedModel) -> None:
        """Raise Unavailable while the service drains or cannot write; NotFound if the model is deleted."""
        self._admission.check_open()
        if not self.is_open(model):
            raise NotFound("model", model.name, "the model was deleted meanwhile")

    # ---- inside

    def _refused(self, refusal: Refusal) -> Refusal:
        self._metrics.refused_labels.labels(refusal.reason.name.lower()).inc()
        return refusal

    def _removed(self, model: int) -> None:
        self.wake(model)
        for known in (self._learned, self._waiting, self._shapes):
            known.pop(model, None)

    def _committed(self, commit: Commit) -> None:
        for chunk in commit.chunks:
            self.wake(chunk.model)
