"""The picture of a journal that is learned again: forecasts, losses beside persistence's, and coverage."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.fold.learner import Update
from service.journal.records import Chunk, Reset, StateDelete, StatePut, Ticks
from service.programs.pictures.panels import Followed, coverage_panel, error_panel, forecast_panels
from service.programs.plots.figure import F64, Figure, Kind, Mark, Panel, Table
from service.trainer.hosting import HostedModel

MOST_MODELS = 4  # drawn, those with the most labels


class Stepped:
    """One stream's forecasts of step 1, with the weights that the journal had taught before each chunk."""

    def __init__(self, hosted: HostedModel, stream: int) -> None:
        network = hosted.learner.network
        self.stream, self._network = stream, network
        self._state = np.zeros((1, network.state_size), np.float32)
        self._tape = network.tape(1, 1)
        self.time, self.truth, self.forecast = array("d"), array("d"), array("d", [np.nan])

    def take(self, hosted: HostedModel, chunk: Chunk) -> None:
        """Step through a chunk's ticks of the stream, before the chunk is learned."""
        for record in chunk.records:
            match record:
                case Ticks():
                    mine = np.flatnonzero(record.stream == self.stream)
                    self._step(hosted, record.time[mine], record.x[mine])
                case Reset(stream=self.stream) | StateDelete(stream=self.stream) | StatePut(stream=self.stream):
                    self._state = np.zeros_like(self._state)
                case _:
                    pass

    def _step(self, hosted: HostedModel, time: NDArray[np.float64], rows: NDArray[np.float32]) -> None:
        network, target = self._network, hosted.learner.spec.target_index[0]
        x, ahead = network.inputs(time, rows)
        for n in range(len(rows)):
            now = slice(n, n + 1)
            y, self._state = network.step(hosted.learner.weights, x[now], ahead[now], self._state, self._tape)
            self.time.append(float(time[n]))
            self.truth.append(float(x[n, target]))
            self.forecast.append(float(y[0, 0]))

    def followed(self) -> Followed:
        """Return the stream as panels draw it."""
        time, truth = np.array(self.time), np.array(self.truth)
        timed = bool(np.isfinite(time).all() and (np.diff(time) > 0).all())
        x = time if timed else np.arange(len(time), dtype=np.float64)
        return Followed(f"stream {self.stream}", x, timed, truth, np.array(self.forecast)[:-1], slice(1, len(x)))


class Learned:
    """What one model learned, update by update. x of the panels is the number of labels learned."""

    def __init__(self) -> None:
        self.labels, self.loss, self.persistence = array("d"), array("d"), array("d")
        self.bounded, self.covered = array("d"), array("d")  # of the first level
        self.levels: Sequence[float] = ()
        self.drifts: list[float] = []
        self.stream: Stepped | None = None

    @property
    def total(self) -> float:
        """Labels learned."""
        return float(np.sum(self.labels)) if self.labels else 0.0

    def add(self, hosted: HostedModel, updates: Sequence[Update]) -> None:
        """Take the updates of a chunk; refused ones count nothing."""
        self.levels = hosted.learner.spec.intervals
        for update in updates:
            if update.refused or not np.isfinite(update.loss) or not np.isfinite(update.persistence):
                continue
            self.labels.append(update.labels)
            self.loss.append(update.loss * update.labels)
            self.persistence.append(update.persistence * update.labels)
            self.bounded.append(update.bounded)
            self.covered.append(update.covered[0] if update.covered else 0)
            if update.drift:
                self.drifts.append(self.total)

    def panels(self, number: int) -> list[Panel]:
        """Return the model's panels."""
        x: F64 = np.cumsum(self.labels)
        marks = [Mark(at, Kind.DRIFT) for at in self.drifts]
        sums = {"freshet": np.cumsum(self.loss), "persistence": np.cumsum(self.persistence)}
        means = {name: float(values[-1] / x[-1]) if len(x) else np.nan for name, values in sums.items()}
        drawn = [] if self.stream is None or not self.stream.truth else forecast_panels(self.stream.followed())
        drawn.append(
            error_panel(x, False, sums, means, f"scaled, of model {number}, by labels learned", marks, "Sum of losses")
        )
        if self.levels and np.any(self.bounded):
            inside = np.array([self.covered])
            drawn.append(coverage_panel(x, False, self.levels[:1], inside, np.array(self.bounded), marks))
        return drawn


class Refolds:
    """Collects what every model of a journal learns: a watch of `refold`. A few numbers per update and tick."""

    def __init__(self) -> None:
        self._models: dict[int, Learned] = {}

    def before(self, hosted: HostedModel, chunk: Chunk) -> None:
        """Take a chunk that will be learned. The first stream that ticks is followed."""
        learned = self._models.setdefault(hosted.number, Learned())
        if hosted.learner.spec.task != "forecast":
            return
        if learned.stream is None:
            first = next((r for r in chunk.records if isinstance(r, Ticks) and len(r.stream)), None)
            if first is None:
                return
            learned.stream = Stepped(hosted, int(first.stream[0]))
        learned.stream.take(hosted, chunk)

    def after(self, hosted: HostedModel, updates: Sequence[Update]) -> None:
        """Take the updates of the chunk."""
        self._models[hosted.number].add(hosted, updates)

    def figure(self) -> Figure:
        """Return what is drawn: the models with the most labels, and a table of all."""
        chosen = sorted(sorted(self._models, key=lambda n: -self._models[n].total)[:MOST_MODELS])
        panels = [panel for number in chosen for panel in self._models[number].panels(number)]
        rows = []
        for number, model in sorted(self._models.items()):
            total = model.total or np.nan
            means = (float(np.sum(sums)) / total for sums in (model.loss, model.persistence))
            rows.append((f"model {number}", f"{model.total:,.0f}", *(f"{mean:.4g}" for mean in means)))
        count = len(self._models)
        summary = (
            f"{count} model{'s' if count != 1 else ''}; forecasts with the weights that the journal had taught by then."
        )
        columns = ("model", "labels", "loss", "persistence")
        return Figure("A journal learned again", summary, panels, [Table("Prequential losses", columns, rows)])
