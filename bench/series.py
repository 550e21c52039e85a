"""Measure the model beside the simple baselines on series of many kinds, as `freshet backtest` does.

The promise is that on no series it is more than 1 % worse, in mean squared error, than the best of persistence, both
least squares and the seasonal naives over the scored rows, nor 5 % over the first 1,000. The series are synthetic
(`bench/_made.py`), and the recorded ones in --data. Choose constants of the model on half of them (`tune`), and confirm
on the others (`hold`).
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from bench import _made as made  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from service.console.progress import progress  # noqa: E402
from service.programs.backtest import command, core  # noqa: E402
from service.programs.backtest.coverage import Coverage, Level  # noqa: E402
from service.programs.backtest.plan import Plan, make_plan, model_keys  # noqa: E402
from service.programs.backtest.scoring import Scores  # noqa: E402
from service.programs.backtest.series import Series  # noqa: E402

START = 1_704_067_200.0  # a Monday, 2024-01-01
HOUR = 3600.0
WORSE, WORSE_FIRST = 1.01, 1.05  # bounds of the ratio to the best baseline: scored rows, first 1,000
NEVER_ABOVE = (1.06, 1.02)  # of the ratio to persistence over the first 200 and 1,000 rows
MEANS = (0.80, 0.62)
Part = Literal["tune", "hold"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One set: how to make a series, its interval in seconds, and what it is for."""

    make: made.Make
    part: Part
    interval: float = HOUR
    horizon: int = 1
    rows: int = 4000
    keys: dict[str, Any] = field(default_factory=dict)
    dropped: float = 0.0  # share of rows that are left out
    missing: float = 0.0  # share of values that are missing

    def series(self, seed: int) -> Series:
        """Return the series of this seed; its name takes part, so that sets differ."""
        rng = np.random.default_rng((seed, zlib.crc32(self.make.__name__.encode())))
        x = self.make(rng, self.rows).astype(np.float32)
        time: made.F64 | None = START + self.interval * np.arange(len(x), dtype=np.float64) if self.interval else None
        x[rng.random(x.shape) < self.missing] = np.nan
        kept = rng.random(len(x)) >= self.dropped
        kept[0] = True
        names = tuple(f"c{i}" for i in range(x.shape[1]))
        return Series(names, x[kept], None if time is None else time[kept], self.interval)

    def plan(self, seed: int, keys: dict[str, Any]) -> Plan:
        """Return the plan of a replay with more keys of the spec."""
        series = self.series(seed)
        keys = {"channels": series.names, "interval": self.interval, "horizon": self.horizon, **self.keys, **keys}
        return Plan(series=series, spec=ModelSpec.from_mapping(keys))


