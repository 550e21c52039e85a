"""From what was asked on the command line to what is run: a series, a spec, and the rows that count."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.spec import ModelSpec, SpecError
from service.backtest.scoring import Scorer
from service.backtest.series import Series, read_series
from service.cli.files import load_weights
from service.errors import Invalid

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One replay of a recorded series. None among the rows stands for the scorer's default."""

    series: Series
    spec: ModelSpec
    train_rows: int | None = None
    score_from: int | None = None
    score_to: int | None = None
    weights: bytes | None = None  # what the learner begins with, safetensors; None: drawn from the spec's seed

    def scorer(self) -> Scorer:
        """A fresh scorer of the spec's targets. Raises Invalid if the rows do not make sense for this series."""
        return Scorer(
            self.series.x, self.train_rows, self.score_from, self.score_to, self.spec.horizon, self.spec.target_index
        )

    @property
    def rows(self) -> int:
        """Rows to replay: what lies behind the last scored row changes nothing that is reported."""
        return len(self.series.x) if self.score_to is None else self.score_to

    def describe(self) -> str:
        """What the file was taken to be, and what in it deserves a second look, in a line each."""
        names, spec = self.series.names, self.spec
        time = f"a row every {spec.interval:g} s" if spec.interval else "no event times, so no calendar"
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        lines = [
            f"{len(self.series.x):,} rows of {shown}; {time}; {spec.cell} of {spec.hidden}, horizon {spec.horizon}"
        ]
        lines += [
            f"{n} is forecast like any column: if it is the time, say --time {n}" for n in names if is_timelike(n)
        ]
        gaps = int(np.isnan(self.series.x).sum())
        lines += [f"{gaps:,} values are missing: held, never learned from, not scored"] if gaps else []
        constant = [names[spec.target_index[c]] for c in self.scorer().constant]
        lines += [f"{n} is constant over the train rows: its errors are in units of all rows" for n in constant]
        return "\n".join(lines)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Event times (N,) in seconds, NaN where the file has none."""
        return np.full(len(self.series.x), np.nan) if self.series.time is None else self.series.time


def is_timelike(name: str) -> bool:
    """Whether a column's name says that it holds the time."""
    return name.strip().lower() in {"time", "timestamp", "date", "datetime", "ts", "epoch"}


def make_plan(
    file: Path,
    *,
    time_column: str | None = None,
    columns: str = ALL,
    model: Mapping[str, Any] | None = None,
    rows: int | None = None,
    train_rows: int | None = None,
    score_from: int | None = None,
    score_to: int | None = None,
    weights: Path | None = None,
) -> Plan:
    """Read the series and settle everything that a replay needs to know.

    columns: "a,b,…" or "all". model: keys of ModelSpec; channels are the columns, the interval that of the file, unless
    they are given. rows: only the first so many. weights: a file, or a folder with one.
    Raises Invalid, SpecError or OSError: nothing is found out later.
    """
    keys = dict(model or {})
    holds = keys.get("missing") == "hold"
    series = read_series(file, time_column, chosen_columns(columns, keys.get("channels")), holds)
    if rows is not None:
        if not 2 <= rows <= len(series.x):
            raise Invalid("rows", rows, f"the series has {len(series.x)} rows: give 2 to {len(series.x)}")
        time = None if series.time is None else series.time[:rows]
        series = replace(series, x=series.x[:rows], time=time)
    if tuple(keys.setdefault("channels", series.names)) != series.names:
        raise SpecError("channels", keys["channels"], f"the columns are {', '.join(series.names)}: leave channels out")
    spec = ModelSpec.from_mapping({"interval": series.interval, **keys})
    if spec.interval > 0 and series.time is None:
        raise SpecError("interval", spec.interval, "the calendar needs event times: name the column with --time")
    given = None if weights is None else load_weights(weights, spec)
    plan = Plan(
        series=series, spec=spec, train_rows=train_rows, score_from=score_from, score_to=score_to, weights=given
    )
    plan.scorer()
    return plan


def chosen_columns(columns: str, channels: Any) -> Sequence[str] | None:
    """The value columns to read: those named, else the model file's channels, else None for all."""
    if columns != ALL:
        return [name.strip() for name in columns.split(",")]
    return channels if isinstance(channels, list) and all(isinstance(name, str) for name in channels) else None


def model_keys(
    file: Path | None = None, settings: Sequence[str] = (), *, horizon: int | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Keys of ModelSpec from a TOML file, then the flags, then `--set key=value`: the later wins.

    A value is read as TOML, and taken as text where it is none: 3e-4, true, ["a"], gru. Raises Invalid, OSError.
    """
    keys: dict[str, Any] = {}
    if file is not None:
        try:
            keys |= tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Invalid("config", str(file), f"not a TOML file: {error}") from None
    keys |= {name: value for name, value in (("horizon", horizon), ("seed", seed)) if value is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise Invalid("set", setting, "write key=value, such as hidden=32")
        keys[name.strip()] = toml_value(text.strip())
    return keys


def toml_value(text: str) -> Any:
    """A TOML value, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
