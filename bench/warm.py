"""Measure the value of a history: a learner that starts with weights trained on it against one that starts cold.

Both get the 1,000 taxi rows after the history and forecast each before they learn it. Training has not seen these rows,
and the stream's state is new to both. Errors are in units of the history's standard deviation. For comparison: a
learner that went online with the history's first row, and least squares, once from that row and once from these rows
only.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)
import numpy.typing as npt  # noqa: E402

from model.offline.recorded import prepare  # noqa: E402
from model.offline.training import OfflineTraining  # noqa: E402
from service.engine.export import pack_weights  # noqa: E402
from service.programs.backtest import core  # noqa: E402
from service.programs.backtest.plan import Plan, make_plan  # noqa: E402
from service.programs.offline.plan import make_offline_plan  # noqa: E402

TAXI = Path(str(resources.files("service.cli") / "data" / "nyc_taxi.csv"))
TICKS = 1000
ONLINE = "freshet, online since row 0"
FIRST = 100  # ticks that are also shown separately, because a cold start costs most there


def rows(plan: Plan, start: int, end: int) -> Plan:
    """Return the plan for some of its rows."""
    series = plan.series
    time = None if series.time is None else series.time[start:end]
    return replace(plan, series=replace(series, x=series.x[start:end], time=time))


def squares(plan: Plan, forecasts: Iterator[npt.NDArray[Any]], unit: float) -> npt.NDArray[np.float64]:
    """Return the squared error of each row but the first, in units of `unit`."""
    made = np.array([forecast[0, 0] for forecast in forecasts], np.float64)
    return ((made[:-1] - plan.series.x[1:, 0]) / unit) ** 2


def trained(history: int, seed: int) -> tuple[bytes, int, float]:
    """Train on the first rows of the file as `freshet train --rows` does; return weights, epochs and seconds."""
    plan = make_offline_plan(TAXI, rows=history, model={"seed": seed})
    started = time.perf_counter()
    network = plan.network()
    recorded = prepare(network, plan.plan.series.x, plan.plan.times)
    training = OfflineTraining(network, recorded, plan.train_ticks, plan.settings)
    epochs = [epoch.number for epoch in training.epochs()]
    seconds = time.perf_counter() - started
    return pack_weights(network, training.best.flat), epochs[-1], seconds


def measure(history: int, seeds: int) -> list[Row]:
    """Return the rows for warm against cold on the data after the first `history` rows."""
    whole = make_plan(TAXI)
    unit = float(whole.series.x[:history, 0].std())
    later = rows(whole, history, history + TICKS)
    run_in = rows(whole, 0, history + TICKS)
    errors: dict[str, list[npt.NDArray[np.float64]]] = {"warm": [], "cold": [], ONLINE: []}
    epochs, seconds = [], []
    for seed in range(seeds):
        print(f"{history} rows, seed {seed} …", file=sys.stderr, flush=True)
        weights, count, took = trained(history, seed)
        epochs.append(count)
        seconds.append(took)
        for name, base, given in (("warm", later, weights), ("cold", later, None), (ONLINE, run_in, None)):
            plan = replace(base, spec=replace(base.spec, seed=seed), weights=given)
            errors[name].append(squares(plan, core.forecasts(core.learner(plan), plan), unit)[1 - TICKS :])
    for name, baseline in core.baselines(later).items():
        errors[name] = [squares(later, core.baseline_forecasts(baseline, later), unit)]
    rls = core.baseline_forecasts(core.baselines(run_in)["rls"], run_in)
    errors["rls, online since row 0"] = [squares(run_in, rls, unit)[1 - TICKS :]]
    case = f"rows {history}–{history + TICKS - 1} after {history} of history"
    made = []
    for ticks in (TICKS, FIRST):
        pairs = zip(errors["warm"], errors["cold"], strict=True)
        ratios = [float(warm[: ticks - 1].mean() / cold[: ticks - 1].mean()) for warm, cold in pairs]
        what = f"first {ticks} ticks"
        made.append(Row(case, f"MSE warm over cold, {what}, median", statistics.median(ratios), "ratio", asked=1.0))
        made.append(Row(case, f"MSE warm over cold, {what}, worst seed", max(ratios), "ratio", asked=1.0))
        for name, each in errors.items():
            mse = statistics.median(float(e[: ticks - 1].mean()) for e in each)
            made.append(Row(case, f"MSE {name}, {what}", mse, "z²"))
    made.append(Row(case, "epochs of training, median", statistics.median(epochs), "1"))
    made.append(Row(case, "time of training, median", statistics.median(seconds), "s"))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if one exceeds its bound."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    arguments = options.parse_args(argv)
    return finish([row for history in (5000, 2064) for row in measure(history, arguments.seeds)], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