KINDS: dict[str, Kind] = {
    "trend": Kind(made.trend, "tune"),
    "two seasons": Kind(made.two_seasons, "hold"),
    "unknown season": Kind(made.other_season, "tune"),
    "regimes": Kind(made.regimes, "tune"),
    "intermittent": Kind(made.intermittent, "tune"),
    "rare counts": Kind(made.rare, "hold"),
    "traffic": Kind(made.traffic, "tune", 900),
    "few counts": Kind(made.few_counts, "hold"),
    "noise": Kind(made.noise, "tune"),
    "noise, untimed": Kind(made.noise, "hold", 0),
    "walk": Kind(made.walk, "tune"),
    "walk, 1 min": Kind(made.walk, "hold", 60),
    "reverting": Kind(made.reverting, "hold"),
    "alternating": Kind(made.alternating, "tune", 60),
    "heavy tails": Kind(made.heavy_tails, "tune"),
    "heavy noise": Kind(made.heavy_noise, "hold"),
    "load": Kind(made.load, "tune", 300),
    "busy": Kind(made.busy, "hold", 300),
    "daily": Kind(made.daily, "tune", 86_400, rows=1500),
    "exchange": Kind(made.exchange, "hold", 86_400),
    "returns": Kind(made.returns, "tune", 86_400),
    "short": Kind(made.day, "tune", rows=1200),
    "gappy": Kind(made.day, "hold", dropped=0.1, keys={"max_gap": 2 * HOUR}),
    "missing": Kind(made.day, "tune", missing=0.1, keys={"missing": "hold"}),
    "steps": Kind(made.steps, "tune", 60),
    "switch": Kind(made.switch, "hold", 60),
    "quantised": Kind(made.quantised, "hold", 60),
    "leading": Kind(made.leading, "tune", 600),
    "temperature": Kind(made.temperature, "hold"),
    "machine": Kind(made.machine, "tune", 10),
    "resonance": Kind(made.resonance, "hold", 10),
    "tank": Kind(made.tank, "hold"),
    "solar": Kind(made.solar, "tune"),
    "smoothed walk": Kind(made.smoothed, "hold", 60),
    "views": Kind(made.views, "tune"),
    "grid": Kind(made.grid, "hold", 1800),
    "drifting": Kind(made.drifting, "hold"),
    "two seasons, 24": Kind(made.two_seasons, "tune", horizon=24),
    "noise, 24": Kind(made.noise, "hold", horizon=24),
    "walk, 24": Kind(made.walk, "tune", horizon=24),
    "temperature, 24": Kind(made.temperature, "tune", horizon=24),
    "load, 12": Kind(made.load, "hold", 300, 12, 4000),
    "few counts, 24": Kind(made.few_counts, "tune", horizon=24),
    "daily, 7": Kind(made.daily, "hold", 86_400, 7, 1500),
    "resonance, 12": Kind(made.resonance, "tune", 10, 12, 4000),
    "regimes, 12": Kind(made.regimes, "hold", horizon=12),
    "solar, 24": Kind(made.solar, "hold", horizon=24),
    "heavy tails, 12": Kind(made.heavy_tails, "tune", horizon=12),
    "gappy, 24": Kind(made.day, "hold", horizon=24, rows=3000, dropped=0.1, keys={"max_gap": 2 * HOUR}),
    "grid, 48": Kind(made.grid, "tune", 1800, 48, 3000),
    "short, 24": Kind(made.day, "hold", horizon=24, rows=1200),
}
RECORDED: dict[str, tuple[str, Part, int, int]] = {  # file, part, horizon, rows
    "ETTh2": ("ETTh2.csv", "hold", 1, 4000),
    "ETTm1": ("ETTm1_head.csv", "hold", 1, 4000),
    "taxi": ("nyc_taxi.csv", "hold", 1, 8000),
    "taxi, 48": ("nyc_taxi.csv", "hold", 48, 3000),
}


def plans(arguments: Any, keys: dict[str, Any]) -> Iterator[tuple[str, Part, Plan]]:
    """Yield name, part and plan of each wanted set."""
    for name, kind in KINDS.items():
        if wanted(arguments, name, kind.part):
            yield name, kind.part, kind.plan(arguments.seed, keys)
    for name, (file, part, horizon, rows) in RECORDED.items():
        if wanted(arguments, name, part) and (arguments.data / file).exists():
            of = {"horizon": horizon, **keys}
            yield name, part, make_plan(arguments.data / file, model=of, rows=rows)


def wanted(arguments: Any, name: str, part: Part) -> bool:
    """Return whether the options include a set."""
    if arguments.only:
        return any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in arguments.only)
    return arguments.part in ("all", part)


def replayed(plan: Plan) -> tuple[Scores, tuple[Level, ...]]:
    """Return the model's scores, and its intervals' coverage if it has any."""
    scorer = plan.scorer()
    coverage = [Coverage(scorer, plan.spec.intervals)] if plan.spec.intervals else []
    for _, row, forecast in core.every_forecast(core.learner(plan), plan, coverage):
        scorer.add(row, forecast)
    return Scores.of([scorer.tally]), Coverage.levels(coverage) if coverage else ()


class Baselines:
    """The baselines' scores, kept in a file if one is given: they do not depend on the model."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}

    def of(self, name: str, plan: Plan) -> dict[str, Any]:
        """Return each baseline's errors, as `Scores.to_mapping` does."""
        key = f"{name} {plan.rows} {zlib.crc32(plan.series.x.tobytes())}"
        if key not in self._known:
            self._known[key] = {of: scores.to_mapping() for of, scores in command.baseline_scores(plan).items()}
            if self._path:
                self._path.write_text(json.dumps(self._known))
        known: dict[str, Any] = self._known[key]
        return known


