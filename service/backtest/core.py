"""`--through core`: the trainer's own learner fed with one-tick chunks, and the reference step. No storage, no wire."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from model import calendar
from model.baselines import Baseline, Held, Persistence, RecursiveLeastSquares
from model.learner import Learner
from service.backtest.plan import Plan
from service.export import read_weights

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]


def learner(plan: Plan) -> Learner:
    """The learner at the first row."""
    made = Learner(plan.spec)
    if plan.weights is not None:
        made.weights.flat[...] = read_weights(made.network, plan.weights)
    return made


def forecasts(learner: Learner, plan: Plan) -> Iterator[Array]:
    """Replay the plan's rows: learn with the tick, then forecast with the new weights.

    Yields (horizon, targets) per row, in raw units. No forecast depends on anything behind its row.
    """
    network, spec = learner.network, plan.spec
    x, times = plan.series.x, plan.times
    ahead = calendar.inputs(times, spec.interval)
    state, tape = np.zeros((1, network.state_size), np.float32), network.tape(1, 1)
    stream = np.zeros(1, np.uint32)
    for row in range(plan.rows):
        now = slice(row, row + 1)
        learner.ticks(stream, np.array([row + 1], np.uint64), times[now], x[now])
        y, state = network.step(learner.weights, x[now], ahead[now], state, tape)
        yield y.reshape(spec.horizon, len(spec.targets))


def baseline_forecasts(baseline: Baseline, plan: Plan) -> Iterator[Array64]:
    """The same rows through a baseline: (horizon, targets) per row, in raw units."""
    ahead = calendar.inputs(plan.times, plan.spec.interval)
    for x, u in zip(plan.series.x[: plan.rows, plan.spec.target_index], ahead, strict=False):
        yield baseline.step(x, u)


def baselines(plan: Plan) -> dict[str, Baseline]:
    """What every claim is shown beside, by name; they see the target columns, and least squares the calendar too."""
    horizon, channels, known = plan.spec.horizon, len(plan.spec.targets), calendar.size(plan.spec.interval)
    if plan.spec.missing == "hold":
        return {
            "persistence": Held(lambda: Persistence(horizon), channels, horizon),
            "rls": Held(lambda: RecursiveLeastSquares(1, horizon, known=known), channels, horizon),
        }
    return {"persistence": Persistence(horizon), "rls": RecursiveLeastSquares(channels, horizon, known=known)}
