"""The plan of a training, from the command line's options: series, spec, and how to train on the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.network import Network
from model.offline.recorded import future
from model.offline.training import ROWS, SEGMENT_WINDOWS, OfflineSettings
from model.spec import ModelSpec, SpecError
from service.common.errors import Invalid
from service.common.limits import MAX_LABELS, MAX_UNROLLED, check_size, tick_size
from service.programs.backtest.plan import ALL, Plan, plan_of
from service.programs.backtest.scoring import check_between
from service.programs.offline.labels import LABELLED, check_labels, complete_keys, read_labels
from service.programs.tables.options import DEFAULT, Options
from service.programs.tables.reading import read

Mode = Literal["truncated", "whole"]

EPOCHS, PATIENCE, HELD_OUT = 100, 10, 0.2
# An update averages over hundreds of ticks instead of one, so its gradient is less noisy: larger steps were better on
# the taxi series (held-out loss .058 after 34 epochs, with the online rate .067 after 52) and no worse on two others.
RATE_FACTOR = 4.0
MOST_COUNTED = 1_000_000  # epochs, patience
LEAST_CHUNK = 16  # ticks of an update with rule rtrl, which is exact for any number; more take fewer updates
MAX_HISTORY_BYTES = 2 << 30  # of features, labels, masks and scales, all in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflinePlan:
    """One training. plan: the series and their spec; learning_rate: for this training only, the spec keeps its own."""

    plan: Plan
    # [N, O] of each series, NaN without a label; None for task forecast, whose labels come from the series
    labels: tuple[NDArray[np.float32], ...] | None
    file: Path
    digest: str  # sha256 of the file, hex
    mode: Mode
    settings: OfflineSettings
    cuts: tuple[int, ...]  # training ticks of each series
    learning_rate: float

    @property
    def spec(self) -> ModelSpec:
        """The model's spec as it goes online."""
        return self.plan.spec

    @property
    def rows(self) -> int:
        """Rows of the history, all series together."""
        return sum(len(series.x) for series in self.plan.entities)

    @property
    def train_ticks(self) -> int:
        """Training rows, all series together."""
        return sum(self.cuts)

    @property
    def held_out(self) -> int:
        """Held-out rows at the ends of the series, all series together."""
        return self.rows - self.train_ticks

    def network(self) -> Network:
        """Return the network with this training's learning rate."""
        return Network(replace(self.spec, learning_rate=self.learning_rate))

    def describe(self) -> str:
        """Return how the file was read, what in it the user should check, and how the training proceeds."""
        s, lines = self.settings, [self.plan.describe()]
        lines += [note for note in (self._labels(),) if note]
        how = f"chunks of {s.chunk} rows" if s.chunk else "whole segments"
        lines.append(
            f"{self.train_ticks:,} rows to learn from in {s.segments} segments, {s.rows} side by side, {how}; "
            f"{self.held_out:,} held out; learning rate {self.learning_rate:g}, seed {self.spec.seed}"
        )
        return "\n".join(lines)

    def _labels(self) -> str:
        """Return the number of labelled rows, and of each class; empty for task forecast."""
        if self.labels is None:
            return ""
        labels = np.concatenate(self.labels)
        known = ~np.isnan(labels)
        if not self.spec.classes:
            each = zip(self.spec.targets, known.sum(axis=0), strict=True)
            return "labels: " + ", ".join(f"{n:,} of {name}" for name, n in each)
        each = zip(self.spec.classes, np.nansum(labels, axis=0).astype(int), strict=True)
        return f"labels: {int(known[:, 0].sum()):,}, of these " + ", ".join(f"{n:,} {name}" for name, n in each)


def make_offline_plan(
    file: Path,
    *,
    options: Options = DEFAULT,
    columns: str = ALL,
    model: Mapping[str, Any] | None = None,
    labels: str | None = None,
    rows: int | None = None,
    weights: Path | None = None,
    mode: Mode = "truncated",
    segments: int | None = None,
    epochs: int = EPOCHS,
    patience: int = PATIENCE,
    held_out: float = HELD_OUT,
    learning_rate: float | None = None,
) -> OfflinePlan:
    """Read the history and return the complete plan of a training.

    options: how to read it. columns, model, rows: as for `make_plan`. labels: a list of columns; for task classify, the
    column of the class. weights: initial weights, a file or a folder with one. segments: of a whole-sequence training,
    side by side (default 1). Raises Invalid, SpecError or OSError here, before the training starts.
    """
    check_settings(epochs, patience, held_out, mode, segments)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    plan, known = read_history(file, options, columns, model or {}, labels, rows, weights)
    spec, every = plan.spec, plan.entities
    if not spec.learn:
        raise SpecError("learn", spec.learn, "a model that never learns cannot be trained: leave it out")
    check_size(spec)
    cuts = [len(series.x) - round(held_out * len(series.x)) for series in every]
    for series, cut in zip(every, cuts, strict=True):
        check_rows(spec, len(series.x), cut, series.entity)
    check_memory(spec, sum(len(series.x) for series in every))
    if known is not None:
        check_labels(known, cuts, "fill some in")
    else:
        values = (plan.alone(series) for series in every)
        made = [future(p.series.x[:, spec.target_index], p.times, spec.max_gap, spec.horizon)[0] for p in values]
        check_labels(made, cuts, "each later value is missing, or after a gap longer than max_gap")
    return OfflinePlan(
        plan=plan, labels=None if known is None else tuple(known), file=file, digest=digest, mode=mode,
        settings=settings_of(spec, mode, epochs, patience, segments, cuts), cuts=tuple(cuts),
        learning_rate=checked_rate(learning_rate, spec),
    )  # fmt: skip


