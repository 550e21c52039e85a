"""From what was asked on the command line to what is trained: a series, a spec, and how to go through the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from model.offline import OfflineSettings
from model.recorded import future
from model.spec import ModelSpec, SpecError
from service.backtest.plan import ALL, Plan, make_plan
from service.backtest.scoring import check_between
from service.backtest.series import read_table
from service.errors import Invalid
from service.limits import MAX_LABELS, MAX_UNROLLED, check_size
from service.offline.labels import LABELLED, check_labels, read_labels, settle_keys

Mode = Literal["truncated", "whole"]

EPOCHS, PATIENCE, HELD_OUT = 100, 10, 0.2
# An update averages over hundreds of ticks instead of one, so its gradient is less noisy: larger steps were better on
# the taxi series (held-out loss .058 after 34 epochs, with the online rate .067 after 52) and no worse on two others.
RATE_FACTOR = 4.0
MOST_COUNTED = 1_000_000  # epochs, patience
MAX_HISTORY_BYTES = 2 << 30  # of features, labels, masks and scales, all in memory
GAP_INTERVALS = 1.5  # a longer step of event time is told: the rows between are missing


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflinePlan:
    """One training. plan: series and spec; learning_rate: of this training, the spec keeps its own."""

    plan: Plan
    labels: NDArray[np.float32] | None  # [N, O], NaN where there is none; None: task forecast reads them off the series
    file: Path
    digest: str  # sha256 of the file, hex
    mode: Mode
    settings: OfflineSettings
    train_ticks: int
    learning_rate: float

    @property
    def spec(self) -> ModelSpec:
        """The model's spec, as it goes online."""
        return self.plan.spec

    @property
    def rows(self) -> int:
        """Rows of the history."""
        return len(self.plan.series.x)

    @property
    def held_out(self) -> int:
        """Rows at its end that are not learned from."""
        return self.rows - self.train_ticks

    def network(self) -> Network:
        """The network as it is trained: with this training's rate."""
        return Network(replace(self.spec, learning_rate=self.learning_rate))

    def describe(self) -> str:
        """What the file was taken to be, what in it deserves a second look, and how it is gone through."""
        s, lines = self.settings, [self.plan.describe()]
        lines += [note for note in (self._gaps(), self._labels()) if note]
        how = f"chunks of {s.chunk} rows" if s.chunk else "whole segments"
        lines.append(
            f"{self.train_ticks:,} rows to learn from in {s.segments} segments, {s.rows} side by side, {how}; "
            f"{self.held_out:,} held out; learning rate {self.learning_rate:g}, seed {self.spec.seed}"
        )
        return "\n".join(lines)

    def _labels(self) -> str:
        """How many rows have a label, and of classes how many each; empty for task forecast."""
        if self.labels is None:
            return ""
        known = ~np.isnan(self.labels)
        if not self.spec.classes:
            each = zip(self.spec.targets, known.sum(axis=0), strict=True)
            return "labels: " + ", ".join(f"{n:,} of {name}" for name, n in each)
        each = zip(self.spec.classes, np.nansum(self.labels, axis=0).astype(int), strict=True)
        return f"labels: {int(known[:, 0].sum()):,}, of these " + ", ".join(f"{n:,} {name}" for name, n in each)

    def _gaps(self) -> str:
        """Where rows are missing in time, and what becomes of the labels there; empty if nowhere."""
        time, max_gap = self.plan.series.time, self.spec.max_gap
        if time is None:
            return ""
        steps = np.diff(time)
        longer = np.flatnonzero(steps > GAP_INTERVALS * self.plan.series.interval)
        if not len(longer):
            return ""
        worst, interval = int(longer[np.argmax(steps[longer])]), self.plan.series.interval
        kept = f"labels across them count: --set max_gap={2 * interval:.10g} would void them"
        if max_gap:
            kept = f"max_gap = {max_gap:.10g} voids the labels across {int((steps > max_gap).sum()):,} of them"
        return (
            f"{len(longer):,} gaps in time, the longest {steps[worst]:.10g} s before row {worst + 1}, "
            f"where a row comes every {interval:.10g} s; {kept}"
        )


