"""A request becomes ticks and labels of a stream, and their answers its response."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from service.access.grants import Role
from service.common.errors import NotFound, Reason, Refusal, Unavailable
from service.common.names import Origin
from service.edge.guard.security import caller, key
from service.edge.oip import wording
from service.edge.oip.asked import Asked, Parameters, Request, Response, asked, parameters
from service.edge.oip.sequences import Kept, OpenSequences, Order
from service.edge.oip.statistics import Statistics
from service.edge.oip.tensors import Described, Made, described
from service.edge.parts import Parts, Places
from service.edge.wire_ticks import rows
from service.learning.labels import check_label
from service.serving.ticks import Fenced, Tick
from service.streams.answers import Answer
from service.streams.covariates import row_of, static_values
from service.streams.sequence import place
from service.streams.served import ServedModel
from service.streams.table import ABSENT

Array = NDArray[np.float32]
NOTHING = np.zeros(0, np.float32)
OTHER_CALL = "another call has opened this stream, or deleted it: end that call, then send the request again"


class Inferring:
    """Answers requests of gRPC and REST alike."""

    def __init__(self, places: Places, clock: Callable[[], float]) -> None:
        """clock: monotonic seconds."""
        self._places, self._clock = places, clock
        self._order, self.counts = Order(), Statistics()
        # Each is kept by its model.
        self._sequences: WeakKeyDictionary[ServedModel, ref[OpenSequences]] = WeakKeyDictionary()
        self.on_leaving: set[Callable[[], None]] = set()  # calls to end when a shard leaves this process
        self._described: WeakKeyDictionary[ServedModel, Described] = WeakKeyDictionary()

    async def model(self, name: str, version: str, stream: str = "") -> tuple[Parts, ServedModel]:
        """Return the caller's model of that name, and the shard that has the stream. Raises NotFound, Moved,
        Unavailable.

        version: "", or the one that serves.
        """
        its = key(name)
        try:
            parts = await self._places.of(its, stream)
            model = parts.catalog.model(its)
        except NotFound as error:
            raise wording.unknown_model(name[:80], error) from None
        if version and version != str(model.champion):
            raise wording.unknown_version(name, version[:80], model.champion)
        return parts, model

    def tensors(self, model: ServedModel) -> Described:
        """Return what a model takes and answers."""
        found = self._described.get(model)
        if found is None:
            found = self._described[model] = described(model)
        return found

    async def infer(self, request: Request) -> Response:
        """Answer a request once its ticks are answered; with the parameter durable, once they are on disk.

        Requests of one sequence are answered in the order of their arrival. Raises ServiceError.
        """
        arrived = self._clock()
        said = parameters(request.parameters)
        async with self._order.turn((key(request.model), said.sequence), said.timeout_s):
            parts, model = await self.model(request.model, request.version, said.sequence)
            with self.counts.of(model).request(arrived, self._clock) as counted:
                parts.admission.check_open()
                wanted = asked(model.name, self.tensors(model), request)
                if not said.sequence:
                    raise wording.no_sequence(model.name)
                outputs = await self._sequence(parts, model, said, wanted, arrived)
                if said.durable:
                    await parts.journal.flush()
                counted.ticks = 0 if wanted.x is None else wanted.ticks
            return Response(model.name, str(model.champion), request.id, outputs)

    async def _sequence(
        self, parts: Parts, model: ServedModel, said: Parameters, wanted: Asked, arrived: float
    ) -> list[Made]:
        """Step and label the stream of a sequence, and close it at its end. Returns the outputs."""
        if wanted.y is not None:
            _check_may_train(wanted)
        if wanted.x is None:
            outputs = await self._label(parts, model, said.sequence, wanted)
        else:
            kept = await self._enter(parts, model, said, wanted)
            with _Pinned(model, kept):
                outputs = await self._ticks(parts, model, kept, wanted, arrived)
        if said.end:
            self._open(parts, model).close(parts, said.sequence)
        return outputs

    # ---- the stream

    def _open(self, parts: Parts, model: ServedModel) -> OpenSequences:
        known = self._sequences.get(model)
        found = known() if known is not None else None
        if found is None:
            admission = parts.admission

            def leaving() -> None:
                for leave in [*self.on_leaving] if admission.draining else ():
                    leave()

            found = OpenSequences(model, leaving)
            self._sequences[model] = ref(found)
        return found

    async def _enter(self, parts: Parts, model: ServedModel, said: Parameters, wanted: Asked) -> Kept:
        """Return the sequence, opened if it is not. A start that is no repetition begins with a fresh state.

        Nothing has changed if this raises: all that can be checked beforehand is.
        """
        sequences = self._open(parts, model)
        kept = sequences.find(said.sequence)
        if kept is None:
            parts.opening.check_id(said.sequence)
            await parts.residency.bring(model, [said.sequence])
            kept = sequences.find(said.sequence)  # nothing awaits from here on, so the stream stays in memory
        row = model.table.by_id.get(said.sequence, ABSENT)
        last_seq = 0 if row == ABSENT else int(model.table.last_seq[row])
        if row == ABSENT and not said.start:
            raise wording.not_started(model.name, said.sequence)
        fresh = said.start and (wanted.seq is None or wanted.seq[0] > last_seq)
        last_time = math.nan if fresh or row == ABSENT else float(model.table.last_time[row])
        given = dict(zip(model.spec.static, wanted.static or (), strict=False)) if wanted.static else {}
        if kept is None or fresh or given:
            static = static_values(model, "" if fresh else said.sequence, given)
        else:
            static = kept.static
        if fresh or wanted.ticks > 1 or wanted.y is not None:
            _check(parts, model, wanted, static, last_seq, last_time)
        if kept is None:
            kept = sequences.open(parts, said.sequence, static)
        elif fresh or given:
            kept = kept._replace(static=static)
            sequences.keep(said.sequence, kept)
        if fresh:
            parts.opening.reset(model, kept.session)
        return kept

    async def _ticks(self, parts: Parts, model: ServedModel, kept: Kept, wanted: Asked, arrived: float) -> list[Made]:
        seq, labelled = wanted.seq or [], wanted.y is not None and not np.isnan(wanted.y).all()
        follow = not seq or seq == list(range(seq[0], seq[0] + wanted.ticks))
        answer = self._together if wanted.ticks > 1 and follow and not labelled else self._one_by_one
        answers, origins = await answer(parts, model, kept, wanted, arrived)
        return _made(self.tensors(model), wanted.outputs, model.spec.outputs, answers, origins)

    async def _together(
        self, parts: Parts, model: ServedModel, kept: Kept, wanted: Asked, arrived: float
    ) -> tuple[list[Answer], list[Origin]]:
        """Step ticks that follow one another, as many at once as may be undurable."""
        session, n, answers, origins = kept.session, wanted.ticks, list[Answer](), list[Origin]()
        time, found = _columns(model, wanted, kept.static)
        most = parts.admission.settings.max_undurable
        first = wanted.seq[0] if wanted.seq else session.last_seq + 1
        while (at := len(answers)) < n:
            seq = first + at
            if seq - session.durable_seq > most and seq == session.last_seq + 1:
                await parts.journal.flush(unless_full=True)
            these = slice(at, min(n, at + max(1, session.durable_seq + most + 1 - seq)))
            origin, repeated = session.origin, session.last_seq + 1 - seq
            try:
                part = await parts.runs.answer(
                    model, session, kept.epoch, seq, time[these], found[these], arrived, whole=False
                )
            except Fenced:
                raise Unavailable("sequence_id", session.id, OTHER_CALL, retry_s=1.0) from None
            if part.refused:
                raise wording.refused(part.refused[0], part.refused[0].seq - first)
            columns = zip(part.y, part.version.tolist(), part.judged.tolist(), strict=True)
            for i, (y, version, judged) in enumerate(columns):
                answers.append(
                    Answer(seq + i, float(time[at + i]), found[at + i].tobytes(), y.tobytes(), version, judged)
                )
                origins.append(origin if i <= repeated else Origin.RESUMED)
        return answers, origins

    async def _one_by_one(
        self, parts: Parts, model: ServedModel, kept: Kept, wanted: Asked, arrived: float
    ) -> tuple[list[Answer], list[Origin]]:
        """Step ticks one after the other, each with its label."""
        session, answers, origins = kept.session, [], []
        assert wanted.x is not None
        for i in range(wanted.ticks):
            seq = wanted.seq[i] if wanted.seq else session.last_seq + 1
            if seq - session.durable_seq > parts.admission.settings.max_undurable and seq == session.last_seq + 1:
                await parts.journal.flush(unless_full=True)
            origins.append(session.origin)
            row = row_of(model.network, seq, wanted.x[i], NOTHING if wanted.u is None else wanted.u[i], kept.static)
            if isinstance(row, Refusal):
                raise wording.refused(parts.admission.refuse(row), i)
            time = wanted.time[i] if wanted.time else math.nan
            try:
                outcome = await parts.ticks.answer(Tick(model, session, kept.epoch, seq, time, row, arrived))
            except Fenced:
                raise Unavailable("sequence_id", session.id, OTHER_CALL, retry_s=1.0) from None
            if isinstance(outcome, Refusal):
                raise wording.refused(outcome, i)
            answers.append(outcome)
            if wanted.y is not None and not np.isnan(wanted.y[i]).all():
                labelled = parts.intake.label(model, session.id, seq, wanted.y[i])
                if isinstance(labelled, Refusal):
                    raise wording.refused(labelled, i + 1)
            if wanted.ticks > 1:
                await parts.turns.wait()
        return answers, origins

    # ---- labels

    async def _label(self, parts: Parts, model: ServedModel, id: str, wanted: Asked) -> list[Made]:
        """Journal labels of earlier ticks; all or none. Returns once they are on disk."""
        assert wanted.y is not None
        assert wanted.seq is not None
        await parts.residency.bring(model, [id])
        row = model.table.by_id.get(id, ABSENT)
        if row == ABSENT:
            raise wording.not_started(model.name, id)
        shape, last_seq = parts.intake.shape(model), int(model.table.last_seq[row])
        for seq, y in zip(wanted.seq, wanted.y, strict=True):
            if refusal := check_label(shape, seq, y, last_seq):
                raise wording.refused(parts.admission.refuse(refusal), 0)
        for seq, y in zip(wanted.seq, wanted.y, strict=True):
            if isinstance(labelled := parts.intake.label(model, id, seq, y), Refusal):
                raise wording.refused(labelled, 0)
        await parts.journal.flush()
        seqs = np.array(wanted.seq, "<u8").reshape(-1, 1)
        return [Made("seq", "UINT64", seqs.shape, seqs)]


def _check_may_train(wanted: Asked) -> None:
    """Raise Forbidden unless the caller may send labels."""
    if caller().role < Role.TRAIN:
        remedy = "send labels with a token of role train"
        seq = wanted.seq[0] if wanted.seq else 0
        raise wording.refused(Refusal(seq, Reason.NOT_ALLOWED, "y", "role predict", remedy), 0)


class _Pinned:
    """Keeps a stream in memory inside the block. A class, because a generator would cost several times as much."""

    __slots__ = ("_kept", "_model", "_row")

    def __init__(self, model: ServedModel, kept: Kept) -> None:
        self._model, self._kept, self._row = model, kept, kept.session.row

    def __enter__(self) -> None:
        self._model.table.pinned[self._row] = True

    def __exit__(self, *error: object) -> None:
        if self._model.owns(self._kept.session, self._kept.epoch):  # otherwise another call decides
            self._model.table.pinned[self._row] = False


def _check(parts: Parts, model: ServedModel, wanted: Asked, static: Array, last_seq: int, last_time: float) -> None:
    """Raise what would be raised for the first tick or label of a request that is refused for its content, or as a gap.

    What is left to the run itself: rates, and whether a repeated tick is the one that was taken.
    """
    if wanted.y is None and _all_sound(parts, model, wanted, static, last_seq, last_time):
        return
    shape = parts.intake.shape(model)
    assert wanted.x is not None
    for i in range(wanted.ticks):
        seq = wanted.seq[i] if wanted.seq else last_seq + 1
        time = wanted.time[i] if wanted.time else math.nan
        row = row_of(model.network, seq, wanted.x[i], NOTHING if wanted.u is None else wanted.u[i], static)
        refusal = row if isinstance(row, Refusal) else None
        if not isinstance(row, Refusal) and seq > last_seq:
            gap = place(seq, last_seq, row, time, lambda _: None)
            assert not isinstance(gap, Answer)
            refusal = gap or parts.admission.check(model, seq, time, row, last_time)
            last_seq, last_time = seq, last_time if math.isnan(time) else time
        if refusal is None and wanted.y is not None and not np.isnan(wanted.y[i]).all():
            refusal = check_label(shape, seq, wanted.y[i], last_seq)
        if refusal:
            raise wording.refused(parts.admission.refuse(refusal), 0)


def _all_sound(parts: Parts, model: ServedModel, wanted: Asked, static: Array, last_seq: int, last_time: float) -> bool:
    """Whether the ticks of a request are the next ones of the stream and all sound. It may miss that."""
    own = model.network.covariates
    if wanted.u is None and own.ahead and not own.hold:
        return False
    if wanted.seq and wanted.seq != list(range(last_seq + 1, last_seq + 1 + wanted.ticks)):
        return False
    return bool(parts.admission.checked(model, *_columns(model, wanted, static), last_time).all())


def _columns(model: ServedModel, wanted: Asked, static: Array) -> tuple[NDArray[np.float64], Array]:
    """Return times (n,), NaN: none, and rows [n, row] of a request. static: [S]."""
    n = wanted.ticks
    assert wanted.x is not None
    u = np.zeros((n, 0), np.float32) if wanted.u is None else wanted.u
    time = np.full(n, math.nan) if wanted.time is None else np.array(wanted.time)
    return time, rows(model.network, wanted.x, u, static)


def _made(
    tensors: Described, names: list[str], outputs: int, answers: list[Answer], origins: list[Origin]
) -> list[Made]:
    """Return the asked outputs of n answers."""
    n = len(answers)
    values = np.frombuffer(b"".join(answer.y for answer in answers), "<f4").reshape(n, -1)
    upper = (values.shape[1] + outputs) // 2
    parts: dict[str, Callable[[], Any]] = {
        "y": lambda: values[:, :outputs],
        "lower": lambda: values[:, outputs:upper],
        "upper": lambda: values[:, upper:],
        "seq": lambda: np.array([a.seq for a in answers], "<u8"),
        "version": lambda: np.array([a.version for a in answers], "<u8"),
        "judged_through": lambda: np.array([a.judged_through for a in answers], "<u8"),
        "state_origin": lambda: [origin.name for origin in origins],
    }
    chosen = [tensors.outputs[name] for name in names]
    return [Made(t.name, t.datatype, (n, *t.dims), parts[t.name]()) for t in chosen]
