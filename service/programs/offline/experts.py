"""The last pass of a training: experts of a mixture and intervals learn from the rows once, as they do online.

The network is kept as the epochs left it. Every row is forecast before it is learned, so that the error on the held-out
rows compares with that of the baselines, which learn in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.fold.learner import Learner
from model.offline.recorded import Recorded, Span
from model.offline.training import loss_of
from model.parameters import Array
from service.console.progress import progress
from service.programs.backtest import core
from service.programs.offline.plan import OfflinePlan


@dataclass(frozen=True, slots=True)
class Taught:
    """The result of the pass.

    flat: [n] all weights; loss: held-out loss of the whole forecaster, NaN without held-out rows; mixture: weight of
    each expert by name, empty without a mixture.
    """

    flat: Array
    loss: float
    mixture: dict[str, float]


def is_needed(plan: OfflinePlan) -> bool:
    """Whether the forecaster has parts that the epochs do not teach."""
    return plan.spec.forecaster == "mixture" or bool(plan.spec.intervals)


def teach(plan: OfflinePlan, flat: Array, recorded: Recorded, spans: Sequence[Span]) -> Taught:
    """Learn from all rows in order of time with the fold, and return the weights. flat: [n], of the epochs, only read.

    recorded: as `scale_labels` returns it; spans: positions of the series in it.
    """
    # Shares and blocks of ticks save a server's time; here every label of every series counts.
    learner = Learner(replace(plan.spec, max_share=1.0, learn_every=1), network_learns=False)
    learner.weights.flat[...] = flat
    made = np.zeros((plan.held_out, plan.spec.outputs), np.float32)
    with progress("experts", plan.rows) as shown:
        for n, row, forecast in core.every_forecast(learner, plan.plan):
            series, span = plan.plan.entities[n], spans[n]
            if row >= span.cut - span.begin:
                place = span.held + row - (span.cut - span.begin)
                made[place - plan.train_ticks] = scaled(forecast, series.added(plan.spec.target_index), recorded, place)
            shown.advance()
    loss = loss_of(learner.network, recorded, made, plan.train_ticks, plan.rows) if plan.held_out else math.nan
    return Taught(learner.weights.flat, loss, learner.network.mixture_weights(learner.weights))


def scaled(forecast: Array, added: Array | None, recorded: Recorded, place: int) -> Array:
    """Return a forecast [H, K] of a row in the units of the loss, [O]. added: [K] offset of the series, if it has one;
    recorded values are without it."""
    unit = np.where(recorded.scale[place] > 0, recorded.scale[place], np.float32(1))
    less = 0.0 if added is None else added
    value: Array = ((forecast - less - recorded.last[place]) / unit).ravel()
    return value
