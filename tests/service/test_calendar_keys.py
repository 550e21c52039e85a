"""The value of `holidays`: a synthetic load that follows them is forecast better with the key."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from model.calendar import holidays
from model.spec import ModelSpec
from service.programs.backtest.command import backtest
from service.programs.backtest.plan import Plan
from service.programs.backtest.series import Series

DAY_S = 86_400.0


@pytest.mark.long
def test_a_load_with_holidays_is_forecast_better_with_their_calendar_and_as_well_with_another() -> None:
    days = (date(2019, 1, 1) - date(1970, 1, 1)).days + np.arange(1200)
    week, held = (days + 3) % 7, holidays.near("US", days)[:, 0]
    load = 100.0 - 15 * (week == 5) - 25 * (week == 6) - 30 * held * (week < 5)
    load += np.random.default_rng(0).normal(0, 2, len(days))
    x, time = load.astype(np.float32)[:, None], DAY_S * days.astype(np.float64)
    series = Series(names=("load",), x=x, time=time, interval=DAY_S)

    def errors(code: str) -> tuple[float, float]:
        spec = ModelSpec(channels=("load",), interval=DAY_S, hidden=8, learning_rate=1e-2, holidays=code)
        report = backtest(Plan(series=series, spec=spec, train_rows=600, score_from=600))
        return report.freshet.mse, report.rls.mse

    without, right, wrong = (np.array(errors(code)) for code in ("", "US", "IN"))
    assert (right < 0.6 * without).all()  # the baseline reads the key too
    assert (wrong < 1.05 * without).all()
