"""The plan of a replay, from the command line's options: series, spec, and the rows to score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.calendar.zone import parse
from model.spec import ModelSpec, SpecError
from service.common.documents import DocumentError, read_text, toml, toml_value
from service.common.errors import Invalid
from service.common.zones import resolved, rule_of
from service.console.files import load_weights
from service.programs.backtest.covariates import complete_keys, sent
from service.programs.backtest.scoring import Scorer
from service.programs.backtest.seasons import suggestion
from service.programs.backtest.series import Series, every_series
from service.programs.tables.names import listed, quoted
from service.programs.tables.options import DEFAULT, Options
from service.programs.tables.reading import read
from service.programs.tables.recording import Recording
from service.programs.tables.times.numeric_times import could_be_unix
from service.programs.tables.times.order import Gaps, find_gaps
from service.programs.tables.timing import is_timelike

ALL = "all"
MOST_DESCRIBED = 20  # entities whose constant columns are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One replay of a file's series, side by side; each is a stream of the model.

    Rows are counted in each series separately; None means the scorer's default. how: how the file was read, in one
    line.
    """

    series: Series  # the first
    spec: ModelSpec
    others: tuple[Series, ...] = ()
    how: str = ""
    zone: str = ""  # name of the zone of the file's times; "" if it has none, or an offset
    train_rows: int | None = None
    score_from: int | None = None
    score_to: int | None = None
    weights: bytes | None = None  # initial weights, safetensors; None: drawn from the spec's seed

    def scorer(self) -> Scorer:
        """Return a new scorer of the spec's targets. Raises Invalid if the rows do not fit this series."""
        return Scorer(
            self.series.values, self.train_rows, self.score_from, self.score_to, self.spec.horizon,
            self.spec.target_index,
        )  # fmt: skip

    @property
    def added(self) -> npt.NDArray[np.float64] | None:
        """(targets,) offsets to add to a model's forecasts of the first series; None if there are none."""
        return self.series.added(self.spec.target_index)

    @property
    def rows(self) -> int:
        """Rows to replay; rows after the last scored one would not change the report."""
        return len(self.series.x) if self.score_to is None else self.score_to

    @property
    def entities(self) -> tuple[Series, ...]:
        """Every series."""
        return (self.series, *self.others)

    def scorers(self) -> list[Scorer]:
        """Return a new scorer for each series, in its own units."""
        return [self.alone(series).scorer() for series in self.entities]

    @property
    def all_rows(self) -> int:
        """Rows to replay, all series together."""
        return sum(self.alone(series).rows for series in self.entities)

    def alone(self, series: Series) -> Plan:
        """Return the plan of one series only."""
        return replace(self, series=series, others=())

    def describe(self) -> str:
        """Return how the file was read, and what in it the user should check, one line each."""
        names, spec = self.series.names, self.spec
        time = f"a row every {spec.interval:g} s" if spec.interval else "no event times, so no calendar"
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        rows = sum(len(series.x) for series in self.entities)
        lines = [self.how] if self.how else []
        loss = "" if spec.loss in ("mse", "cross_entropy") else f", loss {spec.loss}"
        lines.append(f"{rows:,} rows of {shown}; {time}; {spec.cell} of {spec.hidden}, horizon {spec.horizon}{loss}")
        timeless = self.series.time is None
        lines += [
            f"{n} is forecast like any column: if it is the time, give --time {quoted(n)}"
            for n, values in zip(names, self.series.values.T, strict=True)
            if is_timelike(n) or (timeless and could_be_unix(values))
        ]
        missing = sum(int(np.isnan(series.x).sum()) for series in self.entities)
        lines += [f"{missing:,} values are missing: held, never learned from, not scored"] if missing else []
        season = suggestion(spec, self.series.values[:, spec.target_index]) if spec.target_index else ""
        lines += [note for note in (self._gaps(), self._zone_unused(), season) if note]
        for series in self.entities[:MOST_DESCRIBED]:
            of = f" of {series.entity}" if series.entity else ""
            constant = [names[spec.target_index[c]] for c in self.alone(series).scorer().constant]
            lines += [f"{n}{of} is constant over the train rows: its errors are in units of all rows" for n in constant]
        return "\n".join(lines)

    def _gaps(self) -> str:
        """Return where rows are missing in time and how their labels are treated; empty without gaps."""
        max_gap, interval = self.spec.max_gap, self.series.interval
        found: list[tuple[Gaps, Series]] = []
        for series in self.entities:
            gaps = None if series.time is None else find_gaps(series.time, interval)
            found += [] if gaps is None else [(gaps, series)]
        if not found:
            return ""
        kept = f"labels across them count: --set max_gap={2 * interval:.10g} would void them"
        if max_gap:
            voided = sum(int((np.diff(series.time) > max_gap).sum()) for _, series in found if series.time is not None)
            kept = f"max_gap = {max_gap:.10g} voids the labels across {voided:,} of them"
        worst, series = max(found, key=lambda pair: pair[0].longest)
        of = f" of {series.entity}" if series.entity else ""
        return (
            f"{sum(gaps.count for gaps, _ in found):,} gaps in time, the longest {worst.longest:.10g} s before row "
            f"{worst.row}{of}, where a row comes every {interval:.10g} s; {kept}"
        )

    def _zone_unused(self) -> str:
        """Return a suggestion for a file in local times of a zone that the model does not know; empty otherwise."""
        if not self.zone or self.spec.zone or not self.spec.interval:
            return ""
        try:
            saves = parse(rule_of(self.zone)).saves
        except SpecError:
            return ""
        set_it = f"--set zone={self.zone} lets the calendar follow it"
        return f"the clock of {self.zone} is changed twice a year, and days begin in UTC: {set_it}" if saves else ""

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Event times (N,) in seconds; NaN if the file has none."""
        return np.full(len(self.series.x), np.nan) if self.series.time is None else self.series.time


def make_plan(
    file: Path,
    *,
    options: Options = DEFAULT,
    columns: str = ALL,
    model: Mapping[str, Any] | None = None,
    rows: int | None = None,
    train_rows: int | None = None,
    score_from: int | None = None,
    score_to: int | None = None,
    weights: Path | None = None,
) -> Plan:
    """Read the file and return the complete plan of a replay.

    options: how to read it. columns: a list of names, or "all". model: keys of ModelSpec; channels default to the
    columns, the interval to that of the file. rows: use only the first N of each series. weights: a file, or a folder
    with one. Raises Invalid, SpecError or OSError here, before the replay starts.
    """
    asked = {"train_rows": train_rows, "score_from": score_from, "score_to": score_to}
    return plan_of(read(file, options), columns, dict(model or {}), rows, weights, **asked)


def plan_of(
    recording: Recording,
    columns: str,
    keys: dict[str, Any],
    rows: int | None = None,
    weights: Path | None = None,
    **asked: int | None,
) -> Plan:
    """Return the plan for a file that was read. keys: modified; the others as for `make_plan`."""
    inputs, given = complete_keys(keys, recording)
    wanted, offsets = chosen_columns(columns, keys.get("channels")), keys.get("scaler") != "none"
    if inputs and wanted is None:
        wanted = [name for name in recording.choose(None) if name not in inputs]
    every = every_series(recording, wanted, keys.get("missing") == "hold", offsets)
    of_entity = [entity.apply(given) for entity in recording.entities]
    if rows is not None:
        shortest = min(len(series.x) for series in every)
        if not 2 <= rows <= shortest:
            raise Invalid("rows", rows, f"the series has {shortest} rows: give 2 to {shortest}")
        every = [series.head(rows) for series in every]
    series = every[0]
    if tuple(keys.setdefault("channels", series.names)) != series.names:
        raise SpecError("channels", keys["channels"], f"the columns are {listed(series.names)}: leave channels out")
    spec = ModelSpec.from_mapping(resolved({"interval": series.interval, **keys}))
    if spec.sent:
        made = (sent(spec, columns, one.entity) for columns, one in zip(of_entity, every, strict=True))
        every = [replace(one, sent=values).head(len(one.x)) for one, values in zip(every, made, strict=True)]
        series = every[0]
    if spec.interval > 0 and series.time is None:
        raise SpecError("interval", spec.interval, "the calendar needs event times: name the column with --time")
    first = None if weights is None else load_weights(weights, spec)
    how = recording.describe()
    plan = Plan(series=series, others=tuple(every[1:]), spec=spec, weights=first, how=how, zone=recording.zone, **asked)
    for one in every:
        try:
            plan.alone(one).scorer()
        except Invalid as error:
            if one.entity:
                raise Invalid(f"{error.field} of {one.entity}", error.value, error.remedy) from None
            raise
    return plan


def chosen_columns(columns: str, channels: Any) -> str | Sequence[str] | None:
    """Return the value columns to read: those of the list, else the model file's channels, else None for all."""
    if columns != ALL:
        return columns
    return channels if isinstance(channels, list) and all(isinstance(name, str) for name in channels) else None


def model_keys(
    file: Path | None = None,
    settings: Sequence[str] = (),
    *,
    horizon: int | None = None,
    seed: int | None = None,
    known: str | None = None,
    static: str | None = None,
) -> dict[str, Any]:
    """Return keys of ModelSpec from a TOML file, the flags, and `--set key=value`; later sources take precedence.

    A value is parsed as TOML, otherwise it is text: 3e-4, true, ["a"], gru. Raises Invalid, OSError.
    """
    keys: dict[str, Any] = {}
    if file is not None:
        try:
            keys |= toml(read_text(file))
        except DocumentError as error:
            raise Invalid("config", str(file), f"not a TOML file: {error}") from None
    given = {"horizon": horizon, "seed": seed, "known": known, "static": static}
    keys |= {name: value for name, value in given.items() if value is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise Invalid("set", setting, "write key=value, such as hidden=32")
        keys[name.strip()] = toml_value(text.strip())
    return keys
