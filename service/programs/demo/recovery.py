"""What the change did: errors before and after it, beside a model that stopped learning when it came."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.network import Network
from service.engine.export import read_weights
from service.programs.backtest.plan import Plan
from service.programs.backtest.series import F64

DAY = 48  # rows whose errors are averaged
GONE = 0.9  # of the rise, for the error to count as recovered


class Errors:
    """Squared errors of step 1 of every stream's forecasts, by target row, in z-units."""

    def __init__(self, plan: Plan) -> None:
        self._scorers = plan.scorers()
        self.squared = np.full((len(self._scorers), plan.rows), np.nan)

    def add(self, series: int, row: int, forecast: npt.NDArray[np.floating[Any]]) -> None:
        """Take the forecast (horizon, targets) made at a row."""
        scorer = self._scorers[series]
        if row + 1 < self.squared.shape[1]:
            errors = (forecast[0].astype(np.float64) - scorer.truth[row + 1]) / scorer.unit
            self.squared[series, row + 1] = float(np.mean(errors * errors))

    @property
    def by_row(self) -> F64:
        """Mean over the streams (rows,); NaN where no forecast was scored."""
        known = ~np.isnan(self.squared)
        with np.errstate(invalid="ignore"):
            means: F64 = np.where(known, self.squared, 0.0).sum(axis=0) / known.sum(axis=0)
        return means


def frozen(plan: Plan, weights: bytes) -> F64:
    """Return the squared errors (rows,) of a version that does not learn, over all rows; see `Errors.by_row`.

    weights: of the version, safetensors. Its own readouts and statistics move as in a server; all streams are stepped
    side by side.
    """
    network, found = Network(plan.spec), Errors(plan)
    flat = network.weights(read_weights(network, weights))
    every = plan.entities
    read = [network.inputs(plan.alone(series).times, series.rows) for series in every]
    x, ahead = (np.stack([each[part] for each in read], axis=1) for part in range(2))
    state = np.zeros((len(every), network.state_size), np.float32)
    tape = network.tape(1, len(every))
    for row in range(plan.rows):
        y, state = network.step(flat, x[row], ahead[row], state, tape)
        for n, forecast in enumerate(y[:, : plan.spec.outputs]):
            found.add(n, row, forecast.reshape(plan.spec.horizon, -1))
    return found.by_row


@dataclass(frozen=True, slots=True)
class Recovery:
    """Mean squared errors around a change at row `at`, in z-units; rows count from the change. NaN: not known."""

    at: int
    before: float  # over as many rows before the change as `settled` has
    peak: float  # the worst day after it
    settled: float  # over the last quarter of the rows after it
    frozen: float  # of the version that was in service at the change, over the same rows as `settled`
    recovered: int | None  # rows until GONE of the rise was gone, a day's mean; None: not yet
    drifts: tuple[int, ...] = ()  # rows after the change at which a drift was reported

    @classmethod
    def of(cls, served: F64, frozen: F64 | None, drifts: tuple[int, ...] = ()) -> Recovery:
        """Return the numbers of errors (rows,), with the change half-way. frozen: None if they are not known."""
        at, quarter = len(served) // 2, max(1, len(served) // 8)
        days = _daily(served[at:])
        peak, settled = float(np.nanmax(days, initial=-math.inf)), float(np.nanmean(served[-quarter:]))
        top = int(np.nanargmax(days))
        calm = np.flatnonzero(days[top:] <= peak - GONE * (peak - settled))
        return cls(
            at=at,
            before=float(np.nanmean(served[max(1, at - quarter) : at])),
            peak=peak,
            settled=settled,
            frozen=math.nan if frozen is None else float(np.nanmean(frozen[-quarter:])),
            recovered=top + int(calm[0]) + DAY if len(calm) else None,
            drifts=drifts,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the numbers for JSON; null where there is none."""
        named = asdict(self) | {"drifts": list(self.drifts)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in named.items()}

    def lines(self) -> list[str]:
        """Return what a reader should know, one sentence a line."""
        fired = f"the server reported a drift {self.drifts[0]:,} ticks later" if self.drifts else "no drift was found"
        back = "has not come down again yet" if self.recovered is None else f"came down within {self.recovered:,} ticks"
        return [
            f"At tick {self.at:,} the series changed its character: days last 16 hours, busy hours are the quiet ones;",
            f"{fired}.",
            f"Squared error: {self.before:.4f} before, {self.peak:.4f} in the worst day after, {self.settled:.4f} now;",
            f"it {back}. The version of that moment, had it not learned on: {self.frozen:.4f} now.",
        ]


def _daily(values: F64) -> F64:
    """Return the mean of each DAY consecutive values, where known, by the first of them."""
    size = min(DAY, len(values))
    windows = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(values), size).sum(axis=1)
    known = np.lib.stride_tricks.sliding_window_view(~np.isnan(values), size).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: F64 = windows / known
    return means
