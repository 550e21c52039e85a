"""Coverage and width of prediction intervals in a backtest, against counting them plainly."""

from __future__ import annotations

import numpy as np

from service.programs.backtest.coverage import Coverage
from service.programs.backtest.scoring import Scorer

ROWS, HORIZON, LEVELS = 400, 3, (0.5, 0.9)


def test_shares_and_widths_are_those_of_counting_plainly():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 2))
    x[50:60, 1] = np.nan
    scorer = Scorer(x, train_rows=100, score_from=200, score_to=ROWS, horizon=HORIZON)
    coverage = Coverage(scorer, LEVELS)
    made, half = rng.standard_normal((ROWS, HORIZON, 2)), np.array([0.9, 2.3])
    inside, values = np.zeros((2, 4)), np.zeros(4)
    for row in range(ROWS):
        ends = half[:, None, None] * np.ones((2, HORIZON, 2))
        coverage.add(row, made[row], made[row] - ends, made[row] + ends)
        for step in range(1, HORIZON + 1):
            target = row + step
            if 200 <= target < ROWS:
                quarter = (target - 200) // 50
                values[quarter] += 2
                error = np.abs(x[target] - made[row, step - 1])
                inside[:, quarter] += [(error <= h).sum() for h in half]

    levels = Coverage.levels([coverage])

    for n, one in enumerate(levels):
        np.testing.assert_allclose(one.quarters, inside[n] / values)
        assert one.inside == inside[n].sum() / values.sum()
        np.testing.assert_allclose(one.width, (2 * half[n] / scorer.unit).mean())
    assert abs(levels[1].rolling_width - 2 * 2.33 / scorer.unit.mean()) < 0.4  # errors have deviation √2


def test_the_rolling_quantile_reads_no_later_value():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, 1))
    changed = np.where(np.arange(ROWS)[:, None] > 300, 1e6, x)
    found = []
    for series in (x, changed):
        scorer = Scorer(series, train_rows=100, score_from=100, score_to=ROWS, horizon=HORIZON)
        coverage = Coverage(scorer, LEVELS)
        for row in range(301):
            coverage.add(row, np.zeros((HORIZON, 1)), -np.ones((2, HORIZON, 1)), np.ones((2, HORIZON, 1)))
        found.append(coverage.widths.copy())
    np.testing.assert_array_equal(found[0], found[1])