def make_offline_plan(
    file: Path,
    *,
    time_column: str | None = None,
    columns: str = ALL,
    model: Mapping[str, Any] | None = None,
    labels: str | None = None,
    rows: int | None = None,
    mode: Mode = "truncated",
    segments: int | None = None,
    epochs: int = EPOCHS,
    patience: int = PATIENCE,
    held_out: float = HELD_OUT,
    learning_rate: float | None = None,
) -> OfflinePlan:
    """Read the history and settle everything. model: keys of ModelSpec, as for `make_plan`; rows: only the first.

    labels: columns of the labels, "a,b,…"; of the class, for task classify. segments: pieces of a whole-sequence
    training, side by side (default 1). Raises Invalid, SpecError or OSError, naming what it is about: nothing is found
    out later.
    """
    check_settings(epochs, patience, held_out, mode, segments)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    plan, known = read_history(file, time_column, columns, model or {}, labels, rows)
    spec, count = plan.spec, len(plan.series.x)
    if not spec.learn:
        raise SpecError("learn", spec.learn, "a model that never learns cannot be trained: leave it out")
    check_size(spec)
    train_ticks = count - round(held_out * count)
    check_rows(spec, count, train_ticks)
    if known is not None:
        check_labels(known, train_ticks, "fill some in")
    else:
        values = plan.series.x[:, spec.target_index]
        remedy = "each later value is missing, or behind a gap longer than max_gap"
        check_labels(future(values, plan.times, spec.max_gap, spec.horizon)[0], train_ticks, remedy)
    if mode == "whole":
        settings = OfflineSettings.whole(epochs, patience, segments or 1)
        check_whole(spec, train_ticks, settings.segments)
    else:
        settings = OfflineSettings.truncated(epochs, patience, train_ticks, spec.window)
    return OfflinePlan(
        plan=plan, labels=known, file=file, digest=digest, mode=mode, settings=settings, train_ticks=train_ticks,
        learning_rate=checked_rate(learning_rate, spec),
    )  # fmt: skip


def read_history(
    file: Path, time_column: str | None, columns: str, model: Mapping[str, Any], labels: str | None, rows: int | None
) -> tuple[Plan, NDArray[np.float32] | None]:
    """The series with its spec, and the labels beside it, None for task forecast. Raises as `make_offline_plan`."""
    keys = dict(model)
    if keys.get("task") not in LABELLED:
        if labels is not None:
            raise Invalid("labels", labels, "goes with --set task=regress or task=classify: a forecast needs none")
        return make_plan(file, time_column=time_column, columns=columns, model=keys, rows=rows), None
    table = read_table(file)
    time_column = time_column or table.find_time_column()
    names = settle_keys(keys, labels, columns, table, time_column)
    plan = make_plan(file, time_column=time_column, columns=columns, model=keys, rows=rows)
    return plan, read_labels(table, names, plan.spec)[: len(plan.series.x)]


def check_settings(epochs: int, patience: int, held_out: float, mode: Mode, segments: int | None) -> None:
    """Refuse numbers that cannot be, whatever the history. Raises Invalid."""
    for name, value in (("epochs", epochs), ("patience", patience)):
        if not 1 <= value <= MOST_COUNTED:
            raise Invalid(name, value, f"give 1 to {MOST_COUNTED}")
    if not 0 <= held_out <= 0.9:
        raise Invalid("held_out", held_out, "give the share of rows to hold out, 0 to 0.9")
    if segments is not None and mode != "whole":
        raise Invalid("segments", segments, "goes with --mode whole: a truncated training chooses its own")


def checked_rate(given: float | None, spec: ModelSpec) -> float:
    """The step size of the training: the one given, or RATE_FACTOR times the spec's."""
    if given is None:
        return max(-1.0, min(1.0, RATE_FACTOR * spec.learning_rate))
    if not 0 < given <= 1:
        raise Invalid("learning_rate", given, "give a step size above 0 and at most 1")
    return given


def check_rows(spec: ModelSpec, count: int, train_ticks: int) -> None:
    """Refuse a history too short to learn from and to judge by, or too long for the memory. Raises Invalid."""
    least = spec.window + spec.horizon
    held = count - train_ticks
    if train_ticks < least or 0 < held <= spec.horizon:
        remedy = (
            f"{train_ticks} to learn from and {held} held out; window {spec.window} with horizon {spec.horizon} needs "
            f"{least} and, unless held_out is 0, {spec.horizon + 1}: more rows, or a smaller window"
        )
        raise Invalid("rows", count, remedy)
    size = 4 * count * (Network(spec).features + 7 * spec.outputs)
    if size > MAX_HISTORY_BYTES:
        remedy = f"features and labels would take {size} bytes, at most {MAX_HISTORY_BYTES}: fewer --rows, or targets"
        raise Invalid("rows", count, remedy)


def check_whole(spec: ModelSpec, train_ticks: int, segments: int) -> None:
    """Refuse whole-sequence training whose one update would not fit the memory. Raises Invalid."""
    longest = train_ticks // (spec.window + spec.horizon)
    check_between("segments", segments, 1, longest)
    # As `check_size` bounds an update: 32 rows of a window of MAX_UNROLLED numbers, and of MAX_LABELS labels.
    ticks = 32 * min(MAX_UNROLLED // (Network(spec).features + spec.layers * spec.hidden), MAX_LABELS // spec.outputs)
    if train_ticks > ticks:
        remedy = (
            f"one update through {train_ticks} rows does not fit, at most {ticks}: --mode truncated, or fewer --rows"
        )
        raise Invalid("mode", "whole", remedy)
