"""The result of a replay: JSON with the keys of the backtest's contract, and a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from service.programs.backtest import shown
from service.programs.backtest.coverage import Level
from service.programs.backtest.tally import Errors, Scores

FORECASTERS = ("freshet", "persistence", "rls")
SEASONAL = ("rls_seasonal", "naive_")  # how the names of seasonal baselines begin


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of a measurement; None if nothing was measured."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Return the quantiles of a sample."""
        if not len(values):
            return cls()
        p50, p95, p99, largest = np.percentile(np.asarray(values, np.float64), [50, 95, 99, 100])
        return cls(float(p50), float(p95), float(p99), float(largest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a replay. None: not applicable to this way of replaying."""

    rows: int  # replayed
    scored: int  # target rows
    horizon: int
    freshet: Errors
    persistence: Errors
    rls: Errors
    forecasters: Mapping[str, Scores] = field(default_factory=dict)  # every one by name, freshet first
    updates: int | None = None
    versions: int | None = None  # published while it ran
    vetoes: int | None = None
    staleness: Quantiles = field(default_factory=Quantiles)  # labels received and not judged yet, per forecast
    freshness_s: Quantiles = field(default_factory=Quantiles)  # from a label on disk to judged weights in service
    latency_ms: Quantiles = field(default_factory=Quantiles)  # per message, at the client
    wall_s: float
    intervals: tuple[Level, ...] = ()  # of a model with intervals, through the core

    def to_mapping(self) -> dict[str, Any]:
        """Return the JSON of the contract: exactly its keys, null if not applicable or not finite."""
        quantiles = {"staleness": ("p50", "p95", "max"), "freshness_s": ("p50", "p95"), "latency_ms": ("p50", "p99")}
        mapping = asdict(replace(self, forecasters={}))
        mapping["forecasters"] = {name: scores.to_mapping() for name, scores in self.forecasters.items()}
        if not self.intervals:
            del mapping["intervals"]
        for name, kept in quantiles.items():
            mapping[name] = {quantile: mapping[name][quantile] for quantile in kept}
        return {name: _finite(value) for name, value in mapping.items()}

    def _interval(self, one: Level) -> tuple[str, str]:
        quarters = " ".join(f"{share:.1%}" for share in one.quarters)
        widths = f"width {one.width:.3f}, a rolling quantile's {one.rolling_width:.3f}"
        return f"{one.level:.4g} inside", f"{one.inside:.1%}, quarters {quarters}; {widths}"

    def write(self, path: Path) -> None:
        """Write the JSON. Raises OSError."""
        path.write_text(json.dumps(self.to_mapping(), indent=1) + "\n", encoding="utf-8")

    def facts(self) -> list[tuple[str, str]]:
        """Return everything applicable except the errors, as (name, text)."""
        stale, fresh, latency = self.staleness, self.freshness_s, self.latency_ms
        facts = [self._interval(one) for one in self.intervals]
        facts += [("rows", f"{self.rows:,} replayed, {self.scored:,} scored, horizon {self.horizon}")]
        if self.updates is not None:
            facts.append(("updates", f"{self.updates:,}"))
        if self.versions is not None:
            facts.append(("versions", f"{self.versions:,} published, {self.vetoes} vetoed"))
        if stale.p50 is not None:
            facts.append(("staleness", f"{stale.p50:.0f} labels median, {stale.p95:.0f} p95, {stale.max:.0f} max"))
        if fresh.p50 is not None:
            facts.append(("freshness", f"{fresh.p50:.2f} s median, {fresh.p95:.2f} s p95, from disk to service"))
        if latency.p50 is not None:
            facts.append(("latency", f"{latency.p50:.2f} ms median, {latency.p99:.2f} ms p99"))
        return [*facts, ("wall time", f"{self.wall_s:.1f} s")]

    @property
    def errors(self) -> dict[str, Errors]:
        """The errors over the scored rows by forecaster."""
        if self.forecasters:
            return {name: scores.overall for name, scores in self.forecasters.items()}
        return {name: getattr(self, name) for name in FORECASTERS}

    def best_seasonal(self) -> str:
        """Return the seasonal baseline with the smallest squared error; empty without one."""
        seasonal = {name: e.mse for name, e in self.errors.items() if name.startswith(SEASONAL)}
        return min(seasonal, key=seasonal.__getitem__, default="")

    def show(self) -> None:
        """Print the tables and the facts on standard output."""
        errors = self.errors
        shown.show(shown.overall(errors))
        if self.forecasters:
            print()
            shown.show(shown.parts(self.forecasters))
            print()
        facts = [("best", line)] if (line := shown.best_line(errors)) else []
        for name, text in [*facts, *self.facts()]:
            print(f"{name:<12}{text}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
