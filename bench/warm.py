"""What a history is worth: a learner that begins with weights trained on it, and one that begins with nothing.

Both are given the 1,000 taxi rows behind the history, forecast first and learn after; nothing of these rows was seen in
training, and the stream's state is new to both. Errors are in units of the history's standard deviation. Beside them
what went online with the history's first row: a learner, and least squares, which also begins with these rows alone.
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
FIRST = 100  # of these, shown apart: where a cold start hurts most


def rows(plan: Plan, start: int, end: int) -> Plan:
    """The plan for a part of its rows."""
    series = plan.series
    time = None if series.time is None else series.time[start:end]
    return replace(plan, series=replace(series, x=series.x[start:end], time=time))


def squares(plan: Plan, forecasts: Iterator[npt.NDArray[Any]], unit: float) -> npt.NDArray[np.float64]:
    """Squared error of each row but the first, in units of `unit`."""
    made = np.array([forecast[0, 0] for forecast in forecasts], np.float64)
    return ((made[:-1] - plan.series.x[1:, 0]) / unit) ** 2


def trained(history: int, seed: int) -> tuple[bytes, int, float]:
    """Weights from the first rows of the file, as `freshet train --rows` makes them; epochs, and seconds."""
    plan = make_offline_plan(TAXI, rows=history, model={"seed": seed})
    started = time.perf_counter()
    network = plan.network()
    recorded = prepare(network, plan.plan.series.x, plan.plan.times)
    training = OfflineTraining(network, recorded, plan.train_ticks, plan.settings)
    epochs = [epoch.number for epoch in training.epochs()]
    seconds = time.perf_counter() - started
    return pack_weights(network, training.best.flat), epochs[-1], seconds


def measure(history: int, seeds: int) -> list[Row]:
    """Warm against cold on the rows behind the first `history`."""
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
    """Print and write the rows; 1 if one does not hold."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=5)
    arguments = options.parse_args(argv)
    return finish([row for history in (5000, 2064) for row in measure(history, arguments.seeds)], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