def settings_of(
    spec: ModelSpec, mode: Mode, epochs: int, patience: int, segments: int | None, cuts: Sequence[int]
) -> OfflineSettings:
    """Return the settings for series with `cuts` training ticks. Raises Invalid."""
    total, many = sum(cuts), len(cuts) > 1
    if mode == "whole":
        if many and segments is not None:
            raise Invalid("segments", segments, "goes with one series: with --id each is a segment of its own")
        settings = OfflineSettings.whole(epochs, patience, len(cuts) if many else segments or 1)
        check_whole(spec, len(cuts) * min(cuts) if many else total, settings.segments)
        return settings
    settings = OfflineSettings.truncated(epochs, patience, total, chunk_of(spec))
    if not many:
        return settings
    # Segments as long as usual, or as the shortest series, so that each series has at least one.
    length = min(SEGMENT_WINDOWS * chunk_of(spec), min(cuts))
    count = sum(cut // length for cut in cuts)
    return replace(settings, rows=min(ROWS, count), segments=count - count % min(ROWS, count))


def chunk_of(spec: ModelSpec) -> int:
    """Return the ticks of one truncated update: the window, and with rule rtrl, whose window is short, LEAST_CHUNK."""
    return max(spec.window, LEAST_CHUNK) if spec.rule == "rtrl" else spec.window


def read_history(
    file: Path,
    options: Options,
    columns: str,
    model: Mapping[str, Any],
    labels: str | None,
    rows: int | None,
    weights: Path | None = None,
) -> tuple[Plan, list[NDArray[np.float32]] | None]:
    """Read the series with their spec, and each one's labels, None for task forecast. Raises as `make_offline_plan`."""
    keys = dict(model)
    if keys.get("task") not in LABELLED:
        if labels is not None:
            raise Invalid("labels", labels, "goes with --set task=regress or task=classify: a forecast needs none")
        return plan_of(read(file, options), columns, keys, rows, weights), None
    recording = read(file, options)
    names = complete_keys(keys, labels, columns, recording)
    plan = plan_of(recording, columns, keys, rows, weights)
    found = read_labels(recording, names, plan.spec)
    return plan, [each[: len(series.x)] for each, series in zip(found, plan.entities, strict=True)]


def check_settings(epochs: int, patience: int, held_out: float, mode: Mode, segments: int | None) -> None:
    """Refuse settings that are invalid for every history. Raises Invalid."""
    for name, value in (("epochs", epochs), ("patience", patience)):
        if not 1 <= value <= MOST_COUNTED:
            raise Invalid(name, value, f"give 1 to {MOST_COUNTED}")
    if not 0 <= held_out <= 0.9:
        raise Invalid("held_out", held_out, "give the share of rows to hold out, 0 to 0.9")
    if segments is not None and mode != "whole":
        raise Invalid("segments", segments, "goes with --mode whole: a truncated training chooses its own")


def checked_rate(given: float | None, spec: ModelSpec) -> float:
    """Return the learning rate of the training: the given one, or RATE_FACTOR times the spec's. Raises Invalid."""
    if given is None:
        return max(-1.0, min(1.0, RATE_FACTOR * spec.learning_rate))
    if not 0 < given <= 1:
        raise Invalid("learning_rate", given, "give a step size above 0 and at most 1")
    return given


def check_rows(spec: ModelSpec, count: int, train_ticks: int, entity: str = "") -> None:
    """Refuse a series that is too short for training and for scoring. Raises Invalid."""
    least = spec.window + spec.horizon
    held = count - train_ticks
    if train_ticks < least or 0 < held <= spec.horizon:
        remedy = (
            f"{train_ticks} to learn from and {held} held out; window {spec.window} with horizon {spec.horizon} needs "
            f"{least} and, unless held_out is 0, {spec.horizon + 1}: more rows, or a smaller window"
        )
        raise Invalid(f"rows of {entity}" if entity else "rows", count, remedy)


def check_memory(spec: ModelSpec, count: int) -> None:
    """Refuse a history that does not fit the memory. Raises Invalid."""
    size = 4 * count * (Network(spec).features + 7 * spec.outputs)
    if size > MAX_HISTORY_BYTES:
        remedy = f"features and labels would take {size} bytes, at most {MAX_HISTORY_BYTES}: fewer --rows, or targets"
        raise Invalid("rows", count, remedy)


def check_whole(spec: ModelSpec, train_ticks: int, segments: int) -> None:
    """Refuse a whole-sequence training whose single update does not fit the memory. Raises Invalid."""
    longest = train_ticks // (spec.window + spec.horizon)
    check_between("segments", segments, 1, longest)
    # The bounds that `check_size` sets for an update: 32 rows of a window, MAX_UNROLLED numbers and MAX_LABELS labels.
    ticks = 32 * min(MAX_UNROLLED // tick_size(Network(spec)), MAX_LABELS // spec.outputs)
    if train_ticks > ticks:
        remedy = (
            f"one update through {train_ticks} rows does not fit, at most {ticks}: --mode truncated, or fewer --rows"
        )
        raise Invalid("mode", "whole", remedy)