@dataclass(frozen=True, slots=True)
class Result:
    """Ratios of one set: to the best baseline over the scored and the first 1,000 rows, and to persistence."""

    name: str
    part: Part
    best: str
    scored: float
    first_best: str
    first: float
    persistence: tuple[float, float]  # over the first 200 and 1,000 rows
    intervals: tuple[Level, ...]

    @classmethod
    def of(cls, name: str, part: Part, plan: Plan, baselines: dict[str, Any]) -> Result:
        """Replay one set."""
        scores, levels = replayed(plan)
        ours = scores.to_mapping()
        best, scored = _best(ours["mse"], {of: errors["mse"] for of, errors in baselines.items()})
        after = {of: errors["first_1000"]["mse"] for of, errors in baselines.items()}
        first_best, first = _best(ours["first_1000"]["mse"], after)
        early = [ours[f"first_{n}"]["mse"] / baselines["persistence"][f"first_{n}"]["mse"] for n in (200, 1000)]
        return cls(name, part, best, scored, first_best, first, (early[0], early[1]), levels)

    @property
    def missed(self) -> bool:
        """Whether this set breaks a promise."""
        early = any(ratio > most for ratio, most in zip(self.persistence, NEVER_ABOVE, strict=True))
        return self.scored > WORSE or self.first > WORSE_FIRST or early

    def line(self) -> str:
        """Return one line of the table."""
        quarters = [f"{min(one.quarters):.3f}–{max(one.quarters):.3f}" for one in self.intervals]
        return (
            f"{self.part}  {self.name:<16} {self.scored:6.3f} {self.best:<13} {self.first:6.3f} {self.first_best:<13} "
            f"{self.persistence[0]:6.3f} {self.persistence[1]:6.3f}  {' '.join(quarters)}{' MISSED' * self.missed}"
        )


def _best(ours: float, others: dict[str, float]) -> tuple[str, float]:
    name = min(others, key=others.__getitem__)
    return name, ours / others[name] if others[name] else math.inf


def main(argv: Sequence[str] | None = None) -> int:
    """Replay the sets, print the table, and return 1 if a promise is broken."""
    options = parser(__doc__)
    options.add_argument("--part", choices=("all", "tune", "hold"), default="all")
    options.add_argument("--only", nargs="+", metavar="SET", help="names of sets; NAME* for all that begin so")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the model's spec")
    options.add_argument("--seed", type=int, default=0, help="of series and weights")
    options.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the recorded series")
    options.add_argument("--baselines", type=Path, metavar="FILE", help="keep the baselines' scores in this file")
    arguments = options.parse_args(argv)
    keys = {"forecaster": "mixture", "seed": arguments.seed} | model_keys(None, arguments.set)
    known, results = Baselines(arguments.baselines), []
    chosen = list(plans(arguments, keys))
    print("part  set              scored / best        1,000 / best         200, 1,000 / persistence", file=sys.stderr)
    with progress("series", len(chosen), "set") as shown:
        for name, part, plan in chosen:
            results.append(Result.of(name, part, plan, known.of(name, plan)))
            shown.note(results[-1].line())
            shown.advance()
    return finish(rows_of(results), arguments.json)


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Return each set's ratios with their bounds, then worst and mean of all."""
    columns: list[tuple[str, list[float], float, float | None]] = [
        ("scored / best baseline", [one.scored for one in results], WORSE, None),
        ("first 1,000 / best baseline", [one.first for one in results], WORSE_FIRST, None),
        ("first 200 / persistence", [one.persistence[0] for one in results], NEVER_ABOVE[0], MEANS[0]),
        ("first 1,000 / persistence", [one.persistence[1] for one in results], NEVER_ABOVE[1], MEANS[1]),
    ]
    best = [(one.best, one.first_best, "persistence", "persistence") for one in results]
    rows = [
        Row(f"{one.name} ({best[i][c]})", metric, values[i], "ratio", most)
        for i, one in enumerate(results)
        for c, (metric, values, most, _) in enumerate(columns)
    ]
    for metric, values, most, mean in columns:
        rows.append(Row("worst", metric, max(values), "ratio", most))
        rows.append(Row("mean", metric, float(np.mean(values)), "ratio", mean))
    return rows


if __name__ == "__main__":
    sys.exit(main())
