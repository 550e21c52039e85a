"""Words and tables beside a picture of a backtest: the numbers of its report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from service.programs.backtest.plan import Plan
from service.programs.backtest.report import Report, number
from service.programs.plots.figure import F64, Table


def tables_of(report: Report, sums: Mapping[str, F64]) -> list[Table]:
    """Return the errors by forecaster, and the facts of the replay. sums: running sums of squared errors."""
    least = report.errors["persistence"].mse
    rows = [
        (name, number(e.mse), number(e.mae), f"{e.mse / least:.3f}" if least else "", number(float(sums[name][-1])))
        for name, e in report.errors.items()
        if name in sums
    ]
    columns = ("forecaster", "mse", "mae", "of persistence", "sum of squares")
    return [Table("Errors over the scored rows", columns, rows), Table("The replay", (), report.facts())]


def target_of(plan: Plan) -> str:
    """Return the name of the first target, and of its series in a file of several."""
    name = plan.series.names[plan.spec.target_index[0]]
    return f"{name} of {plan.series.entity}" if plan.series.entity else name


def best_of(errors: Mapping[str, float]) -> str:
    """Return how our mean squared error compares with persistence's and the best other one's, as a sentence."""
    ours, others = errors["freshet"], {name: error for name, error in errors.items() if name != "freshet"}
    if not others or not np.isfinite(ours):
        return ""
    best = min(others, key=others.__getitem__)
    return f"Mean squared error: freshet {number(ours)}, {best} {number(others[best])}."
